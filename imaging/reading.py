"""Reading and listing images. Files of any depth become 8 bits per channel, by Pillow, as the benchmarks define it.

What is to be upscaled is read by `imaging/frames.py`.
"""
import contextlib
import math
import stat
import struct
import threading
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, PngImagePlugin

from imaging.formats import MAX_PIXELS, SUFFIXES
from imaging.sixteen import to_8_bits
from utils import UserError, file_status, one_line

# Pillow finds the format by the content, whatever the suffix: an EPS file, say, would start Ghostscript
_FORMATS = ('PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP', 'PPM', 'GIF', 'AVIF', 'JPEG2000')
_MAX_TEXT = 2 ** 26  # bytes of a text chunk of a PNG file, of which Pillow takes 1 MiB
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap height and width


def list_images(folder: str | Path, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """The image files of a folder, sorted by name. Raises UserError when it is missing or has none.

    Folders, FIFOs, sockets and devices with the name of an image are left out. A link that leads nowhere is listed: whoever
    reads it gets an error that names it.
    """
    folder = Path(folder)
    status = file_status(folder)
    if status is None or not stat.S_ISDIR(status.st_mode):
        raise UserError(f'{folder}: no such folder of images')
    try:
        names = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f'{folder}: cannot be listed ({error.strerror})') from error
    files = [file for file in names
             if file.suffix.lower() in suffixes and not file.name.startswith('.') and not _is_special(file)]
    if not files:
        raise UserError(f"{folder}: holds no image ({', '.join(sorted(suffixes))})")
    return files


def check_file(path: str | Path) -> None:
    """Raises UserError unless `path` is a regular file: opening a FIFO would wait for ever."""
    status = file_status(path)
    if status is None:
        raise UserError(f'{path}: no such image file')
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in _KINDS if test(status.st_mode)), 'no regular file')
        raise UserError(f'{path}: is {kind}, expected an image file')


def open_image(path: str | Path) -> Image.Image:
    """An image, decoded, upright, 16 bits rounded to 8.

    Raises: UserError when it is missing, no image, cut short, or larger than MAX_PIXELS or the memory.
    """
    with opened_image(path) as image:
        return ImageOps.exif_transpose(to_8_bits(image, lambda: _open(path)))


def to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of an image of `open_image`. Grey becomes three equal channels, transparency is dropped."""
    return np.array(image.convert('RGB'))


def read_rgb(path: str | Path) -> np.ndarray:
    """The image at `path`, (H, W, 3) uint8; errors as in `open_image`."""
    with named(path):
        return to_rgb(open_image(path))


def read_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the upright image, from the file's header: the image is not decoded. Errors as in `open_image`."""
    with opened_image(path) as image:
        size = image.size
        exif = Image.Image.getexif(image)  # PNG's own getexif decodes the whole image, because EXIF may come after it
    if exif.get(_ORIENTATION, 1) >= 5:
        size = open_image(path).size  # formats differ in whether their header's size is that of the upright image
    return size[::-1]


# what Pillow's decoders raise for damaged files
DAMAGED = (OSError, ValueError, EOFError, SyntaxError, ArithmeticError, LookupError, TypeError, AttributeError,
            AssertionError, RuntimeError, struct.error, zlib.error)
_KINDS = ((stat.S_ISDIR, 'a folder'), (stat.S_ISFIFO, 'a FIFO'), (stat.S_ISSOCK, 'a socket'),
          (stat.S_ISCHR, 'a device'), (stat.S_ISBLK, 'a device'))


def _is_special(file: Path) -> bool:
    """Whether a file is there but no regular one."""
    try:
        status = file_status(file)
    except UserError:
        return False
    return status is not None and not stat.S_ISREG(status.st_mode)


@contextlib.contextmanager
def opened_image(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    """The image of a file, not decoded yet, within the limits; whatever goes wrong is a UserError that names the file."""
    check_file(path)
    with named(path), _any_size(), _open(path) as image:
        width, height = image.size
        if math.prod(image.size) > MAX_PIXELS:
            raise UserError(f'{path}: its header says {height}x{width}, more than the {MAX_PIXELS:,} pixels that are read')
        yield image


@contextlib.contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Turns every error into a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f'{path}: decoding this image needs more memory than there is') from error
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f'{path}: cannot be read ({error.strerror})') from error
        raise UserError(f'{path}: damaged or unreadable image ({one_line(error)})') from error


@contextlib.contextmanager
def _open(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    """Pillow's image of a file, not decoded yet.

    Pillow gets an open file and not the path: it would map an uncompressed file into memory, and then loses the orientation
    of TIFF images.
    """
    with open(path, 'rb') as file:
        try:
            # TGA files have no mark of their own
            formats = (*_FORMATS, 'TGA') if Path(path).suffix.lower() == '.tga' else _FORMATS
            image = Image.open(file, formats=formats)
        except DAMAGED as error:
            raise UserError(f'{path}: not an image that can be read') from error
        with image:
            yield image


_readers = 0  # threads within `_any_size`
_limits: tuple[int | None, int] = (None, 0)  # Pillow's, while there are any
_counting = threading.Lock()


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """Lifts Pillow's limits on the pixels and texts of an image, settings of the whole process, while any thread reads."""
    global _readers, _limits
    with _counting:
        if _readers == 0:
            _limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, _MAX_TEXT
        _readers += 1
    try:
        yield
    finally:
        with _counting:
            _readers -= 1
            if _readers == 0:
                Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = _limits
