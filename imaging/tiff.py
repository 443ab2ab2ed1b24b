"""TIFF through tifffile: pages that Pillow cannot read, and pages of any depth, written one by one."""
import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from imaging.deep import Raster
from imaging.frame import Metadata
from imaging.libraries import library
from imaging.metadata import ORIENTATION, load_exif, pack_exif, upright_xmp
from utils import UserError

_INVERTED, _GREY, _RGB = 0, 1, 2              # photometric interpretation
_PREMULTIPLIED, _ALPHA = 1, 2                 # kinds of an extra sample
_XMP = 700
# the directories that tifffile does not write → the tags before theirs, which stand in for them
_STANDING_IN: dict[int, int] = {ExifTags.IFD.Exif: 34664, ExifTags.IFD.GPSInfo: 34852}
_BIG = 2 ** 32 - 2 ** 25                      # bytes of pixels from which offsets need 64 bits
_TEXTS = (270, 271, 272, 305, 306, 315, 33432)  # description, maker, model, software, date, artist, copyright


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """tifffile's view of a file."""
    with library('tifffile', path).TiffFile(path) as file:
        yield file


def page_numbers(file: Any) -> list[int]:
    """The pages that are images, and no thumbnails or masks of others."""
    numbers = [number for number, page in enumerate(file.pages) if not (page.is_reduced or page.is_mask)]
    return numbers or [0]


def is_deep(page: Any) -> bool:
    """Whether Pillow would cut a page's values, or not read them."""
    bits = np.max(page.bitspersample)
    return bool(bits > 8) and page.photometric in (_INVERTED, _GREY, _RGB)


def decode_page(path: Path, page: Any) -> Raster:
    """A page of grey or RGB, with or without transparency."""
    samples = 3 if page.photometric == _RGB else 1
    values = page.asarray()
    if page.imagedepth != 1 or values.ndim not in (2, 3):
        raise UserError(f'{path}: holds a volume, expected an image')
    if values.ndim == 3 and page.axes.startswith('S'):
        values = np.moveaxis(values, 0, -1)
    if page.samplesperpixel < samples:
        raise UserError(f'{path}: has {page.samplesperpixel} channels, expected at least {samples}')
    extra = page.extrasamples[0] if page.extrasamples else None
    alpha = extra in (_PREMULTIPLIED, _ALPHA)
    bits = np.max(page.bitspersample)
    return Raster(np.atleast_3d(values)[..., :samples + alpha], 2 ** int(bits) - 1 if 8 < bits < 16 else None, alpha,
                  premultiplied=extra == _PREMULTIPLIED, inverted=page.photometric == _INVERTED)


def page_metadata(path: Path, page: Any) -> Metadata:
    """The metadata of a page."""
    def exif() -> Image.Exif:
        found = Image.Exif()
        found.bigtiff, found.endian = page.parent.is_bigtiff, page.parent.byteorder
        found.load_from_fp(file, page.offset)
        return found
    with open(path, 'rb') as file:
        return Metadata(profile=page.iccprofile, exif=pack_exif(exif), xmp=_xmp(page), dpi=_dpi(page))


def page_orientation(page: Any) -> int:
    """EXIF's number, 1 where there is none."""
    value = page.tags.valueof(ORIENTATION, default=1)
    return int(value) if isinstance(value, int) else 1


def _xmp(page: Any) -> bytes | None:
    value = page.tags.valueof(_XMP)
    value = value.encode() if isinstance(value, str) else value
    return upright_xmp(value) if isinstance(value, bytes) and value else None


def _dpi(page: Any) -> tuple[float, float] | None:
    """Pixels per inch, from pixels per inch (unit 2) or centimetre (3)."""
    unit = {2: 1.0, 3: 2.54}.get(page.tags.valueof(296, default=2))
    values = [page.tags.valueof(tag) for tag in (282, 283)]
    if unit is None or not all(isinstance(value, tuple) and len(value) == 2 and value[0] and value[1] for value in values):
        return None
    return values[0][0] / values[0][1] * unit, values[1][0] / values[1][1] * unit


class Writer:
    """Writes pages into a file, each when it is given; a context manager, which completes the file."""

    def __init__(self, path: Path, size: int) -> None:
        """
        Args:
            size: bytes of all pixels.
        """
        self.path = path
        self.directories: list[dict[int, dict]] = []  # of each page
        self.big = size > _BIG
        self.file = library('tifffile', path).TiffWriter(path, bigtiff=self.big, byteorder='<')

    def add(self, pixels: np.ndarray, metadata: Metadata, several: bool) -> None:
        """Appends a page: (H, W, C) of grey or RGB, the last channel of an even number is transparency."""
        channels = pixels.shape[2]
        exif = load_exif(metadata.exif)
        tags: list[tuple] = [(tag, 2, None, value, True) for tag in _TEXTS
                             if isinstance(value := exif.get(tag), str) and value.isascii()]
        if metadata.xmp:
            tags.append((_XMP, 1, len(metadata.xmp), metadata.xmp, True))
        directories = {kind: content for kind in _STANDING_IN if (content := exif.get_ifd(kind))}
        tags += [(_STANDING_IN[kind], 4, 1, 0, True) for kind in directories]
        self.directories.append(directories)
        self.file.write(
            pixels if channels > 1 else pixels[..., 0], photometric='rgb' if channels > 2 else 'minisblack',
            planarconfig='contig' if channels > 1 else None, extrasamples=['unassalpha'] if channels in (2, 4) else None,
            compression='zlib', predictor=True, iccprofile=metadata.profile, resolution=metadata.dpi,
            resolutionunit='INCH' if metadata.dpi else None, subfiletype=2 if several else 0, metadata=None, software=False,
            extratags=tags)

    def __enter__(self) -> 'Writer':
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.file.close()
        if kind is None and any(self.directories):
            self._add_directories()

    def _add_directories(self) -> None:
        """Appends what tifffile does not write, and lets the tags that stand in for it point there."""
        with opened(self.path) as file:
            entries = [{kind: page.tags[_STANDING_IN[kind]].offset for kind in directories}
                       for page, directories in zip(file.pages, self.directories)]
        header = b'II+\0\x08\0\0\0' + bytes(8) if self.big else b'II*\0' + bytes(4)
        with open(self.path, 'r+b') as file:
            for places, directories in zip(entries, self.directories):
                for kind, content in directories.items():
                    directory = ImageFileDirectory_v2(header, group=kind)
                    for tag, value in content.items():
                        directory[tag] = value
                    start = file.seek(0, os.SEEK_END)
                    start += file.write(bytes(start % 2))
                    file.write(directory.tobytes(start))
                    file.seek(places[kind])
                    file.write(struct.pack('<HHQQ' if self.big else '<HHII', kind, 4, 1, start))
