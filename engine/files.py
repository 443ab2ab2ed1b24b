"""The options of reading and writing image files."""
import argparse
from typing import NamedTuple

from common.cli import Parser
from common.ranges import real_number, whole_number
from engine.sizes import numbers
from imaging import DEFAULTS, FORMAT_NAMES, MAX_QUALITY, WriteOptions
from utils import UserError, shortened

MAX_VALUE = 1e30  # of a range of values


class FileOptions(NamedTuple):
    """How files are read and written.

    Attributes:
        value_range: the values of black and white in files of more than 8 bits.
        first_frame: leave all frames of an animation but the first out.
    """
    write: WriteOptions = DEFAULTS
    value_range: tuple[float, float] | None = None
    first_frame: bool = False


def add_file_options(parser: Parser) -> None:
    """How images are read and written."""
    parser.option('format', metavar='NAME', help=f'{", ".join(FORMAT_NAMES)} (default: by the suffix of -output, else png; '
                                                 'tif for documents of several pages)')
    parser.option('quality', type=whole_number(1, MAX_QUALITY), default=95, metavar='Q',
                  help='of JPEG, WebP and AVIF, 1 to 100 (default: %(default)s); WebP of 100 is without loss')
    parser.option('bits', type=int, choices=(8, 16), metavar='8|16',
                  help='per channel (default: those of the input, as far as the format holds them)')
    parser.option('background', default='255,255,255', metavar='R,G,B',
                  help='under transparent pixels, in a format without transparency (default: %(default)s)')
    parser.option('range', metavar='LO,HI',
                  help='the values of black and white in an image of more than 8 bits (default: 0 to 1 or 0 to 255 of '
                       'floating-point numbers, all of 16 bits)')
    parser.option('first-frame', action='store_true', help='upscale the first frame of an animation alone')


def chosen_files(options: argparse.Namespace) -> FileOptions:
    """What the options of `add_file_options` say. Raises UserError."""
    write = WriteOptions(options.format, options.quality, options.bits, _parse_background(options.background))
    return FileOptions(write, _parse_range(options.range), options.first_frame)


def _parse_background(text: str) -> tuple[int, int, int]:
    """'255,0,0' → (255, 0, 0)."""
    colour = numbers(text, whole_number(0, 255))
    if len(colour) != 3:
        raise UserError(f'-background {shortened(text, quotes=False)}: expected R,G,B, three whole numbers from 0 to 255')
    return colour[0], colour[1], colour[2]


def _parse_range(text: str | None) -> tuple[float, float] | None:
    """'0,10' → (0, 10)."""
    if text is None:
        return None
    values = numbers(text, real_number(-MAX_VALUE, MAX_VALUE))
    if len(values) != 2 or values[0] >= values[1]:
        raise UserError(f'-range {shortened(text, quotes=False)}: expected LO,HI, two numbers, the first of them smaller')
    return values[0], values[1]
