"""Writing frames of one size and rate one by one, as GIF, WebP or mp4, so that no more than two of them are in memory.

GIF and WebP are written by `imaging/moving.py`, mp4 by `imaging/film_writing.py`.
"""
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from imaging.film_formats import Colours, Shape, check_film_target, usual_matrix
from imaging.film_reading import FilmFrame
from imaging.film_writing import FilmWriter
from imaging.formats import check_size
from imaging.frame import Frame
from imaging.moving import Timed, write_gif, write_webp
from utils import UserError, atomic_path, check_output

FILM_SUFFIXES = ('.gif', '.mp4', '.webp')
_GIF_FPS = 50      # viewers show frames of less than 20 ms for longer
_GIF_COLOURS = 256
_WEBP_QUALITY = 90
_RATE_PARTS = 1000  # a rate is a fraction of at most this denominator


def check_film(path: Path, height: int, width: int, fps: float) -> None:
    """Raises UserError when frames of this size and rate cannot be written to `path`; meant for before the work."""
    check_output(path, FILM_SUFFIXES)
    check_size(path, height, width)
    suffix = path.suffix.lower()
    if suffix == '.gif' and fps > _GIF_FPS:
        raise UserError(f'{path}: a GIF shows at most {_GIF_FPS} frames a second, not {fps:g}; write a .webp')
    if suffix == '.mp4':
        check_film_target(path, height, width)


def write_film(path: Path, frames: Iterator[np.ndarray], count: int, fps: float) -> None:
    """Writes `count` frames, (H, W, 3) uint8 of one size, atomically; GIF and WebP repeat for ever."""
    suffix = path.suffix.lower()
    if suffix == '.mp4':
        return _write_mp4(path, frames, count, fps)
    images = map(Image.fromarray, frames)
    with atomic_path(path) as temporary:
        if suffix == '.gif':
            palettes = (image.quantize(_GIF_COLOURS) for image in images)
            write_gif(temporary, map(Timed, palettes, _durations(count, fps, 10)), plays=0)
        else:
            write_webp(temporary, map(Timed, images, _durations(count, fps, 1)), count, loop=0, quality=_WEBP_QUALITY,
                       method=4)


def _durations(count: int, fps: float, unit: int) -> list[int]:
    """Milliseconds that each frame is shown, multiples of `unit`; what is rounded off goes to later frames."""
    edges = [round(1000 * index / fps / unit) * unit for index in range(count + 1)]
    return [stop - start for start, stop in itertools.pairwise(edges)]


def _write_mp4(path: Path, frames: Iterator[np.ndarray], count: int, fps: float) -> None:
    rate, first = Fraction(fps).limit_denominator(_RATE_PARTS), next(frames)
    height, width = first.shape[:2]
    shape = Shape(height, width, time_base=1 / rate, rate=rate, colours=Colours(usual_matrix(height)))
    with FilmWriter(path, shape) as film:
        film.write(FilmFrame(Frame(pixels=first), 0, 1))
        del first
        for number, frame in enumerate(itertools.islice(frames, count - 1), 1):
            film.write(FilmFrame(Frame(pixels=frame), number, 1))
