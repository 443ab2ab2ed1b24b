"""Protocol of Set5, Set14, BSD100 and Urban100."""
import math

from torch import Tensor

from datasets.protocols.base import Protocol, luma, register


@register
class Benchmark(Protocol):
    """Luma Y without a border of ceil(s) pixels; the LR images that come with the set at ×2, ×3 and ×4."""
    name = 'benchmark'

    def border(self, scale: float) -> int:
        return math.ceil(scale)

    def channels(self, rgb: Tensor) -> Tensor:
        return luma(rgb)
