"""The contract that every super-resolution model keeps.

Shapes: B batch, H×W the LR grid, h×w the output grid, Q queries.

A model implements `encode(lr) → latent` and `query(latent, coord, cell) → rgb`, both in normalised units; there is no
hidden state between the two. Normalisation, the scattered path (`forward`) and the grid path (`upscale`) are here.
"""
import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from models import coords
from utils import UserError

DEFAULT_NORM = {'inp': {'sub': [0.5], 'div': [0.5]}, 'gt': {'sub': [0.5], 'div': [0.5]}}
# numbers that the queries of one chunk may hold at once: on CPUs what their caches hold, elsewhere 256 MiB in float32
CHUNK_FLOATS = {'cpu': 2 ** 22}
CHUNK_FLOATS_ELSEWHERE = 2 ** 26


class SRModel(nn.Module):
    """Base of all models: RGB in [0, 1] → normalise → encode → query → denormalise.

    Attributes:
        fixed_scale: the only factor the model can upscale by, or None for any.
    """

    fixed_scale: int | None = None

    def __init__(self):
        super().__init__()
        for name in ('inp_sub', 'inp_div', 'gt_sub', 'gt_div'):  # travel in the checkpoint as `data_norm`
            self.register_buffer(name, torch.tensor([0.5]), persistent=False)

    # what a model implements

    def encode(self, lr: Tensor) -> Any:
        """Everything that does not depend on the queries: normalised LR (B, 3, H, W) → latent."""
        raise NotImplementedError

    def query(self, latent: Any, coord: Tensor, cell: Tensor) -> Tensor:
        """Normalised RGB at the queries: latent, (B, Q, 2), (B, 2) → (B, Q, 3)."""
        raise NotImplementedError

    def query_floats(self) -> int:
        """Numbers that one query holds at its widest point; sizes the chunks of `query_grid`."""
        raise NotImplementedError

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
    def upscale(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """A picture at another size: (B, 3, H, W) in [0, 1] → (B, 3, h, w) in [0, 1], clamped.

        Args:
            size: (h, w), each at least the LR side.
        Raises: UserError when the input is not such a batch, or the model cannot make this size.
        """
        if lr.ndim != 4 or lr.shape[1] != 3 or 0 in lr.shape:
            raise UserError(f'upscale: expected pictures of shape (B, 3, H, W), got {tuple(lr.shape)}')
        height, width = size
        if height < lr.shape[2] or width < lr.shape[3]:
            raise UserError(f'upscale: {height}x{width} is smaller than the input, {lr.shape[2]}x{lr.shape[3]}; '
                            'a scale must be at least 1')
        if self.fixed_scale and (height, width) != tuple(self.fixed_scale * side for side in lr.shape[2:]):
            raise UserError(f'upscale: this model upscales by exactly {self.fixed_scale}; {lr.shape[2]}x{lr.shape[3]} '
                            f'to {height}x{width} needs an arbitrary-scale model')
        latent = self.encode(self.normalise_lr(lr))
        rgb = self.query_grid(latent, lr.shape[0], height, width)                    # (B, h·w, 3)
        rgb = self.denormalise_rgb(rgb).clamp(0, 1)
        return rearrange(rgb, 'b (h w) c -> b c h w', h=height).contiguous()         # (B, 3, h, w)

    def query_grid(self, latent: Any, batch: int, height: int, width: int) -> Tensor:
        """All pixels of an output grid, row-major, in chunks of bounded memory: → (B, h·w, 3), normalised."""
        device = self.inp_sub.device
        rows, columns = coords.pixel_centres(height, device), coords.pixel_centres(width, device)
        cell = coords.make_cell(height, width, device).expand(batch, 2)
        chunk = max(1, CHUNK_FLOATS.get(device.type, CHUNK_FLOATS_ELSEWHERE) // (batch * self.query_floats()))
        parts = []
        for index in torch.arange(height * width, device=device).split(chunk):
            coord = torch.stack([rows[index // width], columns[index % width]], -1)  # (chunk, 2)
            parts.append(self.query(latent, coord.expand(batch, -1, 2), cell))
        return torch.cat(parts, 1)
