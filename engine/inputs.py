"""Which images a command line means: files, folders and patterns such as 'x/*.png'."""
import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from glob import iglob
from pathlib import Path
from typing import NamedTuple

from imaging import INPUT_SUFFIXES, check_file
from utils import UserError, file_status, printable

_PATTERN = re.compile(r'[*?[]')
_NAMED = 5  # kinds of ignored files that are named


class Found(NamedTuple):
    """An image file, and the folder below the output that its result goes to."""
    file: Path
    folder: Path


class Inputs(NamedTuple):
    """The images that a command line means.

    Attributes:
        single: one file, given as such: its result may be a file of any name.
        ignored: how many files there are beside the images, by suffix.
        folders: how many folders are not looked into.
    """
    images: list[Found]
    single: bool
    ignored: Counter[str]
    folders: int

    def notes(self) -> list[str]:
        """Lines about what is left out."""
        lines, count = [], self.ignored.total()
        if count:
            kinds = [f'{number} {suffix or "without suffix"}' for suffix, number in self.ignored.most_common(_NAMED)]
            others = ', …' if len(self.ignored) > _NAMED else ''
            lines.append(f'{count} {"file" if count == 1 else "files"} ignored: {printable(", ".join(kinds))}{others}')
        if self.folders:
            what = 'folder is' if self.folders == 1 else 'folders are'
            lines.append(f'{self.folders} {what} not looked into; -recursive does')
        return lines


def find_inputs(words: Sequence[str], recursive: bool = False, left_out: Collection[Path] = ()) -> Inputs:
    """The images that words mean, each once, in the order of the words and of their names.

    A file is an image whatever its suffix. Of a folder, and of a pattern, those with the suffix of a readable format count;
    hidden ones do not. '**' in a pattern stands for any folders. The tree below a folder is mirrored below the output, below
    the folder's name where there are several words; that of a pattern from its first part with '*', '?' or '[' on.

    Args:
        recursive: look into folders of folders; links to folders are not followed.
        left_out: folders that are not looked into, real paths.
    Raises: UserError for a word that means nothing.
    """
    images: dict[Path, Found] = {}  # by real path
    ignored: Counter[str] = Counter()
    hidden_folders = 0
    for word in words:
        path = Path(word)
        status = file_status(path)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            check_file(path)
            found = [Found(path, Path())]
        elif status is not None:
            files, inner = _list(path, recursive, left_out)
            below = Path(path.resolve().name) if len(words) > 1 else Path()
            found = _chosen(files, path, below, ignored)
            hidden_folders += inner
            if not found:
                hint = '; -recursive looks into its folders' if inner else ''
                raise UserError(f'{path}: holds no image ({", ".join(sorted(INPUT_SUFFIXES))}){hint}')
        elif _PATTERN.search(word):
            found = _chosen(_matches(word, left_out), _base(path), Path(), ignored)
            if not found:
                raise UserError(f'{path}: no image fits this pattern')
        else:
            raise UserError(f'{path}: no such image or folder')
        for item in found:
            images.setdefault(Path(os.path.realpath(item.file)), item)
    single = len(words) == 1 and list(images.values()) == [Found(Path(words[0]), Path())]
    return Inputs(list(images.values()), single, ignored, hidden_folders)


def _chosen(files: list[Path], base: Path, below: Path, ignored: Counter[str]) -> list[Found]:
    """The images among files below `base`; the others are counted."""
    found = []
    for file in files:
        if file.suffix.lower() in INPUT_SUFFIXES and not _is_special(file):
            found.append(Found(file, below / file.parent.relative_to(base)))
        else:
            ignored[file.suffix.lower()] += 1
    return found


def _list(folder: Path, recursive: bool, left_out: Collection[Path]) -> tuple[list[Path], int]:
    """The files of a folder that are not hidden, sorted, and the number of folders that are not looked into."""
    def refuse(error: OSError) -> None:
        raise UserError(f'{error.filename or folder}: cannot be listed ({error.strerror})') from error
    files, skipped = [], 0
    for place, folders, names in os.walk(folder, onerror=refuse):
        inner = [name for name in sorted(folders) if not name.startswith('.')
                 and Path(os.path.realpath(Path(place, name))) not in left_out]
        skipped += 0 if recursive else len(inner)
        folders[:] = inner if recursive else []
        files += [Path(place, name) for name in sorted(names) if not name.startswith('.')]
    return files, skipped


def _matches(pattern: str, left_out: Collection[Path]) -> list[Path]:
    """The files that fit a pattern, sorted; as in a shell, none of them is hidden unless the pattern is."""
    def is_left_out(file: Path) -> bool:
        return any(parent in left_out for parent in Path(os.path.realpath(file)).parents)
    try:
        files = sorted(Path(name) for name in iglob(pattern, recursive=True) if not os.path.isdir(name))
    except (OSError, ValueError, re.error) as error:
        raise UserError(f'{pattern}: no pattern of files ({error})') from error
    return [file for file in files if not is_left_out(file)]


def _base(pattern: Path) -> Path:
    """The folder before the first part of a pattern with a sign of its own."""
    def parts() -> Iterator[str]:
        for part in pattern.parts[:-1]:
            if _PATTERN.search(part):
                return
            yield part
    return Path(*parts())


def _is_special(file: Path) -> bool:
    """Whether a file is there but no regular one, which is never opened."""
    try:
        status = file_status(file)
    except UserError:  # whoever reads it gets the error
        return False
    return status is not None and not stat.S_ISREG(status.st_mode)
