"""YAML configs: reading, inheritance (`base:`) and checking of every key before anything runs."""
import math
import re
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import yaml

from common.registry import MODELS, SpecError
from datasets import DATASETS, WRAPPERS
from engine.training.losses import LOSSES
from engine.training.schedule import OPTIMIZERS, SCHEDULES
from utils import UserError, nearest_name


class Key(NamedTuple):
    """What a config key holds: a type or tuple of types, a Registry for a spec, or a dict of further keys.

    `minimum` is the least number allowed, `choices` are the texts allowed.
    """
    kind: object
    required: bool = False
    minimum: int = 0
    choices: tuple[str, ...] = ()


class ListOf(NamedTuple):
    """The kind of a key that holds a list of blocks, each with these keys."""
    keys: dict[str, Key]

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, list) or not value:
            raise UserError(f"{path}: expected a list of blocks with {', '.join(self.keys)}, got {value!r}")
        for number, block in enumerate(value):
            check_keys(block, self.keys, f'{path}[{number}].')


NUMBER = (int, float)


class Factors:
    """The kind of a key that holds a number of at least 0 for each of some names."""

    def check(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise UserError(f'{path}: expected a block with a number for each name, got {value!r}')
        for name, number in value.items():
            if not isinstance(name, str) or not name:
                raise UserError(f'{path}: expected names, got {name!r}')
            check_value(number, Key(NUMBER), f'{path}.{name}')


class Between(NamedTuple):
    """The kind of a key that holds a number between two others, neither of which it may be."""
    low: float
    high: float

    def check(self, value: object, path: str) -> None:
        number = isinstance(value, NUMBER) and not isinstance(value, bool)
        if not number or not self.low < value < self.high:
            raise UserError(f'{path}: expected a number above {self.low:g} and below {self.high:g}, got {value!r}')


NORM = {'sub': Key(list, True), 'div': Key(list, True)}
SOURCE = {'dataset': Key(DATASETS, True), 'wrapper': Key(WRAPPERS, True)}

TRAIN_KEYS = {
    'train_dataset': Key({**SOURCE, 'batch_size': Key(int, True, 1), 'epoch_batches': Key(int, minimum=1),
                          'num_workers': Key(int)}, True),
    'val_dataset': Key(SOURCE),
    'data_norm': Key({'inp': Key(NORM, True), 'gt': Key(NORM, True)}),
    'model': Key(MODELS, True),
    'optimizer': Key(OPTIMIZERS, True),
    'lr_schedule': Key(SCHEDULES),
    'lr_factors': Key(Factors()),
    'loss': Key(LOSSES),
    'ema_decay': Key(Between(0, 1)),
    'clip_grad': Key(NUMBER),
    'accumulate': Key(int, minimum=1),
    'precision': Key(str, choices=('float32', 'bfloat16', 'float16')),
    'tf32': Key(bool),
    'channels_last': Key(bool),
    'compile': Key(bool),
    'fused': Key(bool),
    'epoch_max': Key(int, True, 1),
    'epoch_val': Key(int, minimum=1),
    'epoch_save': Key(int, minimum=1),
    'save_every': Key(int, minimum=1),
    'seed': Key(int),
}
TEST_KEYS = {'test_dataset': Key(SOURCE, True)}
SUITE_KEYS = {
    'title': Key(str, True),
    'sets': Key(ListOf({'config': Key(str, True), 'published': Key(list)}), True),
    'rows': Key(ListOf({'encoder': Key(str), 'method': Key(str, True), 'model': Key((str, dict), True),
                        'published': Key(str)}), True),
}


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-4 as a number, and refuses a key given twice."""


_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$'), list('-+0123456789'))


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_config(path: str | Path, keys: dict[str, Key]) -> dict:
    """Reads a config, resolves its `base`, and checks it against `keys` (TRAIN_KEYS, TEST_KEYS or SUITE_KEYS).

    Raises: UserError that names the file, the path of the key, and the nearest valid name.
    """
    config = read_yaml(Path(path))
    check_keys(config, keys, f'{path}: ')
    return config


def read_yaml(path: Path, children: tuple[Path, ...] = ()) -> dict:
    """The mapping of a YAML file, merged over the file that its `base` names (relative to its own folder)."""
    path = path.resolve()
    if not path.is_file():
        raise UserError(f'{path}: no such config file')
    if path in children:
        raise UserError(f"{path}: its 'base' leads back to itself")
    try:
        config = yaml.load(path.read_text(encoding='utf-8'), _Loader)
    except (yaml.YAMLError, ValueError, TypeError) as error:  # also text that is no UTF-8, a 13th month, a list as a key
        raise UserError(f'{path}: not valid YAML: {" ".join(str(error).split())}') from error
    if not isinstance(config, dict):
        raise UserError(f'{path}: expected a mapping of config keys, got {type(config).__name__}')
    if 'base' not in config:
        return config
    base = config.pop('base')
    if not isinstance(base, str):
        raise UserError(f'{path}: base: expected the name of a config file, got {base!r}')
    return merge(read_yaml(path.parent / base, (*children, path)), config)


def merge(base: dict, changes: dict) -> dict:
    """`base` with `changes` on top: blocks are merged key by key, everything else is replaced.

    A {name, args} block under another name takes none of the arguments of the one it replaces.
    """
    is_spec = 'name' in base and base.keys() <= {'name', 'args'}
    if is_spec and changes.get('name', base['name']) != base['name']:
        return changes
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if both else value
    return merged


def check_keys(block: object, keys: dict[str, Key], path: str) -> None:
    """Raises UserError unless `block` has exactly the keys, and kinds of values, that `keys` allow."""
    if not isinstance(block, dict):
        raise UserError(f"{path.rstrip('.')}: expected a block with {', '.join(keys)}, got {block!r}")
    for name in block:
        if name not in keys:
            raise UserError(f'{path}{name}: unknown key; {nearest_name(name, keys)}')
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
    elif hasattr(kind, 'check'):
        kind.check(value, path)
    elif isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise UserError(f"{path}: expected {' or '.join(k.__name__ for k in kinds)}, got {value!r}")
    elif isinstance(value, NUMBER) and not key.minimum <= value < 2 ** 63:
        raise UserError(f'{path}: expected a number from {key.minimum} to 2^63, got {value!r}')
    elif key.choices and value not in key.choices:
        raise UserError(f'{path}: got {value!r}; {nearest_name(value, key.choices)}')


def changes(before: object, after: object, path: str = '') -> list[str]:
    """'path old → new' for every value that differs between two configs; 'none' stands for a key that is not there."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [line for key in sorted({*before, *after}) for line in
                changes(before.get(key), after.get(key), f'{path}.{key}' if path else key)]
    return [] if before == after else [f'{path} {plain(before)} → {plain(after)}']


def plain(value: object) -> str:
    """A config's value on one line of YAML."""
    if value is None:
        return 'none'
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf).removesuffix('...\n').strip()


@contextmanager
def named(path: str | Path):
    """Puts the config's file name before the path of a key that turns out wrong while things are built from it."""
    try:
        yield
    except SpecError as error:
        raise UserError(f'{path}: {error}') from error
