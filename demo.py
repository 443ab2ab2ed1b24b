"""Upscales an image to any size: python demo.py -input a.png -scale 3.5 -output b.png

Without arguments it upscales the bundled sample with the bundled weights.
"""
if __name__ == '__main__':  # first, for signals amid the other imports
    from common.start import guard
    guard()

import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

from tqdm import tqdm

import models
from common.cli import Parser, choose_device, run
from common.ranges import real_number, whole_number
from engine.upscaling import Size, plan, upscale_file
from engine.zoom import add_zoom_options, plan_zoom, write_zoom
from imaging import MAX_PIXELS
from models.contract import SRModel
from utils import ROOT, RunError, UserError, printable, shortened
from web import add_web_options, plan_web

MAX_SIDE = 10 ** 12  # of sizes that are read; an image is then refused by its number of pixels


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
    parser.device_options()
    parser.kernels_option()
    options = parser.parse_args()

    source = Path(options.input)
    if show := plan_web(options):
        return show(load_model(options))
    if zoom := plan_zoom(options):
        return write_zoom(load_model(options), zoom)
    size = Size(parse_scale(options.scale), parse_resolution(options.resolution))
    jobs = plan(source, options.output)
    model = load_model(options)
    failed: list[Exception] = []
    for job in tqdm(jobs, 'upscaling', disable=None if len(jobs) > 1 else True, leave=False):
        try:
            upscale_file(model, job, size, options.memory, options.halo)
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


def parse_scale(text: str) -> tuple[float, float]:
    """'3.5' or '2,3.5' (height, width) → two factors of at least 1, as large as the largest image allows."""
    parse = real_number(1, MAX_PIXELS)
    try:
        factors = [parse(part) for part in text.split(',')]
    except ArgumentTypeError:
        factors = []
    if len(factors) not in (1, 2):
        raise UserError(f'-scale {shortened(text, quotes=False)}: expected one factor of at least 1, such as 3.5, or two, '
                        'height,width')
    return factors[0], factors[-1]


def parse_resolution(text: str | None) -> tuple[int, int] | None:
    """'480,640' → (480, 640): positive whole numbers."""
    if text is None:
        return None
    parse = whole_number(1, MAX_SIDE)
    try:
        sides = [parse(part.strip()) for part in text.split(',')]
    except ArgumentTypeError:
        sides = []
    if len(sides) != 2:
        raise UserError(f'-resolution {shortened(text, quotes=False)}: expected height,width in pixels, two whole numbers '
                        'above 0, such as 480,640')
    return sides[0], sides[1]


if __name__ == '__main__':
    run(main)
