"""Errors while writing: they name the file and say what to do."""
import contextlib
import errno
from pathlib import Path

from utils import RunError


@contextlib.contextmanager
def writing(path: Path):
    """Turns an OSError into a RunError that names `path`."""
    try:
        yield
    except OSError as error:
        advice = '; free some space and run it again' if error.errno == errno.ENOSPC else ''
        raise RunError(f'{path}: cannot be written ({error.strerror or error}){advice}') from error
