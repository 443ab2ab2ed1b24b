"""Image files: damaged, of odd sizes and modes, bombs, what is no file, and odd names."""
import functools
import io
import os
import shutil
import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
import tifffile
from PIL import Image

from imaging.formats import RAW_SUFFIXES
from tests.hostile.case import Case
from tests.hostile.inputs.states import make_special
from tests.hostile.mutate import damaged

MODES = {  # mode → formats that hold it
    'RGB': ('png', 'jpeg', 'bmp', 'tiff', 'webp', 'ppm', 'gif', 'tga', 'jpeg2000', 'avif'),
    'L': ('png', 'jpeg', 'bmp', 'tiff', 'ppm'),
    'RGBA': ('png', 'tiff', 'webp'), 'LA': ('png', 'tiff'), 'P': ('png', 'gif', 'bmp', 'tiff'), '1': ('png', 'bmp', 'tiff'),
    'I;16': ('png', 'tiff'), 'CMYK': ('jpeg', 'tiff'), 'F': ('tiff',), 'I': ('tiff',), 'YCbCr': ('jpeg', 'tiff'),
    'LAB': ('tiff',)}
NAMES = ('a.png', 'a.jpg', 'a.TIFF', 'a.bmp', 'a.webp', 'a.ppm', 'a b.png', '-a.png', "a'b\".png", '$(touch pwned).png',
         'é€漢🙂.png', 'a\nb.png', 'n' * 230 + '.png', os.fsdecode(b'\xff\xfe.png'), 'a.png.png', '%s{}.png', '~.png',
         'a\rb.png', '\x1b[31m.png', 'a.dng', 'b.DNG', 'c.nef')
SIZES = ((1, 1), (1, 300), (300, 1), (2, 3), (7, 5), (28, 30), (28, 30), (28, 30))
EPS = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(../pwned) (w) file\n%%EOF\n'
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>'


def make(folder: Path, originals: Path, rng: Random) -> Case:
    name = rng.choice(NAMES) if rng.random() < 0.4 else rng.choice(NAMES[:6])
    images = folder / 'data/images'
    images.mkdir(parents=True)
    odd = write(images / name, rng)
    for file in ('weights.pth', 'train.yaml'):
        shutil.copy(originals / file, folder)
    shutil.copy(originals / 'data/images/0.png', images / 'good.png')
    model = rng.choice(('weights.pth', 'bicubic'))
    return _case(rng.choice(('demo', 'demo', 'folder', 'hr', 'made', 'train', 'mapped')), name, model, odd, rng)


def _case(kind: str, name: str, model: str, odd: str, rng: Random) -> Case:
    """The command that opens the image."""
    file, cpu, names = f'data/images/{name}', ['-device', 'cpu'], (name, 'data/images', '-scale', 'out.')
    scale = rng.choice(('1', '2', '3.5', '2,1.3'))
    if kind == 'demo':
        target = rng.choice(('out.png', 'out.png', 'out.jpg', 'out.webp', 'out.tif', 'out.bmp', 'out.ppm', 'out.gif',
                             'out.avif', 'out.jp2', 'out.tga'))
        return Case(command='demo', words=['-input', file, '-scale', scale, '-model', model, '-output', target, *cpu],
                    odd=odd, names=names, outputs=(target,), writes=(target,))
    if kind == 'folder':
        return Case(command='demo',
                    words=['-input', 'data/images', '-scale', scale, '-model', model, '-output', 'out', *cpu],
                    odd=odd, names=names, outputs=('out/good.png',), writes=('out',), lines='skipped: .*')
    if kind == 'hr':
        words = ['-hr', 'data/images', '-scales', '2', '-protocol', 'div2k', '-model', model, '-name', 'x', *cpu]
        return Case(command='test', words=words, odd=odd, names=names, outputs=('test/x/results.json',), writes=('test',),
                    lines='data/images: .* are left out')
    if kind == 'made':
        words = ['-hr', 'data/images', '-images', 'data/images', '-scales', '1', '-name', 'x', *cpu]
        return Case(command='test', words=words, odd=odd, names=names, writes=('test',),
                    lines='data/images: .* are left out')
    cache = ['-set', 'train_dataset.dataset.args.cache=mapped'] if kind == 'mapped' else []
    words = ['-config', 'train.yaml', '-name', 'x', *cpu, *cache]
    return Case(command='train', words=words, odd=odd, names=names, outputs=('save/x/epoch-last.pth',),
                writes=('save', 'data/decoded'))


def write(path: Path, rng: Random) -> str:
    """Writes an image with something odd; → what it is."""
    kind = rng.choice(('damaged', 'damaged', 'damaged', 'bomb', 'odd', 'odd', 'text', 'special', 'chunks'))
    if kind == 'special':
        odd = rng.choice(('a folder', 'a FIFO', 'a link to itself', 'nothing', 'no bytes', 'a device', 'a link to nothing'))
        if odd == 'a device':
            path.symlink_to('/dev/zero')
        elif odd == 'a link to nothing':
            path.symlink_to('absent.png')
        else:
            make_special(path, odd)
        return odd
    if kind == 'bomb':
        return _write_bomb(path, rng)
    if kind == 'text':
        odd, content = rng.choice((('EPS', EPS), ('SVG', SVG), ('text', b'hello\n'), ('PDF', b'%PDF-1.4\n'), (
            'an archive', b'PK\x03\x04' + bytes(100)), ('a program', b'\x7fELF' + bytes(100)), ('MP4',
                                                                                                b'\0\0\0\x18ftypmp42')))
        path.write_bytes(content * rng.choice((1, 1, 1000)))
        return odd
    if kind == 'chunks':
        return _write_chunks(path, rng)
    data, odd = _raw(rng) if path.suffix.lower() in RAW_SUFFIXES else _encoded(rng)
    if kind == 'damaged':
        data, damage = damaged(data, rng)
        odd = f'{odd}, {damage}'
    path.write_bytes(data)
    return odd


def _encoded(rng: Random) -> tuple[bytes, str]:
    """A valid file of a random format, mode and size."""
    mode = rng.choice(list(MODES))
    kind, (height, width) = rng.choice(MODES[mode]), rng.choice(SIZES)
    pixels = np.frombuffer(rng.randbytes(height * width * 4), np.uint8).reshape(height, width, 4)
    if mode == 'I;16':
        image = Image.fromarray(pixels[..., :2].copy().view(np.uint16)[..., 0])
    else:
        image = Image.fromarray(pixels[..., :3].copy()).convert('RGB' if mode in ('LAB', 'LA') else mode)
        image = image.convert('L').convert('LA') if mode == 'LA' else image
    settings = {'compression': rng.choice((None, 'tiff_lzw', 'tiff_adobe_deflate', 'packbits'))} if kind == 'tiff' else {}
    if kind in ('jpeg', 'png', 'webp') and rng.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = rng.choice((1, 3, 6, 8, 0, 99, 65535))
        settings['exif'] = exif
    content = io.BytesIO()
    try:
        image.save(content, kind, **settings)
    except (OSError, ValueError, TypeError, RuntimeError):  # a mode that this version of the library does not write
        content = io.BytesIO()
        image.convert('RGB').save(content, 'png')
    return content.getvalue(), f'{kind} of mode {mode}, {height}x{width}'


def _raw(rng: Random) -> tuple[bytes, str]:
    """What a camera wrote, behind a Bayer pattern, as a DNG."""
    height, width = rng.choice(((24, 30), (64, 48), (2, 2)))
    mosaic = np.frombuffer(rng.randbytes(height * width * 2), np.uint16).reshape(height, width)
    tags = [(50706, 'B', 4, b'\1\4\0\0'), (50708, 's', 0, 'Test'), (50778, 'H', 1, 21),
            (33421, 'H', 2, (2, 2)), (33422, 'B', 4, b'\0\1\1\2'),
            (50721, '2i', 9, (1, 1, 0, 1, 0, 1) * 3), (50717, 'I', 1, rng.choice((65535, 65535, 0, 1, 2 ** 32 - 1)))]
    content = io.BytesIO()
    tifffile.imwrite(content, mosaic, photometric='cfa', extratags=[(*tag, False) for tag in tags],
                     compression=rng.choice((None, None, 'zlib')))
    return content.getvalue(), f'a raw file, {height}x{width}'


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


@functools.cache
def _zeros() -> bytes:
    """200 MB of zeros, compressed."""
    return zlib.compress(bytes(2 * 10 ** 8), 1)


def _png(height: int, width: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    rows = zlib.compress(bytes((1 + 3 * min(width, 100)) * min(height, 100)))
    return (b'\x89PNG\r\n\x1a\n' + _chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0))
            + b''.join(chunks) + _chunk(b'IDAT', rows) + _chunk(b'IEND', b''))


def _write_bomb(path: Path, rng: Random) -> str:
    """A header that promises more than the file holds."""
    height, width = rng.choice(((2 ** 31 - 1, 2 ** 31 - 1), (2 ** 30, 2 ** 30), (1, 2 ** 31 - 1), (70_000, 70_000), (0, 5),
                                (3000, 3000), (2 ** 20, 1), (1, 2 ** 20)))
    kind = rng.choice(('png', 'ppm', 'bmp', 'tiff', 'pgm'))
    if kind == 'png':
        data = _png(height, width)
    elif kind in ('ppm', 'pgm'):
        data = f'P{6 if kind == "ppm" else 5} {width} {height} {rng.choice((255, 65535, 0, 99999))}\n'.encode() + bytes(300)
    elif kind == 'bmp':
        signed = [min(side, 2 ** 31 - 1) * rng.choice((1, 1, -1)) for side in (width, height)]
        data = b'BM' + struct.pack('<IHHI', 354, 0, 0, 54) + struct.pack('<IiiHHIIiiII', 40, *signed, 1, 24,
                                                                         *[0] * 6) + bytes(300)
    else:
        entries = ((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 200),
                   (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 100))
        data = (b'II*\0\x08\0\0\0' + struct.pack('<H', len(entries)) + b''.join(struct.pack('<HHII', *e) for e in entries)
                + bytes(4)).ljust(200, b'\0') + bytes(100)
    path.write_bytes(data)
    return f'{kind} whose header says {height}x{width}'


def _write_chunks(path: Path, rng: Random) -> str:
    """A PNG file with odd chunks."""
    name, chunks = rng.choice((
        ('3 MB of text', [_chunk(b'tEXt', b'a\0' + b'x' * 3 * 10 ** 6)]),
        ('a text that unpacks to 200 MB', [_chunk(b'zTXt', b'a\0\0' + _zeros())]),
        ('a profile that unpacks to 200 MB', [_chunk(b'iCCP', b'a\0\0' + _zeros())]),
        ('a damaged profile', [_chunk(b'iCCP', b'a\0\0' + zlib.compress(b'x' * 200))]),
        ('5,000 texts', [_chunk(b'tEXt', f'k{number}\0x'.encode()) for number in range(5000)]),
        ('unknown chunks', [_chunk(b'abCd', b'x' * 100)] * 50), ('two headers', [_png(5, 5)[8:33]]),
        ('damaged EXIF data', [_chunk(b'eXIf', b'II*\0' + bytes(50))]), ('no gamma', [_chunk(b'gAMA', bytes(4))]),
        ('a short colour key', [_chunk(b'tRNS', b'\0')]), ('a palette', [_chunk(b'PLTE', bytes(767))]),
        ('no resolution', [_chunk(b'pHYs', b'\0')]), ('a wrong length', [b'\xff\xff\xff\xffIDAT']),
        ('frames', [_chunk(b'acTL', struct.pack('>II', 2 ** 31, 0))])))
    depth, colour = rng.choice(((8, 2), (8, 2), (16, 2), (8, 3), (3, 2), (8, 7), (1, 0)))
    path.write_bytes(_png(8, 8, *chunks, depth=depth, colour=colour))
    return f'PNG with {name}, depth {depth}, colour type {colour}'
