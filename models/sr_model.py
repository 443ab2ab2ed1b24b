"""The contract that every super-resolution model keeps.

Shapes: B batch, H×W the LR grid, h×w the output grid, Q queries.

A model implements `encode(lr) → latent` and `query(latent, coord, cell) → rgb`, both in normalised units; there is no
hidden state between the two. Normalisation, the scattered path (`forward`) and the grid path (`upscale`), in regions and
bands where memory is short, are here.
"""
import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from models import coords
from models.regions import ENCODING_SHARE, SMALLEST_SIDE, Region, default_memory
from utils import UserError

DEFAULT_NORM = {'inp': {'sub': [0.5], 'div': [0.5]}, 'gt': {'sub': [0.5], 'div': [0.5]}}
CPU_CHUNK_FLOATS = 2 ** 22  # numbers that the queries of one chunk hold at once on a CPU: what its caches hold
BAND_COPIES = 5  # of a band of the output: while it is denormalised, clamped and put in place


class SRModel(nn.Module):
    """Base of all models: RGB in [0, 1] → normalise → encode → query → denormalise.

    Attributes:
        fixed_scale: the only factor the model can upscale by, or None for any.
        reach: how far an output pixel sees around its nearest LR pixel, in LR pixels; None: over the whole picture, which
            then cannot be processed in regions, nor its output in bands.
        encode_floats: numbers per LR pixel that `encode` holds at its widest point; plans the regions.
    """

    fixed_scale: int | None = None
    reach: int | None = None
    encode_floats: int = 3

    def __init__(self):
        super().__init__()
        for name in ('inp_sub', 'inp_div', 'gt_sub', 'gt_div'):  # travel in the checkpoint as `data_norm`
            self.register_buffer(name, torch.tensor([0.5]), persistent=False)

    # what a model implements

    def encode(self, lr: Tensor, region: Region | None = None) -> Any:
        """Everything that does not depend on the queries: normalised LR (B, 3, H, W) → latent.

        Args:
            region: the part of the picture that `lr` is; None: all of it. Coordinates stay those of the whole picture.
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
    def upscale(self, lr: Tensor, size: tuple[int, int], memory: int | None = None, halo: int | None = None) -> Tensor:
        """A picture at another size: (B, 3, H, W) in [0, 1] → (B, 3, h, w) in [0, 1], clamped.

        Args:
            size: (h, w), each at least the LR side.
            memory: bytes that may be used beside the input, the weights and the result; default: a modest share of what is
                free. A picture that does not fit is processed in regions, with the same result to rounding.
            halo: see `encode_region`; plays no part where the picture is processed as a whole.
        Raises: UserError when the input is not such a batch, the model cannot make this size, or not within this memory.
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
        if halo is not None and halo < 0:
            raise UserError(f'upscale: halo is {halo}, expected 0 or more pixels')
        memory = default_memory(lr.device) if memory is None else memory
        rows, columns = coords.pixel_centres(height, lr.device), coords.pixel_centres(width, lr.device)
        cell = coords.make_cell(height, width, lr.device).expand(len(lr), 2)
        nearest_row = coords.nearest_index(rows, lr.shape[2]).cpu()                  # (h,), non-decreasing
        nearest_column = coords.nearest_index(columns, lr.shape[3]).cpu()
        lr = self.normalise_lr(lr)
        out = lr.new_empty(len(lr), 3, height, width)
        for region in self.plan_regions(*lr.shape[2:], len(lr), memory, halo):
            latent = self.encode(lr) if region.is_whole else self.encode_region(lr, region, halo)
            x = lines_of(nearest_column, region.left, region.right)
            line = 4 * 3 * BAND_COPIES * len(lr) * (x.stop - x.start) * -(-height // lr.shape[2])    # bytes per LR row
            at_once = lr.shape[2] if self.reach is None else max(1, int(memory * (1 - ENCODING_SHARE)) // 2 // line)
            for band in region.split(at_once, lr.shape[3]):
                y = lines_of(nearest_row, band.top, band.bottom)
                rgb = self.query_grid(latent, rows[y], columns[x], cell, int(memory * (1 - ENCODING_SHARE)) // 2)
                out[:, :, y, x] = rearrange(self.denormalise_rgb(rgb).clamp(0, 1), 'b h w c -> b c h w')
            del latent, rgb  # before the next region is encoded
        return out

    def plan_regions(self, height: int, width: int, batch: int, memory: int, halo: int | None) -> list[Region]:
        """The whole picture where its encoding fits into its share of `memory`, else regions of which each one does."""
        whole = Region.whole(height, width)
        pixels = int(memory * ENCODING_SHARE) // (4 * batch * self.encode_floats)
        if height * width <= pixels or self.reach is None:
            return [whole]
        short, square, margin = min(height, width), math.isqrt(pixels), self.margin(halo)
        side = max(square, pixels // short) - 2 * margin  # regions from border to border need no margin along the short side
        if side < SMALLEST_SIDE:
            smallest = 2 * margin + SMALLEST_SIDE
            needed = min(height * width, smallest * min(short, smallest)) * 4 * batch * self.encode_floats / ENCODING_SHARE
            seen = margin - self.margin(0)  # by choice
            raise UserError(f'upscale: {memory / 2 ** 20:.0f} MiB of memory are too few for this model and this picture; '
                            f'allow at least {math.ceil(needed / 2 ** 20)} MiB'
                            + (f', or a halo smaller than {seen} pixels' if seen else ''))
        return list(whole.split(*(length if length <= square else side for length in (height, width))))


def lines_of(nearest: Tensor, start: int, stop: int) -> slice:
    """The output lines whose nearest LR line is in [start, stop): a slice of `nearest`, which does not decrease."""
    first, last = torch.searchsorted(nearest, torch.tensor([start, stop])).tolist()
    return slice(first, last)
