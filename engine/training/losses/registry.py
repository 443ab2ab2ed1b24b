"""The registry of losses, and what a loss is."""
from collections.abc import Callable

from torch import Tensor

from common.registry import Registry

# prediction and target, (b, Q, 3) in normalised units → the loss of every number, of the same shape. The training step adds
# these up and divides by the numbers of the whole batch, so that micro-batches and processes of any sizes make up the mean.
Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES = Registry('loss')
register = LOSSES.register
