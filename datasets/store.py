"""Decoded images on disk, memory-mapped: cutting a crop reads only its bytes and decodes nothing.

An entry of the store is an .npy file of (H, W, 3) uint8 that ends with a checksum. Its name contains the image's name, size
in bytes and modification time, so a changed image gets a new entry, and the entry of an unchanged image is found again. Of a
name that is long, or that some file systems take for that of another file, it contains the beginning and a digest.
Entries are written under a temporary name, brought to the disk, then renamed, and never changed: an interrupted build
continues where it stopped, and a complete store is only read. One process at a time builds; others wait for it.

Every entry is read once, and its checksum compared, when a run opens the store: about 1.4 GB/s for each core while the files
are in memory, so the 6.6 GB of DIV2K take seconds, or the time that the disk needs. A damaged entry is made again.
"""
import contextlib
import hashlib
import io
import math
import os
import re
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from common.locks import locked
from datasets.parallel import in_parallel
from imaging import read_rgb, read_size
from utils import PARTIAL, RunError, UserError, atomic_path

_VERSION = 3  # of the entries: raise it when `read_rgb` returns other values, or files are laid out in another way
_ENTRY = re.compile(r'(?P<label>.+)\.v\d+-\d+--?\d+')  # stem of an entry's name
_PLAIN = re.compile(r'[a-z0-9._ -]{1,128}')  # names of images that are the same on every file system
_CHECKSUM = 4  # bytes at the end of an entry: CRC-32 of its name and of all before
_PART = 2 ** 20  # bytes read at once
_ADVICE = "make room there, name another folder as cache_path, or set 'cache: none'"


class _Entry(NamedTuple):
    """Where a decoded image is: (H, W, 3) uint8, `offset` bytes into a file."""
    path: str
    shape: tuple[int, int, int]
    offset: int


class Store:
    """The decoded pixels of a list of images.

    It keeps names and numbers but no open file, so sending it to the workers of a data loader is cheap.

    Args:
        images: the files. Those without an entry are decoded, in parallel.
        data_root: images below it keep their relative path in the store.
        folder: of the store; made when missing. Entries in it whose image is gone or has changed are removed.
    Raises: UserError naming an image that cannot be read; OSError, a line that names the folder, where the store cannot be
        written or has no room.
    """

    def __init__(self, *, images: list[Path], data_root: Path, folder: Path):
        folders = {parent: _entry_folder(parent, data_root, folder) for parent in {file.parent for file in images}}
        paths = [folders[file.parent] / _entry_name(file) for file in images]
        found = _find_entries(dict.fromkeys(paths))
        missing = {path: file for path, file in zip(paths, images) if path not in found}
        if missing:
            found |= _build(missing, folder)
        _remove_stale(folders, folder)
        self.entries = [found[path] for path in paths]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every image; opens no file."""
        return [entry.shape[:2] for entry in self.entries]

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8, read-only: a view of the file, of which only what is used is read."""
        path, shape, offset = self.entries[index]
        try:
            return np.asarray(np.memmap(path, np.uint8, 'r', offset, shape))
        except (OSError, ValueError) as error:
            raise RunError(f'{path}: this decoded image was removed or damaged while in use; start again to decode it '
                           'again') from error


def _entry_folder(images: Path, data_root: Path, folder: Path) -> Path:
    """Folder in the store for a folder of images: its path below the data root, or its name and a digest of its path."""
    absolute = Path(os.path.abspath(images))  # links are kept: what counts is the path that the user gave
    root = os.path.abspath(data_root)
    if absolute.is_relative_to(root):
        return folder / absolute.relative_to(root)
    return folder / f'{absolute.name}-{hashlib.sha256(os.fsencode(absolute)).hexdigest()[:16]}'


def _entry_name(image: Path) -> str:
    """File name of an image's entry; changes with the image's size in bytes and modification time."""
    try:
        status = image.stat()
    except OSError as error:
        raise UserError(f'{image}: cannot be read ({error.strerror})') from error
    return f'{_label(image.name)}.v{_VERSION}-{status.st_size}-{status.st_mtime_ns}.npy'


def _label(name: str) -> str:
    """What stands for an image's name in that of its entry."""
    if _PLAIN.fullmatch(name):
        return name
    return f"{re.sub('[^a-z0-9._ -]', '_', name.lower())[:64]}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def _find_entries(paths: Iterable[Path]) -> dict[Path, _Entry]:
    """The entries that are there and intact."""
    present = [path for path in paths if path.is_file()]  # a FIFO would be waited for
    entries = zip(present, in_parallel(_find_entry, present, 'checking decoded images'))
    return {path: entry for path, entry in entries if entry}


def _find_entry(path: Path) -> _Entry | None:
    """The entry in a file; None where there is none, or where a byte of it is not what was written."""
    try:
        with open(path, 'rb') as file:
            left = os.fstat(file.fileno()).st_size - _CHECKSUM
            checksum = _start_checksum(path)
            while left > 0 and (part := file.read(min(left, _PART))):
                checksum, left = zlib.crc32(part, checksum), left - len(part)
            if file.read() != _as_bytes(checksum):
                return None
        pixels = np.lib.format.open_memmap(path, mode='r')
    except (OSError, ValueError):
        return None
    return _Entry(str(path), pixels.shape, pixels.offset)


def _build(missing: dict[Path, Path], folder: Path) -> dict[Path, _Entry]:
    """Decodes images, {path of the entry: image}, unless another process has done so while this one waited for it."""
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(locked(folder))
        except OSError as error:
            raise OSError(f'{error}; {_ADVICE}') from error
        found = _find_entries(missing)
        todo = [item for item in missing.items() if item[0] not in found]
        damaged = [image.name for path, image in todo if path.exists()]
        if damaged:
            names = ', '.join(damaged[:3]) + (', …' if len(damaged) > 3 else '')
            tqdm.write(f'{folder}: {len(damaged)} decoded images are damaged and are decoded again ({names})')
        _check_room(folder, [image for _, image in todo])
        return found | {Path(entry.path): entry for entry in in_parallel(_write_entry, todo, 'decoding')}


def _write_entry(missing: tuple[Path, Path]) -> _Entry:
    """Decodes an image; (path of its entry, image) → the entry."""
    path, image = missing
    pixels = read_rgb(image)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(pixels))
    checksum = zlib.crc32(pixels.data, zlib.crc32(header.getvalue(), _start_checksum(path)))
    try:
        with atomic_path(path) as temporary, open(temporary, 'wb') as file:  # np.save hides why a write failed
            file.write(header.getvalue())
            file.write(pixels.data)
            file.write(_as_bytes(checksum))
            file.flush()
            os.fsync(file.fileno())  # on the disk before it has the name of an entry
    except OSError as error:
        if entry := _find_entry(path):  # Windows replaces no file that is in use
            return entry
        raise OSError(f'{path.parent}: decoded images cannot be written ({error.strerror}); {_ADVICE}') from error
    return _Entry(str(path), pixels.shape, header.tell())


def _start_checksum(path: Path) -> int:
    return zlib.crc32(os.fsencode(path.name))


def _as_bytes(checksum: int) -> bytes:
    return checksum.to_bytes(_CHECKSUM, 'little')


def _check_room(folder: Path, images: list[Path]) -> None:
    """Raises OSError unless the decoded images fit on the disk of `folder`."""
    needed = sum(3 * math.prod(read_size(image)) for image in images)
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OSError(f'{folder}: decoded images cannot be written ({error.strerror}); {_ADVICE}') from error
    if needed > free:
        raise OSError(f'{folder}: {len(images)} decoded images need {needed / 1e9:.3g} GB, and the disk has '
                       f'{free / 1e9:.3g} GB left; {_ADVICE}')


def _remove_stale(folders: dict[Path, Path], store: Path) -> None:
    """Removes entries whose image is gone or has changed, and what killed processes left half-written.

    Does nothing while another process builds, or where the store is read-only.

    Args:
        folders: of images, and of their entries.
    """
    if any(_stale_files(*pair) for pair in folders.items()):
        with contextlib.suppress(OSError, UserError), locked(store, 'in use'):
            for file in (file for pair in folders.items() for file in _stale_files(*pair)):
                with contextlib.suppress(OSError):  # Windows keeps a file while it is in use
                    file.unlink()


def _stale_files(images: Path, folder: Path) -> list[Path]:
    """The files of `_remove_stale` in one folder."""
    try:
        current = {_label(name): images / name for name in os.listdir(images)}
    except FileNotFoundError:
        current = {}
    except OSError:  # what is current is not known
        return []
    stale = []
    for file in folder.glob('*.npy') if folder.is_dir() else ():
        if entry := _ENTRY.fullmatch(file.stem):
            image = current.get(entry['label'])
            if image is None or not image.is_file() or _entry_name(image) != file.name:
                stale.append(file)
        elif file.name.startswith(PARTIAL):
            stale.append(file)
    return stale
