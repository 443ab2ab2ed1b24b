"""What is no image, where one is expected: one line that names it, and the other images of a folder are done."""
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import call, message, save

import demo
import models
from imaging import MAX_PIXELS, list_images, open_image, read_rgb, read_size
from utils import UserError, WriteError, atomic_path, check_output, file_status, is_out_of_memory, write_text

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def bmp(width: int, height: int) -> bytes:
    """A BMP file with this size in its header, and 300 bytes of pixels."""
    header = struct.pack('<IiiHHIIiiII', 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b'BM' + struct.pack('<IHHI', 354, 0, 0, 54) + header + bytes(300)


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(bytes(100))) + chunk(b'IEND', b''))


CONTENTS = {  # bytes of a file called bad.png, and what is said about it
    'no bytes': (b'', 'not an image'),
    'text': (b'hello\n' * 50, 'not an image'),
    'NUL bytes': (bytes(5000), 'not an image'),
    'negative BMP': (bmp(-5, -5), ''),
    'wide BMP': (bmp(2 ** 30, 1), ''),
    'huge BMP': (bmp(2 ** 30, 2 ** 30), '1073741824x1073741824, more than the 1,073,741,824 pixels'),
    'huge PNG': (png(2 ** 31 - 1, 2 ** 31 - 1), '2147483647x2147483647, more than'),
    'just too many pixels': (png(2 ** 15 + 1, 2 ** 15), '32768x32769, more than'),
    'no width': (png(0, 5), ''),
    'huge PPM': (b'P6 99999999 99999999 255\n' + bytes(99), '99999999x99999999, more than'),
    'PPM of letters': (b'P6 a b 255\n' + bytes(99), ''),
    'cut header': (b'\x89PNG\r\n\x1a\n\0\0\0\rIH', ''),
    'TIFF without a directory': (b'II*\0\xff\xff\xff\x7f' + bytes(50), ''),
}


@pytest.mark.parametrize(('content', 'words'), CONTENTS.values(), ids=CONTENTS)
def test_content(tmp_path, content, words):
    path = tmp_path / 'bad.png'
    path.write_bytes(content)
    for read in (open_image, read_rgb):
        text = message(read, path)
        assert text.startswith(f'{path}: ') and words in text and len(text) < len(str(path)) + 320


def test_the_header_decides_about_size(tmp_path):
    """No byte of the pixels is read: the file has none."""
    (tmp_path / 'a.png').write_bytes(png(2 ** 15 + 1, 2 ** 15))
    assert MAX_PIXELS == 2 ** 30 and 'more than' in message(read_size, tmp_path / 'a.png')
    (tmp_path / 'b.png').write_bytes(png(2 ** 15, 2 ** 15))
    assert read_size(tmp_path / 'b.png') == (2 ** 15, 2 ** 15)


@pytest.fixture
def specials(tmp_path) -> dict[str, Path]:
    """Files that are no regular ones, and links that lead nowhere; all but the links with a word for their kind."""
    folder = tmp_path / 'in'
    folder.mkdir()
    os.mkfifo(folder / 'fifo.png')
    (folder / 'folder.png').mkdir()
    os.symlink('/dev/zero', folder / 'device.png')
    os.symlink('fifo.png', folder / 'linked.png')
    listening = socket.socket(socket.AF_UNIX)
    working = os.getcwd()
    try:
        os.chdir(folder)                                                             # the path of a socket must be short
        listening.bind('socket.png')
    finally:
        os.chdir(working)
        listening.close()
    os.symlink('round.png', folder / 'round.png')
    os.symlink('absent', folder / 'dangling.png')
    return {kind: folder / f'{name}.png' for name, kind in (
        ('fifo', 'a FIFO'), ('folder', 'a folder'), ('device', 'a device'), ('linked', 'a FIFO'), ('socket', 'a socket'),
        ('round', 'cannot be opened'), ('dangling', 'no such image file'))}


@pytest.mark.parametrize('read', [open_image, read_rgb, read_size])
def test_what_is_no_regular_file_is_refused_by_name(specials, read):
    for kind, path in specials.items():
        text = message(read, path)
        assert text.startswith(f'{path}: ') and kind in text


def test_listings_leave_out_what_is_no_regular_file(specials, tmp_path):
    """All but links that lead nowhere: they are named when they are read."""
    save(tmp_path / 'in/a.png', PIXELS)
    assert [path.name for path in list_images(tmp_path / 'in')] == ['a.png', 'dangling.png', 'round.png']
    for name in ('round.png', 'fifo.png', 'absent'):
        assert f'in/{name}: ' in message(list_images, tmp_path / 'in' / name)


@pytest.mark.parametrize('path', ['x' * 5000, 'x' * 300 + '.png', 'a/' * 3000, 'a\0b.png'])
def test_paths_that_no_file_can_have(path):
    for function in (file_status, open_image, read_size, list_images):
        assert len(message(function, path)) < 200
    assert len(message(check_output, f'{path}.png', ('.png',))) < 200


# demo.py

@pytest.fixture
def upscale(tmp_path, monkeypatch, capsys):
    """demo.py with bicubic at factor 1 on a path of the folder; → how it ended."""
    monkeypatch.chdir(tmp_path)
    return lambda source, *words: call(demo.main, ('-input', source, '-model', 'bicubic', '-scale', '1', '-device', 'cpu',
                                                   *words), capsys, monkeypatch)


def test_a_folder_of_bad_images_does_the_good_ones(tmp_path, specials, upscale):
    for number, (content, _) in enumerate(CONTENTS.values()):
        (tmp_path / 'in' / f'bad{number}.png').write_bytes(content)
    good = ['a.png', f'{"n" * 226}.png', 'é€漢.png']
    if os.name == 'posix':
        good.append(os.fsdecode(b'\xff\xfe.png'))                                    # no UTF-8
    for name in good:
        save(tmp_path / 'in' / name, PIXELS)
    done = upscale('in', '-output', 'out')
    assert done.status == 2 and 'Traceback' not in done.err
    bad = len(CONTENTS) + 2                                                          # the links that lead nowhere
    lines = done.err.splitlines()
    assert len(lines) == bad + 1 and all(line.startswith('skipped: in/') for line in lines[:-1])
    assert lines[-1].startswith(f'error: in: {bad} of {bad + len(good)} images could not be upscaled')
    assert {path.name for path in (tmp_path / 'out').iterdir()} == set(good)
    assert all(np.array_equal(read_rgb(tmp_path / 'out' / name), PIXELS) for name in good)


def test_given_directly_they_are_refused(specials, upscale):
    for kind, path in specials.items():
        done = upscale(path)
        if kind != 'a folder':                                                       # of images
            words = 'no such image' if 'no such' in kind else kind
            assert done.status == 2 and done.err.count('\n') == 1 and words in done.err, done


@pytest.mark.parametrize('error', [
    MemoryError(), RuntimeError('std::bad_alloc'), torch.OutOfMemoryError('CUDA out of memory.'),
    RuntimeError('[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: you tried …')])
def test_a_failed_allocation_is_one_line_and_the_others_go_on(tmp_path, upscale, monkeypatch, error):
    bicubic = type(models.load('bicubic', 'cpu'))
    original = bicubic.upscale_parts

    def fail_for_one(self, lr, *args, **settings):
        if lr.shape[:2] == (9, 9):
            raise error
        return original(self, lr, *args, **settings)
    monkeypatch.setattr(bicubic, 'upscale_parts', fail_for_one)
    for name, side in (('a', 5), ('b', 9), ('c', 6)):
        save(tmp_path / 'in' / f'{name}.png', np.zeros((side, side, 3), np.uint8))
    done = upscale('in', '-output', 'out')
    assert done.status == 1 and sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['a.png', 'c.png']
    assert done.err.startswith('skipped: in/b.png: out of memory') and done.err.count('\n') == 2
    done = upscale('in/b.png')
    assert done.status == 1 and done.err.startswith('error: in/b.png: out of memory') and done.err.count('\n') == 1
    assert is_out_of_memory(error)


def test_a_real_failed_allocation():
    for allocate in (lambda: torch.empty(2 ** 55, dtype=torch.uint8), lambda: bytearray(2 ** 55)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError('size mismatch')) and not is_out_of_memory(ValueError('std::bad_alloc'))


# writing

def test_the_longest_name_is_written(tmp_path):
    for name in ('n' * 251 + '.txt', '漢' * 83 + '.txt', 'a.' + 's' * 250, os.fsdecode(b'\xff' * 251 + b'.txt')):
        write_text(tmp_path / name, 'whole')
        assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == 'whole'
        (tmp_path / name).unlink()


def test_errors_of_writing_name_the_target(tmp_path):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'folder').mkdir()
    for target in ('file/a.txt', 'folder', 'n' * 300, 'file'):
        path = tmp_path / target
        with pytest.raises(WriteError) as caught, atomic_path(path) as partial:
            if target == 'file':
                raise OSError(28, 'No space left on device', str(partial))
            partial.write_text('x')
        text = str(caught.value)
        assert text.startswith(f'{path}: cannot be written (') and 'Errno' not in text and '.partial' not in text
        assert caught.value.errno and (target != 'file' or caught.value.errno == 28)
    assert sorted(os.listdir(tmp_path)) == ['file', 'folder']


def test_outputs_that_cannot_be_written_are_refused_before_the_work(tmp_path, specials):
    for kind in ('a FIFO', 'a device', 'a socket'):
        assert 'is no regular file' in message(check_output, specials[kind], ('.png',))
    assert 'is a folder' in message(check_output, specials['a folder'], ('.png',))
    with pytest.raises(UserError, match='cannot be opened'):
        check_output(specials['cannot be opened'], ('.png',))
