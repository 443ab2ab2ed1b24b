"""The two contracts of models: an `Encoder` turns an LR image into features, an `SRModel` into an HR image.

Shapes: B batch, H×W the LR grid, h×w the output grid, Q queries.

A model implements `encode(lr) → latent` and `query(latent, coord, cell) → rgb`, both in normalised units, with no hidden
state between the two. Upscaling within a memory budget is `models/upscale.py`; coordinates are those of `common/coords.py`.
"""
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from common.coords import Region
from models import upscale
from models.latents import LatentCache
from models.mirror import continued, mirror
from models.requests import check_queries
from models.upscale import EncodedImage
from utils import UserError, shortened

DEFAULT_NORM = {'inp': {'sub': [0.5], 'div': [0.5]}, 'gt': {'sub': [0.5], 'div': [0.5]}}
SMALLEST_DIV, LARGEST_NORM = 1e-3, 1e3  # of the numbers of data_norm, without sign


class Encoder(nn.Module):
    """Base of the encoders: an LR image → features at its resolution.

    Attributes:
        out_channels: channels of `features`.
        reach: how many LR pixels around it a feature depends on; None: the whole image, which is then always encoded as a
            whole.
        multiple: both sides of the input of `features` are multiples of this number; images are mirrored to reach it.
        mirrored: images that are upscaled are continued at the bottom and the right, for the decoder too, by 1 to so many
            mirrored pixels, to a multiple of this number; 1: not at all. In training, sides that are multiples stay.
        scale: 1, or the factor of the upsampling tail; with a tail `features` returns RGB (B, 3, scale·H, scale·W).
    """

    out_channels: int
    reach: int | None = None
    multiple: int = 1
    mirrored: int = 1
    scale: int = 1

    def features(self, x: Tensor) -> Tensor:
        """Normalised LR (B, 3, H, W) → (B, out_channels, scale·H, scale·W)."""
        raise NotImplementedError

    def deepened_state(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
        """The tensors of a shallower encoder of this kind, with identity blocks added (Net2Net, arXiv 1511.05641).

        Returns: tensors with which this encoder computes what the shallower one computes, and the number of added blocks.
        Raises: UserError when encoders of this kind cannot be deepened, or when `state` has more blocks than this one.
        """
        raise UserError(f'encoders of kind {type(self).__name__} cannot be deepened')

    def forward(self, lr: Tensor, region: Region | None = None, halo: int | None = None) -> Tensor:
        """Features of the whole LR image (B, 3, H, W), or of a region of it: (B, out_channels, scale·h, scale·w).

        Args:
            halo: LR pixels around the region that are read, at most `reach`. The default, `reach`, is exact.
        """
        # on CPUs convolutions are faster in channels last, what follows them is not (docs/speed.md)
        channels_last = lr.device.type == 'cpu' and not torch.is_grad_enabled() and not torch.compiler.is_exporting()
        if channels_last:
            lr = lr.contiguous(memory_format=torch.channels_last)
        if region is None or self.reach is None:
            x = self.features(lr if self.multiple == 1 else mirror(lr, self.multiple))
            region = Region.whole(*lr.shape[2:]) if region is None and self.multiple > 1 else region
            top = left = 0
        else:
            outer = region.grow(self.reach if halo is None else min(halo, self.reach), self.multiple)
            x = self.features(mirror(outer.of(lr), self.multiple))
            top, left = outer.top, outer.left
        if region is not None:
            top, left = self.scale * (region.top - top), self.scale * (region.left - left)
            x = x[:, :, top:top + self.scale * region.height, left:left + self.scale * region.width]
        return x.contiguous() if channels_last else x


class SRModel(nn.Module):
    """Base of all models: RGB in [0, 1] → normalise → encode → query → denormalise.

    Attributes:
        fixed_scale: the only factor the model can upscale by, or None for any.
        reach: how many LR pixels around its nearest one an output pixel depends on; None: the whole image, which is then
            always encoded as a whole.
        whole_grid: whether `upscale` queries its whole grid at once: where `reach` is None always, else where the memory
            allows it.
        has_windows: whether a window can be rendered alone; False where the queries of a grid depend on each other.
        may_idle: whether some parameters are unused at some scales.
        precision: the type in which products of matrices and convolutions are computed by `upscale`, `encode_image` and
            `render` (autocast); None: that of the weights.
        reimplementation: for a method without a released program, the source of this implementation, which tables show;
            None for others.
    """

    fixed_scale: int | None = None
    reach: int | None = None
    whole_grid: bool = False
    has_windows: bool = True
    may_idle: bool = False
    precision: torch.dtype | None = None
    reimplementation: str | None = None

    inp_sub: Tensor
    inp_div: Tensor
    gt_sub: Tensor
    gt_div: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ('inp_sub', 'inp_div', 'gt_sub', 'gt_div'):  # travel in the checkpoint as `data_norm`
            self.register_buffer(name, torch.tensor([0.5]), persistent=False)

    # what a model implements

    def encode(self, lr: Tensor, region: Region | None = None, halo: int | None = None) -> Any:
        """All that does not depend on the queries: the whole LR image (B, 3, H, W), normalised → latent.

        Args:
            region: the latent serves the queries whose nearest LR pixel lies in it; None: the whole image.
            halo: LR pixels around the region that the encoder reads; None: all that its features depend on. Fewer are not
                exact.
        """
        raise NotImplementedError

    def query(self, latent: Any, coord: Tensor, cell: Tensor) -> Tensor:
        """Normalised RGB at the queries, in coordinates of the whole image: latent, (B, Q, 2), (B, 2) → (B, Q, 3).

        For a model on a device without float64, coordinates and cell are on the host, and what follows from them in float64
        is moved to the latent's device in its type.
        """
        raise NotImplementedError

    def query_grid(self, latent: Any, rows: Tensor, columns: Tensor, cell: Tensor, memory: int) -> Tensor:
        """Normalised RGB at the crossings of rows and columns. By default `query` is called in chunks.

        Args:
            rows, columns: (h,) and (w,) float64, coordinates y and x, on the host as the cell is.
            cell: (B, 2).
            memory: bytes that may be held, besides the result.
        Returns: (B, h, w, 3).
        """
        return upscale.query_in_chunks(self, latent, rows, columns, cell, memory)

    # what the engine asks of any model

    def fold(self) -> 'SRModel':
        """Replaces, in place, every layer that has a cheaper equivalent for inference (`folded`); returns the model."""
        for parent in list(self.modules()):
            for name, child in parent.named_children():
                folded = getattr(child, 'folded', None)
                if folded is not None:
                    setattr(parent, name, folded())
        return self

    def training_values(self) -> dict[str, Tensor]:
        """Learnt scalars to plot during training, by name: those that modules return from `training_values`."""
        found = [(path, module.training_values()) for path, module in self.named_modules()
                 if path and hasattr(module, 'training_values')]
        return {f'{path}.{name}': value for path, values in found for name, value in values.items()}

    def fresh_tensors(self, state: dict[str, Tensor]) -> list[str]:
        """Names of the tensors that are missing from the `state` of an earlier training stage and start afresh after it."""
        return [f'{path}.{name}' for path, module in self.named_modules() for name in getattr(module, 'stage_tensors', ())]

    def use_kernels(self, on: bool, dtype: torch.dtype = torch.float32) -> 'SRModel':
        """Turns the GPU kernels of the modules that have them on (the default) or off; returns the model.

        Kernels are checked before their first use, and `torch.compile` must not trace the check. So call this before
        compiling a model, with the model on its device.

        Args:
            dtype: of the feature maps: that of the parameters or of autocast.
        """
        for path, module in self.named_modules():
            if path and hasattr(module, 'use_kernels'):
                module.use_kernels(on, dtype)
        return self

    # what every model offers

    def forward(self, lr: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """RGB at scattered coordinates, for training.

        Args:
            lr: (B, 3, H, W) in [0, 1].
            coord: (B, Q, 2), (y, x) in [−1, 1], float32 or float64; only float64 keeps offsets exact.
            cell: (B, 2), size of an output pixel in the same units.
        Returns: (B, Q, 3), RGB; the targets lie in [0, 1], the predictions are not clamped.
        """
        check_queries(lr, coord, cell, self.inp_sub, values=not (self.training or torch.compiler.is_compiling()))
        lr = self.normalise_lr(lr)
        mirrored = getattr(getattr(self, 'encoder', None), 'mirrored', 1)
        if lr.shape[2] % mirrored or lr.shape[3] % mirrored:
            lr, coord, cell = continued(lr, mirrored, coord, cell)
        return self.denormalise_rgb(self.query(self.encode(lr), coord, cell))

    def upscale(self, image: Any, size: tuple[int, int], memory: int | None = None, halo: int | None = None,
                progress: Callable[[float], None] | None = None) -> Tensor:
        """An image at another size, (B, 3, h, w) in [0, 1]; see `models.upscale.upscale_image`."""
        upscale.check_arguments('upscale', size, memory, halo)
        return upscale.upscale_image(self, image, size, memory, halo, progress)

    def upscale_parts(self, image: Any, size: tuple[int, int], write: Callable[[slice, slice, Tensor], None],
                      memory: int | None = None, halo: int | None = None) -> None:
        """An image at another size, handed over part by part; see `models.upscale.upscale_parts`."""
        upscale.check_arguments('upscale', size, memory, halo)
        upscale.upscale_parts(self, image, size, write, memory, halo)

    def encode_image(self, image: Any, side: int | None = None, cache: LatentCache | None = None) -> EncodedImage:
        """An image encoded once, for any number of `render` calls; see `models.upscale.encode_image`."""
        if side is not None:
            upscale.check_arguments('encode_image', (side, side))
        return upscale.encode_image(self, image, side, cache)

    def render(self, encoded: EncodedImage, window: tuple[float, float, float, float], size: tuple[int, int],
               memory: int | None = None) -> Tensor:
        """A window of an encoded image at any size, (B, 3, h, w) in [0, 1]; see `models.upscale.render_window`."""
        if not isinstance(encoded, EncodedImage):
            raise UserError(f'render: expected what encode_image returned, got {type(encoded).__name__}')
        upscale.check_arguments('render', size, memory, window=window)
        return upscale.render_window(self, encoded, window, size, memory)

    def normalise_lr(self, lr: Tensor) -> Tensor:
        """LR RGB in [0, 1], (B, 3, H, W) → normalised."""
        return lr.sub(self.inp_sub.view(1, -1, 1, 1)).div_(self.inp_div.view(1, -1, 1, 1))  # one copy

    def normalise_rgb(self, rgb: Tensor) -> Tensor:
        """Target RGB in [0, 1], (…, 3) → the units in which the loss is taken."""
        return (rgb - self.gt_sub).div_(self.gt_div)  # one copy less

    def denormalise_rgb(self, rgb: Tensor) -> Tensor:
        """Inverse of `normalise_rgb`."""
        return (rgb * self.gt_div).add_(self.gt_sub)  # one copy less

    @property
    def data_norm(self) -> dict:
        """The normalisation as plain values: {'inp': {'sub': […], 'div': […]}, 'gt': {…}}."""
        return {side: {key: getattr(self, f'{side}_{key}').tolist() for key in ('sub', 'div')} for side in ('inp', 'gt')}

    @data_norm.setter
    def data_norm(self, norm: dict) -> None:
        for side in ('inp', 'gt'):
            for key in ('sub', 'div'):
                values = norm.get(side, {}).get(key) if isinstance(norm, dict) and isinstance(norm.get(side), dict) else None
                least = SMALLEST_DIV if key == 'div' else -1
                if (not isinstance(values, list) or len(values) not in (1, 3)
                        or not all(isinstance(value, (int, float)) and not isinstance(value, bool)
                                   and least <= abs(value) <= LARGEST_NORM for value in values)):
                    raise UserError(f'data_norm.{side}.{key}: expected a list of 1 or 3 numbers of at most {LARGEST_NORM:g} '
                                    f'(of div at least {SMALLEST_DIV:g}), got {shortened(values)}')
                name = f'{side}_{key}'
                setattr(self, name, getattr(self, name).new_tensor(values))
