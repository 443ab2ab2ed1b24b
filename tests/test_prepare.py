"""Getting the data: downloads from a server of this file, archives good and bad, and the check of what lies there."""
import contextlib
import errno
import hashlib
import io
import os
import re
import shutil
import sys
import tarfile
import threading
import time
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from common.cli import run
from datasets import parallel
from datasets.prepare import check, download, sources, unpack
from datasets.prepare.__main__ import main
from datasets.prepare.sources import Folder, Source
from utils import RunError, UserError, WriteError


def png(height: int, width: int, seed: int = 0) -> bytes:
    """A file of noise, so that no part of it can be missed."""
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)).save(content, 'png')
    return content.getvalue()


def pack(path: Path, members: dict[str, bytes], kind: str | None = None) -> Path:
    """Writes an archive of the kind that the suffix (or `kind`) tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = kind or path.suffix
    if kind == '.zip':
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
            for name, content in members.items():
                file.writestr(name, content)
    else:
        with tarfile.open(path, {'.tar': 'w', '.tgz': 'w:gz'}[kind]) as file:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return path


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


# downloading

class Server:
    """An HTTP server of byte strings that does what a test asks for; `requests` lists (path, Range)."""

    def __init__(self):
        self.contents: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.ranges = True          # False: a Range is ignored
        self.length = True          # False: no Content-Length, the body comes in chunks
        self.lies = False           # True: a range starts at the file's first byte, whatever was asked for
        self.version = '"1"'        # ETag
        self.changed = b''          # what every content becomes at the first request of a range
        self.cuts: list[int] = []   # body bytes after which the next responses break off
        self.statuses: list[int] = []  # of the next responses, without a body
        self.http = ThreadingHTTPServer(('127.0.0.1', 0), self.handler())
        self.url = f'http://127.0.0.1:{self.http.server_port}'

    def handler(server):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def log_message(self, *_):
                pass

            def do_GET(self):
                self.close_connection = True
                asked = self.headers['Range']
                server.requests.append((self.path, asked))
                if server.statuses or self.path not in server.contents:
                    self.send_response(server.statuses.pop(0) if server.statuses else 404)
                    self.send_header('Content-Length', '0')
                    self.end_headers()
                    return
                if asked and server.changed:
                    server.contents[self.path], server.changed = server.changed, b''
                body = server.contents[self.path]
                start = int(re.fullmatch(r'bytes=(\d+)-', asked)[1]) if asked and server.ranges else 0
                self.send_response(206 if start else 200)
                if start:
                    start = 0 if server.lies else start
                    self.send_header('Content-Range', f'bytes {start}-{len(body) - 1}/{len(body)}')
                self.send_header('ETag', server.version)
                sent = body[start:][:server.cuts.pop(0) if server.cuts else None]
                whole = len(sent) == len(body) - start
                if server.length:
                    self.send_header('Content-Length', str(len(body) - start))
                else:
                    self.send_header('Transfer-Encoding', 'chunked')
                    sent = b'%x\r\n%s\r\n' % (len(sent), sent) + (b'0\r\n\r\n' if whole else b'')
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # a client that only looks at the headers hangs up
                    self.wfile.write(sent)

        return Handler


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


@pytest.fixture
def archive(server, tmp_path) -> bytes:
    """An archive of 300 kB, larger than the socket's buffers' first gulp; the server has it at /a.zip."""
    server.contents['/a.zip'] = pack(tmp_path / 'made' / 'a.zip', {'x/y.png': png(400, 750)}).read_bytes()
    assert len(server.contents['/a.zip']) > 300_000
    return server.contents['/a.zip']


def get(server: Server, folder: Path, *paths: str, sha256: str | None = None) -> Path:
    """Obtains a.zip from the server's /a.zip, or from `paths`."""
    return download.obtain([Source('a.zip', server.url + path, sha256) for path in paths or ['/a.zip']], folder, pause=0)


def starts(server: Server) -> list[int]:
    """The bytes from which the requests of a range asked on."""
    return [int(asked[6:-1]) for _, asked in server.requests if asked]


def dead_url() -> str:
    """An address where nothing listens."""
    http = ThreadingHTTPServer(('127.0.0.1', 0), BaseHTTPRequestHandler)
    http.server_close()
    return f'http://127.0.0.1:{http.server_port}/a.zip'


def test_download(server, archive, tmp_path, capsys):
    path = get(server, tmp_path / 'new' / 'archives')
    assert path == tmp_path / 'new' / 'archives' / 'a.zip'
    assert files(path.parent) == {'a.zip': archive}
    assert server.requests == [('/a.zip', None)]
    digest = hashlib.sha256(archive).hexdigest()
    assert capsys.readouterr().out == (f'a.zip: downloading {server.url}/a.zip\n'
                                       f'a.zip: SHA-256 {digest} (none known to compare it with)\n')


def test_an_archive_that_is_there_is_not_downloaded(server, archive, tmp_path):
    """Also under the name that another mirror gives it."""
    (tmp_path / 'b.tar').write_bytes(archive)
    found = download.obtain([Source('a.zip', server.url + '/a.zip'), Source('b.tar', server.url + '/b.tar')], tmp_path)
    assert found == tmp_path / 'b.tar' and server.requests == []


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no FIFOs here')
@pytest.mark.parametrize('make', [os.mkdir, getattr(os, 'mkfifo', None), lambda path: os.symlink('/dev/zero', path)],
                         ids=['folder', 'FIFO', 'device'])
def test_what_is_no_file_in_the_place_of_an_archive_is_refused(server, tmp_path, make):
    make(tmp_path / 'a.zip')
    with pytest.raises(UserError, match=r'a\.zip: is no regular file, expected an archive'):
        get(server, tmp_path)
    assert server.requests == []


def test_interrupted_transfer_goes_on_where_it_broke_off(server, archive, tmp_path):
    server.cuts = [1000, 0, 5000]  # the second response is one that only tells which version the server has
    get(server, tmp_path / 'd')
    assert files(tmp_path / 'd') == {'a.zip': archive}
    assert starts(server) == [1000, 6000]


def test_attempts_that_bring_something_are_not_counted(server, archive, tmp_path):
    server.cuts = [1000, *[0, 1000] * 5]
    get(server, tmp_path / 'd')
    assert files(tmp_path / 'd') == {'a.zip': archive} and starts(server) == [1000, 2000, 3000, 4000, 5000, 6000]


def test_a_later_run_goes_on(server, archive, tmp_path):
    """Three responses with nothing new end the first run; what had come stays, and nothing has the archive's name."""
    server.cuts = [7000, 0, 0, 0, 0]
    with pytest.raises(RunError, match='connection closed after 7000 of'):
        get(server, tmp_path / 'd')
    left, = files(tmp_path / 'd').items()
    assert re.fullmatch(r'a\.zip\.[0-9a-f]{12}\.part', left[0]) and left[1] == archive[:7000]
    server.requests.clear()
    get(server, tmp_path / 'd')
    assert files(tmp_path / 'd') == {'a.zip': archive} and starts(server) == [7000]


def test_ctrl_c_keeps_what_has_come(server, archive, tmp_path, monkeypatch):
    monkeypatch.setattr(download, 'CHUNK', 10_000)
    read, calls = download.tqdm.update, []

    def interrupted(bar, count):
        calls.append(count)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read(bar, count)

    monkeypatch.setattr(download.tqdm, 'update', interrupted)
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path / 'd')
    content, = files(tmp_path / 'd').values()
    assert content == archive[:30_000] and not (tmp_path / 'd' / 'a.zip').exists()
    monkeypatch.setattr(download.tqdm, 'update', read)
    get(server, tmp_path / 'd')
    assert files(tmp_path / 'd') == {'a.zip': archive} and starts(server) == [30_000]


def test_killed_when_all_had_come(server, archive, tmp_path, monkeypatch):
    """Nothing is left to ask for."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, 'replace', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        get(server, tmp_path / 'd')
    assert not (tmp_path / 'd' / 'a.zip').exists()
    get(server, tmp_path / 'd')
    assert files(tmp_path / 'd') == {'a.zip': archive} and server.requests == [('/a.zip', None)] * 2


def test_one_mirrors_part_is_not_continued_from_another(server, archive, tmp_path):
    """Their files may differ although length and version agree."""
    other = server.contents['/other/a.zip'] = archive[:50] + b'other' + archive[55:]
    server.cuts = [1000, 0, 0, 0, 0]
    with pytest.raises(RunError):
        get(server, tmp_path / 'd')
    get(server, tmp_path / 'd', '/other/a.zip')
    assert files(tmp_path / 'd') == {'a.zip': other}


def test_server_without_ranges_starts_again(server, archive, tmp_path):
    server.ranges, server.cuts = False, [1000, 0]
    get(server, tmp_path / 'd')
    assert files(tmp_path / 'd') == {'a.zip': archive} and starts(server) == [1000]


def test_server_without_ranges_that_always_breaks_off_is_given_up(server, archive, tmp_path):
    server.ranges, server.cuts = False, [1000] * 99
    with pytest.raises(RunError, match=f'connection closed after 1000 of {len(archive)} bytes'):
        get(server, tmp_path / 'd')
    assert len(server.requests) == 5  # 1 + 2 × 2


def test_server_that_tells_no_length(server, archive, tmp_path, monkeypatch):
    """The chunks tell where the body ends; a broken one is not taken for whole, nor continued blindly."""
    monkeypatch.setattr(download, 'CHUNK', 500)
    server.length, server.cuts = False, [1000]
    get(server, tmp_path / 'd')
    assert files(tmp_path / 'd') == {'a.zip': archive} and server.requests == [('/a.zip', None)] * 2


def test_a_changed_file_is_not_continued_with_the_new_one(server, archive, tmp_path):
    server.cuts = [1000, 0, 0, 0, 0]
    with pytest.raises(RunError):
        get(server, tmp_path / 'd')
    server.contents['/a.zip'] = new = pack(tmp_path / 'made' / 'b.zip', {'x/y.png': png(400, 750, seed=1)}).read_bytes()
    server.version = '"2"'
    server.requests.clear()
    get(server, tmp_path / 'd')
    assert files(tmp_path / 'd') == {'a.zip': new} and starts(server) == []


def test_a_range_that_was_not_asked_for_is_not_used(server, archive, tmp_path):
    server.cuts, server.lies = [1000, 0], True
    get(server, tmp_path / 'd')
    assert files(tmp_path / 'd') == {'a.zip': archive}


def test_a_file_that_changes_meanwhile(server, archive, tmp_path):
    """Between the request that asks for the version and the one that continues."""
    server.cuts, server.changed = [1000, 0], archive + bytes(4)
    get(server, tmp_path / 'd')
    assert files(tmp_path / 'd') == {'a.zip': archive + bytes(4)}


def test_missing_file_goes_to_the_next_mirror(server, archive, tmp_path):
    get(server, tmp_path / 'd', '/gone/a.zip', '/a.zip')
    assert files(tmp_path / 'd') == {'a.zip': archive}
    assert [path for path, _ in server.requests] == ['/gone/a.zip', '/a.zip']


@pytest.mark.parametrize('status', [429, 500, 503])
def test_busy_server_is_asked_again(server, archive, tmp_path, status):
    server.statuses = [status, status]
    get(server, tmp_path / 'd')
    assert len(server.requests) == 3


def test_all_mirrors_dead(server, tmp_path):
    server.statuses = [403]
    urls = [server.url + '/one/a.zip', server.url + '/two/a.zip', dead_url()]
    with pytest.raises(RunError) as error:
        download.obtain([Source('a.zip', url) for url in urls], tmp_path / 'd', pause=0)
    message = str(error.value)
    assert f'{urls[0]}: HTTP 403 Forbidden; {urls[1]}: HTTP 404 Not Found; {urls[2]}: [Errno' in message
    assert '\n' not in message
    assert message.startswith('no mirror gives a.zip (') and f'put it into {tmp_path / "d"} yourself' in message
    assert not (tmp_path / 'd').exists()


def test_right_checksum(server, archive, tmp_path, capsys):
    digest = hashlib.sha256(archive).hexdigest()
    get(server, tmp_path / 'd', sha256=digest)
    assert capsys.readouterr().out == f'a.zip: downloading {server.url}/a.zip\na.zip: SHA-256 {digest}\n'


def test_wrong_checksum_goes_to_the_next_mirror(server, archive, tmp_path):
    server.contents['/other/a.zip'] = pack(tmp_path / 'made' / 'b.zip', {'x/y.png': png(9, 9)}).read_bytes()
    get(server, tmp_path / 'd', '/other/a.zip', '/a.zip', sha256=hashlib.sha256(archive).hexdigest())
    assert files(tmp_path / 'd') == {'a.zip': archive}


def test_wrong_checksum_everywhere(server, archive, tmp_path):
    with pytest.raises(RunError, match=f'SHA-256 is {hashlib.sha256(archive).hexdigest()}, expected {"0" * 64}'):
        get(server, tmp_path / 'd', sha256='0' * 64)
    assert files(tmp_path / 'd') == {}


def test_wrong_checksum_of_the_users_archive(server, archive, tmp_path):
    """It is the user's: reported, not deleted."""
    (tmp_path / 'a.zip').write_bytes(archive)
    with pytest.raises(UserError, match=f'^{re.escape(str(tmp_path / "a.zip"))}: its SHA-256 is .*; delete it'):
        get(server, tmp_path, sha256='0' * 64)
    assert (tmp_path / 'a.zip').read_bytes() == archive and server.requests == []


@pytest.mark.parametrize('content', [b'<html>please log in</html>', b''])
def test_a_page_instead_of_the_archive(server, archive, tmp_path, content):
    server.contents['/login/a.zip'] = content
    get(server, tmp_path / 'd', '/login/a.zip', '/a.zip')
    assert files(tmp_path / 'd') == {'a.zip': archive}


def test_users_archive_cut_short(server, archive, tmp_path):
    (tmp_path / 'a.zip').write_bytes(archive[:9999])
    with pytest.raises(UserError, match=re.escape(f'{tmp_path / "a.zip"}: not a zip or tar archive, or cut short')):
        get(server, tmp_path)


def test_users_tgz_cut_short_anywhere_in_its_start(server, tmp_path):
    content = pack(tmp_path / 'made.tgz', {'x/y.png': png(9, 9)}).read_bytes()
    for length in range(100):
        (tmp_path / 'a.zip').write_bytes(content[:length])
        with pytest.raises(UserError, match=r'a\.zip: (not a zip or tar archive, or cut short|damaged archive)'):
            unpack.unpack(get(server, tmp_path), [HR], tmp_path / 'data')


def test_no_room_is_reported_before_the_transfer(server, archive, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: type('Usage', (), {'free': len(archive) - 1}))
    with pytest.raises(RunError, match=r'd: a\.zip needs 0\.00 GiB more, 0\.00 GiB are free; free some space'):
        get(server, tmp_path / 'd')
    assert files(tmp_path / 'd') == {}


class FullDisk:
    """Lets `room` bytes be written to files whose name matches, then reports a full disk."""

    def __init__(self, monkeypatch, pattern: str, room: int):
        opened = Path.open

        def limited(path, mode='r', *arguments, **settings):
            file = opened(path, mode, *arguments, **settings)
            if re.search(pattern, path.name) and mode[0] in 'wa':
                write = file.write

                def limited_write(content):
                    self.room -= len(content)
                    if self.room < 0:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    return write(content)

                file = Writing(file, limited_write)
            return file

        self.room = room
        monkeypatch.setattr(Path, 'open', limited)


class Writing:
    """A file whose `write` is another."""

    def __init__(self, file, write):
        self.file, self.write = file, write

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def test_disk_full_while_downloading(server, archive, tmp_path, monkeypatch):
    """One line that names the file; no other mirror is tried, and what has come stays for the next run."""
    monkeypatch.setattr(download, 'CHUNK', 10_000)
    disk = FullDisk(monkeypatch, r'\.part$', 25_000)
    message = r'd/a\.zip\.\w+\.part: cannot be written \(No space left on device\)$'
    with pytest.raises(WriteError, match=message):
        get(server, tmp_path / 'd', '/a.zip', '/again/a.zip')
    assert len(server.requests) == 1 and list(files(tmp_path / 'd').values()) == [archive[:20_000]]
    disk.room = 10 ** 9
    get(server, tmp_path / 'd')
    assert files(tmp_path / 'd') == {'a.zip': archive} and starts(server) == [20_000]


# unpacking

LR = Folder('s/LR/X2', 'a', ('S/LR/X2',), 2, hr='s/HR', scale=2)
HR = Folder('s/HR', 'a', ('S/HR', 'old/hr'), 2)
MEMBERS = {'top/S/HR/a.png': b'a', 'top/S/HR/b.PNG': b'b', 'top/S/LR/X2/ax2.png': b'c', 'top/S/LR/X2/bx2.png': b'd'}
UNPACKED = {'s/HR/a.png': b'a', 's/HR/b.PNG': b'b', 's/LR/X2/ax2.png': b'c', 's/LR/X2/bx2.png': b'd'}
KINDS = ['.zip', '.tar', '.tgz']


@pytest.mark.parametrize('kind', KINDS)
def test_unpack(tmp_path, kind):
    """Only the images of the folders asked for; the kind follows from the content, not from the name."""
    others = {'top/S/HR/notes.txt': b'1', 'top/S/LR/X3/ax3.png': b'2', '__MACOSX/S/HR/._a.png': b'3', 'c.png': b'4',
              'top/notS/HR/c.png': b'5', 'top/S/HR/sub/c.png': b'6'}
    archive = pack(tmp_path / 'archive.bin', {**others, **MEMBERS}, kind)
    unpack.unpack(archive, [LR, HR], tmp_path / 'data')
    assert files(tmp_path / 'data') == UNPACKED
    assert sorted(path.name for path in (tmp_path / 'data' / 's').iterdir()) == ['HR', 'LR']
    unpack.unpack(archive, [HR], tmp_path / 'half')
    assert files(tmp_path / 'half') == {name: content for name, content in UNPACKED.items() if '/HR/' in name}


def test_another_way_of_packing(tmp_path):
    archive = pack(tmp_path / 'a.zip', {'old/hr/a.png': b'a', 'old/hr/b.png': b'b'})
    unpack.unpack(archive, [HR], tmp_path / 'data')
    assert files(tmp_path / 'data') == {'s/HR/a.png': b'a', 's/HR/b.png': b'b'}


def test_a_folder_that_exists_gets_what_it_lacks(tmp_path):
    (tmp_path / 'data/s/HR').mkdir(parents=True)
    (tmp_path / 'data/s/LR/X2').mkdir(parents=True)
    (tmp_path / 'data/s/HR/a.png').write_bytes(b'own')
    unpack.unpack(pack(tmp_path / 'a.tar', MEMBERS), [LR, HR], tmp_path / 'data')
    assert files(tmp_path / 'data') == {**UNPACKED, 's/HR/a.png': b'own'}


def test_an_empty_folder_is_filled_at_once(tmp_path, monkeypatch):
    (tmp_path / 'data/s/HR').mkdir(parents=True)
    replace, renamed = Path.replace, []
    monkeypatch.setattr(Path, 'replace', lambda path, target: renamed.append(target) or replace(path, target))
    unpack.unpack(pack(tmp_path / 'a.tar', MEMBERS), [HR], tmp_path / 'data')
    assert renamed == [tmp_path / 'data/s/HR'] and set(files(tmp_path / 'data')) == {'s/HR/a.png', 's/HR/b.PNG'}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', ['../S/HR/c.png', 'top/../../S/HR/c.png', '/S/HR/c.png', 'top\\..\\..\\c.txt', 'C:\\c.txt'])
def test_paths_that_lead_out_are_refused(tmp_path, kind, name):
    archive = pack(tmp_path / f'a{kind}', {**MEMBERS, name: b'x'})
    with pytest.raises(UserError) as error:
        unpack.unpack(archive, [LR, HR], tmp_path / 'data')
    assert str(error.value) == f"{archive}: holds '{name}', a path that leads out of the archive; nothing of it is used"
    assert files(tmp_path) == {archive.name: archive.read_bytes()}


def test_links_are_not_followed(tmp_path):
    """A link under an image's name is not an image: it is missing."""
    (tmp_path / 'secret.png').write_bytes(b'secret')
    with tarfile.open(tmp_path / 'a.tar', 'w') as file:
        for name, kind in {'S/HR/a.png': tarfile.SYMTYPE, 'S/HR/b.png': tarfile.LNKTYPE}.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(tmp_path / 'secret.png')
            file.addfile(member)
    with pytest.raises(UserError, match='holds 0 images in S/HR or old/hr, expected 2'):
        unpack.unpack(tmp_path / 'a.tar', [HR], tmp_path / 'data')
    assert files(tmp_path / 'data') == {}


@pytest.mark.parametrize('kind', KINDS)
def test_an_archive_that_lacks_a_image(tmp_path, kind):
    members = {name: content for name, content in MEMBERS.items() if name != 'top/S/LR/X2/bx2.png'}
    archive = pack(tmp_path / f'a{kind}', members)
    with pytest.raises(UserError, match=re.escape(f'{archive}: holds 1 images in S/LR/X2, expected 2; delete it')):
        unpack.unpack(archive, [LR, HR], tmp_path / 'data')
    assert files(tmp_path / 'data') == {}


@pytest.mark.parametrize('kind', KINDS)
def test_a_damaged_archive(tmp_path, kind):
    """Cut at many places, it is never unpacked; nor with a byte changed in the middle (a tar has no checksum of that)."""
    members = {f'S/HR/{name}.png': np.random.default_rng(seed).bytes(3000) for seed, name in enumerate('ab')}
    content = pack(tmp_path / f'a{kind}', members).read_bytes()
    damaged = [content[:length] for length in range(len(content) * 19 // 20, 0, -len(content) // 20)] \
        if kind != '.tar' else [content[:length] for length in range(7000, 0, -500)]
    if kind != '.tar':
        damaged.append(content[:3000] + bytes([content[3000] ^ 1]) + content[3001:])
    for bad in damaged:
        (tmp_path / 'bad').write_bytes(bad)
        with pytest.raises(UserError, match=f'^{re.escape(str(tmp_path / "bad"))}: .*; delete it and run again'):
            unpack.unpack(tmp_path / 'bad', [HR], tmp_path / 'data')
        assert files(tmp_path / 'data') == {}


@pytest.mark.parametrize('kind', ['.tar', *(pytest.param(kind, marks=pytest.mark.slow) for kind in ('.zip', '.tgz'))])
def test_a_member_is_read_in_blocks(tmp_path, kind):
    """6 MB of noise in one image: the program holds a few blocks of it at a time."""
    members = {'S/HR/a.png': np.random.default_rng(0).bytes(6_000_000), 'S/HR/b.png': b'b'}
    archive = pack(tmp_path / f'a{kind}', members)
    tracemalloc.start()
    try:
        unpack.unpack(archive, [HR], tmp_path / 'data')
        assert tracemalloc.get_traced_memory()[1] < 4_500_000
    finally:
        tracemalloc.stop()
    assert (tmp_path / 'data/s/HR/a.png').read_bytes() == members['S/HR/a.png']


@pytest.mark.parametrize('kind', KINDS)
def test_an_image_of_absurd_size_is_not_read(tmp_path, monkeypatch, kind):
    archive = pack(tmp_path / f'a{kind}', {**MEMBERS, 'S/HR/a.png': bytes(1001)})
    monkeypatch.setattr(unpack, 'MAX_IMAGE', 1000)
    expected = f"{archive}: holds 'S/HR/a.png' of 1,001 bytes, expected images of at most 1,000; delete it"
    with pytest.raises(UserError, match=re.escape(expected)):
        unpack.unpack(archive, [HR], tmp_path / 'data')
    assert files(tmp_path / 'data') == {}
    unpack.unpack(archive, [LR], tmp_path / 'data')  # which is not among these


def test_the_checksum_at_the_end_of_a_tgz_counts(tmp_path):
    """Reading the members alone does not reach it."""
    archive = pack(tmp_path / 'a.tgz', MEMBERS)
    content = bytearray(archive.read_bytes())
    content[-8] ^= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r'damaged archive \(CRC'):
        unpack.unpack(archive, [LR, HR], tmp_path / 'data')
    assert files(tmp_path / 'data') == {}


def test_an_encrypted_zip(tmp_path):
    archive = pack(tmp_path / 'a.zip', MEMBERS)
    content = bytearray(archive.read_bytes())
    for signature, flags in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):
        for found in re.finditer(signature, bytes(content)):
            content[found.start() + flags] |= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r'damaged archive \(.*encrypted'):
        unpack.unpack(archive, [LR, HR], tmp_path / 'data')


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork')
@pytest.mark.filterwarnings('ignore:.*fork:DeprecationWarning')
@pytest.mark.parametrize('step', range(8))
def test_killed_at_any_step(tmp_path, step):
    """Each folder is absent or whole, LR before HR, and a rerun completes them."""
    archive = pack(tmp_path / 'a.tar', MEMBERS)
    child = os.fork()
    if child == 0:
        steps = iter(range(99))

        def killing(function):
            def wrapped(path, *arguments):
                if next(steps) == step:
                    if function.__name__ == 'open':
                        function(path, *arguments)  # half of it
                    os._exit(9)
                return function(path, *arguments)
            return wrapped

        Path.open, Path.replace = killing(Path.open), killing(Path.replace)
        with contextlib.suppress(BaseException):
            unpack.unpack(archive, [LR, HR], tmp_path / 'data')
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert killed == (step < 6)  # four images, two folders
    visible = {name for name in files(tmp_path / 'data') if '/.' not in name}
    lr = {name for name in UNPACKED if '/LR/' in name}
    assert visible == (set() if step < 5 else lr if step == 5 else set(UNPACKED))
    unpack.unpack(archive, [LR, HR], tmp_path / 'data')
    assert files(tmp_path / 'data') == UNPACKED


def test_disk_full_while_unpacking(tmp_path, monkeypatch):
    """The room that the unpacked part took is given back."""
    archive = pack(tmp_path / 'a.tar', MEMBERS)
    FullDisk(monkeypatch, r'(?i)\.png$', 2)
    with pytest.raises(WriteError, match=r'ax2\.png: cannot be written \(No space left on device\)$'):
        unpack.unpack(archive, [LR, HR], tmp_path / 'data')
    assert files(tmp_path / 'data') == {}


# checking

@pytest.fixture
def tree(tmp_path) -> Path:
    """HR images 1.png to 4.png of 12×17, and their LR images of 6×8."""
    for number in range(1, 5):
        for path, size in ((f'HR/{number}.png', (12, 17)), (f'LR/X2/{number}x2.png', (6, 8))):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(png(*size, seed=number))
    return tmp_path


TREE = (Folder('LR/X2', 'a', (), 4, hr='HR', scale=2), Folder('HR', 'a', (), 4, '1.png', 17))


def problems(root: Path, folders=TREE) -> list[str]:
    return check.check(folders, root, 'title')


def test_a_right_tree(tree):
    assert problems(tree) == [] and all(check.is_complete(folder, tree) for folder in TREE)


def test_missing_and_empty_folders(tree):
    shutil.rmtree(tree / 'LR')
    for file in (tree / 'HR').iterdir():
        file.unlink()
    missing, empty = problems(tree)
    assert missing == f'{tree / "LR/X2"}: no such folder of images; expected 4 images'
    assert empty.startswith(f'{tree / "HR"}: holds no image') and empty.endswith('; expected 4 images')
    assert not any(check.is_complete(folder, tree) for folder in TREE)


def test_a_missing_image(tree):
    (tree / 'HR/3.png').unlink()
    assert problems(tree) == [
        f'{tree / "LR/X2"}: holds 4 images, expected 3, one for each in {tree / "HR"}; not expected: 3x2.png',
        f'{tree / "HR"}: holds 3 images, expected 4; missing: 3.png']
    assert not check.is_complete(TREE[1], tree)


def test_lr_and_hr_counts_that_differ(tree):
    (tree / 'LR/X2/2x2.png').unlink()
    assert problems(tree) == [
        f'{tree / "LR/X2"}: holds 3 images, expected 4, one for each in {tree / "HR"}; missing: 2x2.png']


def test_a_wrong_name(tree):
    """The number is right and the image is not."""
    (tree / 'HR/4.png').rename(tree / 'HR/04.png')
    (tree / 'LR/X2/4x2.png').rename(tree / 'LR/X2/04x2.png')
    assert problems(tree) == [f'{tree / "HR"}: holds 4 images, expected 4; missing: 4.png; not expected: 04.png']
    assert not check.is_complete(TREE[1], tree)


def test_long_lists_are_cut(tmp_path):
    (tmp_path / 'HR').mkdir()
    (tmp_path / 'HR/0003.png').write_bytes(png(5, 5))
    assert problems(tmp_path, [Folder('HR', 'a', (), 800, '0001.png')]) == [
        f'{tmp_path / "HR"}: holds 1 images, expected 800; missing: 0001.png, 0002.png, 0004.png and 796 more']


def test_names_that_are_no_numbers_are_counted(tree):
    hr = (Folder('HR', 'a', (), 3),)
    assert problems(tree, hr) == [f'{tree / "HR"}: holds 4 images, expected 3']


def test_images_that_cannot_be_read(tree):
    """Each is named, and nothing else of the folder is hidden by them."""
    whole = (tree / 'HR/2.png').read_bytes()
    (tree / 'HR/2.png').write_bytes(whole[:len(whole) * 2 // 3])
    (tree / 'HR/3.png').write_bytes(b'')
    (tree / 'LR/X2/1x2.png').write_bytes(b'text')
    found = problems(tree)
    assert len(found) == 3 and all('\n' not in line for line in found)
    assert found[0] == f'{tree / "LR/X2/1x2.png"}: not an image that can be read'
    assert found[1].startswith(f'{tree / "HR/2.png"}: damaged or unreadable image (')
    assert found[2] == f'{tree / "HR/3.png"}: not an image that can be read'


def test_sizes(tree):
    """12×17 gives 6×8 at ×2; HR images have a longer side of 17, on either side."""
    (tree / 'LR/X2/1x2.png').write_bytes(png(6, 9))
    (tree / 'HR/2.png').write_bytes(png(12, 16))
    (tree / 'HR/3.png').write_bytes(png(17, 12))
    assert problems(tree) == [
        f'{tree / "LR/X2/1x2.png"}: is 6x9 (height x width), expected 6x8: its HR image divided by 2',
        f'{tree / "LR/X2/3x2.png"}: is 6x8 (height x width), expected 8x6: its HR image divided by 2',
        f'{tree / "HR/2.png"}: is 12x16 (height x width), expected a longer side of at least 17 pixels']


def test_an_lr_image_is_compared_with_its_own_hr_folder(tree):
    shutil.copytree(tree / 'HR', tree / 'other')
    (tree / 'other/1.png').write_bytes(png(40, 40))
    assert problems(tree, (*TREE, Folder('other', 'a', (), 4))) == []


def test_work_that_is_left_early_is_not_done_to_the_end(monkeypatch):
    """An interrupted check: of 200 files only those that a thread has begun; all but the first wait until it is left."""
    gate, decoded = threading.Event(), []

    class Pool(ThreadPoolExecutor):
        def __init__(self):
            super().__init__(max_workers=3)

        def shutdown(self, **_):
            super().shutdown(wait=False)
            gate.set()
            super().shutdown()

    def decode(file):
        if file != 0:
            gate.wait()
        decoded.append(file)

    monkeypatch.setattr(parallel, 'ThreadPoolExecutor', Pool)
    checking = parallel.in_parallel(decode, range(200), 'title')
    next(checking)
    checking.close()
    assert len(decoded) <= 4


# the table

def test_the_table():
    """The numbers of images that the data sets are known by, and every entry usable."""
    counts = {name: sum(folder.count for folder in folders if folder.hr is None) for name, folders in sources.SETS.items()}
    assert counts == {'DIV2K': 800 + 100, 'Flickr2K': 2650, 'BSDS500': 200 + 200, 'Set5': 5, 'Set14': 14, 'BSD100': 100,
                      'Urban100': 100}
    folders = [folder for folders in sources.SETS.values() for folder in folders]
    assert len({folder.path for folder in folders}) == len(folders)
    assert {folder.archive for folder in folders} == set(sources.ARCHIVES)
    for source in (source for known in sources.ARCHIVES.values() for source in known):
        assert re.fullmatch(r'https?://[\w.-]+/\S+', source.url) and re.fullmatch(r'[\w.-]+', source.file)
        assert source.sha256 is None or re.fullmatch('[0-9a-f]{64}', source.sha256)
    for group in sources.SETS.values():
        paths = [folder.path for folder in group]
        assert all(paths.index(folder.path) < paths.index(folder.hr) for folder in group if folder.hr)


@pytest.mark.parametrize('name', ['Set5', 'Set14', 'BSDS500'])
def test_real_images_pass(shared, name):
    assert check.check(sources.SETS[name], shared / 'data', name) == []


# the command

class Done(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, 'sleep', lambda _: None)

    def call(*words: str) -> Done:
        monkeypatch.setattr(sys, 'argv', ['prepare', *map(str, words)])
        capsys.readouterr()
        status = 0
        try:
            run(main)
        except SystemExit as leaving:
            status = leaving.code
        return Done(status, *capsys.readouterr())

    return call


def hr_and_lr(inside: str, names: list[str], size: tuple[int, int]) -> dict[str, bytes]:
    """Members HR/NAME.png and LR_bicubic/Xs/NAMExs.png below `inside`, as the benchmark archive has them."""
    members = {f'{inside}/HR/{name}.png': png(*size) for name in names}
    for s in (2, 3, 4):
        members |= {f'{inside}/LR_bicubic/X{s}/{name}x{s}.png': png(size[0] // s, size[1] // s) for name in names}
    return members


@pytest.fixture
def benchmark(tmp_path, monkeypatch, server) -> bytes:
    """benchmark.tar with Set5 and Set14 on the server, which the table names as the only mirror."""
    members = {**hr_and_lr('benchmark/Set5', [f'p{i}' for i in range(5)], (13, 17)),
               **hr_and_lr('benchmark/Set14', [f'p{i}' for i in range(14)], (9, 8))}
    server.contents['/benchmark.tar'] = pack(tmp_path / 'made' / 'benchmark.tar', members).read_bytes()
    monkeypatch.setitem(sources.ARCHIVES, 'benchmark', (Source('benchmark.tar', f'{server.url}/benchmark.tar'),))
    return server.contents['/benchmark.tar']


def test_prepare_and_run_again(call, server, benchmark):
    """One archive serves two sets, and a complete set needs none."""
    done = call('Set5', 'Set14')
    assert (done.status, done.err) == (0, '')
    assert done.out.endswith('Set5: complete, 20 images\nSet14: complete, 56 images\n')
    assert len(server.requests) == 1 and Path('data/archives/benchmark.tar').read_bytes() == benchmark
    assert {path.name for path in Path('data/benchmark/Set5/LR_bicubic/X4').iterdir()} == {f'p{i}x4.png' for i in range(5)}
    shutil.rmtree('data/archives')
    again = call('Set5', 'Set14', '--data', 'data')
    assert again == Done(0, 'Set5: complete, 20 images\nSet14: complete, 56 images\n', '')
    assert call('-check') == again
    assert call('Set14', 'Set14', '-check') == Done(0, 'Set14: complete, 56 images\n', '')
    assert len(server.requests) == 1


@pytest.mark.slow
def test_div2k_and_flickr2k_from_the_users_archives(call, tmp_path):
    """The real numbers of images, in archives as they are published: 800 + 100 with LR, and 2650."""
    train, image = png(2, 1200), png(12, 1200)
    pack(tmp_path / 'mine/DIV2K_train_HR.zip', {f'DIV2K_train_HR/{i:04d}.png': train for i in range(1, 801)})
    pack(tmp_path / 'mine/DIV2K_valid_HR.zip', {f'DIV2K_valid_HR/{i:04d}.png': image for i in range(801, 901)})
    for s in (2, 3, 4):
        small = png(12 // s, 1200 // s)
        pack(tmp_path / f'mine/DIV2K_valid_LR_bicubic_X{s}.zip',
             {f'DIV2K_valid_LR_bicubic/X{s}/{i:04d}x{s}.png': small for i in range(801, 901)})
    pack(tmp_path / 'mine/Flickr2K.tar', {'Flickr2K/Flickr2K_LR_bicubic/X2/000001x2.png': b'not wanted',
                                          **{f'Flickr2K/Flickr2K_HR/{i:06d}.png': train for i in range(1, 2651)}})
    done = call('DIV2K', 'Flickr2K', '-archives', 'mine', '-data', 'd')
    assert (done.status, done.err) == (0, '')
    assert done.out.endswith('DIV2K: complete, 1200 images\nFlickr2K: complete, 2650 images\n')
    assert not Path('d/archives').exists()

    Path('d/DIV2K/DIV2K_train_HR/0123.png').unlink()
    done = call('-check', '-data', 'd')
    assert done.status == 2 and done.out == 'Flickr2K: complete, 2650 images\n'
    assert done.err == (
        'd/DIV2K/DIV2K_train_HR: holds 799 images, expected 800; missing: 0123.png\n'
        "error: 1 problem in DIV2K; delete the wrong files named, then 'python -m datasets.prepare DIV2K -data d' unpacks "
        'what is missing\n')
    assert call('DIV2K', '-archives', 'mine', '-data', 'd').status == 0
    assert Path('d/DIV2K/DIV2K_train_HR/0123.png').read_bytes() == train


def test_bsds_without_its_validation_part(call, tmp_path):
    """200 + 200; the other 100 are a benchmark set."""
    content = io.BytesIO()
    Image.new('RGB', (481, 321)).save(content, 'jpeg')
    numbers = iter(range(500))
    members = {f'BSR/BSDS500/data/images/{part}/{next(numbers)}.jpg': content.getvalue()
               for part, count in {'val': 100, 'train': 200, 'test': 200}.items() for _ in range(count)}
    pack(tmp_path / 'data/archives/BSR_bsds500.tgz', members)
    done = call('BSDS500')
    assert (done.status, done.err) == (0, '') and done.out.endswith('BSDS500: complete, 400 images\n')
    assert {path.stem for path in Path('data/bsds400/HR').iterdir()} == {str(number) for number in range(100, 500)}


def test_bsd100_is_packed_under_another_name(call, tmp_path):
    pack(tmp_path / 'data/archives/benchmark.tar', hr_and_lr('benchmark/B100', [str(i) for i in range(100)], (8, 9)))
    assert call('BSD100').status == 0
    assert len(list(Path('data/benchmark/BSD100/HR').iterdir())) == 100


def test_mirror_of_the_users(call, server, benchmark):
    """Tried first; what it does not have comes from the known mirrors."""
    server.contents['/my/benchmark.tar'] = benchmark
    assert call('Set5', '-mirror', f'{server.url}/my/').status == 0
    assert [path for path, _ in server.requests] == ['/my/benchmark.tar']
    del server.contents['/my/benchmark.tar']
    shutil.rmtree('data')
    assert call('Set5', '-mirror', f'{server.url}/my').status == 0
    assert [path for path, _ in server.requests][1:] == ['/my/benchmark.tar', '/benchmark.tar']


def test_problems_are_all_told(call, server, benchmark):
    call('Set5', 'Set14')
    Path('data/benchmark/Set5/HR/p1.png').write_bytes(b'')
    Path('data/benchmark/Set14/LR_bicubic/X3/p2x3.png').unlink()
    done = call('-check')
    assert (done.status, done.out) == (2, '')
    lines = done.err.splitlines()
    assert lines[0] == 'data/benchmark/Set5/HR/p1.png: not an image that can be read'
    assert lines[1] == ('data/benchmark/Set14/LR_bicubic/X3: holds 13 images, expected 14, one for each in '
                        'data/benchmark/Set14/HR; missing: p2x3.png')
    assert len(lines) == 3 and lines[2].startswith('error: 2 problems in Set5, Set14; delete the wrong files named')
    Path('data/benchmark/Set5/HR/p1.png').unlink()  # as the last line says
    assert call('Set5', 'Set14').status == 0


def test_dead_mirrors_are_one_line(call, monkeypatch, server):
    monkeypatch.setitem(sources.ARCHIVES, 'benchmark', (Source('benchmark.tar', f'{server.url}/benchmark.tar'),))
    done = call('Set5')
    assert done == Done(1, f'benchmark.tar: downloading {server.url}/benchmark.tar\n',
                        f'error: no mirror gives benchmark.tar ({server.url}/benchmark.tar: HTTP 404 Not Found); '
                        'put it into data/archives yourself, or name another mirror by -mirror\n')
    assert not Path('data').exists()


def test_interrupted(call, monkeypatch, benchmark):
    whole = Path.open

    def interrupted(path, *arguments, **settings):
        if path.suffix == '.png':
            raise KeyboardInterrupt
        return whole(path, *arguments, **settings)
    monkeypatch.setattr(Path, 'open', interrupted)
    done = call('Set5')
    assert (done.status, done.err) == (130, 'interrupted: run the same command again to continue\n')
    assert set(files(Path('data'))) == {'archives/benchmark.tar'}


@pytest.mark.parametrize('words, part', [
    ([], 'name the data sets to prepare: DIV2K'),
    (['DIV2k'], "'DIV2k': no such data set, did you mean 'DIV2K'?"),
    (['-check'], '-data data: no such folder'),
    (['-check', '-data', '.'], '.: holds none of the data sets DIV2K'),
    (['Set5', '-data', 'file'], '-data file: no such folder'),
    (['Set5', '-archives', 'nowhere'], '-archives nowhere: no such folder'),
    (['Set5', '-mirror', 'ftp://x/y'], '-mirror ftp://x/y: expected an address that starts with http'),
    (['Set5', '-chekc'], 'unrecognized arguments: -chekc'),
])
def test_wrong_input(call, tmp_path, words, part):
    (tmp_path / 'file').write_text('')
    done = call(*words)
    assert done.status == 2 and done.out == '' and done.err.count('\n') == 1
    assert done.err.startswith(f'error: {part}'), done.err
    assert files(tmp_path) == {'file': b''}
