"""Several frames into one file: GIF, WebP, animated PNG, TIFF of several pages."""
import itertools
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from imaging import tiff
from imaging.canvas import Canvas
from imaging.encoding import settings, to_palette
from imaging.formats import DEFAULTS, WriteOptions, check_target
from imaging.frame import Frame
from imaging.moving import Timed, merged, write_apng, write_gif, write_webp
from utils import UserError, atomic_path


class Animation:
    """A file of several frames, written as they are finished: two or three are in memory at a time.

        animation = Animation('b.gif', frames=header.frames, plays=header.plays)

        def finished():
            for frame in read_frames('a.gif'):
                canvas = animation.canvas(height, width, like=frame)
                …                                                  # canvas.put(…)
                yield canvas
        animation.write(finished())
    """

    def __init__(self, path: str | Path, *, frames: int, plays: int = 0, modes: Collection[str] = ('RGBA',),
                 options: WriteOptions = DEFAULTS) -> None:
        """
        Args:
            frames: how many there will be.
            plays: how often they are shown; 0: for ever. TIFF does not hold it.
            modes: `Frame.mode` of all frames, for formats in which all frames have one mode.
        Raises: UserError when the format holds a single image.
        """
        self.path, self.frames, self.plays = Path(path), frames, plays
        self.format = check_target(path, 1, 1, frames, options)
        self.options = options._replace(bits=8) if self.format.frames == 8 else options
        self._mode = _common(modes)
        self._size: tuple[int, int] | None = None

    def canvas(self, height: int, width: int, *, like: Frame) -> Canvas:
        """A canvas for the next frame. Raises UserError for another size than before, where the format has but one."""
        if self.format.name != 'TIFF' and self._size is not None and self._size != (height, width):
            raise UserError(f'{self.path}: its frames have different sizes, {self._size[0]}x{self._size[1]} and '
                            f'{height}x{width}, which {self.format.name} does not hold; write a .tif')
        self._size = height, width
        return Canvas(self.path, height, width, like=like, options=self.options)

    def write(self, canvases: Iterator[Canvas]) -> None:
        """Writes the frames as they are finished; a reader sees the whole file, or the one before. Raises WriteError."""
        with atomic_path(self.path) as temporary:
            if self.format.name == 'TIFF':
                self._write_pages(temporary, canvases)
            else:
                self._write_images(temporary, canvases)

    def _write_pages(self, path: Path, canvases: Iterator[Canvas]) -> None:
        with ExitStack() as stack:
            writer: tiff.Writer | None = None
            for canvas in canvases:
                pixels = np.asarray(canvas.pixels)
                writer = writer or stack.enter_context(tiff.Writer(path, self.frames * pixels.nbytes))
                writer.add(pixels, canvas.metadata, several=self.frames > 1)

    def _write_images(self, path: Path, canvases: Iterator[Canvas]) -> None:
        first = next(canvases)
        found = settings(self._mode, self.format, first.metadata, self.options)
        every = itertools.chain(iter([first]), canvases)  # an exhausted iterator lets its list go, a chain does not
        del first
        frames = (Timed(self._image(canvas.pixels), canvas.duration) for canvas in every)
        if self.format.name == 'GIF':
            write_gif(path, merged(frames), self.plays)
        elif self.format.name == 'WEBP':
            write_webp(path, frames, self.frames, loop=self.plays, **found)
        else:
            write_apng(path, merged(frames), self.plays, **found)

    def _image(self, image: Image.Image | np.ndarray) -> Image.Image:
        """A frame as it is encoded."""
        assert isinstance(image, Image.Image)  # which a canvas of 8 bits holds
        if self.format.name == 'GIF':
            return to_palette(image)
        mode = self._mode if self._mode in self.format.modes else self._mode.replace('L', 'RGB')
        return image if image.mode == mode else image.convert(mode)


def _common(modes: Collection[str]) -> str:
    """The mode that holds frames of all modes."""
    colours = 'L' if all(mode[0] == 'L' for mode in modes) else 'RGB'
    return colours + ('A' if any(mode[-1] == 'A' for mode in modes) else '')
