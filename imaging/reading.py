"""Reading and listing images. Files of any depth become 8 bits per channel."""
import contextlib
import math
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps

from imaging.sixteen import to_8_bits
from utils import UserError, file_status, one_line

SUFFIXES = {'.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm'}
# Pillow finds the format by the content, whatever the suffix: an EPS file, say, would start Ghostscript
_FORMATS = ('PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP', 'PPM')
MAX_PIXELS = 2 ** 30  # of an image; the header decides, before anything is decoded
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap height and width


def list_images(folder: str | Path) -> list[Path]:
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
             if file.suffix.lower() in SUFFIXES and not file.name.startswith('.') and not _is_special(file)]
    if not files:
        raise UserError(f"{folder}: holds no image ({', '.join(sorted(SUFFIXES))})")
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
    with _opened(path) as image:
        return ImageOps.exif_transpose(to_8_bits(image, lambda: _open(path)))


def to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of an image of `open_image`. Grey becomes three equal channels, transparency is dropped."""
    return np.array(image.convert('RGB'))


def read_rgb(path: str | Path) -> np.ndarray:
    """The image at `path`, (H, W, 3) uint8; errors as in `open_image`."""
    with _named(path):
        return to_rgb(open_image(path))


def read_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the upright image, from the file's header: the image is not decoded. Errors as in `open_image`."""
    with _opened(path) as image:
        size = image.size
        exif = Image.Image.getexif(image)  # PNG's own getexif decodes the whole image, because EXIF may come after it
    if exif.get(_ORIENTATION, 1) >= 5:
        size = open_image(path).size  # formats differ in whether their header's size is that of the upright image
    return size[::-1]


# what Pillow's decoders raise for damaged files
_DAMAGED = (OSError, ValueError, EOFError, SyntaxError, ArithmeticError, LookupError, TypeError, AttributeError,
            RuntimeError, struct.error, zlib.error)
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
def _opened(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    """The image of a file, not decoded yet, within the limits; whatever goes wrong is a UserError that names the file."""
    check_file(path)
    with _named(path), _any_size(), _open(path) as image:
        width, height = image.size
        if math.prod(image.size) > MAX_PIXELS:
            raise UserError(f'{path}: its header says {height}x{width}, more than the {MAX_PIXELS:,} pixels that are read')
        yield image


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Turns every error into a UserError that names the file."""
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f'{path}: decoding this image needs more memory than there is') from error
    except _DAMAGED as error:
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
            image = Image.open(file, formats=_FORMATS)
        except _DAMAGED as error:
            raise UserError(f'{path}: not an image that can be read') from error
        with image:
            yield image


_readers = 0  # threads within `_any_size`
_limit: int | None = None  # Pillow's, while there are any
_counting = threading.Lock()


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """Lifts Pillow's limit on the pixels of an image, a setting of the whole process, for as long as any thread reads."""
    global _readers, _limit
    with _counting:
        if _readers == 0:
            _limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _readers += 1
    try:
        yield
    finally:
        with _counting:
            _readers -= 1
            if _readers == 0:
                Image.MAX_IMAGE_PIXELS = _limit
