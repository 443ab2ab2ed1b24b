"""Several frames into one file: GIF, WebP, animated PNG, TIFF of several pages."""
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from imaging import tiff
from imaging.canvas import Canvas
from imaging.encoding import settings, to_palette
from imaging.formats import DEFAULTS, WriteOptions, check_target
from imaging.frame import Frame, Metadata
from utils import UserError, atomic_path

_GIF_UNIT = 10  # milliseconds


class Animation:
    """A file of several frames. On leaving its block it is written whole; after an error the file before it stays.

        with Animation('b.gif', frames=header.frames, plays=header.plays) as animation:
            for frame in read_frames('a.gif'):
                canvas = animation.canvas(height, width, like=frame)
                …                                                  # canvas.put(…)
                animation.append(canvas)

    Pages of a TIFF are written when they are appended. Those of other formats are held, in 8 bits.
    """

    def __init__(self, path: str | Path, *, frames: int, plays: int = 0, options: WriteOptions = DEFAULTS) -> None:
        """
        Args:
            frames: how many there will be.
            plays: how often they are shown; 0: for ever. TIFF does not hold it.
        Raises: UserError when the format holds a single image.
        """
        self.path, self.frames, self.plays = Path(path), frames, plays
        self.format = check_target(path, 1, 1, frames, options)
        self.options = options._replace(bits=8) if self.format.frames == 8 else options
        self._size: tuple[int, int] | None = None
        self._images: list[Image.Image] = []
        self._durations: list[float] = []
        self._metadata = Metadata()
        self._stack = ExitStack()
        self._temporary: Path | None = None
        self._pages: tiff.Writer | None = None

    def __enter__(self) -> 'Animation':
        self._temporary = self._stack.enter_context(atomic_path(self.path))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        with self._stack:
            if error is not None:
                raise error  # removes what has been written
            if self._images and self._temporary is not None:
                self._write(self._temporary)

    def canvas(self, height: int, width: int, *, like: Frame) -> Canvas:
        """A canvas for the next frame. Raises UserError for another size than before, where the format has but one."""
        if self.format.name != 'TIFF' and self._size is not None and self._size != (height, width):
            raise UserError(f'{self.path}: its frames have different sizes, {self._size[0]}x{self._size[1]} and '
                            f'{height}x{width}, which {self.format.name} does not hold; write a .tif')
        self._size = height, width
        return Canvas(self.path, height, width, like=like, options=self.options)

    def append(self, canvas: Canvas) -> None:
        """Adds a frame that is finished."""
        if isinstance(canvas.pixels, Image.Image):
            self._metadata = canvas.metadata if not self._images else self._metadata
            self._images.append(to_palette(canvas.pixels) if self.format.name == 'GIF' else canvas.pixels)
            self._durations.append(canvas.duration)
            return
        if self._pages is None and self._temporary is not None:
            self._pages = self._stack.enter_context(tiff.Writer(self._temporary, self.frames * canvas.pixels.nbytes))
        assert self._pages is not None  # within the block
        self._pages.add(canvas.pixels, canvas.metadata, several=self.frames > 1)

    def _write(self, path: Path) -> None:
        """Writes all frames with Pillow."""
        modes = {image.mode for image in self._images}
        if len(modes) > 1:
            common = 'RGBA' if any('A' in mode for mode in modes) else 'RGB'
            self._images = [image.convert(common) for image in self._images]
        found = settings(self._images[0].mode, self.format, self._metadata, self.options)
        if self.format.name == 'GIF':
            found['disposal'] = 2 if any('transparency' in image.info for image in self._images) else 1
            durations = [_GIF_UNIT * round(duration / _GIF_UNIT) for duration in self._durations]
            found |= {'loop': self.plays - 1 if self.plays else 0} if self.plays != 1 else {}
        else:
            durations = [round(duration) for duration in self._durations]
            found['loop'] = self.plays
        self._images[0].save(path, self.format.name, save_all=True, append_images=self._images[1:], duration=durations,
                             **found)
        if self.format.name == 'WEBP' and self._images[0].mode == 'RGBA':
            _mark_transparent(path)


def _mark_transparent(path: Path) -> None:
    """Marks an animated WebP as transparent in its header: libwebp does not where each frame is an opaque part."""
    with open(path, 'r+b') as file:
        head = file.read(21)
        if head[12:16] == b'VP8X':
            file.seek(20)
            file.write(bytes([head[20] | 0x10]))
