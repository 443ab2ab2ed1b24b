"""The Charbonnier loss √((x − y)² + ε²), an L1 that is smooth at zero (as LapSRN uses it, arXiv 1704.03915)."""
from torch import Tensor

from engine.training.losses.registry import Loss, register


@register('charbonnier')
def charbonnier(*, eps: float = 1e-3) -> Loss:
    """√((x − y)² + ε²) of every number.

    Args:
        eps: ε > 0, in normalised units: below it the loss is nearly quadratic, above it nearly |x − y|.
    """
    if eps <= 0:
        raise ValueError(f'expected eps > 0, got {eps}')

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        return ((prediction - target).square() + eps ** 2).sqrt()
    return loss
