"""Writing images atomically: a reader sees a complete file, or the one that was there before."""
from pathlib import Path

import torch
from PIL import Image

from utils import UserError, atomic_path

_LONGEST = {'.webp': 16383, '.jpg': 65500, '.jpeg': 65500}  # sides in pixels that a format can hold; others: any


def to_image(rgb: torch.Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] → an 8-bit image."""
    return Image.fromarray(rgb.mul(255).round().byte().permute(1, 2, 0).cpu().numpy())


def check_size(path: str | Path, height: int, width: int) -> None:
    """Raises UserError when the format of the path's suffix cannot hold an image of this size; meant for before the work."""
    longest = _LONGEST.get(Path(path).suffix.lower())
    if longest is not None and max(height, width) > longest:
        raise UserError(f'{path}: {height}x{width} is too large for this format, whose sides hold at most {longest} pixels; '
                        'write a .png')


def save_image(image: Image.Image, path: str | Path) -> None:
    """Writes an image atomically, in the format of the path's suffix. Raises UserError when it cannot hold the size."""
    check_size(path, image.height, image.width)
    with atomic_path(path) as temporary:
        image.save(temporary)
