"""The contract that every super-resolution model keeps.

Shapes: B batch, H×W the LR grid, h×w the output grid, Q queries.

A model implements `encode(lr) → latent` and `query(latent, coord, cell) → rgb`, both in normalised units; there is no
hidden state between the two. Normalisation, the scattered path (`forward`) and the grid path (`upscale`), in regions and
bands where memory is short, are here.
"""
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from common import coords
from models.regions import ENCODING_SHARE, SMALLEST_SIDE, Region, free_shares
from utils import UserError

DEFAULT_NORM = {'inp': {'sub': [0.5], 'div': [0.5]}, 'gt': {'sub': [0.5], 'div': [0.5]}}
CPU_CHUNK_FLOATS = 2 ** 22  # numbers that the queries of one chunk hold at once on a CPU: what its caches hold
CPU_BAND = 2 ** 25  # bytes that a band of the output takes there: more would save nothing
BAND_COPIES = 5  # of a band of the output: while it is denormalised, clamped and put in place


class SRModel(nn.Module):
    """Base of all models: RGB in [0, 1] → normalise → encode → query → denormalise.

    Attributes:
        fixed_scale: the only factor the model can upscale by, or None for any.
        reach: how far an output pixel sees around its nearest LR pixel, in LR pixels; None: over the whole image, which
            then cannot be processed in regions, nor its output in bands.
        encode_floats: numbers per LR pixel that `encode` holds at its widest point; plans the regions.
        may_idle: whether there are scales at which some parameters take no part.
        reimplementation: for a method without a public program, what this one is made from; tables say so. None for others.
    """

    fixed_scale: int | None = None
    reach: int | None = None
    encode_floats: int = 3
    may_idle: bool = False
    reimplementation: str | None = None

    def __init__(self):
        super().__init__()
        for name in ('inp_sub', 'inp_div', 'gt_sub', 'gt_div'):  # travel in the checkpoint as `data_norm`
            self.register_buffer(name, torch.tensor([0.5]), persistent=False)

    # what a model implements

    def encode(self, lr: Tensor, region: Region | None = None) -> Any:
        """Everything that does not depend on the queries: normalised LR (B, 3, H, W) → latent.

        Args:
            region: the part of the image that `lr` is; None: all of it. Coordinates stay those of the whole image.
        """
        raise NotImplementedError

    def query(self, latent: Any, coord: Tensor, cell: Tensor) -> Tensor:
        """Normalised RGB at the queries: latent, (B, Q, 2), (B, 2) → (B, Q, 3)."""
        raise NotImplementedError

    def query_floats(self) -> int:
        """Numbers that one query holds at its widest point; sizes the chunks of `query_grid`."""
        raise NotImplementedError

    # what a model may do better

    def encode_region(self, lr: Tensor, region: Region, halo: int | None = None) -> Any:
        """A latent for queries whose nearest LR pixel lies in `region`: normalised whole LR (B, 3, H, W) → latent.

        Args:
            halo: LR pixels around the region that the encoder looks at, instead of all that it can see; not exact.
        """
        outer = region.grow(self.margin(halo))
        return self.encode(outer.of(lr), outer)

    def margin(self, halo: int | None = None) -> int:
        """LR pixels around a region that `encode_region` needs: `reach`, or fewer with a smaller `halo`."""
        return self.reach if halo is None else min(halo, self.reach)

    def encode_stages(self, halo: int | None = None) -> list[tuple[int, int]]:
        """For each stage of `encode_region`: LR pixels around the region, and the numbers held per LR pixel."""
        return [(self.margin(halo), self.encode_floats)]

    def query_grid(self, latent: Any, rows: Tensor, columns: Tensor, cell: Tensor, memory: int) -> Tensor:
        """Normalised RGB at the crossings of rows and columns.

        Args:
            rows, columns: (h,) and (w,) float64, coordinates y and x.
            cell: (B, 2).
            memory: bytes to stay within, the result aside.
        Returns: (B, h, w, 3).
        """
        batch, width = len(cell), len(columns)
        floats = memory // 4 if rows.device.type != 'cpu' else min(CPU_CHUNK_FLOATS, memory // 4)
        chunk = max(1, floats // (batch * self.query_floats()))
        parts = []
        for index in torch.arange(len(rows) * width, device=rows.device).split(chunk):
            coord = torch.stack([rows[index // width], columns[index % width]], -1)  # (chunk, 2)
            parts.append(self.query(latent, coord.expand(batch, -1, 2), cell))
        return torch.cat(parts, 1).unflatten(1, (-1, width))

    # what the engine asks of any model

    def fold(self) -> 'SRModel':
        """Replaces, in place, every layer that has a cheaper equal for inference (`folded`); returns the model."""
        for parent in list(self.modules()):
            for name, child in parent.named_children():
                if hasattr(child, 'folded'):
                    setattr(parent, name, child.folded())
        return self

    def training_values(self) -> dict[str, Tensor]:
        """Learnt scalars worth a curve, by name: those that a module returns from `training_values`."""
        told = [(path, module.training_values()) for path, module in self.named_modules()
                if path and hasattr(module, 'training_values')]
        return {f'{path}.{name}': value for path, values in told for name, value in values.items()}

    def fresh_tensors(self, state: dict[str, Tensor]) -> list[str]:
        """Names of the tensors that start afresh when training starts from an earlier stage's `state`, which lacks them."""
        return [f'{path}.{name}' for path, module in self.named_modules() for name in getattr(module, 'stage_tensors', ())]

    def use_kernels(self, on: bool, dtype: torch.dtype = torch.float32) -> 'SRModel':
        """Lets the modules that have GPU kernels use them, as they do unasked, or not; returns the model.

        Kernels are checked before their first use, which `torch.compile` must not trace: whoever compiles a model calls this
        first, with the model on its device.

        Args:
            dtype: of the feature maps: that of the parameters, or autocast's.
        """
        for path, module in self.named_modules():
            if path and hasattr(module, 'use_kernels'):
                module.use_kernels(on, dtype)
        return self

    # what every model offers

    @property
    def data_norm(self) -> dict:
        """The normalisation as plain values: {'inp': {'sub': […], 'div': […]}, 'gt': {…}}."""
        return {side: {key: getattr(self, f'{side}_{key}').tolist() for key in ('sub', 'div')} for side in ('inp', 'gt')}

    @data_norm.setter
    def data_norm(self, norm: dict) -> None:
        for side in ('inp', 'gt'):
            for key in ('sub', 'div'):
                values = norm.get(side, {}).get(key) if isinstance(norm, dict) and isinstance(norm.get(side), dict) else None
                numbers = isinstance(values, list) and all(
                    isinstance(value, (int, float)) and math.isfinite(value) for value in values)
                if not numbers or len(values) not in (1, 3) or (key == 'div' and 0 in values):
                    raise UserError(f'data_norm.{side}.{key}: expected a list of 1 or 3 numbers (of div none zero), '
                                    f'got {values!r}')
                name = f'{side}_{key}'
                setattr(self, name, getattr(self, name).new_tensor(values))

    def normalise_lr(self, lr: Tensor) -> Tensor:
        """LR RGB in [0, 1], (B, 3, H, W) → normalised."""
        return (lr - self.inp_sub.view(1, -1, 1, 1)) / self.inp_div.view(1, -1, 1, 1)

    def normalise_rgb(self, rgb: Tensor) -> Tensor:
        """Target RGB in [0, 1], (…, 3) → the units in which the loss is taken."""
        return (rgb - self.gt_sub) / self.gt_div

    def denormalise_rgb(self, rgb: Tensor) -> Tensor:
        """Inverse of `normalise_rgb`."""
        return rgb * self.gt_div + self.gt_sub

    def forward(self, lr: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """RGB at scattered coordinates, for training.

        Args:
            lr: (B, 3, H, W) in [0, 1].
            coord: (B, Q, 2), (y, x) in [−1, 1], float32 or float64 (offsets are exact only in the latter).
            cell: (B, 2), size of an output pixel in the same units.
        Returns: (B, Q, 3), RGB in [0, 1] where the prediction is right; not clamped.
        """
        return self.denormalise_rgb(self.query(self.encode(self.normalise_lr(lr)), coord, cell))

    @torch.no_grad()
    def upscale(self, lr: Tensor, size: tuple[int, int], memory: int | None = None, halo: int | None = None,
                progress: Callable[[float], None] = lambda share: None) -> Tensor:
        """An image at another size: (B, 3, H, W) in [0, 1] → (B, 3, h, w) in [0, 1], clamped.

        Args:
            size: (h, w), each at least the LR side.
            memory: bytes that may be used beside the input, the weights and the result; default: a modest share of what is
                free. An image that does not fit is processed in regions, with the same result to rounding.
            halo: see `encode_region`; plays no part where the image is processed as a whole.
            progress: called with the share of the output that is done, above 0 to 1.
        Raises: UserError when the input is not such a batch, the model cannot make this size, or not within this memory.
        """
        self.check_request(lr, size, halo)
        memory = self.choose_memory(lr, halo) if memory is None else memory
        lr = self.normalise_lr(lr)
        out = lr.new_empty(len(lr), 3, *size)
        done = 0
        for region in self.plan_regions(lr.shape, memory, halo):
            for y, x, rgb in self.upscale_region(lr, region, size, memory, halo):
                out[:, :, y, x] = rgb
                done += rgb.shape[2] * rgb.shape[3]
                progress(done / (size[0] * size[1]))
        return out

    @torch.no_grad()
    def halo_error(self, lr: Tensor, size: tuple[int, int], halo: int, memory: int | None = None) -> float | None:
        """The largest difference, RGB in [0, 1], that `halo` makes in the region in the middle of an image.

        Args: those of `upscale`.
        Returns: 0 where the image is not processed in regions; None where not even one exact region fits into the memory.
        """
        self.check_request(lr, size, halo)
        memory = self.choose_memory(lr, halo) if memory is None else memory
        lr = self.normalise_lr(lr)
        try:
            regions = self.plan_regions(lr.shape, memory, None)
        except UserError:
            return None
        if len(regions) == 1:
            return 0.0
        exact, quick = (self.upscale_region(lr, regions[len(regions) // 2], size, memory, each) for each in (None, halo))
        return max((a - b).abs().max().item() for (*_, a), (*_, b) in zip(exact, quick))

    def upscale_region(self, lr: Tensor, region: Region, size: tuple[int, int], memory: int,
                       halo: int | None) -> Iterator[tuple[slice, slice, Tensor]]:
        """The output of a region of the normalised image in bands: their rows, columns and RGB (B, 3, h, w) in [0, 1]."""
        memory = int(memory * (1 - ENCODING_SHARE)) // 2  # half for the queries, half for a band of RGB
        rows, columns = (coords.pixel_centres(n, lr.device) for n in size)
        nearest_row, nearest_column = (
            coords.nearest_index(lines, n).cpu() for lines, n in zip((rows, columns), lr.shape[2:]))
        cell = coords.make_cell(*size, lr.device).expand(len(lr), 2)
        latent = self.encode(lr) if region.is_whole else self.encode_region(lr, region, halo)
        x = lines_of(nearest_column, region.left, region.right)
        lr_row = 4 * 3 * BAND_COPIES * len(lr) * (x.stop - x.start) * -(-size[0] // lr.shape[2])     # bytes of its output
        band_memory = min(memory, CPU_BAND) if lr.device.type == 'cpu' else memory
        at_once = lr.shape[2] if self.reach is None else max(1, band_memory // lr_row)
        for band in region.split(at_once, lr.shape[3]):
            y = lines_of(nearest_row, band.top, band.bottom)
            rgb = self.query_grid(latent, rows[y], columns[x], cell, memory)         # (B, h, w, 3)
            yield y, x, rearrange(self.denormalise_rgb(rgb).clamp(0, 1), 'b h w c -> b c h w')

    def check_request(self, lr: Tensor, size: tuple[int, int], halo: int | None) -> None:
        """Raises UserError unless this model can upscale `lr` to `size`."""
        if lr.ndim != 4 or lr.shape[1] != 3 or 0 in lr.shape:
            raise UserError(f'upscale: expected images of shape (B, 3, H, W), got {tuple(lr.shape)}')
        height, width = size
        if height < lr.shape[2] or width < lr.shape[3]:
            raise UserError(f'upscale: {height}x{width} is smaller than the input, {lr.shape[2]}x{lr.shape[3]}; '
                            'a scale must be at least 1')
        if self.fixed_scale and (height, width) != tuple(self.fixed_scale * side for side in lr.shape[2:]):
            raise UserError(f'upscale: this model upscales by exactly {self.fixed_scale}; {lr.shape[2]}x{lr.shape[3]} '
                            f'to {height}x{width} needs an arbitrary-scale model')
        if halo is not None and halo < 0:
            raise UserError(f'upscale: halo is {halo}, expected 0 or more pixels')

    def choose_memory(self, lr: Tensor, halo: int | None) -> int:
        """A modest share of the free memory, in bytes, or more where regions would be narrower than their margins."""
        memory, most = free_shares(lr.device)
        if self.reach is not None:
            wide = min(self.margin(halo), max(lr.shape[2:]))
            while 2 * memory <= most and self.region_side(lr.shape, memory, halo)[0] < wide:
                memory *= 2
        return memory

    def plan_regions(self, shape: torch.Size, memory: int, halo: int | None) -> list[Region]:
        """The whole image where its encoding fits into its share of `memory`, else regions of which each one does.

        Args:
            shape: (B, 3, H, W).
        """
        batch, _, height, width = shape
        side, uncut = self.region_side(shape, memory, halo)
        if side < min(SMALLEST_SIDE, height, width):
            smallest = [(2 * margin + SMALLEST_SIDE, floats) for margin, floats in self.encode_stages(halo)]
            floats = max(min(height, length) * min(width, length) * floats for length, floats in smallest)
            seen = self.margin(halo) - self.margin(0)  # by choice
            raise UserError(f'upscale: {memory / 2 ** 20:.0f} MiB of memory are too few for this model and this image; '
                            f'allow at least {math.ceil(floats * 4 * batch / ENCODING_SHARE / 2 ** 20)} MiB'
                            + (f', or a halo smaller than {seen} pixels' if seen else ''))
        return list(Region.whole(height, width).split(*(length if length <= uncut else side for length in (height, width))))

    def region_side(self, shape: torch.Size, memory: int, halo: int | None) -> tuple[int, int]:
        """The longest side of regions that fit, and how long a side of the image may be to stay uncut."""
        batch, _, height, width = shape
        longest, short = max(height, width), min(height, width)
        if self.reach is None:
            return longest, longest
        numbers = int(memory * ENCODING_SHARE) // (4 * batch)
        fitting = [(numbers // floats, margin) for margin, floats in self.encode_stages(halo)]       # LR pixels, margin
        sides = [max(math.isqrt(pixels), pixels // short) - 2 * margin  # none needed beyond the borders of the short side
                 for pixels, margin in fitting if pixels < height * width]
        return min(sides, default=longest), min(math.isqrt(pixels) for pixels, _ in fitting)


def lines_of(nearest: Tensor, start: int, stop: int) -> slice:
    """The output lines whose nearest LR line is in [start, stop): a slice of `nearest`, which does not decrease."""
    first, last = torch.searchsorted(nearest, torch.tensor([start, stop])).tolist()
    return slice(first, last)
