"""Decoding what Pillow would cut to 8 bits, or does not read: deep JPEG 2000, AVIF and PNM; PAM and PFM.

Each function returns a `Raster`, or None where Pillow reads all that the file holds.
"""
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imaging.formats import MAX_PIXELS
from imaging.libraries import library
from utils import UserError


class Raster(NamedTuple):
    """Values as a file stores them.

    Attributes:
        values: (H, W) or (H, W, C).
        largest: the integer that stands for 1; None: that of the type.
        alpha: whether the last channel is transparency.
        premultiplied: whether the colours have been multiplied by it.
        inverted: whether 0 is white.
    """
    values: np.ndarray
    largest: int | None = None
    alpha: bool = False
    premultiplied: bool = False
    inverted: bool = False


def decode_jpeg2000(path: Path) -> Raster | None:
    data = path.read_bytes()
    start = data.find(b'\xff\x4f\xff\x51')  # the beginning of the codestream: image and tile size
    bits = (data[start + 42] & 0x7f) + 1 if 0 <= start < len(data) - 42 else 8
    return None if bits <= 8 else _with_alpha(library('imagecodecs', path).jpeg2k_decode(data), 2 ** bits - 1)


def decode_avif(path: Path) -> Raster | None:
    data = path.read_bytes()
    start = data.find(b'av1C')  # the configuration of the codec
    flags = data[start + 6] if 0 <= start < len(data) - 6 else 0
    bits = (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    return None if bits == 8 else _with_alpha(library('imagecodecs', path).avif_decode(data), 2 ** bits - 1)


def decode_ppm(path: Path) -> Raster | None:
    """A PPM of more than 8 bits; PGM of 16 bits is what Pillow reads without loss."""
    with open(path, 'rb') as file:
        kind = file.read(2)
    if kind not in (b'P3', b'P6'):
        return None
    raster = decode_pnm(path)
    return raster if raster.largest is not None and raster.largest > 255 else None


def decode_pnm(path: Path) -> Raster:
    """A PPM, PAM or PFM of any depth."""
    with library('netpbmfile', path).NetpbmFile(path) as file:
        check_pixels(path, *file.shape[:2])
        if file.axes not in ('YX', 'YXS'):
            raise UserError(f'{path}: holds several images, expected one')
        values = file.asarray()
        if values.dtype.kind == 'f':  # PFM
            return Raster(values[::-1].astype(np.float32))  # the bottom row is first in the file
        channels = values.shape[2] if values.ndim == 3 else 1
        values = values.astype(values.dtype.newbyteorder('='))
        return Raster(values, int(file.maxval), alpha=channels in (2, 4))


def check_pixels(path: str | Path, height: int, width: int) -> None:
    """Raises UserError for more pixels than are read; the header decides, before anything is decoded."""
    if height * width > MAX_PIXELS:
        raise UserError(f'{path}: its header says {height}x{width}, more than the {MAX_PIXELS:,} pixels that are read')


def _with_alpha(values: Any, largest: int | None) -> Raster:
    channels = values.shape[2] if values.ndim == 3 else 1
    return Raster(values, largest, alpha=channels in (2, 4))
