"""Small helpers that every part uses: errors for the user, seeding, safe file writing, number formatting."""
import contextlib
import difflib
import functools
import os
import platform
import random
import re
import reprlib
import secrets
import stat
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent  # of the project
PARTIAL = '.partial-'  # files begin so until they are complete
_PARTIAL_NAME = re.compile(rf'{re.escape(PARTIAL)}.*-(?P<machine>[0-9a-f]{{8}})-(?P<process>\d+)-[0-9a-f]{{16}}(\.[^.]*)?',
                           re.DOTALL)
VALUE_LENGTH, MESSAGE_LENGTH = 80, 300  # most characters of a value in a message, and of another error's message in it

_repr = reprlib.Repr()
_repr.maxlevel = 3
_repr.maxlist = _repr.maxtuple = _repr.maxdict = _repr.maxset = 10
_repr.maxstring = _repr.maxother = _repr.maxlong = VALUE_LENGTH


class UserError(ValueError):
    """The user's input is wrong. The message is one line that names the thing, what was expected and what to do.

    The entry scripts print it on stderr and leave with status 2; in Python it is an ordinary ValueError.
    """


class RunError(RuntimeError):
    """The run cannot go on although the input was right (a non-finite loss, say): one line, exit status 1."""


def shortened(value: object, quotes: bool = True) -> str:
    """The repr of a value as a message prints it: at most VALUE_LENGTH characters, whatever the value contains.

    Only the beginning is written out, so large, deeply nested and self-repeating values (YAML aliases) cost nothing.

    Args:
        quotes: False leaves out those of a text, for names and keys.
    """
    try:
        text = _repr.repr(value)
    except ValueError:  # an integer of more digits than Python converts
        text = f'<{type(value).__name__} of too many digits>'
    text = text if len(text) <= VALUE_LENGTH else f'{text[:VALUE_LENGTH - 1]}…'
    return text if quotes or not isinstance(value, str) else text[1:-1]


def printable(text: str | Path) -> str:
    """A path, or a message with one, on one line that every UTF-8 stream takes and that no terminal obeys.

    Bytes of a name that are no UTF-8, line breaks and other control characters become escapes.
    """
    text = str(text).encode('utf-8', 'backslashreplace').decode('utf-8')
    return ''.join(letter if letter.isprintable() or unicodedata.category(letter) == 'Zs' else
                   letter.encode('unicode_escape').decode() for letter in text)


def short_path(path: str | Path) -> str:
    """A path as a message prints it, of one that no file can have the beginning."""
    return printable(path) if len(str(path)) <= 255 and '\0' not in str(path) else shortened(str(path), quotes=False)


def one_line(error: Exception) -> str:
    """What an error says, on one line of at most MESSAGE_LENGTH characters."""
    text = ' '.join(str(error).split())
    return text if len(text) <= MESSAGE_LENGTH else f'{text[:MESSAGE_LENGTH - 1]}…'


def nearest_name(name: object, choices) -> str:
    """'did you mean X?' for the likeliest misspelling, and all the choices: the tail of an error message."""
    choices = sorted(map(str, choices))
    close = difflib.get_close_matches(shortened(name, quotes=False), choices, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ''
    return f"{hint}(choices: {', '.join(choices) or 'none'})"


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2 ** 32)  # it takes no more bits
    torch.manual_seed(seed)


class WriteError(OSError):
    """A file could not be written. The message names the file and the system's reason."""

    def __str__(self) -> str:
        return f'{self.filename}: cannot be written ({self.strerror})'


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, of Python, NumPy, Pillow or torch, on CPU or GPU."""
    failed = ('DefaultCPUAllocator', 'std::bad_alloc', 'out of memory')
    return (isinstance(error, (MemoryError, torch.OutOfMemoryError))
            or (isinstance(error, RuntimeError) and any(words in str(error) for words in failed)))


def file_status(path: str | Path) -> os.stat_result | None:
    """What the system knows of a file, links followed; None where there is none.

    Raises: UserError where a path cannot be followed: too long, a circle of links, no permission.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f'{short_path(path)}: cannot be opened ({reason})') from error


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns an error of the system into a WriteError that names the file."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(error.errno, error.strerror or one_line(error), str(path)) from error


@contextlib.contextmanager
def atomic_path(path: str | Path):
    """Yields a temporary path beside `path`; renames it to `path` on success, removes it on any failure.

    A reader sees the old file or the new one, never half of one. The parent folder is made when missing, and what killed
    processes left in it is removed. Threads may write at the same time.

    Raises: WriteError, for an OSError within.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clean_once(path.parent.absolute())
        temporary = path.with_name(_partial_name(path))
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def _partial_name(path: Path) -> str:
    """A new name that contains this process, and is short enough for every file system."""
    stem = os.fsdecode(os.fsencode(path.stem)[:64])
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= 16 else ''  # writers such as Pillow choose the format by it
    return f'{PARTIAL}{stem}-{_machine()}-{os.getpid()}-{secrets.token_hex(8)}{suffix}'


@functools.cache
def _machine() -> str:
    """Equal for processes that can see each other by their numbers: of one machine and, in containers, one name space."""
    known = platform.node()
    for read in (lambda: Path('/etc/machine-id').read_text(), lambda: os.readlink('/proc/self/ns/pid')):
        with contextlib.suppress(OSError, ValueError):
            known += read()
    return f'{zlib.crc32(os.fsencode(known)):08x}'


def _is_alive(process: int) -> bool:
    """Whether a process of this machine still exists; True where that cannot be found out."""
    if os.name != 'posix':
        return True
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def check_output(path: str | Path, suffixes: tuple[str, ...]) -> None:
    """Raises UserError when a file cannot be written to `path`; meant for before the work. Writes nothing itself.

    Args:
        suffixes: those that the file may have, in lower case.
    """
    path = Path(path)
    status = file_status(path)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise UserError(f'{path}: is a folder; give the name of a file to write')
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise UserError(f'{path}: is no regular file; give the name of a file to write')
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{path}: has suffix '{path.suffix}', expected {' or '.join(suffixes)}")
    check_folder(path.parent, path)


def check_folder(folder: Path, target: Path | None = None) -> None:
    """Raises UserError when no files can be written to a folder, which may be missing; meant for before the work.

    Args:
        target: what the message is about; None for the folder itself.
    """
    parent = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if file_status(parent))
    if not parent.is_dir():
        raise UserError(f'{target or folder}: cannot be written, because {parent} is a file and no folder')
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f'{target or folder}: cannot be written, because there is no permission to write to {parent}')


def remove_partial(folder: Path) -> None:
    """Removes what `atomic_path` left in a folder when its process was killed amid writing.

    Files of living processes stay, and so do those of other machines, whose processes cannot be seen from here.
    """
    with contextlib.suppress(OSError):  # another process was faster, or the folder is read-only
        for file in folder.glob(f'{PARTIAL}*'):
            name = _PARTIAL_NAME.fullmatch(file.name)
            if name and name['machine'] == _machine() and not _is_alive(int(name['process'])):
                file.unlink(missing_ok=True)


@functools.cache
def _clean_once(folder: Path) -> None:
    """Removes what is left in a folder; once, because a command may write thousands of files into one."""
    remove_partial(folder)


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def is_file_name(name: str) -> bool:
    """Whether a text can name a file or folder within another one: one component, on any system, of at most 100 bytes."""
    return (name.isprintable() and 0 < len(os.fsencode(name)) <= 100 and name not in ('.', '..') and name == name.strip()
            and not any(letter in '/\\:' for letter in name))


def as_file_name(text: str) -> str:
    """A text as a name in the sense of `is_file_name`: the letters that none can have become '_', and the end is cut."""
    name = ''.join(letter if letter.isprintable() and letter not in '/\\:' else '_' for letter in text)
    name = name.encode()[:100].decode(errors='ignore').strip()
    return name if is_file_name(name) else '_'


def distinct_stems(files: Sequence[Path]) -> list[str]:
    """A name without suffix for each file of a folder, no two of them equal: its stem, or where others share that its whole
    name (a.png and a.jpg, or a and a.b of a.png and a.b.png: then 'a' is that of the first alone)."""
    stems, full = Counter(file.stem for file in files), {file.name for file in files}
    return [file.stem if stems[file.stem] == 1 and file.stem not in full else file.name for file in files]


def count_parameters(model: torch.nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def format_time(seconds: float) -> str:
    """'45s', '12m03s', '3h07m', '2d04h': two units are enough to plan with."""
    seconds = round(seconds)
    if seconds < 60:
        return f'{seconds}s'
    if seconds < 3600:
        return f'{seconds // 60}m{seconds % 60:02d}s'
    if seconds < 86400:
        return f'{seconds // 3600}h{seconds % 3600 // 60:02d}m'
    return f'{seconds // 86400}d{seconds % 86400 // 3600:02d}h'
