"""Random changes of bytes and of nested values."""
import copy
import math
from random import Random
from typing import Any

ODD = (-1, 0, 1, 2, 3, 7, 0.5, -0.0, 1e-320, 1e308, 10 ** 9, 10 ** 9 + 1, 2 ** 31, 2 ** 63, -2 ** 63, 10 ** 30, 10 ** 400,
       math.nan, math.inf, -math.inf, True, False, None, '', 'x', '1', '1e-4', 'x' * 5000, 'é€漢', '../x', '/', 'a\nb', '\0',
       [], {}, [[]], [None], [1, 2], ['a', 'b'], {'a': 1}, {'name': 'x'}, {'name': 'msit', 'args': {}}, [0] * 20_000)

DEEPEST = 10  # levels at which changes are made

Path = tuple[Any, ...]  # keys and indices that lead to a value


def damaged(data: bytes, rng: Random) -> tuple[bytes, str]:
    """The bytes of a file with something wrong in them, and what it is."""
    kind = rng.choice(('flipped', 'flipped', 'start', 'cut', 'zeros', 'inserted', 'removed', 'repeated', 'random',
                       'appended'))
    content, place = bytearray(data), rng.randrange(len(data) + 1) if data else 0
    if kind in ('flipped', 'start') and data:
        end = len(data) if kind == 'flipped' else min(len(data), 64)
        for _ in range(rng.choice((1, 1, 2, 8, 100))):
            content[rng.randrange(end)] ^= 1 << rng.randrange(8)
    elif kind == 'cut':
        del content[place:]
    elif kind == 'zeros':
        content[place:place + 64] = bytes(len(content[place:place + 64]))
    elif kind == 'inserted':
        content[place:place] = rng.randbytes(rng.choice((1, 4, 1000)))
    elif kind == 'removed':
        del content[place:place + rng.choice((1, 4, 1000))]
    elif kind == 'repeated':
        content[place:place] = content[:rng.choice((16, 1000))]
    elif kind == 'random':
        content[:] = rng.randbytes(rng.choice((1, 16, 3000)))
    else:
        content += rng.choice((rng.randbytes(100), bytes(10_000)))
    return bytes(content), f'bytes {kind} at {place}'


def paths(value: Any, path: Path = ()) -> list[Path]:
    """The places of all values inside a nested one, at most DEEPEST levels; of long lists only the first."""
    if len(path) == DEEPEST:
        return []
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 4)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((*path, key), *paths(value[key], (*path, key)))]


def changed(value: dict, rng: Random, odd: tuple = ODD) -> tuple[dict, str]:
    """A copy of a nested value with a random change, and what that is."""
    value = copy.deepcopy(value)
    *parents, last = rng.choice(paths(value))
    block = value
    for key in parents:
        block = block[key]
    where = '.'.join(map(str, (*parents, last)))
    kind = rng.choice(('replaced', 'replaced', 'replaced', 'replaced', 'removed', 'renamed', 'added', 'wrapped', 'itself'))
    if kind == 'replaced':
        block[last] = rng.choice(odd)
        what = f'{where} is {repr(block[last])[:60] if not isinstance(block[last], int) else hex(block[last])[:60]}'
    elif kind == 'removed':
        del block[last]
        what = f'{where} removed'
    elif kind in ('renamed', 'added') and isinstance(block, dict):
        new = rng.choice((f'{last}s', 'x', '', 'x' * 3000, 7, None, True, 'name', 'args'))
        block[new] = block.pop(last) if kind == 'renamed' else rng.choice(odd)
        what = f'{where} {kind} as {str(new)[:60]}'
    elif kind == 'itself':
        block[last] = rng.choice((value, block)) if rng.random() < 0.3 else copy.deepcopy(value)
        what = f'{where} holds what is around it'
    else:
        levels = rng.choice((1, 2, 20, 40, 200))
        for _ in range(levels):
            block[last] = [block[last]] if rng.random() < 0.5 else {'a': block[last]}
        what = f'{where} nested {levels} levels deep'
    return value, what


def changed_often(value: dict, rng: Random, odd: tuple = ODD) -> tuple[dict, str]:
    """A copy with one to three changes, and what they are."""
    whats = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value, what = changed(value, rng, odd)
        whats.append(what)
    return value, '; '.join(whats)
