"""Writing images, whole or not at all."""
from pathlib import Path

import torch
from PIL import Image

from utils import atomic_path


def to_image(rgb: torch.Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] → an 8-bit image."""
    return Image.fromarray(rgb.mul(255).round().byte().permute(1, 2, 0).cpu().numpy())


def save_image(image: Image.Image, path: str | Path) -> None:
    """Writes an image atomically, in the format of the path's suffix."""
    with atomic_path(path) as temporary:
        image.save(temporary)
