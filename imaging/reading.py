"""Reading and listing images: whatever the file holds, 8-bit RGB comes out."""
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from utils import UserError

SUFFIXES = {'.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm'}
Image.MAX_IMAGE_PIXELS = None  # images of any size are welcome here
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap height and width


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
    """An image, fully decoded, upright. Raises UserError when it is missing, no image, or cut short."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f'{path}: no such image file')
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except (UnidentifiedImageError, SyntaxError) as error:
        raise UserError(f'{path}: not an image that can be read') from error
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f'{path}: damaged or unreadable image ({" ".join(str(error).split())})') from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8. Grey becomes three equal channels, 16 bits are rounded to 8, transparency is dropped."""
    if image.mode.startswith('I'):
        grey = np.asarray(image).astype(np.float64)
        grey = np.rint(np.clip(grey / 257, 0, 255)).astype(np.uint8)                 # 65535 / 257 = 255
        return np.repeat(grey[:, :, None], 3, 2)
    return np.array(image.convert('RGB'))


def read_rgb(path: str | Path) -> np.ndarray:
    """The image at `path`, (H, W, 3) uint8."""
    return to_rgb(open_image(path))


def read_size(path: str | Path) -> tuple[int, int]:
    """(height, width) from the file's header, without decoding the image."""
    try:
        with Image.open(path) as image:
            size = image.size
            exif = Image.Image.getexif(image)  # PNG's own getexif would decode the whole image to look behind it
        if exif.get(ORIENTATION, 1) >= 5:
            size = open_image(path).size  # formats differ in whether their header's size is that of the upright image
        return size[::-1]
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f'{path}: not an image that can be read') from error


def in_parallel(function: Callable, items: list, label: str) -> list:
    """[function(item) for item in items] on all cores, with a progress bar. The first error ends it.

    Threads do: Pillow decodes, and files are written, without holding the interpreter's lock.
    """
    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(function, items), label, total=len(items), disable=None, leave=False))
