"""Error maps: where results differ from their HR images."""
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor


def error_map(prediction: Tensor, target: Tensor) -> Tensor:
    """|difference|, averaged over the channels: two images (3, H, W) → (H, W)."""
    return (prediction - target).abs().mean(0)


def mean_error_map(maps: Iterable[Tensor], side: int) -> Tensor:
    """The mean of error maps of any sizes, averaged over side × side equal cells: (H, W) each → (side, side)."""
    return torch.stack([F.adaptive_avg_pool2d(error.unsqueeze(0), side)[0] for error in maps]).mean(0)
