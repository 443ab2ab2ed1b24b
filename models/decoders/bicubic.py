"""Bicubic upscaling by Pillow: the baseline of every table.

Shapes: B batch, H×W the LR grid, h×w the output grid, Q queries.
"""
import math
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common import coords
from common.coords import Region, upload
from models.contract import SRModel
from models.registries import register

_TAPS = 2         # LR pixels on each side that Pillow's bicubic weighs, where it enlarges
_EXACT = 1e-3     # of 255, by which values of 8 bits may differ from whole numbers; those of 16 bits do by 1/257 and more
_BICUBIC = Image.Resampling.BICUBIC


class Latent(NamedTuple):
    """The LR pixels of a region and around it.

    images: for each of the batch one RGB image of 8 bits, or one image of floating-point numbers in [0, 1] per channel.
    region: what they cover.
    like: a tensor of the model's type and device.
    """
    images: list[list[Image.Image]]
    region: Region
    like: Tensor


@register('bicubic')
class Bicubic(SRModel):
    """Needs no weights. The size of the whole upscaled grid follows from the cell.

    Images of 8 bits are computed in 8 bits, as the benchmarks define it: Pillow filters along rows, rounds and clips, and
    filters along columns. Where the memory allows it the grid is one call of Pillow, as for every image of the benchmarks;
    in parts, the same two steps differ from it by the rounding of weights. Images of more than 8 bits are computed in
    floating-point numbers.
    """

    whole_grid = True
    reach = _TAPS + 1

    def encode(self, lr: Tensor, region: Region | None = None, halo: int | None = None) -> Latent:
        region = Region.whole(*lr.shape[2:]) if region is None else region.grow(self.reach)
        pixels = region.of(lr).permute(0, 2, 3, 1) * self.inp_div + self.inp_sub     # (B, H, W, 3)
        values = pixels.mul(255)
        if lr.dtype.itemsize > 2 and (values - values.round()).abs_().max() > _EXACT:
            planes = pixels.detach().to('cpu', torch.float32).permute(0, 3, 1, 2).contiguous().numpy()
            return Latent([[Image.fromarray(plane) for plane in image] for image in planes], region, lr)
        eight = values.round_().clamp_(0, 255).byte().cpu().numpy()
        return Latent([[Image.fromarray(image)] for image in eight], region, lr)

    def resize(self, latent: Latent, size: tuple[int, int], box: tuple[float, float, float, float]) -> Tensor:
        """Pillow's bicubic of a box (left, top, right, bottom), in LR pixels of the image → (B, h, w, 3), normalised."""
        resized = [[_resized(image, size, latent.region, box) for image in images] for images in latent.images]
        if len(resized[0]) == 1:
            values = torch.from_numpy(np.stack([image for image, in resized])).to(latent.like).div_(255)
        else:
            values = torch.from_numpy(np.stack([np.stack(planes, -1) for planes in resized])).to(latent.like)
        return self.normalise_rgb(values)

    def query_grid(self, latent: Latent, rows: Tensor, columns: Tensor, cell: Tensor, memory: int) -> Tensor:
        edges = []  # of the outer output pixels, in LR pixels
        for lines, size, side in zip((rows, columns), cell[0].tolist(), latent.like.shape[2:]):
            low, high = ((edge + 1) * side / 2 for edge in (float(lines[0]) - size / 2, float(lines[-1]) + size / 2))
            edges.append((max(0.0, round(low, 9)), min(float(side), round(high, 9))))
        (top, bottom), (left, right) = edges
        return self.resize(latent, (len(rows), len(columns)), (left, top, right, bottom))

    def query(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        height, width = (2 / cell[0]).round().long().tolist()
        side = latent.like.shape
        grid = self.resize(latent, (height, width), (0, 0, side[3], side[2]))        # (B, h, w, 3)
        y, x = coords.nearest_index(coord[..., 0], height), coords.nearest_index(coord[..., 1], width)   # (B, Q)
        return grid.flatten(1, 2).gather(1, upload(y * width + x, grid).unsqueeze(-1).expand(-1, -1, 3))


def _resized(image: Image.Image, size: tuple[int, int], region: Region,
             box: tuple[float, float, float, float]) -> np.ndarray:
    """A box of a region's image at another size: along rows, then along columns, as Pillow enlarges a whole image.

    By itself Pillow takes the other order for a box where that is faster, which rounds and clips elsewhere.
    """
    left, top, right, bottom = box
    if region.is_whole and (left, top, right, bottom) == (0, 0, *image.size):
        return np.asarray(image.resize(size[::-1], _BICUBIC))
    (left, right), (top, bottom) = ((left - region.left, right - region.left), (top - region.top, bottom - region.top))
    margin = math.ceil(_TAPS * max(1, (bottom - top) / size[0])) + 1
    first, last = max(0, math.floor(top) - margin), min(image.height, math.ceil(bottom) + margin)
    wide = image.resize((size[1], last - first), _BICUBIC, (left, first, right, last))
    return np.asarray(wide.resize(size[::-1], _BICUBIC, (0, top - first, size[1], bottom - first)))
