"""Keeps what libraries say on their own off stderr, where a command has one line for an error."""
import ctypes
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import _imaging

LIBRARIES = ('PIL', 'tifffile', 'torch.utils.data')
_NOWHERE = logging.NullHandler()


def silence_libraries() -> None:
    """From here on the warnings, log lines and C messages of the libraries that read files go nowhere; for commands.

    What they raise is not touched, nor what any other code writes to stderr, in Python or in C.
    """
    for name in LIBRARIES:
        warnings.filterwarnings('ignore', module=rf'{name.replace(".", "[.]")}\b')
        logging.getLogger(name).addHandler(_NOWHERE)  # without one Python prints to stderr
    with suppress(OSError, AttributeError):  # a Pillow without libtiff, or one that keeps the names in it to itself
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


_redirecting = threading.Lock()


@contextmanager
def without_stderr() -> Iterator[None]:
    """Within the block nothing reaches the stderr of this process: for C libraries that have no switch for their messages.

    One thread is in it at a time.
    """
    with _redirecting:
        try:
            kept = os.dup(2)
        except OSError:  # it is closed
            yield
            return
        with open(os.devnull, 'wb') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
