"""Files that are odd but right give the right image, damaged ones a line with status 2: by the command itself."""
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import Done, call
from lab import slow_except
from PIL import Image

import demo

imagecodecs, netpbmfile, tifffile = (pytest.importorskip(name) for name in ('imagecodecs', 'netpbmfile', 'tifffile'))

NOISE = np.random.default_rng(3).integers(0, 256, (24, 30, 3), dtype=np.uint8)


@pytest.fixture
def upscale(tmp_path, monkeypatch, capsys):
    """demo.py with bicubic in an empty folder; → how it ended."""
    monkeypatch.chdir(tmp_path)

    def run(source: str, *words: str, scale: str = '2', output: str = 'out.png') -> Done:
        return call(demo.main, ('-input', source, '-model', 'bicubic', '-scale', scale, '-device', 'cpu', '-output', output,
                                *words), capsys, monkeypatch)
    return run


def loaded(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize(('height', 'width'), [(1, 1), (1, 5000), (5000, 1), (2, 3)])
@pytest.mark.parametrize('suffix', slow_except(['png'], ['png', 'jpg', 'tif', 'webp']))
def test_tiny_and_long(upscale, suffix, height, width):
    Image.new('RGB', (width, height), (10, 200, 90)).save(f'a.{suffix}', **({} if suffix == 'tif' else {'quality': 100}))
    done = upscale(f'a.{suffix}', scale='1.5')
    assert (done.status, done.err) == (0, '')
    found = loaded('out.png')
    assert found.shape == (round(1.5 * height), round(1.5 * width), 3)
    assert np.abs(found.astype(int) - (10, 200, 90)).max() <= 3


DEEP = NOISE * np.uint16(257)
WHOLE = {suffix: lambda path: Image.fromarray(NOISE).save(path)
         for suffix in ('png', 'jpg', 'webp', 'tif', 'bmp', 'jp2', 'gif', 'avif', 'ppm', 'tga')}
WHOLE |= {  # of 16 bits
    'deep.png': lambda path: Path(path).write_bytes(imagecodecs.png_encode(DEEP)),
    'deep.jp2': lambda path: Path(path).write_bytes(imagecodecs.jpeg2k_encode(DEEP)),
    'deep.tif': lambda path: tifffile.imwrite(path, DEEP, photometric='rgb', compression='zlib'),
    'deep.ppm': lambda path: netpbmfile.imwrite(path, DEEP, maxval=65535),
    'deep.pam': lambda path: netpbmfile.imwrite(path, DEEP, magicnumber='P7', maxval=65535)}


@pytest.mark.parametrize('share', slow_except([0.5], [0.05, 0.5, 0.9]))
@pytest.mark.parametrize('suffix', WHOLE)
def test_cut_short(upscale, suffix, share):
    WHOLE[suffix](f'whole.{suffix}')
    data = Path(f'whole.{suffix}').read_bytes()
    Path(f'a.{suffix}').write_bytes(data[:int(share * len(data))])
    done = upscale(f'a.{suffix}')
    assert done.status == 2 and done.err.startswith(f'error: a.{suffix}: ') and done.err.count('\n') == 1
    assert not Path('out.png').exists()


@pytest.mark.parametrize(('content', 'name'), [('png', 'a.jpg'), ('jpeg', 'a.tif'), ('tiff', 'a.png'), ('webp', 'a.tga'),
                                               ('gif', 'a.bmp'), ('ppm', 'a.png'), ('png', 'a')])
def test_another_suffix(upscale, content, name):
    """The content decides."""
    Image.new('RGB', (6, 4), (255, 255, 255)).save(name, content)
    assert upscale(name).status == 0 and loaded('out.png').shape[:2] == (8, 12)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


@pytest.mark.parametrize('text', [b'tEXtkey\0' + 3_000_000 * b'x', b'zTXtkey\0\0' + zlib.compress(3_000_000 * b'x'),
                                  b'iTXtkey\0\1\0\0\0' + zlib.compress(3_000_000 * b'x')], ids=['tEXt', 'zTXt', 'iTXt'])
def test_a_long_text(upscale, text):
    Image.fromarray(NOISE).save('plain.png')
    data = Path('plain.png').read_bytes()
    Path('a.png').write_bytes(data[:33] + chunk(text[:4], text[4:]) + data[33:])
    assert upscale('a.png', scale='1').status == 0 and np.array_equal(loaded('out.png'), NOISE)


def test_a_palette_that_is_missing(upscale):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
    Path('a.png').write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 4, 3, 8, 3, 0, 0, 0))
                              + chunk(b'IDAT', zlib.compress(bytes(15))) + chunk(b'IEND', b''))
    done = upscale('a.png')
    assert done.status == 2 and done.err.startswith('error: a.png: damaged') and done.err.count('\n') == 1


@pytest.mark.parametrize('name', ['two words.png', 'émoji 🌊.png', 'new\nline.png', "quote's \".png", '%s {}.png', '-.png',
                                  os.fsdecode(b'\xff.png')])
@pytest.mark.parametrize('suffix', slow_except(['png'], ['png', 'tif']))
def test_names(upscale, name, suffix):
    name = name.replace('png', suffix)
    Image.fromarray(NOISE).save('plain', 'png' if suffix == 'png' else 'tiff')
    os.rename('plain', name)
    done = upscale(f'./{name}', scale='1', output=f'out-{name}')
    assert (done.status, done.err) == (0, '') and np.array_equal(loaded(f'out-{name}'), NOISE)


@pytest.mark.skipif(os.name != 'posix' or os.geteuid() == 0, reason='permissions do not bind this user')
def test_no_permission(upscale):
    Image.fromarray(NOISE).save('a.png')
    os.chmod('a.png', 0)
    done = upscale('a.png')
    assert done.status == 2 and done.err == 'error: a.png: cannot be read (Permission denied)\n'


REFUSED = {  # options → what is said, before the work
    '-format xyz': 'no such format', '-bits 16 -output b.jpg': 'JPEG holds 8 bits per channel, not 16; write .png, .tif',
    '-bits 12': "invalid choice", '-quality 0': 'whole number from 1 to 100', '-quality 101': 'whole number from 1 to 100',
    '-background 1,2': 'three whole numbers', '-background 1,2,256': 'three whole numbers', '-background red': 'three whole',
    '-range 1': 'two numbers', '-range 2,1': 'first of them smaller', '-range nan,1': 'two numbers',
    '-output b.xyz': "has suffix '.xyz'", '-output b.eps': "has suffix '.eps'", '-output b.pam': "has suffix '.pam'",
}


@pytest.mark.parametrize(('words', 'said'), REFUSED.items())
def test_options_that_are_wrong(upscale, words, said):
    Image.fromarray(NOISE).save('a.png')
    done = upscale('a.png', *words.split(), '-model', 'none')
    assert done.status == 2 and said in done.err and done.err.count('\n') == 1
    assert os.listdir() == ['a.png']


TOO_LARGE = {'webp': 16383, 'jpg': 65500, 'avif': 32768, 'tga': 65535, 'gif': 65535}


@pytest.mark.parametrize(('suffix', 'longest'), TOO_LARGE.items())
def test_the_longest_side_of_a_format(upscale, suffix, longest):
    Image.new('RGB', (4, 1)).save('a.png')
    done = upscale('a.png', scale=f'1,{(longest + 1) / 4}', output=f'out.{suffix}')
    assert done.status == 2 and f'hold at most {longest} pixels' in done.err and not Path(f'out.{suffix}').exists()


def frames(name: str, count: int = 3) -> None:
    images = [Image.new('RGB', (8, 6), (60 * number, 0, 0)) for number in range(count)]
    images[0].save(name, save_all=True, append_images=images[1:], **({} if name.endswith('tif') else {'duration': 80}))


def test_animations_are_never_cut_silently(upscale):
    frames('a.gif')
    for suffix in ('jpg', 'bmp', 'avif', 'jp2', 'tga', 'ppm'):
        done = upscale('a.gif', output=f'out.{suffix}')
        assert done.status == 2 and 'the input has 3 frames; write .png, .webp, .tif, .gif, or ' in done.err
        assert '-first-frame' in done.err and not Path(f'out.{suffix}').exists()
    done = upscale('a.gif', '-bits', '16')
    assert done.status == 2 and 'out.png: PNG holds 8 bits per channel where there are several frames, not 16' in done.err
    assert upscale('a.gif', '-bits', '16', output='out.tif').status == 0
    assert upscale('a.gif', '-first-frame', output='out.jpg').status == 0
    assert upscale('a.gif', output='out.gif').status == 0
    with Image.open('out.gif') as image:
        assert (image.n_frames, image.size) == (3, (16, 12))


def test_a_page_of_too_many_pixels_is_refused(upscale):
    """The second one: the first has a size like any other. Its header says so, and there are no pixels."""
    with tifffile.TiffWriter('a.tif') as file:
        file.write(NOISE, photometric='rgb')
        file.write(NOISE, photometric='rgb')
    with tifffile.TiffFile('a.tif', mode='r+') as file:
        for tag in ('ImageWidth', 'ImageLength', 'RowsPerStrip'):
            file.pages[1].tags[tag].overwrite(2 ** 16, dtype='I')
    done = upscale('a.tif', output='out.tif')
    assert done.status == 2 and '65536x65536, more than the 1,073,741,824 pixels' in done.err
    assert not Path('out.tif').exists()


def test_names_of_results(upscale, monkeypatch):
    """PNG holds an animation; pages of a document stay a TIFF; `-format` decides otherwise."""
    frames('a.gif')
    frames('b.tif')
    Image.fromarray(NOISE).save('c.jpg')
    os.mkdir('in')
    for name in ('a.gif', 'b.tif', 'c.jpg'):
        os.rename(name, f'in/{name}')
    assert upscale('in', output='out').status == 0 and sorted(os.listdir('out')) == ['a.png', 'b.tif', 'c.png']
    with Image.open('out/a.png') as animation, Image.open('out/b.tif') as pages:
        assert animation.n_frames == pages.n_frames == 3
    assert upscale('in', '-format', 'webp', output='web').status == 0
    assert sorted(os.listdir('web')) == ['a.webp', 'b.webp', 'c.webp']
    assert upscale('in/c.jpg', '-format', 'tif', output='any.name').status == 0
    with Image.open('any.name') as image:
        assert image.format == 'TIFF'
    done = upscale('in/b.tif', output='in')                                          # would be in/b.tif
    assert done.status == 2 and 'in/b.tif: is the input itself' in done.err


def test_notes_are_one_line_each(upscale):
    Image.new('RGBA', (8, 8), (255, 0, 0, 128)).save('a.png')
    done = upscale('a.png', '-background', '0,0,255', output='out.jpg')
    assert done.out.splitlines()[1:] == ['out.jpg: JPEG holds no transparency: transparent pixels are blended onto 0,0,255']
    assert np.abs(loaded('out.jpg').astype(int) - (128, 0, 127)).max() <= 2


@pytest.mark.parametrize(('missing', 'source', 'target'), [
    ('tifffile', 'a.tif', 'out.png'), ('tifffile', 'a.png', 'out.tif'), ('imagecodecs', 'a.png', 'out.tif'),
    ('imagecodecs', 'deep.png', 'out.png'),
    ('imagecodecs', 'deep.jp2', 'out.jpg'), ('imagecodecs', 'a.png -bits 16', 'out.jp2'),
    ('netpbmfile', 'deep.pam', 'out.png'), ('netpbmfile', 'a.png -bits 16', 'out.ppm')])
def test_a_missing_package_is_named(upscale, monkeypatch, missing, source, target):
    for name in ('a.png', 'a.tif'):
        Image.fromarray(NOISE).save(name)
    for name in ('deep.png', 'deep.pam', 'deep.jp2'):
        WHOLE[name](name)
    monkeypatch.setitem(sys.modules, missing, None)
    done = upscale(*source.split(), output=target)
    named = source if source in ('a.tif', 'deep.pam', 'deep.jp2') else target
    assert done.status == 2 and done.err == f'error: {named}: needs one more package: pip install {missing}\n'
