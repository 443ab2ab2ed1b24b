"""Writing images atomically: a reader sees a complete file, or the one that was there before."""
from pathlib import Path

import torch
from PIL import Image

from imaging.formats import check_size
from utils import atomic_path


def to_image(rgb: torch.Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] → an 8-bit image."""
    return Image.fromarray(rgb.mul(255).round().byte().permute(1, 2, 0).cpu().numpy())


def save_image(image: Image.Image, path: str | Path) -> None:
    """Writes an image atomically, in the format of the path's suffix. Raises UserError when it cannot hold the size."""
    check_size(path, image.height, image.width)
    with atomic_path(path) as temporary:
        image.save(temporary)
