"""Figures in TensorBoard while a network trains: a crop of every validation image beside its HR image, and PSNR by scale.

torchvision arranges the crops; it is an extra that only trainings with `figures: true` need.
"""
from importlib.util import find_spec

import numpy as np
import torch

from common.arrays import to_tensor
from datasets.evaluation import Pair
from engine.training.record import IMAGE_SIDE
from utils import UserError


def check_figures(config: dict) -> None:
    """Raises UserError where a config asks for figures that cannot be made."""
    if not config.get('figures'):
        return
    if 'val_dataset' not in config:
        raise UserError('figures: needs a val_dataset, whose images it shows')
    if find_spec('torchvision') is None:
        raise UserError('figures: needs torchvision: pip install torchvision; or leave the key out')


class Crops:
    """The centres of predictions and of their HR images, collected during a validation."""

    def __init__(self) -> None:
        self.pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, pair: Pair, prediction: torch.Tensor) -> None:
        """Args: prediction: (3, H, W) in [0, 1]."""
        crops = (_centre(image, IMAGE_SIDE, IMAGE_SIDE) for image in (prediction, to_tensor(pair.hr)))
        ours, hr = (crop.cpu().clone() for crop in crops)  # not views, which would keep the whole images
        self.pairs.append((ours, hr))

    def grid(self) -> np.ndarray:
        """A row for each image, prediction and HR: (h, w, 3) uint8. Where one is smaller than the others all are cut."""
        from torchvision.utils import make_grid
        height, width = (min(prediction.shape[dim] for prediction, _ in self.pairs) for dim in (1, 2))
        images = torch.stack([_centre(image, height, width) for pair in self.pairs for image in pair])
        return make_grid(images, nrow=2, padding=2, pad_value=1.0).mul(255).round().byte().permute(1, 2, 0).numpy()


def _centre(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The middle of an image (3, H, W): (3, at most height, at most width)."""
    top, left = (max(0, (extent - side) // 2) for extent, side in zip(image.shape[1:], (height, width)))
    return image[:, top:top + height, left:left + width]
