"""Bicubic upscaling by Pillow on 8-bit data: the baseline of every table.

Shapes: B batch, H×W the LR grid, h×w the output grid, Q queries.
"""
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common import coords
from common.registry import register
from models.regions import Region
from models.sr_model import SRModel


@register('bicubic')
class Bicubic(SRModel):
    """Needs no weights. A query reads the pixel of the whole upscaled grid, whose size follows from the cell."""

    def encode(self, lr: Tensor, region: Region | None = None) -> Tensor:
        return lr                                                                    # (B, 3, H, W)

    def grid(self, lr: Tensor, cell: Tensor) -> Tensor:
        """The whole upscaled images: (B, h, w, 3), normalised."""
        height, width = (2 / cell[0]).round().long().tolist()
        images = lr.permute(0, 2, 3, 1) * self.inp_div + self.inp_sub              # (B, H, W, 3)
        images = images.mul(255).round().clamp(0, 255).byte().cpu().numpy()
        grids = [np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
                 for image in images]
        return self.normalise_rgb(torch.from_numpy(np.stack(grids)).to(lr) / 255)

    def query_grid(self, latent: Tensor, rows: Tensor, columns: Tensor, cell: Tensor, memory: int) -> Tensor:
        grid = self.grid(latent, cell)
        y, x = coords.nearest_index(rows, grid.shape[1]), coords.nearest_index(columns, grid.shape[2])
        return grid[:, y[:, None], x]                                                # (B, h, w, 3)

    def query(self, latent: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        grid = self.grid(latent, cell)
        y = coords.nearest_index(coord[..., 0], grid.shape[1])                       # (B, Q)
        x = coords.nearest_index(coord[..., 1], grid.shape[2])
        return grid.flatten(1, 2).gather(1, (y * grid.shape[2] + x).unsqueeze(-1).expand(-1, -1, 3))
