"""Coordinates, defined once for every path and device.

Order (y, x). Pixel centres of an n-pixel axis lie at −1 + (2i + 1)/n, so an image spans [−1, 1]
(`align_corners=False`). A cell is the size of a high-resolution pixel in these units, (2/H_hr, 2/W_hr).

The positional bias multiplies offsets by frequencies up to 1023, so offsets are computed in float64 and cast by the
user of this file. The *nearest* pixel is decided in float32, as the CPU's `grid_sample(mode='nearest')` decides it:
at ×1.5 or ×2.5 queries lie exactly between two pixels, and every path must break these ties alike.
"""
import torch
from torch import Tensor


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
    return cell * cell.new_tensor([height, width])


def pixel_offsets(radius: int, device: torch.device | None = None) -> Tensor:
    """The window around a pixel: ((2·radius + 1)², 2) int64, (y, x), row-major."""
    offset = torch.arange(-radius, radius + 1, device=device)
    return torch.cartesian_prod(offset, offset)


def nearest_index(coord: Tensor, n: int) -> Tensor:
    """Index of the pixel of an n-pixel axis nearest to each coordinate, ties to even.

    Args:
        coord: coordinates of one axis, any shape, in [−1, 1].
        n: pixels of the axis.
    Returns: int64 of the same shape, in [0, n − 1].
    """
    pixels = ((coord.float() + 1) * n - 1) / 2  # float32 on purpose: see the top of this file
    return pixels.round().long().clamp(0, n - 1)


def nearest_window(coord: Tensor, n: int, radius: int) -> tuple[Tensor, Tensor]:
    """The nearest pixel, and the offsets to the 2·radius + 1 pixels around it, along one axis.

    Args:
        coord: (…) coordinates of one axis, in [−1, 1]; pass float64 where they are known that well.
        n: pixels of the axis.
        radius: of the window, in pixels. Window pixels may lie outside the image.
    Returns: index (…) int64 of the window's centre; δ (…, 2·radius + 1) float64, (coordinate − pixel centre) · n, so that
        one pixel is 2.0 units.
    """
    index = nearest_index(coord, n)
    window = torch.arange(-radius, radius + 1, device=coord.device)
    pixel = index.unsqueeze(-1) + window                                             # (…, K)
    delta = ((coord.double() + 1) * n).unsqueeze(-1) - (2 * pixel + 1).double()      # (…, K)
    return index, delta


def bilinear_taps(delta: Tensor) -> Tensor:
    """Weights of pixels at offsets δ (2.0 per pixel) in a linear sample along one axis: 1 − |δ|/2, at least 0."""
    return (1 - delta.abs() / 2).clamp(min=0)
