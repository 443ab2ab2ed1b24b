"""Finished pixels → a file: what each format is written by, and with which settings."""
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from imaging.formats import MAX_QUALITY, Format, WriteOptions
from imaging.frame import Metadata
from imaging.libraries import library

_LARGEST_SEGMENT = 65533 - 29  # bytes of EXIF data or XMP that a JPEG file holds
PNG_LEVEL = 3                  # of zlib: its own choice, 6, takes three times as long for files that are 4% smaller
_PNG_SUB = 16                  # filters each value by the one before it; to try all filters takes four times as long
_INCH = 0.0254                 # metres
_GIF_COLOURS = 255             # of the 256; one is left for transparency


def dropped(form: Format, metadata: Metadata) -> list[str]:
    """What a format does not take of the metadata of an image."""
    if form.name != 'JPEG':
        return []
    return [name for name, data in (('EXIF data', metadata.exif), ('XMP', metadata.xmp))
            if data is not None and len(data) > _LARGEST_SEGMENT]


def check_library(path: Path, form: Format, bits: int) -> None:
    """Raises UserError when a package that writes such a file is missing; meant for before the work."""
    names = {'TIFF': ('tifffile', 'imagecodecs'), 'PPM': ('netpbmfile',) * (bits > 8)}
    for name in names.get(form.name, ('imagecodecs',) * (bits > 8)):
        library(name, path)


def write_pillow(image: Image.Image, path: Path, form: Format, metadata: Metadata, options: WriteOptions) -> None:
    """Writes 8 bits per channel, in any format but TIFF."""
    image = to_palette(image) if form.name == 'GIF' else image
    image.save(path, form.name, **settings(image.mode, form, metadata, options))


def to_palette(image: Image.Image) -> Image.Image:
    """RGB or RGBA → colours of a palette; the index after the last of them is what is transparent by more than half."""
    colours = image.convert('RGB').quantize(_GIF_COLOURS)
    if image.mode == 'RGBA':
        transparent = image.getchannel('A').point(lambda value: 255 if value < 128 else 0)
        if transparent.getbbox():
            colours.paste(_GIF_COLOURS, mask=transparent)
            colours.info['transparency'] = _GIF_COLOURS
    return colours


def settings(mode: str, form: Format, metadata: Metadata, options: WriteOptions) -> dict[str, Any]:
    """Pillow's settings for an image of a mode."""
    lost = dropped(form, metadata)
    found: dict[str, Any] = {}
    if metadata.profile and form.profile:
        found['icc_profile'] = metadata.profile
    if metadata.exif and 'EXIF data' not in lost and form.name in ('PNG', 'JPEG', 'WEBP', 'AVIF'):
        found['exif'] = b'Exif\0\0' + metadata.exif if form.name == 'JPEG' else metadata.exif
    if metadata.dpi and form.name in ('PNG', 'JPEG', 'BMP'):
        found['dpi'] = metadata.dpi
    if metadata.xmp and 'XMP' not in lost and form.name in ('JPEG', 'WEBP', 'AVIF'):
        found['xmp'] = metadata.xmp
    if metadata.xmp and form.name == 'PNG':
        found['pnginfo'] = PngImagePlugin.PngInfo()
        found['pnginfo'].add_itxt('XML:com.adobe.xmp', metadata.xmp.decode('utf-8', 'replace'))
    if form.quality:
        found['quality'] = options.quality
    own: dict[str, dict[str, Any]] = {
        'PNG': {'compress_level': PNG_LEVEL}, 'TGA': {'compression': 'tga_rle'}, 'JPEG': {'subsampling': 0},
        'AVIF': {'subsampling': '4:0:0' if mode == 'L' else '4:4:4'},
        'WEBP': {'lossless': options.quality == MAX_QUALITY, 'exact': True}}
    return found | own.get(form.name, {})


def write_deep(pixels: np.ndarray, path: Path, form: Format, metadata: Metadata) -> None:
    """Writes (H, W, C) of 16 bits per channel, in any format but TIFF."""
    squeezed = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    if form.name == 'PPM':
        library('netpbmfile', path).imwrite(path, squeezed, magicnumber='P5' if squeezed.ndim == 2 else 'P6', maxval=65535)
        return
    codecs = library('imagecodecs', path)
    if form.name == 'JPEG2000':
        kind = 'j2k' if path.suffix.lower() == '.j2k' else 'jp2'
        data = codecs.jpeg2k_encode(squeezed, level=0, reversible=True, codecformat=kind)
        path.write_bytes(data)
        return
    data = memoryview(codecs.png_encode(squeezed, level=4, filter=_PNG_SUB))
    with open(path, 'wb') as file:
        file.write(data[:33])  # the signature and the header; what describes the pixels follows
        for chunk in _png_chunks(metadata):
            file.write(chunk)
        file.write(data[33:])


def _png_chunks(metadata: Metadata) -> list[bytes]:
    """The metadata as chunks of a PNG file."""
    contents = []
    if metadata.profile:
        contents.append((b'iCCP', b'ICC profile\0\0' + zlib.compress(metadata.profile)))
    if metadata.dpi:
        contents.append((b'pHYs', struct.pack('>IIB', *(round(value / _INCH) for value in metadata.dpi), 1)))
    if metadata.exif:
        contents.append((b'eXIf', metadata.exif))
    if metadata.xmp:
        contents.append((b'iTXt', b'XML:com.adobe.xmp\0\0\0\0\0' + metadata.xmp))
    return [struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
            for kind, content in contents]
