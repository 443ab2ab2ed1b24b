"""The training commands that a document shows, as configs: what tests check is what a reader runs."""
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from engine.config import TRAIN_KEYS, load_config

ROOT = Path(__file__).resolve().parent.parent


class Recipe(NamedTuple):
    """A config file, relative to the root, and the changes that -set makes to it."""
    file: str
    overrides: tuple[str, ...] = ()

    def config(self) -> dict:
        return load_config(ROOT / self.file, TRAIN_KEYS, self.overrides)


def recipes(document: str) -> dict[str, Recipe]:
    """The recipe of every `python train.py` command of a document, by the command's -name."""
    text = (ROOT / document).read_text(encoding='utf-8').replace('\\\n', ' ')
    found = {}
    for command in re.findall(r'^    python train\.py (.+)$', text, re.MULTILINE):
        options = {}
        for word in shlex.split(command, comments=True):
            if word.startswith('-'):
                values = options.setdefault(word.lstrip('-'), [])
            else:
                values.append(word)
        name, = options['name']
        assert name not in found, f'{document}: two commands write to save/{name}'
        found[name] = Recipe(*options['config'], tuple(options.get('set', ())))
    return found
