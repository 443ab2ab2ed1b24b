"""Arguments that several kinds of figures share."""
from collections.abc import Sequence
from typing import Annotated

from common.ranges import AtMost
from datasets.registry import Scale
from figures.look import WIDTHS
from utils import UserError, nearest_name, shortened

Boxes = Annotated[list[list[int]], AtMost(10 ** 6, 100)]
Points = Annotated[list[list[float]], AtMost(1, 100)]
Scales = list[Scale]


def checked_width(name: str) -> float:
    """The width of a figure in inches. Raises: UserError."""
    if name not in WIDTHS:
        raise UserError(f'-width: got {shortened(name)}; {nearest_name(name, WIDTHS)}')
    return WIDTHS[name]


def checked_scales(scales: Sequence[float]) -> list[float]:
    """Factors, in their order. Raises: UserError unless each is at least 1 and given once."""
    if not scales or not all(scale >= 1 for scale in scales) or len(set(scales)) < len(scales):
        raise UserError(f'-scales: expected different factors of at least 1, got {shortened(list(scales))}')
    return [float(scale) for scale in scales]


def boxes_for(boxes: list[list[int]], count: int) -> list[list[int]]:
    """A box for each of some images. Raises: UserError unless there is one for all, or one for each."""
    if len(boxes) not in (1, count):
        raise UserError(f'-box: expected one box for all images, or one for each of the {count}, got {len(boxes)}')
    return boxes * count if len(boxes) == 1 else boxes


def checked_points(points: list[list[float]]) -> list[list[float]]:
    """Points [y, x]. Raises: UserError unless they lie in the image."""
    for point in points:
        if len(point) != 2 or not all(0 <= value <= 1 for value in point):
            raise UserError(f'-at: expected points Y,X from 0,0 (top left) to 1,1, got {shortened(point)}')
    return points
