"""Boxes in images, and the scores of what is inside."""
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from datasets.protocols import Protocol
from engine.evaluation.metrics import Metric
from utils import UserError, shortened


class Box(NamedTuple):
    """A rectangle of pixels of an image."""
    top: int
    left: int
    height: int
    width: int

    def of(self, image: Tensor) -> Tensor:
        """The box's part of an image (…, H, W): (…, height, width)."""
        return image[..., self.top:self.top + self.height, self.left:self.left + self.width]

    def resized(self, size: tuple[int, int], new: tuple[int, int]) -> 'Box':
        """The box of an image of a size, (height, width), in the same image at a `new` size: at least one pixel."""
        (top, bottom), (left, right) = (
            _resized(start, start + length, old_side, new_side) for start, length, old_side, new_side in
            ((self.top, self.height, size[0], new[0]), (self.left, self.width, size[1], new[1])))
        return Box(top, left, bottom - top, right - left)


def _resized(start: int, stop: int, old: int, new: int) -> tuple[int, int]:
    first = min(round(start * new / old), new - 1)
    return first, max(first + 1, round(stop * new / old))


def checked_box(values: Sequence[int], size: tuple[int, int], name: str) -> Box:
    """A box that lies inside an image.

    Args:
        values: top, left, height, width.
        size: (height, width) of the image.
        name: of the image, for the message.
    Raises: UserError when it does not.
    """
    given = shortened(','.join(map(str, values)), quotes=False)
    if len(values) != 4 or min(values[2:]) < 1:
        raise UserError(f'box {given}: expected TOP,LEFT,HEIGHT,WIDTH in pixels, the last two at least 1')
    box = Box(*values)
    if min(box[:2]) < 0 or box.top + box.height > size[0] or box.left + box.width > size[1]:
        raise UserError(f'box {given}: lies outside of {name}, which has {size[0]}x{size[1]} pixels (height by width); '
                        'expected TOP,LEFT,HEIGHT,WIDTH inside it')
    return box


def box_scores(prediction: Tensor, target: Tensor, box: Box, protocol: Protocol, metrics: Sequence[Metric]
               ) -> dict[str, float]:
    """The metrics of what is inside a box, by name, in the channels that the protocol compares.

    No border is removed: the box says what is compared.

    Args:
        prediction, target: (3, H, W), RGB in [0, 1].
    """
    inside = [protocol.channels(box.of(image).double()) for image in (prediction, target)]
    return {metric.name: metric.score(*inside) for metric in metrics}
