"""Keeps what libraries say on their own off stderr, where a command has one line for an error."""
import ctypes
import logging
import warnings
from contextlib import suppress

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
