"""The local ensemble of LIIF: a prediction from each of the LR pixels around a query, blended by areas.

Shapes: B batch, C channels, H×W the LR grid, Q queries, N neighbours of a query (4, or 1 without the ensemble).
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from common.coords import Region, nearest_index, upload

SHIFT = 1e-6      # of all neighbours: a query halfway between two pixels goes to the second one
SMALLEST = 1e-9   # added to distances, against 0/0


class Neighbours(NamedTuple):
    """The pixels that a query is predicted from: top left, top right, bottom left, bottom right, or the nearest alone.

    row: (B, Q, N) int64, the pixel's row in a map of the region with one row per pixel (`pixel_rows`).
    offset: (B, Q, N, 2) float64, query − centre of the pixel; one LR pixel is 2.0 units.
    weight: (B, Q, N) float64, sums to 1.
    """
    row: Tensor
    offset: Tensor
    weight: Tensor

    def of(self, rows: Tensor) -> Tensor:
        """The neighbours' rows of a map, (B·H·W, C) → (B, Q, N, C)."""
        return F.embedding(upload(self.row, rows), rows)

    def blend(self, x: Tensor) -> Tensor:
        """The weighted sum over the neighbours, (B, Q, N, C) → (B, Q, C)."""
        return (upload(self.weight, x, x.dtype).unsqueeze(-1) * x).sum(2)


def pixel_rows(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B·H·W, C): one row per pixel, contiguous, for fast gathers."""
    return rearrange(x, 'b c h w -> (b h w) c').contiguous()


def neighbours(coord: Tensor, region: Region, local_ensemble: bool, distance: Tensor | None = None,
               cell: Tensor | None = None) -> Neighbours:
    """The neighbours of queries at (B, Q, 2) coordinates in the whole image.

    The weight of a prediction is the area of the rectangle between the query and the *diagonally opposite* neighbour, a
    product of two lengths. At the image's border two neighbours may be the same pixel.

    Args:
        region: part of the image that the maps cover; it must contain the neighbours.
        distance: (B, 2), of the points on both sides of a query whose nearest pixels are its neighbours; half an LR pixel by
            default.
        cell: (B, 2), which decides between two pixels that are equally near, without the ensemble.
    """
    cell_y, cell_x = (None, None) if cell is None else cell.split(1, 1)              # (B, 1)
    distance_y, distance_x = (None, None) if distance is None else distance.double().split(1, 1)     # (B, 1)
    y, offset_y, weight_y = neighbour_lines(coord[..., 0], region.image_height, local_ensemble, distance_y, cell_y)
    x, offset_x, weight_x = neighbour_lines(coord[..., 1], region.image_width, local_ensemble, distance_x, cell_x)
    height, width = region.bottom - region.top, region.right - region.left
    image = torch.arange(coord.shape[0], device=coord.device).view(-1, 1, 1, 1)
    row = (image * height + y.unsqueeze(3) - region.top) * width + x.unsqueeze(2) - region.left      # (B, Q, 2, 2)
    offset = torch.stack(torch.broadcast_tensors(offset_y.unsqueeze(3), offset_x.unsqueeze(2)), -1)  # (B, Q, 2, 2, 2)
    weight = weight_y.unsqueeze(3) * weight_x.unsqueeze(2)                           # (B, Q, 2, 2)
    return Neighbours(row.flatten(2), offset.flatten(2, 3), weight.flatten(2))


def neighbour_lines(coord: Tensor, n: int, local_ensemble: bool, distance: Tensor | None = None,
                    cell: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The two pixels of an n-pixel axis on both sides of each coordinate, or the nearest one.

    Args:
        coord: (…) in [−1, 1].
        distance: broadcast to coord, as in `neighbours`; half a pixel by default.
        cell: broadcast to coord, as in `nearest_index`; without the ensemble.
    Returns: index (…, 2 or 1) int64; offset (…, 2 or 1) float64, (coordinate − pixel centre) · n; weight (…, 2 or 1)
        float64, the distance to the other pixel divided by the sum of both.
    """
    coord = coord.double().unsqueeze(-1)
    sides = (2 * torch.arange(2, device=coord.device, dtype=coord.dtype) - 1) / n    # to the two pixels
    if distance is not None:
        sides = sides * n * distance.unsqueeze(-1)
    sides = sides + SHIFT if local_ensemble else coord.new_zeros(1)
    cell = None if cell is None or local_ensemble else cell.unsqueeze(-1)  # SHIFT decides
    index = nearest_index((coord + sides).clamp(-1 + SHIFT, 1 - SHIFT), n, cell)
    offset = (coord + 1) * n - (2 * index + 1)
    distance = offset.abs() + SMALLEST  # of each axis: a query on the centre of a border pixel is at 0 from both neighbours
    return index, offset, distance.flip(-1) / distance.sum(-1, keepdim=True)
