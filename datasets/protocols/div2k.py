"""Protocol of the DIV2K validation set."""
import math

from torch import Tensor

from datasets.protocols.base import Protocol, register


@register
class DIV2K(Protocol):
    """RGB without a border of ceil(s) + 6 pixels; the LR images that come with DIV2K at ×2, ×3 and ×4 where present."""
    name = 'div2k'
    needs_own_lr = False

    def border(self, scale: float) -> int:
        return math.ceil(scale) + 6

    def channels(self, rgb: Tensor) -> Tensor:
        return rgb
