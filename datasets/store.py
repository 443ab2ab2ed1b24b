"""Decoded images on disk, memory-mapped: a crop costs its own bytes, not the decoding of a whole image.

Every image has an entry, an .npy file of (H, W, 3) uint8 whose name holds the image's name, its size in bytes and its
modification time: a changed image has another entry, and the entry of an unchanged one is found again. Entries appear
whole (written under a temporary name, then renamed) and are never written to afterwards, so any number of processes may
build and read one store at the same time without a lock, and what an interrupted one finished is kept.
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

VERSION = 2  # of the pixels: to be raised when `read_rgb` gives others
ENTRY = re.compile(r'(?P<image>.+)\.v\d+-\d+--?\d+')  # stem of an entry's name
ABANDONED = 3600  # seconds after which a temporary file belongs to no process that still writes it
ADVICE = "make room there, name another folder as cache_path, or set 'cache: none'"


class Entry(NamedTuple):
    """Where a decoded image lies: (H, W, 3) uint8, `offset` bytes into a file."""
    path: str
    shape: tuple[int, int, int]
    offset: int


class Store:
    """The decoded pixels of a list of images.

    Holds names and numbers but no open file, so a data loader's workers get it cheaply however they are started.

    Args:
        images: the files. Those without an entry are decoded, in parallel.
        data_root: images below it keep their relative path in the store.
        folder: of the store; made when missing. Entries in it whose image is gone or has changed are removed.
    Raises: UserError naming an image that cannot be read; OSError, a line that names the folder, where the store cannot be
        written or has no room.
    """

    def __init__(self, *, images: list[Path], data_root: Path, folder: Path):
        folders = {parent: entry_folder(parent, data_root, folder) for parent in {file.parent for file in images}}
        paths = [folders[file.parent] / entry_name(file) for file in images]
        for parent, entries in folders.items():
            remove_stale(entries, parent)
        found = [find_entry(path) for path in paths]
        missing = list({path: file for file, path, entry in zip(images, paths, found) if entry is None}.items())
        if missing:
            check_room(folder, [file for _, file in missing])
            random.SystemRandom().shuffle(missing)  # processes that build at the same time share the work
            built = dict(zip((path for path, _ in missing), in_parallel(write_entry, missing, 'decoding')))
            found = [entry or built[path] for path, entry in zip(paths, found)]
        self.entries: list[Entry] = found

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every image; touches no file."""
        return [entry.shape[:2] for entry in self.entries]

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8, read-only: a view of the file, of which only what is used is read."""
        path, shape, offset = self.entries[index]
        try:
            return np.asarray(np.memmap(path, np.uint8, 'r', offset, shape))
        except (OSError, ValueError) as error:
            raise RunError(f'{path}: this decoded image was removed or damaged while in use; start again to have it made '
                           'anew') from error


def entry_folder(images: Path, data_root: Path, folder: Path) -> Path:
    """Folder in the store for a folder of images: its path below the data root, or its name and a digest of its path."""
    absolute = Path(os.path.abspath(images))  # links are kept: the place that the user gave the images counts
    root = os.path.abspath(data_root)
    if absolute.is_relative_to(root):
        return folder / absolute.relative_to(root)
    return folder / f'{absolute.name}-{hashlib.sha256(os.fsencode(absolute)).hexdigest()[:16]}'


def entry_name(image: Path) -> str:
    """File name of an image's entry; another one whenever the image's size or modification time is."""
    try:
        status = image.stat()
    except OSError as error:
        raise UserError(f'{image}: cannot be read ({error.strerror})') from error
    return f'{image.name}.v{VERSION}-{status.st_size}-{status.st_mtime_ns}.npy'


def find_entry(path: Path) -> Entry | None:
    """The entry in a file; None where there is none, or where the file was cut short."""
    try:
        pixels = np.lib.format.open_memmap(path, mode='r')
    except (OSError, ValueError):
        return None
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        return None
    return Entry(str(path), pixels.shape, pixels.offset)


def write_entry(missing: tuple[Path, Path]) -> Entry:
    """Decodes an image; (path of its entry, image) → the entry. Nothing is done where another process was faster."""
    path, image = missing
    if entry := find_entry(path):
        return entry
    pixels = read_rgb(image)
    try:
        with atomic_path(path) as temporary, open(temporary, 'wb') as file:  # np.save would not tell why a write failed
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(pixels))
            offset = file.tell()
            file.write(pixels)
    except OSError as error:
        if entry := find_entry(path):  # by another process, and Windows replaces no file that is in use
            return entry
        raise OSError(f'{path.parent}: decoded images cannot be written ({error.strerror}); {ADVICE}') from error
    return Entry(str(path), pixels.shape, offset)


def check_room(folder: Path, images: list[Path]) -> None:
    """Raises OSError unless the decoded images fit on the disk of `folder`, before any time is spent."""
    needed = sum(3 * math.prod(read_size(image)) for image in images)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OSError(f'{folder}: decoded images cannot be written ({error.strerror}); {ADVICE}') from error
    if needed > free:
        raise OSError(f'{folder}: {len(images)} decoded images need {needed / 1e9:.3g} GB, and the disk has '
                       f'{free / 1e9:.3g} GB left; {ADVICE}')


def remove_stale(folder: Path, images: Path) -> None:
    """Removes entries whose image in `images` is gone or has changed, and what killed processes left half-written."""
    for file in folder.glob('*.npy') if folder.is_dir() else ():
        try:
            if entry := ENTRY.fullmatch(file.stem):
                image = images / entry['image']
                stale = not image.is_file() or entry_name(image) != file.name
            else:
                unfinished = file.name.startswith('.') and ENTRY.match(file.stem[1:])
                stale = unfinished and time.time() - file.stat().st_mtime > ABANDONED
            if stale:
                file.unlink()
        except OSError:
            pass  # another process removed it, or Windows keeps it while it is in use, or the store is read-only
