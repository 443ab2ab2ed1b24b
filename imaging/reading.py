"""Reading and listing images. Files of any depth become 8 bits per channel."""
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from imaging.sixteen import to_8_bits
from utils import UserError

SUFFIXES = {'.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm'}
# Pillow finds the format by the content, whatever the suffix: an EPS file, say, would start Ghostscript
_FORMATS = ('PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP', 'PPM')
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap height and width


def list_images(folder: str | Path) -> list[Path]:
    """The image files of a folder, sorted by name. Raises UserError when it is missing or has none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder of images')
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith('.'))
    if not files:
        raise UserError(f"{folder}: holds no image ({', '.join(sorted(SUFFIXES))})")
    return files


def open_image(path: str | Path) -> Image.Image:
    """An image, decoded, upright, 16 bits rounded to 8. Raises UserError when it is missing, no image, or cut short."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f'{path}: no such image file')
    try:
        with _any_size(), _open(path) as image:
            return ImageOps.exif_transpose(to_8_bits(image, lambda: _open(path)))
    except (UnidentifiedImageError, SyntaxError) as error:
        raise UserError(f'{path}: not an image that can be read') from error
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f'{path}: damaged or unreadable image ({" ".join(str(error).split())})') from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of an image of `open_image`. Grey becomes three equal channels, transparency is dropped."""
    return np.array(image.convert('RGB'))


def read_rgb(path: str | Path) -> np.ndarray:
    """The image at `path`, (H, W, 3) uint8."""
    return to_rgb(open_image(path))


def read_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the upright image, from the file's header: the image is not decoded."""
    try:
        with _any_size(), _open(path) as image:
            size = image.size
            exif = Image.Image.getexif(image)  # PNG's own getexif decodes the whole image, because EXIF may come after it
        if exif.get(_ORIENTATION, 1) >= 5:
            size = open_image(path).size  # formats differ in whether their header's size is that of the upright image
        return size[::-1]
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f'{path}: not an image that can be read') from error


@contextlib.contextmanager
def _open(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    """Pillow's image of a file, not decoded yet.

    Pillow gets an open file and not the path: it would map an uncompressed file into memory, and then loses the orientation
    of TIFF images.
    """
    with open(path, 'rb') as file, Image.open(file, formats=_FORMATS) as image:
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
