"""EXIF, XMP, resolution and ICC profile of a file, made true for the upright and upscaled image."""
import re
from collections.abc import Callable
from dataclasses import replace

from PIL import ExifTags, Image

from imaging.frame import Metadata
from imaging.reading import DAMAGED

ORIENTATION = 0x0112
_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_SIZES = (0xA002, 0xA003)  # of the Exif directory: PixelXDimension, PixelYDimension
# tags of the main directory that describe how a TIFF file stores its pixels, or that are kept by other means
_STORAGE = {
    *range(254, 260), *range(262, 267), ORIENTATION, 273, *range(277, 285), *range(288, 294), 296, 297, 301,
    *range(317, 326), *range(330, 348), *range(512, 533), 700, 33421, 33422, 34675, 34377, *range(50706, 52600)}
_PLACES = {ExifTags.IFD.Interop}  # of the Exif directory: places in the old file
_ORIENTATION_XMP = re.compile(rb'(tiff:Orientation(?:="|>))[0-9]+')


def read_metadata(image: Image.Image) -> Metadata:
    """The metadata of a decoded image of Pillow's; that of its upright form."""
    info = image.info
    xmp = info.get('xmp')
    dpi = info.get('dpi')
    valid = isinstance(dpi, tuple) and len(dpi) == 2 and all(0 < value < 1e6 for value in dpi)
    profile = info.get('icc_profile')
    return Metadata(profile=profile if isinstance(profile, bytes) and profile else None, exif=pack_exif(image.getexif),
                    xmp=upright_xmp(xmp) if isinstance(xmp, bytes) else None,
                    dpi=(float(dpi[0]), float(dpi[1])) if valid and dpi else None)


def pack_exif(read: Callable[[], Image.Exif]) -> bytes | None:
    """The bytes of EXIF data, without orientation, thumbnail and what describes the file.

    Args:
        read: reads the data.
    Returns: None when nothing is left, or the data are damaged: the image is worth more.
    """
    kept = Image.Exif()
    try:
        exif = read()
        kept.update({tag: value for tag, value in exif.items() if tag not in {*_STORAGE, *_DIRECTORIES}})
        for directory in _DIRECTORIES:
            if content := {tag: value for tag, value in exif.get_ifd(directory).items() if tag not in _PLACES}:
                kept[directory] = content
        return _bytes(kept) if len(kept) else None
    except DAMAGED:
        return None


def upright_xmp(xmp: bytes) -> bytes:
    """The packet of an image whose orientation has been applied."""
    return _ORIENTATION_XMP.sub(rb'\g<1>1', xmp)


def load_exif(data: bytes | None) -> Image.Exif:
    """What `Metadata.exif` holds."""
    exif = Image.Exif()
    if data:
        exif.load(data)
    return exif


def with_size(metadata: Metadata, height: int, width: int) -> Metadata:
    """The metadata of an image of another size."""
    exif = load_exif(metadata.exif)
    details = exif.get_ifd(ExifTags.IFD.Exif)
    if not any(tag in details for tag in _SIZES):
        return metadata
    details[_SIZES[0]], details[_SIZES[1]] = width, height
    return replace(metadata, exif=_bytes(exif))


def _bytes(exif: Image.Exif) -> bytes:
    return exif.tobytes().removeprefix(b'Exif\0\0')
