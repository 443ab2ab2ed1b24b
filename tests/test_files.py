"""Files of every mode, format and depth, read and written. Files and values are made by other means than the project's."""
import io
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers import message
from lab import slow_except
from PIL import ExifTags, Image, ImageCms, ImageOps
from test_imaging import png, tiff

import models
from imaging import (
    DEFAULTS,
    Animation,
    Canvas,
    Frame,
    WriteOptions,
    check_target,
    read_frames,
    read_header,
    read_image,
    suited,
)
from imaging.tiff import Writer
from utils import UserError

tifffile = pytest.importorskip('tifffile')
imagecodecs = pytest.importorskip('imagecodecs')
pytest.importorskip('netpbmfile')

H, W = 9, 11
RNG = np.random.default_rng(7)
GREY8, RGB8, RGBA8, LA8 = (RNG.integers(0, 256, (H, W, channels), dtype=np.uint8) for channels in (1, 3, 4, 2))
GREY16, RGB16, RGBA16, LA16 = (RNG.integers(0, 65536, (H, W, channels), dtype=np.uint16) for channels in (1, 3, 4, 2))
FLOATS = RNG.random((H, W, 3), dtype=np.float32)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def pillow(mode: str, pixels: np.ndarray, **settings):
    """Writes with Pillow."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    assert image.mode == mode
    return lambda path: image.save(path, **settings)


def tif(pixels: np.ndarray, **settings):
    settings.setdefault('photometric', 'rgb' if pixels.shape[2] > 2 else 'minisblack')
    settings.setdefault('extrasamples', ['unassalpha'] if pixels.shape[2] in (2, 4) else None)
    return lambda path: tifffile.imwrite(path, pixels[..., 0] if pixels.shape[2] == 1 else pixels, **settings)


def content(data: bytes):
    return lambda path: path.write_bytes(data)


def raw(header: str, pixels: np.ndarray):
    return content(header.format(h=H, w=W).encode() + pixels.tobytes())


def palette(transparency=None, **settings):
    """Three colours; indices 0, 1, 2 in turn."""
    image = Image.fromarray((np.arange(H * W) % 3).astype(np.uint8).reshape(H, W))
    image.putpalette([250, 0, 0, 0, 240, 0, 0, 0, 230])
    return lambda path: image.save(path, **({} if transparency is None else {'transparency': transparency}), **settings)


INDICES = (np.arange(H * W) % 3).reshape(H, W)
PALETTE = np.array([[250, 0, 0], [0, 240, 0], [0, 0, 230]], np.uint8)[INDICES]
BITS = (RNG.random((H, W)) < 0.5)
CMYK = RNG.integers(0, 256, (H, W, 4), dtype=np.uint8)
TWELVE = RNG.integers(0, 4096, (H, W, 3), dtype=np.uint16)
STRAIGHT = np.rint(TWELVE / 4095 * 65535).astype(np.uint16)
HALF = np.dstack([np.full((H, W, 3), 8192, np.uint16), np.full((H, W), 32768, np.uint16)])  # premultiplied
READ = {  # what writes a file → its name, pixels and alpha
    'grey PNG': ('a.png', pillow('L', GREY8), GREY8, None),
    'grey PNG with alpha': ('a.png', pillow('LA', LA8), LA8[..., :1], LA8[..., 1]),
    'RGB PNG': ('a.png', pillow('RGB', RGB8), RGB8, None),
    'RGBA PNG': ('a.png', pillow('RGBA', RGBA8), RGBA8[..., :3], RGBA8[..., 3]),
    'palette PNG': ('a.png', palette(), PALETTE, None),
    'palette PNG, one index transparent': ('a.png', palette(1), PALETTE, np.where(INDICES == 1, 0, 255).astype(np.uint8)),
    'palette PNG, transparency as bytes': ('a.png', palette(bytes([255, 128, 7])), PALETTE,
                                           np.array([255, 128, 7], np.uint8)[INDICES]),
    '1-bit PNG': ('a.png', lambda path: Image.fromarray(BITS).save(path), 255 * BITS[..., None].astype(np.uint8), None),
    'grey PNG of 16 bits': ('a.png', lambda path: png(path, GREY16), GREY16, None),
    'grey PNG of 16 bits with alpha': ('a.png', lambda path: png(path, LA16), LA16[..., :1], LA16[..., 1]),
    'RGB PNG of 16 bits': ('a.png', lambda path: png(path, RGB16, interlaced=True), RGB16, None),
    'RGBA PNG of 16 bits': ('a.png', lambda path: png(path, RGBA16), RGBA16[..., :3], RGBA16[..., 3]),
    'PNG of 16 bits, one colour transparent': (
        'a.png', lambda path: png(path, RGB16, transparent=tuple(RGB16[4, 5])), RGB16,
        np.where((RGB16[4, 5] == RGB16).all(-1), 0, 65535).astype(np.uint16)),
    'turned PNG of 16 bits': ('a.png', lambda path: png(path, RGB16, orientation=6), np.rot90(RGB16, -1), None),
    'WebP': ('a.webp', pillow('RGB', RGB8, lossless=True), RGB8, None),
    'WebP with alpha': ('a.webp', pillow('RGBA', RGBA8, lossless=True, exact=True), RGBA8[..., :3], RGBA8[..., 3]),
    'BMP': ('a.bmp', pillow('RGB', RGB8), RGB8, None),
    'grey BMP': ('a.bmp', pillow('L', GREY8), GREY8, None),
    'TGA': ('a.tga', pillow('RGB', RGB8), RGB8, None),
    'TGA with alpha': ('a.tga', pillow('RGBA', RGBA8, compression='tga_rle'), RGBA8[..., :3], RGBA8[..., 3]),
    'GIF': ('a.gif', palette(), PALETTE, None),
    'JPEG 2000': ('a.jp2', pillow('RGB', RGB8), RGB8, None),
    'JPEG 2000 of 16 bits': ('a.jp2', lambda path: path.write_bytes(imagecodecs.jpeg2k_encode(
        RGBA16, level=0, reversible=True)), RGBA16[..., :3], RGBA16[..., 3]),
    'grey JPEG 2000 of 16 bits': ('a.j2k', lambda path: path.write_bytes(imagecodecs.jpeg2k_encode(
        GREY16[..., 0], level=0, reversible=True, codecformat='j2k')), GREY16, None),
    'JPEG 2000 of 12 bits': ('a.jp2', lambda path: path.write_bytes(imagecodecs.jpeg2k_encode(
        TWELVE, level=0, reversible=True, bitspersample=12)), STRAIGHT, None),
    'PPM': ('a.ppm', raw('P6 {w} {h} 255\n', RGB8), RGB8, None),
    'PPM of 16 bits': ('a.ppm', raw('P6 {w} {h} 65535\n', RGB16.astype('>u2')), RGB16, None),
    'PPM of 12 bits': ('a.ppm', raw('P6 {w} {h} 4095\n', TWELVE.astype('>u2')), STRAIGHT, None),
    'PGM': ('a.pgm', raw('P5 {w} {h} 255\n', GREY8), GREY8, None),
    'PGM of 16 bits': ('a.pgm', raw('P5 {w} {h} 65535\n', GREY16.astype('>u2')), GREY16, None),
    'PBM': ('a.pbm', raw('P4 {w} {h}\n', np.packbits(~BITS, axis=1)), 255 * BITS[..., None].astype(np.uint8), None),
    'PAM': ('a.pam', raw('P7\nWIDTH {w}\nHEIGHT {h}\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n', RGBA8),
            RGBA8[..., :3], RGBA8[..., 3]),
    'PAM of 16 bits': ('a.pam', raw('P7\nWIDTH {w}\nHEIGHT {h}\nDEPTH 2\nMAXVAL 65535\nTUPLTYPE GRAYSCALE_ALPHA\nENDHDR\n',
                                    LA16.astype('>u2')), LA16[..., :1], LA16[..., 1]),
    'PFM': ('a.pfm', raw('PF\n{w} {h}\n-1.0\n', FLOATS[::-1].astype('<f4')), FLOATS, None),
    'TIFF': ('a.tif', tif(RGB8), RGB8, None),
    'TIFF with alpha, LZW': ('a.tif', tif(RGBA8, compression='lzw'), RGBA8[..., :3], RGBA8[..., 3]),
    'grey TIFF of 16 bits': ('a.tif', tif(GREY16, compression='lzw', predictor=True), GREY16, None),
    'grey TIFF of 16 bits, 0 is white': ('a.tif', tif(GREY16, photometric='miniswhite'), 65535 - GREY16, None),
    'TIFF of 16 bits': ('a.tif', lambda path: tiff(path, RGB16, '>', deflated=True), RGB16, None),
    'turned TIFF of 16 bits': ('a.tif', lambda path: tiff(path, RGB16, '<', orientation=6), np.rot90(RGB16, -1), None),
    'TIFF of 16 bits, alpha': ('a.tif', tif(RGBA16), RGBA16[..., :3], RGBA16[..., 3]),
    'grey TIFF of 16 bits, alpha': ('a.tif', tif(LA16), LA16[..., :1], LA16[..., 1]),
    'TIFF of 16 bits, unused channel': ('a.tif', tif(RGBA16, extrasamples=['unspecified']), RGBA16[..., :3], None),
    'TIFF of 16 bits, premultiplied': ('a.tif', tif(HALF, extrasamples=['assocalpha']),
                                       np.full((H, W, 3), 16384, np.uint16), HALF[..., 3]),
    'TIFF of 16 bits, channels one after the other': (
        'a.tif', lambda path: tiff(path, RGB16, '<', planar=True), RGB16, None),
    'TIFF of 12 bits': ('a.tif', lambda path: tifffile.imwrite(path, TWELVE, photometric='rgb', bitspersample=12), STRAIGHT,
                        None),
    'TIFF of floats': ('a.tif', tif(FLOATS), FLOATS, None),
    'TIFF of floats up to 255': ('a.tif', tif(FLOATS / FLOATS.max() * 255), FLOATS / FLOATS.max(), None),
    'grey TIFF of half floats': ('a.tif', tif(FLOATS[..., :1].astype(np.float16)),
                                 FLOATS[..., :1].astype(np.float16).astype(np.float32), None),
    'CMYK TIFF': ('a.tif', lambda path: Image.fromarray(CMYK, 'CMYK').save(path),
                  np.asarray(Image.fromarray(CMYK, 'CMYK').convert('RGB')), None),
}


@pytest.mark.parametrize(('name', 'write', 'pixels', 'alpha'), READ.values(), ids=READ)
def test_what_is_read(tmp_path, name, write, pixels, alpha):
    """Depth, channels, values and transparency, without loss."""
    path = tmp_path / name
    write(path)
    frame = read_image(path)
    assert frame.pixels.dtype == pixels.dtype and frame.pixels.shape == pixels.shape
    assert np.allclose(frame.pixels, pixels, rtol=0, atol=1e-6)
    assert (frame.alpha is None) == (alpha is None)
    assert alpha is None or (np.array_equal(frame.alpha, alpha) and frame.alpha.dtype == alpha.dtype)
    assert (frame.height, frame.width) == pixels.shape[:2] == read_header(path)[:2]


# what is written

BICUBIC = models.load('bicubic', 'cpu')


def upscaled(source: Path, target: Path, size: tuple[int, int], options: WriteOptions = DEFAULTS, parts: int = 1) -> Canvas:
    """Bicubic, put in bands and columns; the file is written."""
    form = check_target(target, *size, options=options)
    frame = suited(read_image(source), form)
    canvas = Canvas(target, *size, like=frame, options=options)
    rgb = BICUBIC.upscale(np.ascontiguousarray(frame.rgb()), size)[0]
    edges = [np.linspace(0, side, parts + 1).astype(int).tolist() for side in size]
    for top, bottom in zip(edges[0], edges[0][1:]):
        for left, right in zip(edges[1], edges[1][1:]):
            canvas.put(slice(top, bottom), slice(left, right), rgb[:, top:bottom, left:right])
    canvas.save()
    return canvas


def stored(path: Path) -> np.ndarray:
    """(H, W, C) of a file, by the libraries themselves: 16 bits and floating-point values as they are."""
    data = path.read_bytes()
    if path.suffix == '.tif':
        return np.atleast_3d(tifffile.imread(path))
    if path.suffix == '.png' and data[24] == 16:
        return np.atleast_3d(imagecodecs.png_decode(data))
    if path.suffix == '.jp2':
        return np.atleast_3d(imagecodecs.jpeg2k_decode(data))
    if path.suffix == '.ppm' and b'65535' in data[:20]:
        head = 3 if data[1] == 54 else 1
        return np.frombuffer(data[-SIZE[0] * SIZE[1] * head * 2:], '>u2').reshape(*SIZE, head).astype(np.uint16)
    with Image.open(path) as image:
        image = image.convert({'P': 'RGBA' if 'transparency' in image.info else 'RGB'}.get(image.mode, image.mode))
        return np.atleast_3d(np.asarray(image))


SIZE = 21, 30  # of the result, from 9 × 11
MODES = ('L', 'LA', 'RGB', 'RGBA')
# suffix → the mode that each of MODES becomes, the most bits, and how far lossy values may be off
WRITTEN = {
    '.png': (MODES, 16, 0), '.tif': (MODES, 32, 0), '.jp2': (MODES, 16, 0), '.tga': (MODES, 8, 0),
    '.ppm': (('L', 'L', 'RGB', 'RGB'), 16, 0), '.bmp': (('L', 'L', 'RGB', 'RGB'), 8, 0),
    '.jpg': (('L', 'L', 'RGB', 'RGB'), 8, 2), '.webp': (('RGB', 'RGBA', 'RGB', 'RGBA'), 8, 4),
    '.avif': (('L', 'RGBA', 'RGB', 'RGBA'), 8, 3), '.gif': (('RGB', 'RGB', 'RGB', 'RGB'), 8, 0)}
COLOUR, ALPHA = (0.2, 0.6, 0.8), 0.6


@pytest.mark.parametrize('bits', slow_except([16], [8, 16, 32]))
@pytest.mark.parametrize('mode', slow_except(['L', 'RGBA'], MODES))
@pytest.mark.parametrize('suffix', WRITTEN)
def test_a_flat_image_stays_flat(tmp_path, suffix, mode, bits):
    """In the mode and depth that the format holds; where it has no transparency, on white."""
    full = {8: 255, 16: 65535, 32: 1}[bits]
    colour = list(COLOUR[:1 if mode[0] == 'L' else 3]) + [ALPHA] * mode.endswith('A')
    dtype = {8: np.uint8, 16: np.uint16, 32: np.float32}[bits]
    tif(np.full((H, W, len(colour)), [full * value for value in colour]).round(4).astype(dtype))(tmp_path / 'a.tif')
    canvas = upscaled(tmp_path / 'a.tif', tmp_path / f'b{suffix}', SIZE, parts=2)
    modes, most, error = WRITTEN[suffix]
    expected = modes[MODES.index(mode)]
    found = stored(tmp_path / f'b{suffix}')
    wanted = min(bits, most)
    assert found.shape == (*SIZE, len(expected)) and found.dtype.itemsize == wanted // 8
    values = colour[:3] if len(colour) > 2 else colour[:1] * (1 if expected[0] == 'L' else 3)
    if mode.endswith('A') and expected[-1] != 'A' and suffix != '.gif':
        values = [ALPHA * value + 1 - ALPHA for value in values]
        assert len(canvas.notes) == 1 and 'blended onto 255,255,255' in canvas.notes[0]
    else:
        assert not canvas.notes
    values += [ALPHA] if expected[-1] == 'A' else []
    top = {8: 255, 16: 65535, 32: 1}[wanted]
    assert np.abs(found - top * np.array(values)).max() <= error + (1e-6 if wanted == 32 else 0.51)
    assert np.ptp(found, (0, 1)).max() <= (1e-6 if wanted == 32 else 0)


# what stays beside the pixels

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="Harbour"/></x:xmpmeta>'
TURNED = b'tiff:Orientation="6"'
ADOBE_RGB = imagecodecs.cms_profile('adobergb')
CARRIED = {  # suffix, bits → whether EXIF data, XMP, resolution and profile stay
    ('.png', 8): 'EXIF XMP DPI ICC', ('.png', 16): 'EXIF XMP DPI ICC', ('.jpg', 8): 'EXIF XMP DPI ICC',
    ('.tif', 8): 'EXIF XMP DPI ICC', ('.tif', 16): 'EXIF XMP DPI ICC', ('.webp', 8): 'EXIF XMP ICC',
    ('.avif', 8): 'EXIF XMP ICC', ('.bmp', 8): 'DPI', ('.jp2', 8): '', ('.jp2', 16): '', ('.tga', 8): '',
    ('.ppm', 8): '', ('.gif', 8): ''}


def photograph(path: Path, pixels: np.ndarray) -> None:
    """Lies on its side, and has all that a camera writes."""
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: 'Maker', 0x0132: '2026:11:28 12:00:00'})
    exif[ExifTags.IFD.Exif] = {0x829A: 0.5, 0xA002: W, 0xA003: H, 0x927C: b'maker note'}
    exif[ExifTags.IFD.GPSInfo] = {1: 'N', 2: (50.0, 30.0, 0.0)}
    own = {'tiffinfo': {700: XMP, **exif}} if path.suffix == '.tif' else {'exif': exif.tobytes(), 'xmp': XMP}
    Image.fromarray(pixels).save(path, dpi=(300, 150), icc_profile=ADOBE_RGB, **own)


@pytest.mark.parametrize('source', slow_except(['.jpg'], ['.jpg', '.tif', '.webp']))
@pytest.mark.parametrize(('suffix', 'bits'), CARRIED)
def test_metadata(tmp_path, source, suffix, bits):
    photograph(tmp_path / f'a{source}', np.full((H, W, 3), 90, np.uint8))
    upscaled(tmp_path / f'a{source}', tmp_path / f'b{suffix}', (2 * W, 3 * H), WriteOptions(bits=bits))
    kept = CARRIED[suffix, bits].split()
    with Image.open(tmp_path / f'b{suffix}') as image:
        image.load()
        assert image.size == (3 * H, 2 * W) == ImageOps.exif_transpose(image).size
        exif, info = image.getexif(), image.info
        details, place = exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
        if 'EXIF' in kept:
            assert exif[0x010F] == 'Maker' and exif[0x0132] == '2026:11:28 12:00:00' and exif.get(0x0112, 1) == 1
            assert (details[0x829A], details[0xA002], details[0xA003]) == (0.5, 3 * H, 2 * W)
            assert place[1] == 'N' and place[2] == (50, 30, 0) and details[0x927C] == b'maker note'
        else:
            assert not details and not place
        upright = {XMP.replace(TURNED, b''), XMP.replace(TURNED, TURNED.replace(b'6', b'1'))}
        assert info.get('xmp') in (upright if 'XMP' in kept else {None})
        assert info.get('icc_profile') == (ADOBE_RGB if 'ICC' in kept else None)
        if source != '.webp' and 'DPI' in kept:
            assert info['dpi'] == pytest.approx((300, 150), abs=0.02)


def test_a_thumbnail_goes(tmp_path):
    """EXIF's second directory, written by hand: the thumbnail would show the old image."""
    photograph(tmp_path / 'a.jpg', np.full((H, W, 3), 90, np.uint8))
    with Image.open(tmp_path / 'a.jpg') as image:
        exif = image.info['exif']
    start = 6 + int.from_bytes(exif[10:14], 'big')                                   # of the first directory
    link = start + 2 + 12 * int.from_bytes(exif[start:start + 2], 'big')
    second = b'\0\1' + bytes.fromhex('0201 0004 00000001 00000000') + bytes(4)
    exif = exif[:link] + (len(exif) - 6).to_bytes(4, 'big') + exif[link + 4:] + second
    Image.new('RGB', (5, 4)).save(tmp_path / 'a.jpg', exif=exif)
    with Image.open(tmp_path / 'a.jpg') as image:
        assert image.getexif().get_ifd(ExifTags.IFD.IFD1) == {0x0201: 0}
    upscaled(tmp_path / 'a.jpg', tmp_path / 'b.jpg', (10, 10))
    with Image.open(tmp_path / 'b.jpg') as image:
        assert image.getexif().get_ifd(ExifTags.IFD.IFD1) == {} and image.getexif()[0x010F] == 'Maker'


def srgb_of(adobe: np.ndarray) -> np.ndarray:
    """By the definitions of Adobe RGB (1998) and sRGB, both with white D65; in [0, 1]."""
    xyz = np.array([[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]])
    linear = np.linalg.inv([[0.41239, 0.35758, 0.18048], [0.21264, 0.71517, 0.07219], [0.01933, 0.11919, 0.95053]]) @ (
        xyz @ adobe ** (563 / 256))
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clip(1e-9) ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(('suffix', 'bits'), [key for key, kept in CARRIED.items() if 'ICC' not in kept])
def test_colours_are_converted_where_a_profile_cannot_go(tmp_path, suffix, bits):
    colour = np.array([0.4, 0.6, 0.5])
    tif(np.full((H, W, 3), 65535 * colour).astype(np.uint16), iccprofile=ADOBE_RGB)(tmp_path / 'a.tif')
    upscaled(tmp_path / 'a.tif', tmp_path / f'b{suffix}', (20, 20), WriteOptions(bits=bits))
    found = stored(tmp_path / f'b{suffix}')[10, 10] / (2 ** bits - 1)
    assert np.abs(found - srgb_of(colour)).max() < 1.5 / 255


@pytest.mark.parametrize('bits', [8, 16])
def test_grey_by_its_profile(tmp_path, bits):
    """Where the file is RGB alone, or holds no profile: a grey of 0.3 and gamma 3 is 0.027 of light, 0.178 of sRGB."""
    grey = imagecodecs.cms_profile('gray', whitepoint=[0.34567, 0.35850, 1], gamma=3.0)
    full = 2 ** bits - 1
    tif(np.full((H, W, 1), round(0.3 * full), f'u{bits // 8}'), iccprofile=grey)(tmp_path / 'a.tif')
    for suffix in ('.webp', '.tga', '.ppm'):
        upscaled(tmp_path / 'a.tif', tmp_path / f'b{suffix}', (20, 20))
        found = read_image(tmp_path / f'b{suffix}')
        assert np.abs(found.pixels / (2 ** found.bits - 1) - (1.055 * 0.027 ** (1 / 2.4) - 0.055)).max() < 2 / 255
        assert found.is_grey == (suffix != '.webp')
    upscaled(tmp_path / 'a.tif', tmp_path / 'b.png', (20, 20))
    with Image.open(tmp_path / 'b.png') as image:
        assert image.info['icc_profile'] == grey and image.mode in ('L', 'I;16')


def test_what_does_not_fit_into_a_jpeg_is_said(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = 70_000 * 'x'
    Image.fromarray(RGB8).save(tmp_path / 'a.png', exif=exif)
    canvas = upscaled(tmp_path / 'a.png', tmp_path / 'b.jpg', (20, 20))
    assert canvas.notes == ['JPEG holds no EXIF data of this size: left out']
    assert not upscaled(tmp_path / 'a.png', tmp_path / 'b.png', (20, 20)).notes
    assert read_image(tmp_path / 'b.png').metadata.exif == read_image(tmp_path / 'a.png').metadata.exif


def cmyk_profile() -> bytes:
    """By the ICC's format, of inks without colours: black is L* = 0, cyan a grey of L* = 50, the others are white."""
    straight = bytes(range(256))
    nodes = b''.join(bytes([0 if node & 1 else 128 if node & 8 else 255, 128, 128]) for node in range(16))  # C, M, Y, K
    identity = np.eye(3).ravel().astype('>i4') << 16
    table = b'mft1' + bytes(4) + bytes([4, 3, 2, 0]) + identity.tobytes() + 4 * straight + nodes + 3 * straight
    white = b'XYZ ' + bytes(4) + np.array([0.9642 * 65536, 65536, 0.8249 * 65536]).astype('>i4').tobytes()
    text = b'desc' + bytes(4) + (5).to_bytes(4, 'big') + b'Test\0' + bytes(4 + 4 + 2 + 1 + 67)
    parts = {b'A2B0': table, b'wtpt': white, b'desc': text, b'cprt': b'text' + bytes(4) + b'None\0'}
    place, directory, body = 128 + 4 + 12 * len(parts), len(parts).to_bytes(4, 'big'), b''
    for name, part in parts.items():
        part += bytes(-len(part) % 4)
        directory += name + (place + len(body)).to_bytes(4, 'big') + len(part).to_bytes(4, 'big')
        body += part
    head = (place + len(body)).to_bytes(4, 'big') + bytes(4) + b'\2\x40\0\0prtrCMYKLab ' + bytes(12) + b'acsp'
    head += bytes(128 - len(head) - 60) + np.array([0.9642 * 65536, 65536, 0.8249 * 65536]).astype('>i4').tobytes()
    return head + bytes(128 - len(head)) + directory + body


@pytest.mark.parametrize('suffix', ['.jpg', '.tif'])
def test_cmyk_by_its_profile(tmp_path, suffix):
    """L* = 50 is 119 of sRGB, where Pillow's formula, without a profile, gives cyan."""
    own = {'quality': 100} if suffix == '.jpg' else {}
    for name, settings, expected in (('with', {'icc_profile': cmyk_profile()}, 119), ('without', {}, [0, 255, 255])):
        source = tmp_path / f'{name}{suffix}'
        Image.new('CMYK', (8, 8), (255, 0, 0, 0)).save(source, **settings, **own)
        upscaled(source, tmp_path / 'b.png', (16, 16))
        with Image.open(tmp_path / 'b.png') as image:
            assert np.abs(np.asarray(image).astype(int) - expected).max() <= 1 and 'icc_profile' not in image.info


def test_lab(tmp_path):
    """L* = 50, a* = b* = 0."""
    tifffile.imwrite(tmp_path / 'a.tif', np.full((8, 8, 3), [128, 0, 0], np.uint8), photometric='cielab')
    assert np.abs(read_image(tmp_path / 'a.tif').pixels.astype(int) - 119).max() <= 1


# values of other ranges

RANGES = {  # values → what (0.5 of black to white) becomes, with the range that is given
    '0 to 1': (np.float32([0, 0.5, 1]), None, [0, 0.5, 1]),
    '0 to 255': (np.float32([0, 127.5, 255]), None, [0, 0.5, 1]),
    'a maximum of 128': (np.float32([0, 64, 128]), None, [0, 64 / 255, 128 / 255]),
    'negative': (np.float32([-1, 0, 1]), None, 'from -1 to 1'),
    'high dynamic range': (np.float32([0, 1, 7.5]), None, 'from 0 to 7.5'),
    'more than 255': (np.float32([0, 1, 256]), None, 'from 0 to 256'),
    'not finite': (np.float32([0, 1, np.nan]), None, 'not finite'),
    'not finite, with a range': (np.float32([0, 1, np.inf]), (0, 1), 'not finite'),
    'a given range': (np.float32([-1, 0, 2]), (-1, 1), [0, 0.5, 1]),
    '32-bit integers': (np.uint32([0, 5, 10]), None, 'of type uint32 from 0 to 10'),
    '32-bit integers, with a range': (np.uint32([0, 5, 10]), (0, 10), [0, 0.5, 1]),
    'signed integers, with a range': (np.int16([-8, 0, 8]), (-8, 8), [0, 0.5, 1]),
    'doubles': (np.float64([0, 0.25, 1]), None, [0, 0.25, 1]),
    '12 of 16 bits, with a range': (np.uint16([0, 2048, 4095]), (0, 4095), [0, 2048 / 4095, 1]),
}


@pytest.mark.parametrize(('values', 'given', 'expected'), RANGES.values(), ids=RANGES)
def test_ranges(tmp_path, values, given, expected):
    tifffile.imwrite(tmp_path / 'a.tif', np.repeat(values[None], 2, 0), photometric='minisblack')
    if isinstance(expected, str):
        text = message(read_image, tmp_path / 'a.tif', given)
        assert text.startswith(f'{tmp_path}/a.tif: holds values ') and expected in text
        return
    pixels = read_image(tmp_path / 'a.tif', given).pixels[0, :, 0]
    assert np.allclose(pixels / (1 if pixels.dtype.kind == 'f' else 65535), expected, atol=1e-5)


def test_a_range_without_an_extent(tmp_path):
    for given in ((1, 1), (2, 1), (float('nan'), 1)):
        assert 'expected two numbers' in message(read_image, tmp_path / 'a.tif', given)


@pytest.mark.slow
@pytest.mark.parametrize('suffix', ['.png', '.tif', '.jp2', '.ppm'])
def test_a_network_keeps_more_than_8_bits(tmp_path, suffix):
    """A ramp of 64 levels between two of 8 bits has 32 levels and more afterwards, in their order."""
    tif(np.broadcast_to((30000 + 4 * np.arange(64)).astype(np.uint16)[None, :, None], (16, 64, 3)))(tmp_path / 'a.tif')
    frame = read_image(tmp_path / 'a.tif')
    canvas = Canvas(tmp_path / f'b{suffix}', 32, 128, like=frame)
    canvas.put(slice(0, 32), slice(0, 128), models.load('MSIT-S', 'cpu').upscale(frame.rgb(), (32, 128))[0])
    canvas.save()
    middle = read_image(tmp_path / f'b{suffix}').pixels[16, 16:-16].astype(int)
    assert len(np.unique(middle)) > 32 and np.abs(middle - 30126).max() < 257


# transparency

def disc(side: int) -> np.ndarray:
    """(side, side, 4): red, opaque in a disc with a soft edge; where it is transparent, green."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    alpha = np.clip(side / 3 - np.hypot(y, x), 0, 1)
    image = np.zeros((side, side, 4), np.uint8)
    image[alpha > 0, 0], image[alpha == 0, 1] = 255, 255
    image[..., 3] = np.rint(255 * alpha)
    return image


@pytest.mark.parametrize('scale', slow_except([2.5], [2, 2.5, 4]))
@pytest.mark.parametrize('suffix', ['.png', '.tif', '.webp', '.jpg'])
def test_colours_under_transparent_pixels_stay_there(tmp_path, suffix, scale):
    """On red the disc disappears."""
    Image.fromarray(disc(40)).save(tmp_path / 'a.png')
    side = round(40 * scale)
    upscaled(tmp_path / 'a.png', tmp_path / f'b{suffix}', (side, side), WriteOptions(background=(255, 0, 0)), parts=3)
    with Image.open(tmp_path / f'b{suffix}') as image:
        red = Image.new('RGBA', image.size, (255, 0, 0, 255))
        red.alpha_composite(image.convert('RGBA'))
    assert np.abs(np.asarray(red)[..., :3].astype(int) - (255, 0, 0)).max() <= (8 if suffix in ('.webp', '.jpg') else 1)


@pytest.mark.slow
@pytest.mark.parametrize('scale', [2, 3.3, 4])
def test_colours_under_transparent_pixels_stay_there_with_a_network(tmp_path, scale):
    Image.fromarray(disc(40)).save(tmp_path / 'a.png')
    frame, side = read_image(tmp_path / 'a.png'), round(40 * scale)
    canvas = Canvas(tmp_path / 'b.png', side, side, like=frame)
    canvas.put(slice(0, side), slice(0, side), models.load('MSIT-S', 'cpu').upscale(frame.rgb(), (side, side))[0])
    canvas.save()
    with Image.open(tmp_path / 'b.png') as image:
        red = Image.new('RGBA', image.size, (255, 0, 0, 255))
        red.alpha_composite(image)
    assert np.abs(np.asarray(red)[..., :3].astype(int) - (255, 0, 0)).max() <= 8


def test_a_coloured_background_under_grey(tmp_path):
    """A quarter of white over blue is (64, 64, 255); over grey the result is grey."""
    tif(np.full((H, W, 2), [255, 64], np.uint8))(tmp_path / 'a.tif')
    for background, expected in (((0, 0, 255), [64, 64, 255]), ((100, 100, 100), [139])):
        upscaled(tmp_path / 'a.tif', tmp_path / 'b.bmp', SIZE, WriteOptions(background=background))
        found = stored(tmp_path / 'b.bmp')
        assert found.shape == (*SIZE, len(expected)) and np.abs(found - np.array(expected)).max() <= 1


def test_transparent_pixels_take_the_colours_beside_them():
    """By hand: a pixel between two colours becomes their mean, far ones the mean of all visible ones."""
    pixels = np.zeros((1, 200, 1), np.uint8)
    pixels[0, [0, 2]] = [[100], [50]]
    visible = np.zeros((1, 200), bool)
    visible[0, [0, 2]] = True
    frame = Frame(pixels=pixels, alpha=np.where(visible, 255, 0).astype(np.uint8))
    found = frame.rgb()[0, :, 0]
    assert found[:4].tolist() == [100, 75, 50, 50] and found[2 + 64] == 50 and (found[2 + 65:] == 75).all()
    for opaque in (True, False):                                                     # nothing to do, nothing to do it with
        alpha = np.full((1, 200), 255 * opaque, np.uint8)
        assert np.array_equal(Frame(pixels=pixels, alpha=alpha).rgb()[..., :1], pixels)


def test_transparency_is_pillows_bicubic(tmp_path):
    """In parts and as a whole, to rounding of the parts' places."""
    alpha = RGBA8[..., 3]
    Image.fromarray(RGBA8).save(tmp_path / 'a.png')
    expected = np.asarray(Image.fromarray(alpha).resize((37, 29), Image.Resampling.BICUBIC)).astype(int)
    for parts in (1, 4):
        upscaled(tmp_path / 'a.png', tmp_path / 'b.png', (29, 37), parts=parts)
        found = stored(tmp_path / 'b.png')[..., 3].astype(int)
        assert np.abs(found - expected).max() <= (0 if parts == 1 else 1)


# animations

def animation(path: Path, count: int = 4, **settings) -> list[np.ndarray]:
    """A square that moves over a background, which each frame shows whole."""
    frames = [np.full((12, 16, 3), (0, 60, 120), np.uint8) for _ in range(count)]
    for number, frame in enumerate(frames):
        frame[2:6, 2 + 2 * number:6 + 2 * number] = (250, 200, 10)
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], **settings)
    return frames


def test_frames_are_what_a_viewer_shows(tmp_path):
    """A GIF whose later frames are small, and stay, or go away, or leave a hole: the screen after each of them, by hand."""
    first = Image.new('P', (4, 1))
    first.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    def frame(values: list[int], left: int, disposal: int) -> bytes:
        out = io.BytesIO()
        image = Image.new('P', (len(values), 1))
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        image.putdata(values)
        image.save(out, 'GIF', optimize=False)
        data = out.getvalue()
        start = data.index(b',', 13 + 3 * 2 ** ((data[10] & 7) + 1))
        control = b'\x21\xf9\x04' + bytes([disposal << 2 | 1, 5, 0, 0]) + b'\0'     # 50 ms; index 0 is transparent
        return control + b',' + left.to_bytes(2, 'little') + data[start + 3:-1]
    base = io.BytesIO()
    first.save(base, 'GIF', optimize=False)
    head = base.getvalue()[:13 + 3 * 2 ** ((base.getvalue()[10] & 7) + 1)]
    head = b'GIF89a' + head[6:]
    (tmp_path / 'a.gif').write_bytes(head + frame([1, 1, 1, 1], 0, 1) + frame([2], 1, 3) + frame([2, 2], 2, 2)
                                     + frame([2], 0, 1) + b';')
    shown = []
    for frame_ in read_frames(tmp_path / 'a.gif'):
        assert frame_.duration == 50
        alpha = np.full(frame_.pixels.shape[:2], 255) if frame_.alpha is None else frame_.alpha
        shown.append(''.join('.' if not a else {(255, 0, 0): 'r', (0, 255, 0): 'g'}[tuple(p)]
                             for p, a in zip(frame_.pixels[0].tolist(), alpha[0])))
    assert shown == ['rrrr', 'rgrr', 'rrgg', 'gr..']


def canvases(made: Animation, source: Path, times: int = 1) -> Iterator[Canvas]:
    """The frames of a file, each pixel repeated."""
    for frame in read_frames(source):
        canvas = made.canvas(times * frame.height, times * frame.width, like=frame)
        rgb = frame.rgb() / np.float64(np.iinfo(frame.pixels.dtype).max)
        canvas.put(slice(0, canvas.height), slice(0, canvas.width),
                   torch.from_numpy(rgb.repeat(times, 0).repeat(times, 1)).movedim(-1, 0))
        yield canvas


PLAYS = {'.gif': [({}, 1), ({'loop': 0}, 0), ({'loop': 3}, 4)], '.webp': [({'loop': 0}, 0), ({'loop': 3}, 3)],
         '.png': [({'loop': 0}, 0), ({'loop': 3}, 3)]}


@pytest.mark.parametrize('target', ['.gif', '.webp', '.png', '.tif'])
@pytest.mark.parametrize('source', slow_except(['.gif'], ['.gif', '.webp', '.png', '.tif']))
def test_animations(tmp_path, source, target):
    """From each format into each: frames, durations, how often they are shown."""
    times = [100, 250, 40, 500]
    for settings, plays in PLAYS.get(source, [({}, 1)]):
        own = {'lossless': True} if source == '.webp' else {}
        frames = animation(tmp_path / f'a{source}', **({} if source == '.tif' else {'duration': times}), **settings, **own)
        header = read_header(tmp_path / f'a{source}')
        assert header == (12, 16, 4, plays, source == '.tif')
        lossless = DEFAULTS._replace(quality=100)
        modes = {frame.mode for frame in read_frames(tmp_path / f'a{source}')}
        made = Animation(tmp_path / f'b{target}', frames=4, plays=header.plays, modes=modes, options=lossless)
        made.write(canvases(made, tmp_path / f'a{source}', 2))
        with Image.open(tmp_path / f'b{target}') as image:
            assert image.n_frames == 4 and image.size == (32, 24)
            for number, expected in enumerate(frames):
                image.seek(number)
                image.load()
                if 'duration' in image.info and source != '.tif':
                    assert image.info['duration'] == times[number]
                found = np.asarray(image.convert('RGB')).astype(int)
                assert np.abs(found - expected.repeat(2, 0).repeat(2, 1)).max() == 0
        assert read_header(tmp_path / f'b{target}').plays == (1 if target == '.tif' else plays)


@pytest.mark.parametrize('suffix', ['.gif', '.webp', '.png', '.tif'])
def test_frames_are_written_when_they_are_finished(tmp_path, suffix):
    """However many there are, three are in memory at most: the one being made, and two to see what changes."""
    like = Frame(pixels=RGB8, duration=50)
    made = Animation(tmp_path / f'a{suffix}', frames=12, modes=['RGB'])
    known: list[weakref.ref] = []
    most = 0

    def finished() -> Iterator[Canvas]:
        nonlocal most
        for number in range(12):
            canvas = made.canvas(H, W, like=like)
            canvas.put(slice(0, H), slice(0, W), torch.full((3, H, W), number / 12))
            known.append(weakref.ref(canvas.pixels))
            most = max(most, sum(reference() is not None for reference in known))
            yield canvas
    made.write(finished())
    assert most <= 3 and read_header(tmp_path / f'a{suffix}').frames == 12


@pytest.mark.parametrize('suffix', ['.gif', '.png', '.webp'])
def test_equal_frames_are_shown_once_for_longer(tmp_path, suffix):
    made = Animation(tmp_path / f'a{suffix}', frames=4, modes=['L'], options=DEFAULTS._replace(quality=100))
    frames = [Frame(pixels=np.full((4, 5, 1), value, np.uint8), duration=duration)
              for value, duration in ((9, 40), (9, 60), (200, 100), (9, 30))]

    def finished() -> Iterator[Canvas]:
        for frame in frames:
            canvas = made.canvas(4, 5, like=frame)
            canvas.put(slice(0, 4), slice(0, 5), torch.full((3, 4, 5), int(frame.pixels[0, 0, 0]) / 255))
            yield canvas
    made.write(finished())
    shown = [(int(frame.pixels[0, 0, 0]), frame.duration) for frame in read_frames(tmp_path / f'a{suffix}')]
    assert shown == [(9, 100), (200, 100), (9, 30)]


LONG = '''
import resource, sys
import numpy as np, torch
from common.allocator import return_large_blocks
from imaging import Animation, Frame
return_large_blocks()  # what glibc keeps of freed memory varies from run to run
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
made = Animation(sys.argv[1], frames=200, modes=['RGB'])
scene = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
scene = torch.from_numpy(scene) / 255
def finished():
    for number in range(200):
        if number == 5:
            finished.before = used()
        canvas = made.canvas(512, 512, like=Frame(pixels=np.zeros((1, 1, 3), np.uint8), duration=40))
        canvas.put(slice(0, 512), slice(0, 512), scene.roll(8 * number, 2))
        yield canvas
made.write(finished())
print(used() - finished.before)
'''


@pytest.mark.slow
@pytest.mark.parametrize('suffix', ['.gif', '.webp', '.png'])
def test_the_memory_of_many_frames(tmp_path, suffix):
    """200 frames of 512x512 are 150 MiB in RGB, and 50 in palettes."""
    words = [sys.executable, '-c', LONG, str(tmp_path / f'a{suffix}')]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 25  # MiB
    assert read_header(tmp_path / f'a{suffix}').frames == 200


def test_an_avif_animation_is_read(tmp_path):
    times = [100, 250, 40, 500]
    frames = animation(tmp_path / 'a.avif', duration=times, quality=100, subsampling='4:4:4')
    assert read_header(tmp_path / 'a.avif').frames == 4
    for frame, expected, time in zip(read_frames(tmp_path / 'a.avif'), frames, times):
        assert frame.duration == time and np.abs(frame.pixels.astype(int) - expected).max() <= 8


def test_an_animation_with_transparency(tmp_path):
    """What one frame shows and the next leaves out is gone; in every format."""
    pages = [np.zeros((8, 8, 4), np.uint8) for _ in range(3)]
    for number, page in enumerate(pages):
        page[:, 2 * number:2 * number + 2] = (200, 0, 0, 255)
    images = [Image.fromarray(page) for page in pages]
    images[0].save(tmp_path / 'a.png', save_all=True, append_images=images[1:], duration=70)
    for suffix in ('.gif', '.webp', '.png', '.tif'):
        made = Animation(tmp_path / f'b{suffix}', frames=3)
        made.write(canvases(made, tmp_path / 'a.png'))
        for frame, page in zip(read_frames(tmp_path / f'b{suffix}'), pages):
            assert np.array_equal(frame.alpha, page[..., 3])
            assert np.abs(frame.pixels[page[..., 3] > 0].astype(int) - (200, 0, 0)).max() <= 4


def test_pages_have_sizes_and_depths_of_their_own(tmp_path):
    """And metadata; a thumbnail among them is no page."""
    with tifffile.TiffWriter(tmp_path / 'a.tif') as file:
        file.write(RGB16, photometric='rgb', iccprofile=ADOBE_RGB)
        file.write(RGB8[:4, :4], photometric='rgb', subfiletype=1)
        file.write(GREY8[:5, :, 0], photometric='minisblack')
    assert read_header(tmp_path / 'a.tif') == (H, W, 2, 1, True)
    made = Animation(tmp_path / 'b.tif', frames=2)
    made.write(canvases(made, tmp_path / 'a.tif'))
    with tifffile.TiffFile(tmp_path / 'b.tif') as file:
        assert np.array_equal(file.pages[0].asarray(), RGB16) and file.pages[0].iccprofile == ADOBE_RGB
        assert np.array_equal(file.pages[1].asarray(), GREY8[:5, :, 0]) and file.pages[1].iccprofile is None
    made = Animation(tmp_path / 'c.gif', frames=2)
    with pytest.raises(UserError, match=r'c\.gif: its frames have different sizes, 9x11 and 5x11'):
        made.write(canvases(made, tmp_path / 'a.tif'))
    assert not (tmp_path / 'c.gif').exists() and not list(tmp_path.glob('.partial*'))


def test_a_large_tiff_has_wide_offsets(tmp_path):
    """Beyond 4 GiB of pixels; the Exif directories are found there too."""
    photograph(tmp_path / 'a.jpg', np.full((H, W, 3), 90, np.uint8))
    metadata = read_image(tmp_path / 'a.jpg').metadata
    with Writer(tmp_path / 'b.tif', 2 ** 33) as writer:
        writer.add(RGB16, metadata, several=False)
    assert (tmp_path / 'b.tif').read_bytes()[:4] == b'II+\0'
    frame = read_image(tmp_path / 'b.tif')
    exif = Image.Exif()
    exif.load(frame.metadata.exif)
    assert np.array_equal(frame.pixels, RGB16) and exif[0x010F] == 'Maker'
    assert exif.get_ifd(ExifTags.IFD.Exif)[0x829A] == 0.5 and exif.get_ifd(ExifTags.IFD.GPSInfo)[1] == 'N'
