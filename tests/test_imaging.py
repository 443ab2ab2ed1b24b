"""Reading image files, on files built here byte by byte: 16-bit levels are rounded, and nothing but images is opened."""
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

import imaging
from imaging import open_image, read_rgb, read_size, save_image
from utils import UserError

# Level of 16 bits → of 8 bits: 257·k − 128 to 257·k + 128 are k. The high byte of 129 and 0x01FF is 0 and 1, one too
# low; that of 0x8100 and 0xFF7E is 129 and 255, one too high.
ROUNDED = {0: 0, 128: 0, 129: 1, 385: 1, 0x01FF: 2, 0x7FFF: 127, 0x8000: 128, 0x80FF: 128, 0x8100: 128, 0x8101: 129,
           0xFF7E: 254, 0xFF7F: 255, 0xFFFF: 255}


def levels(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, C) of 16 bits, and what they are in 8 bits; the rows and channels differ."""
    keys = list(ROUNDED)
    picked = [[[keys[(3 * y + x + 5 * c) % len(keys)] for c in range(channels)] for x in range(11)] for y in range(9)]
    deep = np.array(picked, np.uint16)
    return deep, np.vectorize(ROUNDED.get)(deep).astype(np.uint8)


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels → PNG's number


def png(path: Path, deep: np.ndarray, interlaced: bool = False, transparent: tuple[int, ...] = (),
        orientation: int | None = None) -> Path:
    """Writes a 16-bit PNG. `transparent`: the one level or colour that stands for transparency."""
    height, width, channels = deep.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    parts = [deep[top::rows, left::columns].astype('>u2') for top, left, rows, columns in passes]
    lines = b''.join(b'\0' + line.tobytes() for part in parts if part.size for line in part)
    header = struct.pack('>IIBBBBB', width, height, 16, COLOUR_TYPES[channels], 0, 0, interlaced)
    exif = struct.pack('>2sHIHHHIHHI', b'MM', 42, 8, 1, 0x0112, 3, 1, orientation or 1, 0, 0)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header)
                     + (chunk(b'eXIf', exif) if orientation else b'')
                     + (chunk(b'tRNS', struct.pack(f'>{len(transparent)}H', *transparent)) if transparent else b'')
                     + chunk(b'IDAT', zlib.compress(lines)) + chunk(b'IEND', b''))
    return path


def tiff(path: Path, deep: np.ndarray, order: str, *, photometric: int = 2, extra: int | None = None,
         deflated: bool = False, planar: bool = False, orientation: int = 1) -> Path:
    """Writes a 16-bit TIFF of one strip, or one per channel. `order`: '<' or '>'; `extra`: kind of the last channel."""
    height, width, channels = deep.shape
    parts = deep.transpose(2, 0, 1) if planar else [deep]
    strips = [np.ascontiguousarray(part).astype(f'{order}u2').tobytes() for part in parts]
    strips = [zlib.compress(strip) for strip in strips] if deflated else strips
    tags = {256: [width], 257: [height], 258: [16] * channels, 259: [8 if deflated else 1], 262: [photometric],
            273: [0] * len(strips), 274: [orientation], 277: [channels], 278: [height], 279: [len(s) for s in strips],
            284: [2 if planar else 1]}
    tags |= {338: [extra]} if extra is not None else {}
    place = 8 + 2 + 12 * len(tags) + 4                                               # of what follows the directory
    for values in tags.values():
        place += 4 * len(values) if len(values) > 1 else 0
    tags[273] = [place + sum(map(len, strips[:number])) for number in range(len(strips))]
    directory, behind, place = struct.pack(f'{order}H', len(tags)), b'', 8 + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):                                         # all as 32-bit numbers
        content = struct.pack(f'{order}{len(values)}I', *values)
        if len(values) > 1:
            behind, content = behind + content, struct.pack(f'{order}I', place + len(behind))
        directory += struct.pack(f'{order}HHI', tag, 4, len(values)) + content
    path.write_bytes({'<': b'II*\0', '>': b'MM\0*'}[order] + struct.pack(f'{order}I', 8) + directory
                     + struct.pack(f'{order}I', 0) + behind + b''.join(strips))
    return path


# 16 bits

@pytest.mark.parametrize('interlaced', [False, True])
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_png(tmp_path, channels, interlaced):
    deep, expected = levels(channels)
    path = png(tmp_path / 'deep.png', deep, interlaced)
    image = open_image(path)
    grey_as_colours = {1: [0, 0, 0], 2: [0, 0, 0, 1]}
    assert np.array_equal(read_rgb(path), expected[..., grey_as_colours.get(channels, [0, 1, 2])[:3]])
    assert image.has_transparency_data == (channels in (2, 4))
    if channels in (2, 4):
        assert np.array_equal(np.asarray(image.getchannel('A')), expected[..., -1])


@pytest.mark.parametrize('channels', [1, 3])
def test_transparent_colour_of_a_png(tmp_path, channels):
    """Exactly that colour: its neighbours that are the same in 8 bits stay opaque."""
    deep = np.repeat(np.array([[299, 300, 301]], np.uint16)[..., None], channels, 2)
    image = open_image(png(tmp_path / 'deep.png', deep, transparent=(300,) * channels)).convert('RGBA')
    assert np.asarray(image).tolist() == [[[1, 1, 1, 255], [1, 1, 1, 0], [1, 1, 1, 255]]]


@pytest.mark.parametrize('channels', [1, 2, 3])
def test_orientation_of_a_png(tmp_path, channels):
    deep, expected = levels(channels)
    path = png(tmp_path / 'deep.png', deep, orientation=6)
    assert np.array_equal(read_rgb(path)[..., 0], np.rot90(expected[..., 0], -1)) and read_size(path) == (11, 9)


@pytest.mark.parametrize('orientation', [1, 6])
@pytest.mark.parametrize('deflated', [False, True])
@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize(('channels', 'settings'), [
    (1, {'photometric': 1}), (3, {}), (4, {'extra': 0}), (4, {'extra': 2}), (4, {'photometric': 5})])
def test_tiff(tmp_path, channels, settings, order, deflated, orientation):
    """Grey, RGB, RGB with an unused channel, RGBA, CMYK."""
    deep, expected = levels(channels)
    path = tiff(tmp_path / 'deep.tif', deep, order, deflated=deflated, orientation=orientation, **settings)
    image = open_image(path)
    expected = expected[..., :3] if settings.get('extra') == 0 else expected
    expected = np.rot90(expected, -1) if orientation == 6 else expected
    assert np.array_equal(np.atleast_3d(np.asarray(image)), expected)
    assert read_size(path) == expected.shape[:2] and read_rgb(path).shape == (*expected.shape[:2], 3)


@pytest.mark.parametrize('order', ['<', '>'])
def test_premultiplied_tiff(tmp_path, order):
    """Colour / alpha: 8481 / 32896 = 0.25781 is 65.74 of 255; the high bytes alone, 33 / 128, would give 65."""
    deep = np.array([[[8481, 32896, 0, 32896], [7, 0, 0, 0]]], np.uint16)
    image = open_image(tiff(tmp_path / 'deep.tif', deep, order, extra=1))
    assert np.asarray(image)[0, 0].tolist() == [66, 255, 0, 128] and np.asarray(image)[0, 1, 3] == 0


@pytest.mark.parametrize('deflated', [False, True])
def test_channels_one_after_the_other_are_refused(tmp_path, deflated):
    """Pillow would take other bytes for the colours, or cut them."""
    path = tiff(tmp_path / 'deep.tif', levels(3)[0], '<', planar=True, deflated=deflated)
    with pytest.raises(UserError, match=r'deep\.tif: .*interleaved channels'):
        open_image(path)


@pytest.mark.parametrize(('kind', 'channels', 'plain'),
                         [('P5', 1, False), ('P2', 1, True), ('P6', 3, False), ('P3', 3, True)])
def test_ppm(tmp_path, kind, channels, plain):
    deep, expected = levels(channels)
    content = ' '.join(map(str, deep.ravel())).encode() if plain else deep.astype('>u2').tobytes()
    (tmp_path / 'deep.ppm').write_bytes(f'{kind} {deep.shape[1]} {deep.shape[0]} 65535\n'.encode() + content)
    assert np.array_equal(read_rgb(tmp_path / 'deep.ppm'), np.broadcast_to(expected, (*deep.shape[:2], 3)))


def test_8_bits_stay_what_they_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    for suffix, settings in {'png': {}, 'tif': {}, 'webp': {'lossless': True, 'exact': True}}.items():
        Image.fromarray(pixels).save(tmp_path / f'a.{suffix}', **settings)
        assert np.array_equal(np.asarray(open_image(tmp_path / f'a.{suffix}')), pixels)


def test_orientation_of_a_grey_tiff(tmp_path):
    """Uncompressed and of one channel: Pillow would map such a file into memory."""
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / 'a.tif'
    Image.fromarray(pixels).save(path, exif=exif)
    assert np.array_equal(read_rgb(path)[..., 0], np.rot90(pixels, -1)) and read_size(path) == (3, 2)


# what is opened

EPS = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n0 0 10 10 rectfill\n%%EOF\n'


@pytest.mark.parametrize('read', [open_image, read_rgb, read_size])
def test_postscript_under_the_name_of_an_image_runs_nothing(tmp_path, monkeypatch, read):
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', lambda *args, **settings: pytest.fail('Ghostscript was started'))
    (tmp_path / 'x.png').write_bytes(EPS)
    with Image.open(tmp_path / 'x.png') as image:                                    # Pillow by itself takes it for one
        assert image.format == 'EPS'
    with pytest.raises(UserError, match=r'x\.png: not an image that can be read$'):
        read(tmp_path / 'x.png')


def test_suffix_and_content_may_differ(tmp_path):
    pixels = np.full((4, 6, 3), 9, np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.jpg', 'png')
    assert np.array_equal(read_rgb(tmp_path / 'a.jpg'), pixels)


def test_any_size_is_read_and_the_limit_of_others_stays(tmp_path, monkeypatch):
    """Pillow refuses more than twice its limit. It is a setting of the whole process: others find it as they left it."""
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
    paths = []
    for suffix in ('png', 'jpg', 'bmp', 'tif', 'webp', 'ppm'):
        paths.append(tmp_path / f'a.{suffix}')
        Image.new('RGB', (20, 30)).save(paths[-1])
    paths += [png(tmp_path / 'deep.png', levels(3)[0]), tmp_path / 'text.png']
    (tmp_path / 'text.png').write_text('no image')
    barrier = threading.Barrier(8)

    def read(path: Path) -> None:
        barrier.wait(30)
        for _ in range(20):
            if path.name == 'text.png':
                with pytest.raises(UserError):
                    read_rgb(path)
            else:
                assert read_rgb(path).shape[:2] == read_size(path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, paths))
    assert Image.MAX_IMAGE_PIXELS == 10


# writing

@pytest.mark.parametrize(('suffix', 'longest'), [('webp', 16383), ('jpg', 65500), ('JPEG', 65500)])
def test_the_longest_side_that_a_format_holds(tmp_path, suffix, longest):
    """As Pillow knows it: this many pixels are written and read, one more is refused in one line, and leaves no file."""
    path = tmp_path / f'a.{suffix}'
    for size in ((longest, 2), (2, longest)):
        save_image(Image.new('RGB', size), path)
        assert read_size(path) == size[::-1]
    for size in ((longest + 1, 2), (2, longest + 1)):
        with pytest.raises(UserError, match=rf'b\.{suffix}: {size[1]}x{size[0]} is too large .* {longest} pixels'):
            save_image(Image.new('RGB', size), tmp_path / f'b.{suffix}')
        with pytest.raises((ValueError, OSError)):
            Image.new('RGB', size).save(tmp_path / f'c.{suffix}')
    assert not (tmp_path / f'b.{suffix}').exists()


def test_other_formats_hold_more(tmp_path):
    for suffix in ('png', 'tif', 'bmp', 'ppm'):
        save_image(Image.new('RGB', (70_000, 1)), tmp_path / f'a.{suffix}')
        assert read_size(tmp_path / f'a.{suffix}') == (1, 70_000)


def test_the_public_face():
    """What datasets and metrics use, and what upscaling uses."""
    assert {'MAX_PIXELS', 'SUFFIXES', 'check_file', 'check_size', 'list_images', 'open_image', 'read_rgb', 'read_size',
            'save_image', 'to_image', 'to_rgb'} <= set(imaging.__all__)
    assert {'Animation', 'Canvas', 'Frame', 'WriteOptions', 'check_target', 'read_frames', 'read_header', 'read_image',
            'suited'} <= set(imaging.__all__)
    assert all(hasattr(imaging, name) for name in imaging.__all__)


def test_the_bundled_sample_is_its_original_by_a_quarter():
    assets = Path(__file__).resolve().parent.parent / 'assets'
    original = open_image(assets / 'harbour_original.png')
    assert original.size == (768, 512)
    quarter = np.asarray(original.resize((192, 128), Image.Resampling.BICUBIC))
    assert np.array_equal(read_rgb(assets / 'harbour.png'), quarter)
