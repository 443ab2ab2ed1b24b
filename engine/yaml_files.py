"""YAML of configs: reading a file with its bases, merging, changes from the command line, writing."""
import math
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from utils import UserError, file_status, one_line, shortened

__all__ = ['MAX_BASES', 'apply_overrides', 'check_config', 'merge', 'plain', 'read_yaml', 'to_yaml']

MAX_BASES = 2  # that follow one another: a config, its base, and the base of that
MAX_VALUES, MAX_LEVELS = 100_000, 32  # of a file, with its aliases written out
_TOO_DEEP = f'nested more than {MAX_LEVELS} levels deep'
NUMBER = re.compile(r'^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$')  # 1e-4: to YAML 1.1 a text, for it has no point


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-4 as a number, and refuses a key given twice."""


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: the text '1e-4' in quotes."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver('tag:yaml.org,2002:float', NUMBER, list('-+0123456789'))


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict:
    """A block, of which every key is there once."""
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{shortened(key, quotes=False)}' is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: str | Path, children: tuple[Path, ...] = ()) -> dict:
    """The mapping of a YAML file, merged over the file that its `base` names (relative to its own folder).

    Args:
        children: the files that led to this one by their `base`.
    """
    file_status(path)  # refuses links that lead to themselves, names that are too long or hold a NUL byte
    path = Path(path).resolve()
    if not path.is_file():
        raise UserError(f'{path}: no such config file')
    if path in children:
        raise UserError(f"{path}: its 'base' leads back to itself")
    if len(children) > MAX_BASES:
        chain = ' → '.join(file.name for file in (*children, path))
        raise UserError(f'{children[0]}: base: expected at most {MAX_BASES} bases that follow one another, got {chain}; '
                        'move the keys of one of them into the file that names it')
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    config = parse(text, str(path))
    if not isinstance(config, dict):
        raise UserError(f'{path}: expected a mapping of config keys, got {type(config).__name__}')
    if 'base' not in config:
        return config
    base = config.pop('base')
    if not isinstance(base, str):
        raise UserError(f'{path}: base: expected the name of a config file, got {shortened(base)}')
    return merge(read_yaml(path.parent / base, (*children, path)), config)


def parse(text: str | bytes, source: str) -> object:
    """The value of a YAML text. Raises: UserError that begins with `source` for what is not YAML or too large."""
    try:
        value = yaml.load(text, _Loader)
    except RecursionError as error:
        raise UserError(f'{source}: {_TOO_DEEP}') from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:  # also !!bool maybe
        raise UserError(f'{source}: not valid YAML: {one_line(error)}') from error
    _check_extent(value, source)
    return value


def check_config(config: dict, source: str) -> None:
    """Raises UserError that begins with `source` for a config of a checkpoint that no YAML file can have held."""
    _check_extent(config, source)
    try:
        to_yaml(config)
    except yaml.YAMLError as error:
        raise UserError(f'{source}: holds values that no config file can hold') from error


def _check_extent(value: object, source: str) -> None:
    """Raises UserError that begins with `source` for a value that is too large or nested too deep."""
    try:
        values, levels = _extent(value, {})
    except RecursionError:
        values, levels = 0, MAX_LEVELS + 1
    if levels > MAX_LEVELS:
        raise UserError(f'{source}: {_TOO_DEEP}')
    if values > MAX_VALUES:
        raise UserError(f'{source}: more than {MAX_VALUES:,} values, counting an alias as what it stands for')


def _extent(value: object, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(number of values, levels of nesting) of a parsed value. A value that aliases repeat is visited once."""
    if not isinstance(value, (dict, list, tuple)):
        return 1, 0
    if id(value) not in known:
        inner = [_extent(item, known) for item in (value.values() if isinstance(value, dict) else value)]
        known[id(value)] = 1 + sum(values for values, _ in inner), 1 + max((levels for _, levels in inner), default=0)
    return known[id(value)]


def merge(base: dict, changes: dict, arguments: bool = False) -> dict:
    """`base` with `changes` on top: blocks are merged key by key, null removes a key, everything else is replaced.

    A {name, args} block under another name takes none of the arguments of the one it replaces.

    Args:
        arguments: these are arguments of a {name, args} block, among which null is a value.
    """
    is_spec = 'name' in base and base.keys() <= {'name', 'args'}
    if is_spec and changes.get('name', base['name']) != base['name']:
        return changes
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = merge(base[key], value, arguments or (is_spec and key == 'args'))
        elif value is None and key in base and not arguments:
            del merged[key]
        else:
            merged[key] = value
    return merged


def apply_overrides(config: dict, overrides: Sequence[str]) -> dict:
    """`config` with the changes of -set, 'key.path=value' each: merged over it like a file over its base.

    Raises: UserError for a text of another form, a value that is not YAML, and a key that is given twice.
    """
    changes: dict = {}
    given: list[str] = []
    for text in overrides:
        path, equals, value = text.partition('=')
        *parents, last = path.split('.')
        if not equals or not all((*parents, last)) or not value.strip():
            raise UserError(f'-set {shortened(text)}: expected KEY.PATH=VALUE, such as optimizer.args.lr=2e-4 '
                            '(null as the value removes a key)')
        if any(f'{a}.'.startswith(f'{b}.') for other in given for a, b in ((path, other), (other, path))):
            raise UserError(f'-set {shortened(path, quotes=False)}: given twice; give a key, or the block around it, once')
        given.append(path)
        block = changes
        for key in parents:
            block = block.setdefault(key, {})
        block[last] = parse(value, f'-set {shortened(path, quotes=False)}')
    return merge(config, changes)


def to_yaml(config: dict) -> str:
    """A config as the text of a file."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def plain(value: object) -> str:
    """A config's value on one line of YAML."""
    if value is None:
        return 'none'
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.removesuffix('...\n').strip()
