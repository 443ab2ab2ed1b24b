"""Image arrays and tensors: (H, W, 3) uint8 ↔ (3, H, W) in [0, 1], and Pillow's bicubic."""
import numpy as np
import torch
from PIL import Image


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 → (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def resize_bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's bicubic (antialiased, a = −0.5) on 8-bit data: (H, W, 3) uint8 → (height, width, 3) uint8."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
