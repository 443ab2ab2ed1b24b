"""YAML configs of train, test and grow."""
import copy
import os
import shutil
from pathlib import Path
from random import Random

from tests.hostile.case import Case
from tests.hostile.mutate import changed_often, damaged
from tests.hostile.originals import TEST, TRAIN, as_yaml

FILES = {'train': 'train.yaml', 'test': 'test.yaml', 'grow': 'deeper.yaml', 'print': 'train.yaml'}
TEXTS = {  # what a text of YAML may hold; {} stands for a valid one
    'code': '!!python/object/apply:os.system ["touch ../../pwned"]\n{}', 'code in a key': 'x: !!python/name:os.system\n{}',
    'no boolean': '{}\nseed: !!bool maybe\n', 'binary': 'x: !!binary "////"\n{}',
    'a merge': 'x: &x {{a: 1}}\ny: {{<<: *x}}\n{}',
    'aliases': 'a: &a [1, 1]\nb: &b [*a, *a]\nc: &c [*b, *b]\n{}', 'an alias of nothing': 'x: *y\n{}',
    'itself': 'model: &m [*m]\n{}', 'a bomb': '\n'.join(
        ['a0: &a0 [x]', *(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]' for i in range(1, 40))]) + '\n{}',
    'depth': 'x: ' + '[' * 3000 + '\n{}', 'blocks': 'x: ' + '{{a: ' * 500 + '\n{}', 'a list': '- 1\n- 2\n',
    'a number': '7\n',
    'nothing': '', 'a NUL': '{}\n\0', 'documents': '{}\n---\n{}', 'a date': '{}\nepoch_max: 2020-01-01\n',
    'tabs': '\t{}', 'a long line': 'x: ' + 'y' * 10 ** 6 + '\n{}', 'a long key': 'y' * 2000 + ': 1\n{}',
    'a key of a list': '? [1, 2]\n: 3\n{}', 'a key of a block': '? {{a: 1}}\n: 3\n{}', 'digits': '{}\nseed: ' + '9' * 6000,
    'base 60': '{}\nseed: 1:2:3:4:5:6:7\n', 'a set': '{}\nmodel: !!set {{a, b}}\n', 'twice': '{}\nmodel: 1\nmodel: 2\n',
    'quotes': "{}\nx: 'y\n", 'an anchor': '{}\nx: &\n', 'a directive': '%YAML 9.9\n---\n{}',
    'unicode': '{}\n\u202e: \ufeff\n'}
BASES = ('config.yaml', 'absent.yaml', '.', '/', '/dev/null', '/dev/zero', '../config.yaml', 'x' * 5000, 'fifo.yaml',
         'round.yaml', 'chain0.yaml', '', 'a\0b', 7, None, ['train.yaml'], {'a': 1})


def make(folder: Path, originals: Path, rng: Random) -> Case:
    kind = rng.choice(list(FILES))
    content = copy.deepcopy(TEST if kind == 'test' else TRAIN)
    if kind == 'grow':
        content['model']['args']['encoder_spec']['args']['n_resblocks'] = 2
    shutil.copytree(originals / 'data/images', folder / 'data/images')
    shutil.copy(originals / 'weights.pth', folder)
    text, odd = _text(content, folder, rng)
    (folder / 'config.yaml').write_bytes(text)
    words, outputs = {
        'train': (['-config', 'config.yaml', '-name', 'run', '-device', 'cpu'], ('save/run/epoch-last.pth',)),
        'test': (['-config', 'config.yaml', '-name', 'run', '-model', 'weights.pth', '-device', 'cpu'],
                 ('test/run/results.json',)),
        'grow': (['-config', 'config.yaml', '-model', 'weights.pth', '-output', 'grown.pth'], ('grown.pth',)),
        'print': (['-config', 'config.yaml', '-print-config'], ())}[kind]
    return Case(command='train' if kind == 'print' else kind, words=words, odd=odd, outputs=outputs, workers=True,
                names=('config.yaml', '-set', 'images', 'weights.pth', 'the loss', *_bases(folder)),
                writes=('save', 'test', 'grown.pth', 'data/decoded', 'data'))


def _text(content: dict, folder: Path, rng: Random) -> tuple[bytes, str]:
    """A config with something wrong, and what it is."""
    kind = rng.choice(('values', 'values', 'values', 'values', 'bytes', 'text', 'text', 'base', 'encoding'))
    if kind == 'values':
        value, odd = changed_often(content, rng)
        return as_yaml(value).encode('utf-8', 'surrogatepass'), odd
    valid = as_yaml(content)
    if kind == 'bytes':
        return damaged(valid.encode(), rng)
    if kind == 'text':
        name = rng.choice(list(TEXTS))
        return TEXTS[name].format(*[valid] * 2).encode(), f'YAML with {name}'
    if kind == 'encoding':
        name = rng.choice(('utf-16', 'utf-32', 'utf-8-sig', 'cp500'))
        return valid.encode(name), f'in {name}'
    base = rng.choice(BASES)
    _write_bases(folder, base)
    return as_yaml({**content, 'base': base}).encode(), f'base: {base!r:.60}'


def _write_bases(folder: Path, base: object) -> None:
    """The files that a config may name as its base."""
    if base == 'fifo.yaml':
        os.mkfifo(folder / 'fifo.yaml')
    elif base == 'round.yaml':
        (folder / 'round.yaml').symlink_to('round.yaml')
    elif base == 'chain0.yaml':
        for number in range(50):
            (folder / f'chain{number}.yaml').write_text(f'base: chain{number + 1}.yaml\n')


def _bases(folder: Path) -> tuple[str, ...]:
    return *(file.name for file in folder.iterdir()), 'absent.yaml', 'no such config', 'folder', 'a\\x00b', 'xxxxxxx'
