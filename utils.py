"""Small helpers that every part uses: errors for the user, seeding, safe file writing, number formatting."""
import contextlib
import difflib
import os
import random
import reprlib
import secrets
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent  # of the project
PARTIAL = '.partial-'  # files begin so until they are complete
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


@contextlib.contextmanager
def atomic_path(path: str | Path):
    """Yields a temporary path beside `path`; renames it to `path` on success, removes it on any failure.

    A reader sees the old file or the new one, never half of one. The parent folder is made when missing. Threads may
    write at the same time.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix stays: writers such as Pillow choose the format by it
    temporary = path.with_name(f'{PARTIAL}{path.stem}-{secrets.token_hex(8)}{path.suffix}')
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: str | Path, suffixes: tuple[str, ...]) -> None:
    """Raises UserError when a file cannot be written to `path`; meant for before the work. Writes nothing itself.

    Args:
        suffixes: those that the file may have, in lower case.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f'{path}: is a folder; give the name of a file to write')
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{path}: has suffix '{path.suffix}', expected {' or '.join(suffixes)}")
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise UserError(f'{path}: cannot be written, because {parent} is a file and no folder')
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f'{path}: cannot be written, because there is no permission to write to {parent}')


def remove_partial(folder: Path) -> None:
    """Removes what `atomic_path` leaves in a folder when its process is killed amid writing.

    Call it where no other process can be writing there: under the folder's lock (`common/locks.py`).
    """
    for file in folder.glob(f'{PARTIAL}*'):
        file.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


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
