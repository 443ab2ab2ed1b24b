"""Raw files of cameras, through imageio, against the arithmetic of a flat scene; and why nothing else goes through it."""
import socket
import sys

import numpy as np
import pytest
from helpers import call, message
from PIL import Image

import demo
from imaging import INPUT_SUFFIXES, read_header, read_image

iio, imagecodecs, tifffile = (pytest.importorskip(name) for name in ('imageio.v3', 'imagecodecs', 'tifffile'))
pytest.importorskip('rawpy')

SCENE = (20000, 30000, 10000)  # red, green, blue at the sensor, linear, of 65535
# from XYZ (D65) to linear sRGB, IEC 61966-2-1: a camera that sees as sRGB does
MATRIX = (3.2404542, -1.5371385, -0.4985314, -0.9692660, 1.8760108, 0.0415560, 0.0556434, -0.2040259, 1.0572252)


def write_raw(path, orientation: int = 1, height: int = 32, width: int = 48) -> None:
    """A flat scene behind a Bayer pattern, as a DNG."""
    mosaic = np.empty((height, width), np.uint16)
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = SCENE[0], SCENE[2]
    mosaic[0::2, 1::2] = mosaic[1::2, 0::2] = SCENE[1]
    matrix = [number for value in MATRIX for number in (round(1e7 * value), 10 ** 7)]
    tags = [(50706, 'B', 4, b'\1\4\0\0'), (50708, 's', 0, 'Test'), (33421, 'H', 2, (2, 2)), (33422, 'B', 4, b'\0\1\1\2'),
            (50721, '2i', 9, tuple(matrix)), (50728, '2I', 3, (1,) * 6), (50717, 'I', 1, 65535), (50778, 'H', 1, 21),
            (274, 'H', 1, orientation), (315, 's', 0, 'A. Nyone')]
    tifffile.imwrite(path, mosaic, photometric='cfa', extratags=[(*tag, False) for tag in tags])


@pytest.mark.parametrize(('orientation', 'size'), [(1, (32, 48)), (3, (32, 48)), (6, (48, 32)), (8, (48, 32))])
def test_developed_by_the_formula(tmp_path, orientation, size):
    write_raw(tmp_path / 'a.DNG', orientation)
    frame = read_image(tmp_path / 'a.DNG')
    assert read_header(tmp_path / 'a.DNG')[:3] == (*size, 1) and frame.pixels.dtype == np.uint16
    linear = np.array(SCENE) / 65535
    expected = 65535 * (1.055 * linear ** (1 / 2.4) - 0.055)  # sRGB
    assert frame.pixels.shape == (*size, 3) and np.abs(frame.pixels - expected).max() < 3
    exif = Image.Exif()
    exif.load(frame.metadata.exif)
    assert exif[315] == 'A. Nyone' and not {274, 33422, 50721} & set(exif)
    assert '.dng' in INPUT_SUFFIXES


@pytest.fixture
def upscale(tmp_path, monkeypatch, capfd):
    """demo.py ×2 with bicubic in an empty folder; what C libraries print counts too."""
    monkeypatch.chdir(tmp_path)
    return lambda source: call(demo.main, ('-input', source, '-model', 'bicubic', '-scale', '2', '-device', 'cpu', '-output',
                                           'out.png'), capfd, monkeypatch)


def test_the_command(upscale, tmp_path):
    write_raw('a.dng', orientation=6)
    done = upscale('a.dng')
    assert (done.status, done.err) == (0, '') and read_header('out.png')[:2] == (96, 64)
    assert read_image('out.png').bits == 16


def _write(kind: str) -> None:
    write_raw('whole.dng')
    with open('whole.dng', 'rb') as file:
        data = file.read()
    content = {'cut short': data[:len(data) // 2], 'text': b'hello' * 100, 'no bytes': b'', 'a TIFF': None}[kind]
    if content is None:
        Image.new('RGB', (8, 8)).save('a.dng', 'TIFF')
    else:
        with open('a.dng', 'wb') as file:
            file.write(content)


@pytest.mark.parametrize(('kind', 'words'), [
    ('cut short', 'damaged raw file, or cut short'), ('text', 'no raw file that LibRaw reads'),
    ('no bytes', 'no raw file that LibRaw reads'), ('a TIFF', 'no raw file that LibRaw reads')])
def test_what_is_no_raw_file(upscale, kind, words):
    _write(kind)
    done = upscale('a.dng')
    assert (done.status, done.err) == (2, f'error: a.dng: {words}\n')


def test_the_package_that_is_missing(tmp_path, monkeypatch):
    write_raw(tmp_path / 'a.dng')
    monkeypatch.setitem(sys.modules, 'rawpy', None)
    assert message(read_header, tmp_path / 'a.dng') == f'{tmp_path}/a.dng: needs one more package: pip install rawpy'


@pytest.mark.parametrize('address', ['http://127.0.0.1:9/a.dng', 'https://127.0.0.1:9/a.png', 'ftp://127.0.0.1:9/a.dng',
                                     'imageio:chelsea.png', '<video0>'])
def test_addresses_are_names_of_files(upscale, monkeypatch, address):
    def connect(self, place):
        raise AssertionError(f'connects to {place}')
    monkeypatch.setattr(socket.socket, 'connect', connect)
    done = upscale(address)
    assert done.status == 2 and 'no such image' in done.err and done.err.count('\n') == 1


def test_what_else_would_lose_through_imageio(tmp_path, monkeypatch):
    """Why `imaging/raw.py` alone uses it: see docs/files.md."""
    monkeypatch.chdir(tmp_path)
    deep = np.arange(4 * 5 * 3, dtype=np.uint16).reshape(4, 5, 3) * 1000
    (tmp_path / 'deep.png').write_bytes(imagecodecs.png_encode(deep))
    assert iio.imread('deep.png').dtype == np.uint8 and np.array_equal(read_image('deep.png').pixels, deep)
    Image.new('CMYK', (5, 4)).save('ink.jpg', icc_profile=b'x' * 200, dpi=(300, 300))
    Image.new('RGBA', (5, 4)).save('glass.png')
    assert iio.imread('ink.jpg').shape == iio.imread('glass.png').shape == (4, 5, 4)  # inks or transparency?
    iio.imwrite('copy.jpg', iio.imread('ink.jpg')[..., :3])
    with Image.open('copy.jpg') as copy:
        assert not {'icc_profile', 'dpi'} & set(copy.info)
    frames = [Image.new('RGB', (5, 4), (value, 0, 0)) for value in (0, 90, 200)]
    frames[0].save('a.gif', save_all=True, append_images=frames[1:], duration=[50, 100, 300], loop=2)
    iio.imwrite('b.gif', iio.imread('a.gif'))
    with Image.open('b.gif') as copy:
        assert not {'duration', 'loop'} & set(copy.info)
