"""The size to upscale to, by one of several options: a factor, both sides, or one side that keeps the ratio."""
import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from common.cli import Parser
from common.ranges import real_number, whole_number
from imaging import MAX_PIXELS
from utils import UserError, shortened

MAX_SIDE = 10 ** 12  # of sizes that are read; an image is then refused by its number of pixels
Number = TypeVar('Number', int, float)


class Size(NamedTuple):
    """What an image is upscaled to.

    Attributes:
        option: 'scale', 'resolution', 'height', 'width', 'longest' or 'shortest'.
        values: factors of height and width; height and width in pixels; or the pixels of one side, to which the other one
            is in the ratio of the image.
    """
    option: str = 'scale'
    values: tuple[float, ...] = (4.0, 4.0)

    def of(self, file: Path, height: int, width: int) -> tuple[int, int]:
        """(height, width) for an image of height × width: the nearest whole numbers, halves to even.

        Raises: UserError when that is smaller at a side, or has more than MAX_PIXELS.
        """
        size = self._sides(height, width)
        what = f'-{self.option}: {file} ({height}x{width}) would become {size[0]}x{size[1]}'
        if size[0] < height or size[1] < width:
            raise UserError(f'{what}, which is smaller; images are upscaled only, so give at least {height} for the height '
                            f'and {width} for the width')
        if math.prod(size) > MAX_PIXELS:
            raise UserError(f'{what}, more than {MAX_PIXELS:,} pixels')
        return size

    def _sides(self, height: int, width: int) -> tuple[int, int]:
        if self.option == 'resolution':
            return int(self.values[0]), int(self.values[1])
        if self.option == 'scale':
            return round(height * self.values[0]), round(width * self.values[1])
        pixels, given = int(self.values[0]), {'height': height, 'width': width, 'longest': max(height, width),
                                              'shortest': min(height, width)}[self.option]
        return round(height * pixels / given), round(width * pixels / given)

    def changes_ratio(self, height: int, width: int) -> bool:
        """Whether no single factor, rounded, leads to both sides. Only -resolution changes the ratio unasked."""
        if self.option != 'resolution':
            return False
        lowest, highest = zip(*(((new - 0.5) / old, (new + 0.5) / old) for new, old in zip(self.values, (height, width))))
        return max(lowest) > min(highest)


def add_size_options(parser: Parser) -> argparse._MutuallyExclusiveGroup:
    """The options of the size; returns the group of options that exclude each other."""
    sizes = parser.add_mutually_exclusive_group()

    def option(name: str, parse: Callable[[str], tuple[float, ...]], metavar: str, description: str) -> None:
        sizes.add_argument(f'-{name}', f'--{name}', type=parse, metavar=metavar, help=description)
    option('scale', _parse_scale, 'S|SY,SX', 'factor ≥ 1, or one for the height and one for the width (default: 4)')
    option('resolution', _parse_resolution, 'H,W', 'exact height and width in pixels')
    for name, what in (('height', 'height'), ('width', 'width'), ('longest', 'longer side'), ('shortest', 'shorter side')):
        option(name, _parse_side, 'N', f'pixels of the {what}; the ratio is kept, the other side rounded')
    return sizes


def chosen_size(options: argparse.Namespace) -> Size:
    """The size of the options of `add_size_options`."""
    for name in ('scale', 'resolution', 'height', 'width', 'longest', 'shortest'):
        if (values := getattr(options, name)) is not None:
            return Size(name, values)
    return Size()


def numbers(text: str, parse: Callable[[str], Number]) -> list[Number]:
    """The numbers between commas; none where one of them is wrong."""
    try:
        return [parse(part.strip()) for part in text.split(',')]
    except argparse.ArgumentTypeError:
        return []


def _parse_scale(text: str) -> tuple[float, float]:
    """'3.5' or '2,3.5' (height, width) → two factors of at least 1, as large as the largest image allows."""
    factors = numbers(text, real_number(1, MAX_PIXELS))
    if len(factors) not in (1, 2):
        raise argparse.ArgumentTypeError(f'expected one factor of at least 1, such as 3.5, or two, height,width, '
                                         f'got {shortened(text)}')
    return factors[0], factors[-1]


def _parse_resolution(text: str) -> tuple[int, int]:
    """'480,640' → (480, 640): positive whole numbers."""
    sides = numbers(text, whole_number(1, MAX_SIDE))
    if len(sides) != 2:
        raise argparse.ArgumentTypeError(f'expected height,width in pixels, two whole numbers above 0, such as 480,640, '
                                         f'got {shortened(text)}')
    return sides[0], sides[1]


def _parse_side(text: str) -> tuple[int]:
    return (whole_number(1, MAX_SIDE)(text),)
