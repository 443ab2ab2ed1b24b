"""Bicubic upscaling by Pillow on 8-bit data: the baseline of every table.

Shapes: B batch, H×W the LR grid, h×w the output grid, Q queries.
"""
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models import coords
from models.registry import register
from models.sr_model import SRModel


@register('bicubic')
class Bicubic(SRModel):
    """Needs no weights. A query reads the pixel of the whole upscaled grid, whose size follows from the cell."""

    def encode(self, lr: Tensor) -> Tensor:
        return lr                                                                    # (B, 3, H, W)

    def query_grid(self, latent: Tensor, batch: int, height: int, width: int) -> Tensor:
        pictures = latent.permute(0, 2, 3, 1) * self.inp_div + self.inp_sub          # (B, H, W, 3)
        pictures = pictures.mul(255).round().clamp(0, 255).byte().cpu().numpy()
        grids = [np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
                 for picture in pictures]
        rgb = torch.from_numpy(np.stack(grids)).to(latent) / 255                     # (B, h, w, 3)
        return self.normalise_rgb(rgb.flatten(1, 2))                                 # (B, h·w, 3)

    def query(self, latent: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        height, width = (2 / cell[0]).round().long().tolist()
        grid = self.query_grid(latent, len(latent), height, width)
        pixel = coords.nearest_index(coord[..., 0], height) * width + coords.nearest_index(coord[..., 1], width)
        return grid.gather(1, pixel.unsqueeze(-1).expand(-1, -1, 3))                 # (B, Q, 3)
