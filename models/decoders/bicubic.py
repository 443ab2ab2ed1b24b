"""Bicubic upscaling by Pillow on 8-bit data: the baseline of every table.

Shapes: B batch, H×W the LR grid, h×w the output grid, Q queries.
"""
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common import coords
from common.coords import Region
from models.contract import SRModel
from models.registries import register


class Latent(NamedTuple):
    """The whole LR image. images: 8-bit, one for each of the batch; like: a tensor of the model's type and device."""
    images: list[Image.Image]
    like: Tensor


@register('bicubic')
class Bicubic(SRModel):
    """Needs no weights. The size of the whole upscaled grid follows from the cell.

    Pillow filters along one axis, rounds, and filters along the other; their order depends on the sizes. A window may
    therefore differ from the same part of the whole grid, by rounding and clipping. So the grid is made at once.
    """

    whole_grid = True

    def encode(self, lr: Tensor, region: Region | None = None, halo: int | None = None) -> Latent:
        pixels = lr.permute(0, 2, 3, 1) * self.inp_div + self.inp_sub                # (B, H, W, 3)
        pixels = pixels.mul(255).round().clamp(0, 255).byte().cpu()
        return Latent([Image.fromarray(image) for image in pixels.numpy()], lr)

    def resize(self, latent: Latent, size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Tensor:
        """Pillow's bicubic of a box (left, top, right, bottom) in LR pixels, or of all → (B, h, w, 3), normalised."""
        resized = [np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC, box)) for image in latent.images]
        return self.normalise_rgb(torch.from_numpy(np.stack(resized)).to(latent.like).div_(255))

    def query_grid(self, latent: Latent, rows: Tensor, columns: Tensor, cell: Tensor, memory: int) -> Tensor:
        edges = []  # of the outer output pixels, in LR pixels
        for lines, size, side in zip((rows, columns), cell[0].tolist(), latent.like.shape[2:]):
            low, high = ((edge + 1) * side / 2 for edge in (float(lines[0]) - size / 2, float(lines[-1]) + size / 2))
            edges.append((max(0.0, round(low, 9)), min(float(side), round(high, 9))))
        (top, bottom), (left, right) = edges
        return self.resize(latent, (len(rows), len(columns)), (left, top, right, bottom))

    def query(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        height, width = (2 / cell[0]).round().long().tolist()
        grid = self.resize(latent, (height, width))                                  # (B, h, w, 3)
        y, x = coords.nearest_index(coord[..., 0], height), coords.nearest_index(coord[..., 1], width)   # (B, Q)
        return grid.flatten(1, 2).gather(1, (y * width + x).unsqueeze(-1).expand(-1, -1, 3))
