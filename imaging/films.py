"""Writing frames one by one, as GIF, WebP or mp4, so that no more than one of them is in memory.

GIF and WebP are written by Pillow; mp4 (H.264) by imageio with PyAV, which are an extra: `pip install imageio av`.
"""
import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import GifImagePlugin, Image

from imaging.formats import check_size
from utils import UserError, atomic_path, check_output

FILM_SUFFIXES = ('.gif', '.mp4', '.webp')
_GIF_FPS = 50      # viewers show frames of less than 20 ms for longer
_WEBP_QUALITY = 90


def check_film(path: Path, height: int, width: int, fps: float) -> None:
    """Raises UserError when frames of this size and rate cannot be written to `path`; meant for before the work."""
    check_output(path, FILM_SUFFIXES)
    check_size(path, height, width)
    suffix = path.suffix.lower()
    if suffix == '.gif' and fps > _GIF_FPS:
        raise UserError(f'{path}: a GIF shows at most {_GIF_FPS} frames a second, not {fps:g}; write a .webp')
    if suffix == '.mp4' and (height % 2 or width % 2):
        raise UserError(f'{path}: an mp4 has an even height and width, not {height}x{width}')
    if suffix == '.mp4' and not all(map(importlib.util.find_spec, ('imageio', 'av'))):
        raise UserError(f'{path}: mp4 needs two more packages: pip install imageio av')


def write_film(path: Path, frames: Iterator[np.ndarray], count: int, fps: float) -> None:
    """Writes `count` frames, (H, W, 3) uint8 of one size, atomically; GIF and WebP repeat for ever."""
    with atomic_path(path) as temporary:
        {'.gif': _write_gif, '.webp': _write_webp, '.mp4': _write_mp4}[path.suffix.lower()](temporary, frames, count, fps)


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
    import imageio.v3 as iio  # an extra
    with iio.imopen(path, 'w', plugin='pyav') as film:
        film.init_video_stream('libx264', fps=fps, pixel_format='yuv420p')
        for frame in itertools.islice(frames, count):
            film.write_frame(frame)
