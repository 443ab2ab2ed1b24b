"""The local ensemble of LIIF and its successors: a query is answered from four LR pixels around it, blended by area.

Shapes: B batch, H×W the LR grid, Q queries. Maps that queries read are rows, channels last: (B·H·W, C).
"""
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from models.coords import nearest_index
from models.regions import Region

EPSILON = 1e-6  # added to every shifted coordinate: decides between two equally near pixels, and keeps off the border
SHIFTS = ((-1, -1), (-1, 1), (1, -1), (1, 1))  # to the four neighbours; each one's diagonal opposite is 3 places from it


class Near(NamedTuple):
    """The LR pixel that each query reads. rows: (B, Q) of the maps; rel: (B, Q, 2) float64, the query's coordinate minus the
    pixel's centre in units of half an LR pixel."""
    rows: Tensor
    rel: Tensor


def map_rows(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B·H·W, C): one row per pixel."""
    return rearrange(x, 'b c h w -> (b h w) c')


def nearest_pixel(region: Region, coord: Tensor, shift: Tensor | float = 0.0) -> Near:
    """The LR pixels nearest to shifted queries; beyond the border of the picture the pixels there.

    Args:
        region: of the picture, that the maps hold.
        coord: (B, Q, 2), (y, x) in [−1, 1] of the whole picture.
        shift: added to the coordinates for finding the pixel, not for `rel`; broadcast.
    """
    coord = coord.double()
    y, x = (coord + shift).clamp(EPSILON - 1, 1 - EPSILON).unbind(-1)
    index = torch.stack([nearest_index(y, region.height), nearest_index(x, region.width)], -1)       # (B, Q, 2)
    rel = (coord + 1) * coord.new_tensor([region.height, region.width]) - (2 * index + 1)
    picture = torch.arange(len(coord), device=coord.device).view(-1, 1)
    height, width = region.bottom - region.top, region.right - region.left
    return Near((picture * height + index[..., 0] - region.top) * width + index[..., 1] - region.left, rel)


def neighbours(region: Region, coord: Tensor) -> list[tuple[Near, Tensor]]:
    """The four LR pixels around each query with their weights (B, Q, 1) float64, which sum to 1.

    A pixel weighs as much as the rectangle between the query and the pixel diagonally opposite.

    Args: those of `nearest_pixel`.
    """
    half_pixel = coord.new_tensor([1 / region.height, 1 / region.width], dtype=torch.float64)
    near = [nearest_pixel(region, coord, coord.new_tensor(shift, dtype=torch.float64) * half_pixel + EPSILON)
            for shift in SHIFTS]
    areas = torch.stack([pixel.rel.prod(-1).abs() + 1e-9 for pixel in near])                         # (4, B, Q)
    weights = areas.flip(0) / areas.sum(0)
    return list(zip(near, weights.unsqueeze(-1)))
