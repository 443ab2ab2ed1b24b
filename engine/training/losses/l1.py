"""The absolute difference |x − y|, the loss of LIIF, MSIT and most of the field."""
import torch.nn.functional as F
from torch import Tensor

from engine.training.losses.registry import Loss, register


@register('l1')
def l1() -> Loss:
    """|x − y| of every number."""
    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(prediction, target, reduction='none')
    return loss
