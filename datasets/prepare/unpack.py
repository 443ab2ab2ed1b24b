"""An archive → the folders that the configs expect. A folder gets its name only when it is complete."""
import contextlib
import io
import lzma
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from datasets.prepare.sources import Folder
from imaging import SUFFIXES
from utils import UserError, WriteError, writing

CHUNK = 2 ** 20  # bytes read at a time
MAX_IMAGE = 2 ** 28  # bytes of an image in an archive; those of the data sets have up to 2²⁴
NO_ARCHIVE = 'not a zip or tar archive, or cut short'
# what the readers of zip, tar and their compressions raise on damaged or encrypted archives
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError,
          RuntimeError)


def unpack(archive: Path, folders: Sequence[Folder], root: Path) -> None:
    """Puts the images of an archive into `folders` below `root`.

    They are unpacked into a hidden folder beside their own, which is renamed when all of them are there, so an interruption
    leaves nothing that looks complete. A folder that exists gets the images that it lacks; its files stay as they are.

    Raises: UserError when the archive is damaged, lacks images, holds one of more than MAX_IMAGE bytes or paths that lead
        out of it; WriteError when they cannot be written.
    """
    stages = {folder: (root / folder.path).with_name(f'.{Path(folder.path).name}.unpacking') for folder in folders}
    try:
        for stage in stages.values():
            shutil.rmtree(stage, ignore_errors=True)  # left by a killed run
            with writing(stage):
                stage.mkdir(parents=True)
        total = sum(folder.count for folder in folders)
        with tqdm(desc=f'unpacking {archive.name}', total=total, disable=None, leave=False) as bar:
            for folder, name, content in _read_members(archive, folders):
                _write(stages[folder] / name, content)
                bar.update()
        for folder, stage in stages.items():
            found = len(list(stage.iterdir()))
            if found != folder.count:
                raise UserError(f"{archive}: holds {found} images in {' or '.join(folder.inside)}, expected "
                                f'{folder.count}; delete it and run again, or get it elsewhere')
        for folder, stage in stages.items():
            with writing(root / folder.path):
                _publish(stage, root / folder.path)
    finally:
        for stage in stages.values():
            shutil.rmtree(stage, ignore_errors=True)


def _write(target: Path, content: Iterator[bytes]) -> None:
    with writing(target), target.open('wb') as file:
        for block in content:
            file.write(block)


def _publish(stage: Path, target: Path) -> None:
    """Renames a folder to `target`; where that exists, moves what it lacks."""
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if not target.exists():
        stage.replace(target)
        return
    for file in sorted(stage.iterdir()):
        if not (target / file.name).exists():
            file.replace(target / file.name)


def _destination(path: PurePosixPath, folders: Sequence[Folder]) -> Folder | None:
    """The folder that an archive's member belongs to; None when it is not needed."""
    if path.suffix.lower() not in SUFFIXES or path.name.startswith('.'):
        return None
    parent = f'/{path.parent}'
    return next((folder for folder in folders if any(parent.endswith(f'/{inside}') for inside in folder.inside)), None)


def _read_members(archive: Path, folders: Sequence[Folder]) -> Iterator[tuple[Folder, str, Iterator[bytes]]]:
    """(folder, file name, content in blocks) of the images for `folders` in a zip or tar archive, in its order.

    Raises: UserError when it is damaged, or holds an image of more than MAX_IMAGE bytes or a path that is absolute or goes
        through '..'.
    """
    with _named(archive):
        opened = opener(archive)
        if opened is None:
            raise UserError(f'{archive}: {NO_ARCHIVE}; delete it and run again')
        with opened(archive) as file:
            for name, size, open_member in _list_members(file):
                path = _safe_path(name, archive)
                folder = _destination(path, folders)
                if open_member and folder:
                    if size > MAX_IMAGE:
                        raise UserError(f"{archive}: holds '{name}' of {size:,} bytes, expected images of at most "
                                        f'{MAX_IMAGE:,}; delete it and get it elsewhere')
                    yield folder, path.name, _blocks(archive, open_member)
            if isinstance(file, tarfile.TarFile):
                while file.fileobj.read(CHUNK):  # to the end, where compressed archives have their checksum
                    pass


def _blocks(archive: Path, open_member: Callable[[], IO[bytes]]) -> Iterator[bytes]:
    """The content of an archive's member. Raises UserError when it is damaged."""
    with _named(archive), open_member() as stream:
        while block := stream.read(CHUNK):
            yield block


@contextlib.contextmanager
def _named(archive: Path) -> Iterator[None]:
    """Turns what damaged archives raise into a UserError that names the archive."""
    try:
        yield
    except (UserError, WriteError):
        raise
    except _DAMAGE as error:
        raise UserError(f'{archive}: damaged archive ({error or type(error).__name__}); delete it and run again') from error


def opener(archive: Path) -> Callable | None:
    """What opens an archive: `tarfile.open` or `zipfile.ZipFile`; None when neither can."""
    try:
        if tarfile.is_tarfile(archive):
            return tarfile.open
    except (EOFError, zlib.error, lzma.LZMAError):  # compressed, and damaged at the start
        pass
    return zipfile.ZipFile if zipfile.is_zipfile(archive) else None


def _safe_path(name: str, archive: Path) -> PurePosixPath:
    """The path of an archive's member. Raises UserError when it leads out of the archive."""
    path = PurePosixPath(name.replace('\\', '/'))
    if path.is_absolute() or '..' in path.parts or re.match('[A-Za-z]:', name):
        raise UserError(f"{archive}: holds '{name}', a path that leads out of the archive; nothing of it is used")
    return path


def _list_members(file: tarfile.TarFile | zipfile.ZipFile) -> Iterator[tuple[str, int, Callable[[], IO[bytes]] | None]]:
    """(name, size in bytes, a function that opens it) for all in an open archive; None for what is no regular file."""
    if isinstance(file, tarfile.TarFile):
        for member in file:
            yield member.name, member.size, partial(_open_tar, file, member) if member.isfile() else None
    else:
        for info in file.infolist():
            yield info.filename, info.file_size, None if info.is_dir() else partial(file.open, info)


def _open_tar(file: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    return file.extractfile(member) or io.BytesIO()  # a regular file always has a stream
