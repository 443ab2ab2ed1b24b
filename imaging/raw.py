"""Raw files of cameras, developed to sRGB of 16 bits per channel: by LibRaw, through imageio.

imageio finds out by itself what opens a file, and fetches addresses. Here it gets an open file and the name of one plugin,
so that it does neither. What the plugin needs is an extra: pip install rawpy
"""
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.quiet import without_stderr
from imaging import tiff
from imaging.deep import check_pixels
from imaging.formats import RAW_SUFFIXES
from imaging.frame import Frame, Metadata
from imaging.libraries import library
from imaging.reading import DAMAGED, check_file
from utils import UserError

# the white balance of the camera, the curve of sRGB, and one brightness for all images of a series
_DEVELOPED = {'output_bps': 16, 'use_camera_wb': True, 'no_auto_bright': True, 'gamma': (2.4, 12.92)}
_QUARTER_TURN = 4  # a bit of LibRaw's number of an orientation


def is_raw(path: Path) -> bool:
    """Whether a file is taken as that of a camera, by its suffix: most begin like a TIFF, whose pages are small previews."""
    return path.suffix.lower() in RAW_SUFFIXES


def read_raw_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright image. Raises UserError."""
    with _opened(path) as file:
        return _size(path, file)


def read_raw(path: Path) -> Frame:
    """The developed, upright image, with EXIF and XMP where the file is built like a TIFF. Raises UserError."""
    with _opened(path) as file:
        check_pixels(path, *_size(path, file))
        try:
            pixels = file.read(**_DEVELOPED)
        except UnboundLocalError as error:  # all that imageio's plugin leaves of an error of LibRaw
            raise UserError(f'{path}: damaged raw file, or cut short') from error
    return Frame(pixels=pixels, metadata=_metadata(path))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """imageio's view of a file."""
    check_file(path)
    errors = library('rawpy', path).LibRawError
    door = library('imageio.v3', path)
    with open(path, 'rb') as file, without_stderr():
        try:
            with door.imopen(file, 'r', plugin='rawpy') as opened:
                yield opened
        except OSError as error:
            raise UserError(f'{path}: no raw file that LibRaw reads') from error
        except errors as error:
            raise UserError(f'{path}: damaged raw file, or cut short') from error


def _size(path: Path, file: Any) -> tuple[int, int]:
    known = file.metadata(exclude_applied=False)
    height, width = known['height'], known['width']
    return (width, height) if known['flip'] & _QUARTER_TURN else (height, width)


def _metadata(path: Path) -> Metadata:
    try:
        with tiff.opened(path) as file:
            return replace(tiff.page_metadata(path, file.pages[0]), profile=None, dpi=None)
    except DAMAGED:  # or no TIFF: the image is worth more
        return Metadata()
