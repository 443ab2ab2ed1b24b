"""An archive → the folders that the configs expect. A folder gets its name only when it is complete."""
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

from tqdm import tqdm

from datasets.prepare.disk import writing
from datasets.prepare.sources import Folder
from imaging import SUFFIXES
from utils import UserError

CHUNK = 2 ** 20  # bytes read at a time
NO_ARCHIVE = 'not a zip or tar archive, or cut short'
# what the readers of zip, tar and their compressions raise on damaged or encrypted archives
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError,
          RuntimeError)


def unpack(archive: Path, folders: Sequence[Folder], root: Path) -> None:
    """Puts the images of an archive into `folders` below `root`.

    They are unpacked into a hidden folder beside their own, which is renamed when all of them are there, so an interruption
    leaves nothing that looks complete. A folder that exists gets the images that it lacks; its files stay as they are.

    Raises: UserError when the archive is damaged, lacks images or holds paths that lead out of it; RunError when they
        cannot be written.
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
                target = stages[folder] / name
                with writing(target):
                    target.write_bytes(content)
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


def _read_members(archive: Path, folders: Sequence[Folder]) -> Iterator[tuple[Folder, str, bytes]]:
    """(folder, file name, content) of the images for `folders` in a zip or tar archive, in its order.

    Raises: UserError when it is damaged, or holds a path that is absolute or goes through '..'.
    """
    try:
        opened = opener(archive)
        if opened is None:
            raise UserError(f'{archive}: {NO_ARCHIVE}; delete it and run again')
        with opened(archive) as file:
            for name, read in _list_members(file):
                path = _safe_path(name, archive)
                folder = _destination(path, folders)
                if read and folder:
                    yield folder, path.name, read()
            if isinstance(file, tarfile.TarFile):
                while file.fileobj.read(CHUNK):  # to the end, where compressed archives have their checksum
                    pass
    except UserError:
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


def _list_members(file: tarfile.TarFile | zipfile.ZipFile) -> Iterator[tuple[str, Callable[[], bytes] | None]]:
    """(name, a function that reads the content) for everything in an open archive; None for what is no regular file."""
    if isinstance(file, tarfile.TarFile):
        for member in file:
            yield member.name, partial(_read_tar, file, member) if member.isfile() else None
    else:
        for info in file.infolist():
            yield info.filename, None if info.is_dir() else partial(file.read, info)


def _read_tar(file: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with file.extractfile(member) or io.BytesIO() as stream:  # a regular file always has a stream
        return stream.read()
