"""An exponential moving average of a network's weights."""
import copy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from models.contract import SRModel


class MovingAverage:
    """A copy of a network whose weights follow those of the original: w ← decay·w + (1 − decay)·original, from its start.

    Batch norm: the running means and variances are averaged with the weights, since they describe what the weights of these
    iterations computed; its counts of batches are copied. (`torch.optim.swa_utils.AveragedModel` waits for the GPU at every
    update, and either copies the running statistics or truncates the counts.)

    Args:
        model: the original, on its device.
        decay: in (0, 1); about the last 1 / (1 − decay) iterations count.

    Attributes:
        model: the copy. Its parameters need no gradient.
    """

    def __init__(self, model: SRModel, *, decay: float):
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._blend = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards the weights that `model`, the original, has now."""
        real: list[tuple[Tensor, Tensor]] = []
        counts: list[tuple[Tensor, Tensor]] = []
        for pair in zip(_tensors(self.model), _tensors(model), strict=True):
            (real if pair[0].is_floating_point() else counts).append(pair)
        self._blend(*map(list, zip(*real)), None)
        for average, value in counts:
            average.copy_(value)


def _tensors(model: nn.Module) -> chain:
    return chain(model.parameters(), model.buffers())
