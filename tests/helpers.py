"""What several test files use: calls of commands and of functions that raise, and images on disk."""
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from common.cli import run
from utils import UserError

HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # as Python hides them


class Done(NamedTuple):
    """How a command ended: exit status, and what it printed (warnings count as lines of stderr)."""
    status: int
    out: str
    err: str


def call(main: Callable[[], None], words: tuple, capsys, monkeypatch) -> Done:
    """Runs a command with these options in this process."""
    monkeypatch.setattr(sys, 'argv', ['command.py', *map(str, words)])
    capsys.readouterr()
    status = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('default')
        try:
            run(main)
        except SystemExit as leaving:
            status = leaving.code
    out, err = capsys.readouterr()
    return Done(status, out, err + ''.join(f'{item.message}\n' for item in caught if not issubclass(item.category, HIDDEN)))


def message(function: Callable, *args, kind: type[Exception] = UserError, **settings) -> str:
    """What the error of a call says: one line."""
    with pytest.raises(kind) as error:
        function(*args, **settings)
    assert '\n' not in str(error.value)
    return str(error.value)


def save(path: Path, image: np.ndarray, **settings) -> Path:
    """Writes (H, W, 3) or (H, W) uint8 as an image file; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **settings)
    return path
