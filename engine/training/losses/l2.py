"""The squared difference (x − y)²: what PSNR measures."""
import torch.nn.functional as F
from torch import Tensor

from engine.training.losses.registry import Loss, register


@register('l2')
def l2() -> Loss:
    """(x − y)² of every number."""
    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(prediction, target, reduction='none')
    return loss
