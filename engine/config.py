"""Configs: the keys that there are, and the check of every one before anything runs."""
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, cast, runtime_checkable

import models  # noqa: F401  (fills MODELS)
from common.ranges import LARGEST
from common.registry import SpecError
from datasets import DATASETS, WRAPPERS
from engine.training.losses import LOSSES
from engine.training.schedule import OPTIMIZERS, SCHEDULES
from engine.yaml_files import apply_overrides, plain, read_yaml
from models.registries import MODELS
from utils import VALUE_LENGTH, UserError, nearest_name, shortened


@runtime_checkable
class Kind(Protocol):
    """What the value of a key must be."""

    def check(self, value: object, path: str) -> None:
        """Raises UserError, which names the key's path, unless `value` is of this kind."""


class Key(NamedTuple):
    """What a config key holds.

    Attributes:
        kind: a type or tuple of types, a dict of further keys, a Registry for a spec, or one of the kinds below.
        required: the key must be there.
        minimum, maximum: the least and the largest number allowed.
        choices: the texts allowed; empty for any.
    """
    kind: 'type | tuple[type, ...] | dict[str, Key] | Kind'
    required: bool = False
    minimum: float = 0
    maximum: float = LARGEST
    choices: tuple[str, ...] = ()


class ListOf(NamedTuple):
    """The kind of a key that holds a list of blocks with these keys."""
    keys: dict[str, Key]

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, list) or not value:
            raise UserError(f"{path}: expected a list of blocks with {', '.join(self.keys)}, got {shortened(value)}")
        for number, block in enumerate(value):
            check_keys(block, self.keys, f'{path}[{number}].')


NUMBER = (int, float)


class ListOfValues(NamedTuple):
    """The kind of a key that holds a list of values of a type, or of several types."""
    kind: type | tuple[type, ...]

    def check(self, value: object, path: str) -> None:
        check_value(value, Key(list), path)
        for number, item in enumerate(cast(list, value)):
            check_value(item, Key(self.kind, minimum=-LARGEST), f'{path}[{number}]')


class Factors:
    """The kind of a key that holds numbers of at least 0 by name."""

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise UserError(f'{path}: expected a block with a number for each name, got {shortened(value)}')
        for name, number in value.items():
            if not isinstance(name, str) or not name:
                raise UserError(f'{path}: expected names, got {shortened(name)}')
            check_value(number, Key(NUMBER), f'{path}.{shortened(name, quotes=False)}')


class Between(NamedTuple):
    """The kind of a key that holds a number above `low` and below `high`."""
    low: float
    high: float

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, NUMBER) or isinstance(value, bool) or not self.low < value < self.high:
            raise UserError(f'{path}: expected a number above {self.low:g} and below {self.high:g}, got {shortened(value)}')


NORM = {'sub': Key(ListOfValues(NUMBER), True), 'div': Key(ListOfValues(NUMBER), True)}
SOURCE = {'dataset': Key(DATASETS, True), 'wrapper': Key(WRAPPERS, True)}

TRAIN_KEYS = {
    'train_dataset': Key({**SOURCE, 'batch_size': Key(int, True, 1, 65_536),
                          'epoch_batches': Key(int, minimum=1, maximum=10 ** 7),
                          'num_workers': Key(int, maximum=256)}, True),
    'val_dataset': Key(SOURCE),
    'data_norm': Key({'inp': Key(NORM, True), 'gt': Key(NORM, True)}),
    'model': Key(MODELS, True),
    'optimizer': Key(OPTIMIZERS, True),
    'lr_schedule': Key(SCHEDULES),
    'lr_factors': Key(Factors()),
    'loss': Key(LOSSES),
    'ema_decay': Key(Between(0, 1)),
    'clip_grad': Key(NUMBER),
    'accumulate': Key(int, minimum=1, maximum=65_536),
    'precision': Key(str, choices=('float32', 'bfloat16', 'float16')),
    'tf32': Key(bool),
    'channels_last': Key(bool),
    'compile': Key(bool),
    'fused': Key(bool),
    'figures': Key(bool),
    'epoch_max': Key(int, True, 1, 10 ** 7),
    'epoch_val': Key(int, minimum=1),
    'epoch_save': Key(int, minimum=1),
    'save_every': Key(int, minimum=1),
    'seed': Key(int, maximum=2 ** 63 - 1),
}
TEST_KEYS = {'test_dataset': Key(SOURCE, True)}
SUITE_KEYS = {
    'title': Key(str, True),
    'sets': Key(ListOf({'config': Key(str, True), 'published': Key(ListOfValues(str))}), True),
    'rows': Key(ListOf({'encoder': Key(str), 'method': Key(str, True), 'model': Key((str, dict), True),
                        'published': Key(str)}), True),
}


def load_config(path: str | Path, keys: dict[str, Key], overrides: Sequence[str] = ()) -> dict:
    """Reads a config, resolves its `base`, applies changes and checks the result.

    Args:
        keys: TRAIN_KEYS, TEST_KEYS or SUITE_KEYS.
        overrides: the changes of -set, 'key.path=value' each.
    Raises: UserError that names the file, or -set, the path of the key, and the nearest valid name.
    """
    config = read_yaml(path)
    changed = apply_overrides(config, overrides)
    problem = _problem(changed, keys)
    if problem is not None:
        source = f'{path}: ' if problem == _problem(config, keys) else '-set '
        raise UserError(f'{source}{problem}')
    return changed


def _problem(config: dict, keys: dict[str, Key]) -> str | None:
    """What is wrong with a config, beginning with the path of the key; None when it is valid."""
    try:
        check_keys(config, keys, '')
    except UserError as error:
        return str(error)
    return None


def check_keys(block: object, keys: dict[str, Key], path: str) -> None:
    """Raises UserError unless `block` has exactly the keys, and kinds of values, that `keys` allow."""
    if not isinstance(block, dict):
        raise UserError(f"{path.rstrip('.')}: expected a block with {', '.join(keys)}, got {shortened(block)}")
    for name in block:
        if name not in keys:
            raise UserError(f'{path}{shortened(name, quotes=False)}: unknown key; {nearest_name(name, keys)}')
    for name, key in keys.items():
        if key.required and name not in block:
            raise UserError(f'{path}{name}: this key is missing')
        if name in block:
            check_value(block[name], key, path + name)


def check_value(value: object, key: Key, path: str) -> None:
    """Raises UserError unless `value` is of the kind that `key` asks for."""
    kind = key.kind
    if isinstance(kind, dict):
        check_keys(value, kind, f'{path}.')
    elif isinstance(kind, Kind):
        kind.check(value, path)
    elif isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise UserError(f"{path}: expected {' or '.join(k.__name__ for k in kinds)}, got {shortened(value)}")
    elif isinstance(value, NUMBER) and not key.minimum <= value <= key.maximum:
        raise UserError(f'{path}: expected a number from {key.minimum} to {key.maximum:,}, got {shortened(value)}')
    elif key.choices and value not in key.choices:
        raise UserError(f'{path}: got {shortened(value)}; {nearest_name(value, key.choices)}')


def changes(before: object, after: object, path: str = '') -> list[str]:
    """'path old → new' for every value that differs between two configs; 'none' stands for an absent key.

    Long keys and values are cut.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        return [line for key in sorted({*before, *after}, key=str) for line in
                changes(before.get(key), after.get(key), f'{path}.{_key(key)}' if path else _key(key))]
    return [] if before == after else [f'{path} {_start(before)} → {_start(after)}']


def _key(name: object) -> str:
    return shortened(name, quotes=False)


def _start(value: object) -> str:
    text = plain(value)
    return text if len(text) <= VALUE_LENGTH else f'{text[:VALUE_LENGTH - 1]}…'


@contextmanager
def named(path: str | Path, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Puts the config's file name before the path of a key that proves wrong only when something is built from it.

    Args:
        overrides: the changes of -set that the config has.
    """
    try:
        yield
    except SpecError as error:
        raise UserError(f'{path}{" with -set" if overrides else ""}: {error}') from error
