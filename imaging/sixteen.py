"""16 bits per channel, by Pillow alone; and → 8, rounded: v / 257, since 65535 / 257 = 255.

Pillow has no mode for 16-bit colours and keeps the high byte of each value, which is up to one level off. The raw mode of an
image's tiles (`RGB;16B`) says in which order the bytes of a value come. Decoded again with the other order, the file gives
the low bytes. This needs no second library for images, and works for every compression, interlacing and byte order.

Shapes: H×W pixels, C channels.
"""
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

Opener = Callable[[], AbstractContextManager[ImageFile]]

# order of the bytes in a raw mode's name → the order that takes the other byte of each value
_OTHER = {'B': 'L', 'L': 'B', 'N': 'B' if sys.byteorder == 'little' else 'L'}
_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL, _PLANAR_CONFIGURATION = 258, 277, 284  # TIFF tags


def to_8_bits(image: ImageFile, open_again: Opener) -> Image.Image:
    """The image with 8 bits per channel, decoded; one that has them already comes back as it is.

    Args:
        image: opened, not decoded.
        open_again: opens the same file once more.
    Raises: OSError for a TIFF file that stores 16-bit channels one after the other: Pillow reads it wrongly.
    """
    tags = getattr(image, 'tag_v2', {})
    planar = tags.get(_PLANAR_CONFIGURATION) == 2 and tags.get(_SAMPLES_PER_PIXEL, 1) > 1
    if planar and max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8:
        raise OSError('16-bit channels that lie one after the other; save it with interleaved channels')
    if image.mode in ('RGB', 'RGBA', 'CMYK') and ';16' in _raw_mode(image):
        return _colours(image, open_again)
    image.load()
    return _grey(image) if image.mode.startswith('I') else image


def read_16_bits(image: ImageFile, open_again: Opener) -> np.ndarray | None:
    """The values of a PNG image of 16 bits, (H, W, C) uint16 of grey, grey + alpha, RGB or RGBA; None for fewer bits.

    Args: those of `to_8_bits`.
    """
    layout = _raw_mode(image)
    if ';16' not in layout:
        return None
    if image.mode.startswith('I'):
        values = np.asarray(image)[..., None].astype(np.uint16)
    else:
        values = _values(image, open_again)
        values = values[..., [0, 3]] if layout == 'LA;16B' else values
    key = image.info.get('transparency')
    if key is None or values.shape[2] in (2, 4):
        return values
    return np.dstack([values, np.where((values == key).all(-1), 0, 65535).astype(np.uint16)])


def _grey(image: Image.Image) -> Image.Image:
    """Grey of 16 bits (modes I and I;16, of either byte order) → L, or LA where one level stands for transparency."""
    values = np.asarray(image)                                                       # (H, W)
    key = image.info.get('transparency')
    transparent = values == key if isinstance(key, int) else None
    return _replaced(image, Image.fromarray(_rounded(values)), transparent)


def _colours(image: ImageFile, open_again: Opener) -> Image.Image:
    """Colours of 16 bits, decoded once for the high bytes and once for the low ones."""
    premultiplied = _raw_mode(image).startswith('RGBa')
    values = _values(image, open_again)
    levels = _rounded(values)
    if premultiplied:
        colour, alpha = values[..., :3].astype(np.float64), np.maximum(values[..., 3:], 1)
        levels[..., :3] = np.rint(np.minimum(255 * colour / alpha, 255))
    key = image.info.get('transparency')
    transparent = (values == key).all(-1) if isinstance(key, tuple) else None
    return _replaced(image, Image.fromarray(levels, image.mode), transparent)


def _values(image: ImageFile, open_again: Opener) -> np.ndarray:
    """(H, W, C) uint16 as they are stored, premultiplied or not; grey with alpha as four channels."""
    layout = _raw_mode(image).replace('RGBa', 'RGBA')
    _set_raw_mode(image, layout)  # premultiplied colours as they are: Pillow would divide them by 8 bits of alpha
    with open_again() as second:
        if layout == 'LA;16B':  # grey and alpha, two values of two bytes: also four channels of one byte
            _set_raw_mode(second, 'RGBA')
            low = np.asarray(second)[..., [1, 1, 1, 3]]                              # (H, W, C)
        else:
            _set_raw_mode(second, layout[:-1] + _OTHER[layout[-1]])
            low = np.asarray(second)                                                 # (H, W, C)
    return np.asarray(image).astype(np.uint16) << 8 | low


def _rounded(values: np.ndarray) -> np.ndarray:
    """Levels of 16 bits → uint8. Nothing lies half-way, since 257 is odd."""
    return ((np.clip(values, 0, 65535).astype(np.uint32) + 128) // 257).astype(np.uint8)


def _replaced(image: Image.Image, pixels: Image.Image, transparent: np.ndarray | None) -> Image.Image:
    """`pixels` with the EXIF data of `image`; (H, W) `transparent` becomes an alpha channel of 0 and 255."""
    if transparent is not None:
        pixels.putalpha(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)))
    pixels.getexif().update(image.getexif())
    return pixels


def _raw_mode(image: ImageFile) -> str:
    """How the bytes of an image that is not decoded yet are laid out; '' where its decoder has no such name."""
    args = image.tile[0].args if image.tile else None
    name = args[0] if isinstance(args, tuple) and args else args
    return name if isinstance(name, str) else ''


def _set_raw_mode(image: ImageFile, name: str) -> None:
    """Sets the layout in which the image is decoded; it must have as many bits."""
    image.tile = [tile._replace(args=(name, *tile.args[1:]) if isinstance(tile.args, tuple) else name)
                  for tile in image.tile]
