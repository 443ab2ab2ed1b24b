"""Configs as files, changed at a key's path, and what is said of wrong ones."""
import copy
from pathlib import Path

import pytest
import yaml

from engine.config import TRAIN_KEYS, load_config
from utils import UserError

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'  # the shipped ones
REMOVED = object()


def write(folder: Path, text: str | dict, name: str = 'config.yaml') -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text, sort_keys=False), encoding='utf-8')
    return path


def change(config: dict, path: str, value: object) -> dict:
    """A copy of `config` with the value at a dotted path set, or REMOVED."""
    config = block = copy.deepcopy(config)
    *parents, last = path.split('.')
    for key in parents:
        block = block[key]
    if value is REMOVED:
        del block[last]
    else:
        block[last] = value
    return config


def refusal(folder: Path, config: str | dict, keys=TRAIN_KEYS) -> str:
    """What `load_config` says of a wrong config: one line that begins with the file, here without it."""
    path = write(folder, config)
    with pytest.raises(UserError) as error:
        load_config(path, keys)
    message = str(error.value)
    assert '\n' not in message and message.startswith(f'{path}: ')
    return message.removeprefix(f'{path}: ')
