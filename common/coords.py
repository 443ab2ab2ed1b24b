"""Coordinates, and regions of an image, defined once for every path and device.

Order (y, x). Pixel centres of an n-pixel axis lie at −1 + (2i + 1)/n, so an image spans [−1, 1]
(`align_corners=False`). A cell is the size of a high-resolution pixel in these units, (2/H_hr, 2/W_hr).

The positional bias multiplies offsets by frequencies up to 1023, so offsets are computed in float64 and cast by the
user of this file. The *nearest* pixel is decided as the released programs decide it: at ×1.5 or ×2.5 queries lie exactly
between two pixels, and every path and every device must break these ties alike (`nearest_index`).
"""
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 2e-7  # of coordinates in float32


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64. The GPUs of Apple do not: coordinates stay on the host there."""
    return device.type != 'mps'


def upload(x: Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of any device on the device of `like`, in another type if one is given.

    It is converted where it comes from. A GPU of CUDA is not waited for: its driver returns when it has read the host's
    memory.
    """
    return x.to(dtype or x.dtype).to(like.device, non_blocking=like.device.type == 'cuda')


def pixel_centres(n: int, device: torch.device | None = None) -> Tensor:
    """Centres of the pixels of an n-pixel axis: (n,) float64, −1 + (2i + 1)/n."""
    return (2 * torch.arange(n, device=device, dtype=torch.float64) + 1) / n - 1


def make_grid(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Centres of all pixels of an image: (height, width, 2) float64, (y, x)."""
    return torch.stack(torch.meshgrid(pixel_centres(height, device), pixel_centres(width, device), indexing='ij'), -1)


def make_cell(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Size of a pixel of a height × width image: (2,) float64, (2/height, 2/width)."""
    return torch.tensor([2 / height, 2 / width], device=device, dtype=torch.float64)


def relative_cell(cell: Tensor, height: int, width: int) -> Tensor:
    """Size of an output pixel in half pixels of a height × width LR image: cell (B, 2) → (B, 2), 2/s of each axis."""
    return torch.stack([cell[:, 0] * height, cell[:, 1] * width], -1)


def pixel_offsets(radius: int, device: torch.device | None = None) -> Tensor:
    """The window around a pixel: ((2·radius + 1)², 2) int64, (y, x), row-major."""
    offset = torch.arange(-radius, radius + 1, device=device)
    return torch.cartesian_prod(offset, offset)


def nearest_index(coord: Tensor, n: int, cell: Tensor | None = None) -> Tensor:
    """Index of the pixel of an n-pixel axis nearest to each coordinate, ties to even after the released programs' rounding.

    These compute the centres of an axis of N = 1/r output pixels in float32, as fl(fl(2r) · i) + fl(r − 1), and the pixel
    ((x + 1) · n − 1)/2 in float32 as well. Here the same numbers are formed in float64 and rounded to float32 one operation
    at a time, which no device and no compiler does in another way.

    Args:
        coord: coordinates of one axis, any shape, in [−1, 1].
        n: pixels of the axis.
        cell: 2/N, broadcast to coord; None: the spacing of a line of coordinates (L,). Coordinates that are no centres of
            such an axis, and those of less than float64, which were rounded before, are taken as they are.
    Returns: int64 of the shape of coord, in [0, n − 1].
    """
    points = coord.float()
    if cell is None and coord.ndim == 1 and len(coord) > 1:
        cell = (coord[-1] - coord[0]) / (len(coord) - 1)
    if cell is not None and coord.dtype == torch.float64:
        count = 2 / cell.double()
        count = torch.where((count - count.round()).abs() < 1e-6 * count, count.round(), count)      # N
        number = (((coord + 1) * count - 1) / 2).round()                             # i
        centres = ((2 / count).float().double() * number).float().double() + (1 / count - 1).float().double()
        on_grid = (coord - ((2 * number + 1) / count - 1)).abs() < ROUNDING
        points = torch.where(on_grid, centres.float(), points)
    pixels = (((points.double() + 1).float().double() * n).float().double() - 1).float() / 2
    return pixels.round().long().clamp(0, n - 1)


def nearest_window(coord: Tensor, n: int, radius: int, cell: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The nearest pixel, and the offsets to the 2·radius + 1 pixels around it, along one axis.

    Args:
        coord: (…) coordinates of one axis, in [−1, 1]; pass float64 where they are known that well.
        n: pixels of the axis.
        radius: of the window, in pixels. Window pixels may lie outside the image.
        cell: as in `nearest_index`.
    Returns: index (…) int64 of the window's centre; δ (…, 2·radius + 1) float64, (coordinate − pixel centre) · n, so that
        one pixel is 2.0 units.
    """
    index = nearest_index(coord, n, cell)
    window = torch.arange(-radius, radius + 1, device=coord.device)
    pixel = index.unsqueeze(-1) + window                                             # (…, K)
    delta = ((coord.double() + 1) * n).unsqueeze(-1) - (2 * pixel + 1).double()      # (…, K)
    return index, delta


class Region(NamedTuple):
    """Lines top … bottom − 1 and columns left … right − 1 of an image of image_height × image_width pixels.

    Large images are encoded region by region. A convolution sees zeros beyond the border of the *image*: a region is
    therefore grown by what its outputs depend on, cut at the image's border, and only its inner part is used.
    """
    top: int
    bottom: int
    left: int
    right: int
    image_height: int
    image_width: int

    @classmethod
    def whole(cls, height: int, width: int) -> 'Region':
        """All of an image."""
        return cls(0, height, 0, width, height, width)

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def is_whole(self) -> bool:
        return self.height == self.image_height and self.width == self.image_width

    def grow(self, pixels: int, multiple: int = 1) -> 'Region':
        """The region with a margin of `pixels`, its edges moved out to multiples of a number, cut at the image's border."""
        return self._replace(top=max(self.top - pixels, 0) // multiple * multiple,
                             bottom=min(-(-(self.bottom + pixels) // multiple) * multiple, self.image_height),
                             left=max(self.left - pixels, 0) // multiple * multiple,
                             right=min(-(-(self.right + pixels) // multiple) * multiple, self.image_width))

    def overlap(self, other: 'Region') -> 'Region | None':
        """The part that both regions of an image have; None where they have none."""
        top, bottom = max(self.top, other.top), min(self.bottom, other.bottom)
        left, right = max(self.left, other.left), min(self.right, other.right)
        return self._replace(top=top, bottom=bottom, left=left, right=right) if top < bottom and left < right else None

    def of(self, x: Tensor, source: 'Region | None' = None) -> Tensor:
        """This region's part of a map (B, C, H, W) of the image, or of the larger region `source`."""
        top, left = (source.top, source.left) if source else (0, 0)
        return x[:, :, self.top - top:self.bottom - top, self.left - left:self.right - left]

    def local(self, coord: Tensor) -> Tensor:
        """Coordinates (…, 2) in the image → the same points in coordinates of the region, in which it spans [−1, 1]."""
        if self[4:] == (self.bottom - self.top, self.right - self.left):             # the whole image: exactly the same
            return coord
        image, start = coord.new_tensor([self.image_height, self.image_width]), coord.new_tensor([self.top, self.left])
        return ((coord + 1) * image - 2 * start) / coord.new_tensor([self.height, self.width]) - 1

    def split(self, height: int, width: int) -> Iterator['Region']:
        """The region cut evenly into parts of at most height × width pixels, from left to right, then downwards."""
        for top, bottom in _cuts(self.top, self.bottom, height):
            for left, right in _cuts(self.left, self.right, width):
                yield self._replace(top=top, bottom=bottom, left=left, right=right)


def _cuts(start: int, stop: int, longest: int) -> list[tuple[int, int]]:
    """[start, stop) as the fewest intervals of at most `longest`, as even as can be."""
    parts = -(-(stop - start) // longest)
    return list(pairwise([start + (stop - start) * i // parts for i in range(parts + 1)]))
