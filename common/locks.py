"""Locks on folders: what one process writes, no other process writes at the same time."""
import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from utils import UserError

LOCK = '.lock'  # the file in a folder that is locked
POLL = 0.2  # seconds between two attempts of a process that waits


@contextlib.contextmanager
def locked(folder: Path, busy: str | None = None) -> Iterator[None]:
    """Holds the lock of a folder, which is made when missing and removed at the end when it is still empty.

    The operating system keeps the lock, so that of a killed process is free at once. Where a file system has no locks, a
    file that names the process stands for it.

    Args:
        busy: what the error says of a folder that another process has locked; None to wait for that process.
    Raises: UserError when another process holds the lock; OSError, a line that names the folder, when it cannot be locked.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    lock = FileLock(folder / LOCK, timeout=-1 if busy is None else 0, poll_interval=POLL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of a file system without locks
            while not lock.is_locked:
                folder.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # the process before this one has removed the folder
                    lock.acquire()
    except Timeout as error:
        raise UserError(f'{folder}: {busy}') from error
    except OSError as error:
        raise OSError(f'{folder}: cannot be written to, or has no locks ({error.strerror or error})') from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file
            (folder / LOCK).unlink()  # while locked: a process that has opened it meanwhile sees that it is gone
        lock.release()
        with contextlib.suppress(OSError):  # something was written
            for place in made:
                place.rmdir()
