"""Archives: found in the user's folder, or downloaded into it from the first mirror that delivers a complete one."""
import hashlib
import http.client
import shutil
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from datasets.prepare.sources import Source
from datasets.prepare.unpack import CHUNK, NO_ARCHIVE, opener
from utils import RunError, UserError, file_status, writing

_TIMEOUT = 30            # seconds without an answer
_ATTEMPTS = 3            # without new bytes at one mirror, before the next one is tried
_TEMPORARY = (408, 429)  # HTTP statuses below 500 after which another attempt may succeed


class _Broken(Exception):
    """A transfer ended early. The bytes received are kept, and another attempt continues from them."""


class _Refused(Exception):
    """A mirror does not deliver the archive: try the next one."""


def obtain(sources: Sequence[Source], folder: Path, pause: float = 1) -> Path:
    """The archive in `folder`, downloaded into it unless it is there already under the name of one of its sources.

    Args:
        sources: mirrors, in the order in which they are tried.
        pause: seconds before another attempt at the same mirror; doubled each time.
    Raises: UserError when the file found there is not the archive, RunError when no mirror delivers it.
    """
    for file in dict.fromkeys(source.file for source in sources):
        status = file_status(folder / file)
        if status is not None:
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f'{folder / file}: is no regular file, expected an archive; remove it to download it')
            digests = [source.sha256 for source in sources if source.file == file]
            known = [digest for digest in digests if digest is not None]
            try:
                _verify(folder / file, file, known if len(known) == len(digests) else None)
            except _Refused as error:
                raise UserError(f'{folder / file}: {error}; delete it to download it again') from error
            return folder / file
    failures = []
    for source in sources:
        try:
            return _download(source, folder, pause)
        except _Refused as error:
            failures.append(f'{source.url}: {error}')
    raise RunError(f"no mirror gives {sources[0].file} ({'; '.join(failures)}); "
                   f'put it into {folder} yourself, or name another mirror by -mirror')


def _download(source: Source, folder: Path, pause: float) -> Path:
    """Downloads one source, continuing an earlier transfer. Raises _Refused."""
    print(f'{source.file}: downloading {source.url}')
    failures, reached = 0, -1
    while True:
        try:
            part, size = _transfer(source, folder)
            break
        except _Broken as error:
            message, size = error.args
            failures = 1 if size > reached else failures + 1
            reached = max(reached, size)
            if failures == _ATTEMPTS:
                raise _Refused(message) from error
            time.sleep(pause * 2 ** (failures - 1))
    try:
        _verify(part, source.file, source.sha256 and [source.sha256])
    except _Refused:
        part.unlink()
        raise
    part.replace(folder / source.file)
    for stale in folder.glob(f'{source.file}.*.part'):
        stale.unlink()
    return folder / source.file


def _transfer(source: Source, folder: Path) -> tuple[Path, int]:
    """Receives the missing bytes of a source's file.

    They are appended to a .part file whose name is a digest of the address and of the file's version at the server, so a
    transfer is never continued with bytes of another file.

    Returns: the complete .part file and its size.
    Raises: _Broken(message, bytes received so far) or _Refused.
    """
    with _request(source.url) as response:
        total = response.length  # None where the server does not send it
        version = response.headers['ETag'] or response.headers['Last-Modified']
        identity = hashlib.sha256(f'{source.url} {version} {total}'.encode()).hexdigest()[:12]
        part = folder / f'{source.file}.{identity}.part'
        start = part.stat().st_size if part.exists() and total is not None else 0
        if start == 0:
            _require_space(folder, source.file, total)
            return part, _receive(response, part, 0, total)
    if start == total:
        return part, start
    with _request(source.url, start) as response:
        if response.status != http.client.PARTIAL_CONTENT:  # the server does not support ranges: this is the whole file
            start = 0
        elif response.headers['Content-Range'] != f'bytes {start}-{total - 1}/{total}':
            part.unlink()  # the next attempt starts afresh
            raise _Broken(f"answered bytes {start}- with '{response.headers['Content-Range']}'", 0)
        _require_space(folder, source.file, total - start)
        return part, _receive(response, part, start, total)


def _request(url: str, start: int = 0):
    """The response to a GET of `url` from byte `start` on. Raises _Refused, or _Broken when another attempt may help."""
    headers = {'User-Agent': 'msit-prepare', 'Accept-Encoding': 'identity'}
    if start:
        headers['Range'] = f'bytes={start}-'
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        message = f'HTTP {error.code} {error.reason}'
        if error.code < 500 and error.code not in _TEMPORARY:
            raise _Refused(message) from error
        raise _Broken(message, start) from error
    except OSError as error:
        raise _Broken(str(getattr(error, 'reason', error)), start) from error
    except (http.client.HTTPException, ValueError) as error:
        raise _Refused(str(error) or type(error).__name__) from error


def _receive(response, part: Path, start: int, total: int | None) -> int:
    """Writes a response's body into `part` from byte `start` on; returns the file's size. Raises _Broken."""
    size = start
    bar = tqdm(desc=part.name.rsplit('.', 2)[0], initial=start, total=total, unit='B', unit_scale=True, disable=None)
    with writing(part), part.open('ab' if start else 'wb') as file, bar:
        while True:
            try:
                chunk = response.read(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _Broken(f'{error or type(error).__name__} after {size} bytes', size) from error
            if not chunk:
                break
            file.write(chunk)
            size += len(chunk)
            bar.update(len(chunk))
    if total is not None and size != total:
        raise _Broken(f'connection closed after {size} of {total} bytes', size)
    return size


def _require_space(folder: Path, file: str, needed: int | None) -> None:
    """Raises RunError when the disk of `folder` has no room for `needed` more bytes. Makes the folder."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    if needed is not None and needed > free:
        raise RunError(f'{folder}: {file} needs {needed / 2 ** 30:.2f} GiB more, {free / 2 ** 30:.2f} GiB are free; '
                       'free some space and run it again')


def _verify(path: Path, title: str, known: Sequence[str] | None) -> None:
    """Raises _Refused unless a file is a zip or tar archive, with one of the known SHA-256 if there are any.

    Prints the SHA-256 under the name `title`.
    """
    try:
        readable = opener(path) is not None
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    if not readable:
        raise _Refused(NO_ARCHIVE)
    digest = _sha256(path, title)
    if known and digest not in known:
        raise _Refused(f"its SHA-256 is {digest}, expected {' or '.join(known)}")
    print(f"{title}: SHA-256 {digest}{'' if known else ' (none known to compare it with)'}")


def _sha256(path: Path, title: str) -> str:
    """SHA-256 of a file, in hexadecimal. `title`: its name in the progress bar."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    bar = tqdm(desc=f'SHA-256 of {title}', total=size, unit='B', unit_scale=True, disable=None, leave=False)
    with path.open('rb') as file, bar:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()
