"""Upscales an image to any size: python demo.py -input a.png -scale 3.5 -output b.png

Without arguments it upscales the bundled sample with the bundled weights.
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

import models
from common.cli import Parser, choose_device, run
from common.ranges import real_number, whole_number
from engine.upscaling import FileOptions, Size, plan, upscale_file
from engine.zoom import add_zoom_options, plan_zoom, write_zoom
from imaging import FORMAT_NAMES, MAX_PIXELS, MAX_QUALITY, WriteOptions
from models.contract import SRModel
from utils import ROOT, RunError, UserError, printable, shortened
from web import add_web_options, plan_web

MAX_SIDE = 10 ** 12  # of sizes that are read; an image is then refused by its number of pixels
MAX_VALUE = 1e30  # of a range of values
Number = TypeVar('Number', int, float)


def main() -> None:
    parser = Parser(description='Upscales an image, or every image of a folder, to any size.')
    parser.option('input', default=ROOT / 'assets/harbour.png', metavar='PATH',
                  help='an image or a folder of images (default: the bundled sample)')
    parser.option('model', default='MSIT-S', metavar='FILE',
                  help="a checkpoint, the name of weights in modelzoo/, or 'bicubic' (default: %(default)s)")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument('-scale', '--scale', default='4', metavar='S|SY,SX',
                       help='factor ≥ 1, or one for the height and one for the width (default: 4)')
    sizes.add_argument('-resolution', '--resolution', metavar='H,W', help='exact height and width in pixels')
    add_zoom_options(parser, sizes)
    add_web_options(parser, sizes)
    parser.option('output', type=Path, metavar='PATH',
                  help='image to write, or folder when the input is one (default: output/)')
    parser.memory_option()
    parser.option('halo', type=whole_number(0, MAX_SIDE), metavar='N',
                  help='LR pixels around each part of an image too large for the memory that the encoder sees; '
                       'fewer than its receptive field save time, and the error is measured (default: all, no error)')
    file_options(parser)
    parser.device_options()
    parser.kernels_option()
    options = parser.parse_args()

    source = Path(options.input)
    if show := plan_web(options):
        return show(load_model(options))
    if zoom := plan_zoom(options):
        return write_zoom(load_model(options), zoom)
    size = Size(parse_scale(options.scale), parse_resolution(options.resolution))
    files = FileOptions(WriteOptions(options.format, options.quality, options.bits, parse_background(options.background)),
                        parse_range(options.range), options.first_frame)
    jobs = plan(source, options.output, files.write)
    model = load_model(options)
    failed: list[Exception] = []
    for job in tqdm(jobs, 'upscaling', disable=None if len(jobs) > 1 else True, leave=False):
        try:
            upscale_file(model, job, size, options.memory, options.halo, files)
        except (UserError, RunError) as error:
            if not source.is_dir():
                raise
            failed.append(error)
            tqdm.write(f'skipped: {printable(str(error))}', file=sys.stderr)
    if failed:
        kind = RunError if any(isinstance(error, RunError) for error in failed) else UserError
        raise kind(f'{source}: {len(failed)} of {len(jobs)} images could not be upscaled, see above; the others are done')


def load_model(options: Namespace) -> SRModel:
    """The model of -model on the device of -device."""
    return models.load(options.model, choose_device(options)).use_kernels(not options.no_kernels)


def file_options(parser: Parser) -> None:
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


def parse_background(text: str) -> tuple[int, int, int]:
    """'255,0,0' → (255, 0, 0)."""
    colour = _numbers(text, whole_number(0, 255))
    if len(colour) != 3:
        raise UserError(f'-background {shortened(text, quotes=False)}: expected R,G,B, three whole numbers from 0 to 255')
    return colour[0], colour[1], colour[2]


def parse_range(text: str | None) -> tuple[float, float] | None:
    """'0,10' → (0, 10)."""
    if text is None:
        return None
    values = _numbers(text, real_number(-MAX_VALUE, MAX_VALUE))
    if len(values) != 2 or values[0] >= values[1]:
        raise UserError(f'-range {shortened(text, quotes=False)}: expected LO,HI, two numbers, the first of them smaller')
    return values[0], values[1]


def _numbers(text: str, parse: Callable[[str], Number]) -> list[Number]:
    """The numbers between commas; none where one of them is wrong."""
    try:
        return [parse(part.strip()) for part in text.split(',')]
    except ArgumentTypeError:
        return []


def parse_scale(text: str) -> tuple[float, float]:
    """'3.5' or '2,3.5' (height, width) → two factors of at least 1, as large as the largest image allows."""
    factors = _numbers(text, real_number(1, MAX_PIXELS))
    if len(factors) not in (1, 2):
        raise UserError(f'-scale {shortened(text, quotes=False)}: expected one factor of at least 1, such as 3.5, or two, '
                        'height,width')
    return factors[0], factors[-1]


def parse_resolution(text: str | None) -> tuple[int, int] | None:
    """'480,640' → (480, 640): positive whole numbers."""
    if text is None:
        return None
    sides = _numbers(text, whole_number(1, MAX_SIDE))
    if len(sides) != 2:
        raise UserError(f'-resolution {shortened(text, quotes=False)}: expected height,width in pixels, two whole numbers '
                        'above 0, such as 480,640')
    return sides[0], sides[1]


if __name__ == '__main__':
    run(main)
