"""Decoded images on disk, memory-mapped: cutting a crop reads only its bytes and decodes nothing.

An entry of the store is an .npy file of (H, W, 3) uint8. Its name contains the image's name, size in bytes and modification
time, so a changed image gets a new entry, and the entry of an unchanged image is found again. Entries are written under a
temporary name, then renamed, and never changed. So any number of processes may build and read one store at the same time
without a lock, and an interrupted build continues where it stopped.
"""
import hashlib
import math
import os
import random
import re
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.parallel import in_parallel
from imaging import read_rgb, read_size
from utils import RunError, UserError, atomic_path

_VERSION = 2  # of the pixels: raise it when `read_rgb` returns other values
_ENTRY = re.compile(r'(?P<image>.+)\.v\d+-\d+--?\d+')  # stem of an entry's name
_ABANDONED = 3600  # seconds after which no process can still be writing a temporary file
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
        for parent, entries in folders.items():
            _remove_stale(entries, parent)
        found = [_find_entry(path) for path in paths]
        missing = list({path: file for file, path, entry in zip(images, paths, found) if entry is None}.items())
        if missing:
            _check_room(folder, [file for _, file in missing])
            random.SystemRandom().shuffle(missing)  # so that processes that build at the same time divide the work
        built = dict(zip((path for path, _ in missing), in_parallel(_write_entry, missing, 'decoding'))) if missing else {}
        self.entries = [entry or built[path] for path, entry in zip(paths, found)]

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
    return f'{image.name}.v{_VERSION}-{status.st_size}-{status.st_mtime_ns}.npy'


def _find_entry(path: Path) -> _Entry | None:
    """The entry in a file; None where there is none, or where the file was cut short."""
    try:
        pixels = np.lib.format.open_memmap(path, mode='r')
    except (OSError, ValueError):
        return None
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        return None
    return _Entry(str(path), pixels.shape, pixels.offset)


def _write_entry(missing: tuple[Path, Path]) -> _Entry:
    """Decodes an image; (path of its entry, image) → the entry. Does nothing if another process was faster."""
    path, image = missing
    if entry := _find_entry(path):
        return entry
    pixels = read_rgb(image)
    try:
        with atomic_path(path) as temporary, open(temporary, 'wb') as file:  # np.save hides why a write failed
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(pixels))
            offset = file.tell()
            file.write(pixels.data)
    except OSError as error:
        if entry := _find_entry(path):  # by another process, and Windows replaces no file that is in use
            return entry
        raise OSError(f'{path.parent}: decoded images cannot be written ({error.strerror}); {_ADVICE}') from error
    return _Entry(str(path), pixels.shape, offset)


def _check_room(folder: Path, images: list[Path]) -> None:
    """Raises OSError unless the decoded images fit on the disk of `folder`."""
    needed = sum(3 * math.prod(read_size(image)) for image in images)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OSError(f'{folder}: decoded images cannot be written ({error.strerror}); {_ADVICE}') from error
    if needed > free:
        raise OSError(f'{folder}: {len(images)} decoded images need {needed / 1e9:.3g} GB, and the disk has '
                       f'{free / 1e9:.3g} GB left; {_ADVICE}')


def _remove_stale(folder: Path, images: Path) -> None:
    """Removes entries whose image in `images` is gone or has changed, and what killed processes left half-written."""
    for file in folder.glob('*.npy') if folder.is_dir() else ():
        try:
            if entry := _ENTRY.fullmatch(file.stem):
                image = images / entry['image']
                stale = not image.is_file() or _entry_name(image) != file.name
            else:
                unfinished = file.name.startswith('.') and _ENTRY.match(file.stem[1:]) is not None
                stale = unfinished and time.time() - file.stat().st_mtime > _ABANDONED
            if stale:
                file.unlink()
        except OSError:
            pass  # another process removed it, or Windows keeps it while it is in use, or the store is read-only
