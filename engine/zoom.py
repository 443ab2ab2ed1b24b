"""A continuous zoom into a point of an image: python demo.py -zoom 1,30 -at 0.4,0.6 -output zoom.webp

The magnification grows by the same factor from each frame to the next. Each frame is queried at its own real scale, from an
image that is encoded once.
"""
import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from common.cli import Parser
from common.ranges import Range, real_number, whole_number
from engine.files import chosen_files
from engine.jobs import OUTPUT
from engine.windows import LATENT_MEMORY, Window, WindowedImage, check_windows, read_for_screen
from imaging import check_file, read_header
from imaging.films import check_film, write_film
from models.contract import SRModel
from models.latents import LatentCache
from utils import UserError, printable, shortened

MAX_MAGNIFICATION = 10_000
MAX_FRAMES, MAX_FPS, MAX_FRAME_SIDE = 100_000, 100, 8192
FRAMES, FPS, LONGEST = 100, 25, 768  # defaults; LONGEST: of the sides of a frame
CENTRING = 3                         # how fast the point approaches the centre, where the image's borders allow it


class Zoom(NamedTuple):
    """The frames of a zoom.

    Attributes:
        first, last: magnifications of the first and the last frame, at least 1. At 1 a frame shows the whole image, or the
            largest part of it that has the frame's ratio.
        at: the point (y, x) as fractions of height and width. It comes to the centre, or as near as the borders allow.
        frames: how many.
        fps: frames a second.
        size: (height, width) of a frame.
    """
    first: float
    last: float
    at: tuple[float, float]
    frames: int
    fps: float
    size: tuple[int, int]

    def magnification(self, index: int) -> float:
        """Of a frame: from `first` to `last` in equal factors."""
        return self.first * (self.last / self.first) ** (index / max(1, self.frames - 1))

    def window(self, index: int, height: int, width: int) -> Window:
        """What a frame shows of a height × width image."""
        scale = max(self.size[0] / height, self.size[1] / width)  # at ×1, output pixels per LR pixel
        largest = [min(length / scale, side) for length, side in zip(self.size, (height, width))]
        points = [at * side for at, side in zip(self.at, (height, width))]
        starts = [min(max(point, whole / 2), side - whole / 2)  # centre of the window at ×1
                  for point, whole, side in zip(points, largest, (height, width))]
        m = self.magnification(index)
        # inside the window at ×1 lies what keeps 1 − m^−b ≤ (1 − 1/m)·whole/2/|point − start|: all b up to the last factor
        b = min([CENTRING, *(whole / 2 / abs(point - start)
                             for point, start, whole in zip(points, starts, largest) if point != start)])
        centres = [start + (point - start) * (1 - m ** -b) for point, start in zip(points, starts)]
        top, left = (min(max(centre - whole / m / 2, 0), side - whole / m)
                     for centre, whole, side in zip(centres, largest, (height, width)))
        return Window(top, left, min(top + largest[0] / m, height), min(left + largest[1] / m, width))


def add_zoom_options(parser: Parser, sizes: argparse._MutuallyExclusiveGroup) -> None:
    """The options of a zoom.

    Args:
        sizes: the parser's group of options that exclude each other.
    """
    sizes.add_argument('-zoom', '--zoom', metavar='FROM,TO',
                       help='a film that zooms into the image: magnification of the first and the last frame, such as 1,30; '
                            '1 shows the whole image. Its -output is a .webp, .gif or .mp4')
    parser.option('at', metavar='Y,X', help='the point to zoom into, as fractions of height and width (default: 0.5,0.5)')
    parser.option('frames', type=whole_number(2, MAX_FRAMES), metavar='N', help=f'frames of a zoom (default: {FRAMES})')
    parser.option('fps', type=real_number(1, MAX_FPS), metavar='F', help=f'its frames a second (default: {FPS})')
    parser.option('size', metavar='H,W', help='height and width of its frames (default: the ratio of the image, '
                                              f'{LONGEST} pixels at the longer side)')


class ZoomJob(NamedTuple):
    """An image, the film to write, the frames between them, and the values of black and white in the image (-range)."""
    source: Path
    target: Path
    zoom: Zoom
    value_range: tuple[float, float] | None = None


def plan_zoom(options: argparse.Namespace) -> ZoomJob | None:
    """The zoom that the options describe; None without -zoom.

    Raises: UserError for wrong options, an input that is no image, and a film that cannot be written.
    """
    if options.zoom is None:
        return None
    if len(options.input) > 1:
        raise UserError('-input: a zoom is into one image; give one')
    source = Path(options.input[0])
    check_file(source)
    height, width = read_header(source)[:2]
    first, last = _numbers('zoom', options.zoom, Range(1, MAX_MAGNIFICATION), 'two magnifications such as 1,30')
    y, x = _numbers('at', options.at or '0.5,0.5', Range(0, 1), 'two fractions of height and width such as 0.5,0.5')
    scale = LONGEST / max(height, width)
    size = tuple(2 * max(1, round(side * scale / 2)) for side in (height, width))
    if options.size:
        size = tuple(map(int, _numbers('size', options.size, Range(2, MAX_FRAME_SIDE, whole=True), 'height,width')))
    zoom = Zoom(first, last, (y, x), options.frames or FRAMES, options.fps or FPS, (size[0], size[1]))
    target = options.output or OUTPUT / f'{source.stem}_zoom.webp'
    check_film(target, *zoom.size, zoom.fps)
    return ZoomJob(source, target, zoom, chosen_files(options).value_range)


def _numbers(name: str, text: str, allowed: Range, expected: str) -> tuple[float, float]:
    """The two numbers of an option. Raises UserError."""
    parse = (whole_number if allowed.whole else real_number)(int(allowed.lowest), int(allowed.highest))
    try:
        first, second = map(parse, text.split(','))
    except (argparse.ArgumentTypeError, ValueError):
        raise UserError(f'-{name} {shortened(text, quotes=False)}: expected {expected}, each {allowed}') from None
    return first, second


def write_zoom(model: SRModel, job: ZoomJob) -> None:
    """Writes a zoom, with progress, and prints a line about it.

    Raises: UserError when the image cannot be read or the model renders no windows.
    """
    check_windows(model, '-zoom')
    source, target, zoom, value_range = job
    image = WindowedImage(model=model, rgb=read_for_screen(source, value_range), cache=LatentCache(memory=LATENT_MEMORY))
    write_film(target, render_frames(image, zoom), zoom.frames, zoom.fps)
    scales = [zoom.size[0] / zoom.window(index, image.height, image.width).height for index in (0, zoom.frames - 1)]
    tqdm.write(f'{printable(source)} -> {printable(target)} ({zoom.frames} frames of {zoom.size[0]}x{zoom.size[1]}, '
               f'scale {scales[0]:.4g} to {scales[1]:.4g})')


def render_frames(image: WindowedImage, zoom: Zoom) -> Iterator[np.ndarray]:
    """The frames, (h, w, 3) uint8, one at a time."""
    for index in tqdm(range(zoom.frames), 'zooming', unit='frame', disable=None, leave=False):
        yield image.render(zoom.window(index, image.height, image.width), zoom.size)
