"""Writing frames one by one, as GIF, WebP or mp4, so that no more than one of them is in memory.

GIF and WebP are written by Pillow; mp4 by `imaging/film_writing.py`.
"""
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import GifImagePlugin, Image

from imaging.film_formats import Colours, Shape, check_film_target, usual_matrix
from imaging.film_reading import FilmFrame
from imaging.film_writing import FilmWriter
from imaging.formats import check_size
from imaging.frame import Frame
from utils import UserError, atomic_path, check_output

FILM_SUFFIXES = ('.gif', '.mp4', '.webp')
_GIF_FPS = 50      # viewers show frames of less than 20 ms for longer
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
    if path.suffix.lower() == '.mp4':
        return _write_mp4(path, frames, count, fps)
    with atomic_path(path) as temporary:
        {'.gif': _write_gif, '.webp': _write_webp}[path.suffix.lower()](temporary, frames, count, fps)


def _durations(count: int, fps: float, unit: int) -> list[int]:
    """Milliseconds that each frame is shown, multiples of `unit`; what is rounded off goes to later frames."""
    edges = [round(1000 * index / fps / unit) * unit for index in range(count + 1)]
    return [stop - start for start, stop in itertools.pairwise(edges)]


def _write_gif(path: Path, frames: Iterator[np.ndarray], count: int, fps: float) -> None:
    """Each frame with 256 colours of its own. Pillow's `save` would keep all frames until the last one."""
    with open(path, 'wb') as file:
        for index, (frame, duration) in enumerate(zip(frames, _durations(count, fps, 10))):
            image = Image.fromarray(frame).quantize(256)
            if index == 0:
                file.writelines(GifImagePlugin.getheader(image.copy(), info={'loop': 0, 'duration': duration})[0])
            file.writelines(GifImagePlugin.getdata(image, duration=duration, include_color_table=True))
        file.write(b';')


def _write_webp(path: Path, frames: Iterator[np.ndarray], count: int, fps: float) -> None:
    """One image that shows the next frame whenever Pillow seeks it."""
    image = Image.fromarray(next(frames))

    def seek(index: int) -> None:
        if 0 < index < count:
            image.paste(Image.fromarray(next(frames)))
    for name, value in {'seek': seek, 'n_frames': count}.items():
        setattr(image, name, value)
    image.save(path, save_all=True, duration=_durations(count, fps, 1), loop=0, quality=_WEBP_QUALITY, method=4)


def _write_mp4(path: Path, frames: Iterator[np.ndarray], count: int, fps: float) -> None:
    rate, first = Fraction(fps).limit_denominator(_RATE_PARTS), next(frames)
    height, width = first.shape[:2]
    shape = Shape(height, width, time_base=1 / rate, rate=rate, colours=Colours(usual_matrix(height)))
    with FilmWriter(path, shape) as film:
        film.write(FilmFrame(Frame(pixels=first), 0, 1))
        del first
        for number, frame in enumerate(itertools.islice(frames, count - 1), 1):
            film.write(FilmFrame(Frame(pixels=frame), number, 1))
