"""Figures: options of all kinds with odd values, configs, images of odd names, checkpoints, and bad targets."""
import copy
import importlib.util
import os
import shutil
from pathlib import Path
from random import Random

from tests.hostile.case import Case
from tests.hostile.inputs import checkpoints, images, options
from tests.hostile.inputs.states import make_special
from tests.hostile.mutate import changed_often
from tests.hostile.originals import TEST, as_yaml

HAS_FIGURES = importlib.util.find_spec('matplotlib') is not None
CPU = ['-device', 'cpu']
MODELS = ['-model', 'bicubic', 'weights.pth']
INPUT = ['-input', 'data/images/0.png']
KINDS = {  # kind → its options, which are valid
    'zoom': [*MODELS, *INPUT, '-scale', '2', '-box', '2,3,10,12'],
    'scales': [*MODELS, *INPUT, '-scales', '1.5', '2', '-box', '2,3,10,12'],
    'error': [*MODELS, '-input', 'data/images', '-scales', '2', '3', '-set', 'figure.args.images=1'],
    'features': ['-model', 'weights.pth', *INPUT, '-scale', '2'],
    'attention': ['-model', 'weights.pth', *INPUT, '-scale', '2', '-at', '0.5,0.5', '0,1'],
    'lam': ['-model', 'weights.pth', *INPUT, '-scale', '2', '-box', '2,3,10,12', '-set', 'figure.args.steps=2'],
    'curve': [*MODELS, '-input', 'data/images', '-scales', '1.5', '2'],
    'kernels': ['-model', 'weights.pth', 'other.pth']}
TABLES = {
    '-box': ('0,0,0,0', '0,0,1,1', '0,0,2,2', '27,0,1,1', '20,20,10,10', '0,0,29,5', '-1,0,5,5', '1,2,3', '1,2,3,4,5',
             '1,,2,3', '999999,0,1,1', '9' * 30 + ',0,1,1', '0,0,1e3,4', 'a', '', '1.5,0,3,3', '0,0,28,30', '0,0,1,28',
             '0,0,28,1'),
    '-at': ('0,0', '1,1', '2,0', '-1,0', '0.5', '0.5,0.5,0.5', 'nan,0', 'a,b', '', '0.5,'),
    '-scale': options.NUMBERS, '-scales': (*options.NUMBERS, '8', '30', '100'), '-memory': options.NUMBERS,
    '-names': (*options.TEXTS, '_a', '$x$', '$a_{', '\\frac'), '-width': ('column', 'page', 'x', '', '3.5'),
    '-model': ('bicubic', 'weights.pth', 'other.pth', 'edsr-baseline', 'MSIT-S', 'absent', 'data', 'fifo', '', 'round',
               'x' * 300),
    '-input': ('data/images', 'data/images/1.png', 'absent', 'data', '', 'fifo', 'round', 'weights.pth', '/dev/zero',
               'figure.yaml'),
    '-set': ('figure.args.steps=0', 'figure.args.steps=1e9', 'figure.args.images=-1', 'figure.args.images=99',
             'figure.name=zoom', 'figure.args.box=[[0, 0, 1e30, 1]]', 'figure.args.box=[[]]', 'figure.args.box=7',
             'figure.args.at=[[nan, 0]]', 'figure.args.scales=[]', 'figure.args.scales=[2, 2]', 'figure.args.layers=0',
             'figure.args.panels=[x]', 'figure.args.metric=x', 'figure.args.names=[a, a]', 'figure.args.model=[7]',
             'figure.args=null', 'figure=null', 'x=1', 'figure.args.width=x')}
OUTPUTS = ('out.png', 'out.pdf', 'out.svg', 'out.PNG', 'out', 'out.xyz', 'out.jpg', 'new/deep/out.pdf', 'data',
           'data/images/0.png', 'fifo', 'round', 'round.png', 'link.png', 'weights.pth', '/dev/null',
           'data/images/0.png/x.png', '.png', 'x' * 300 + '.png', 'é€漢.svg', 'a\nb.png')
INPUTS = ('data', 'data/images/0.png', 'link.png', 'weights.pth', 'fifo', 'round')  # targets that must stay what they are
NAMES = ('$x$.png', '$a_{.png', '%s{}.png', 'a_b^c.png', '\\frac.png', 'é€漢🙂.png', 'a\nb.png', '\x1b[31m.png',
         'n' * 230 + '.png', '-a.png', '$(touch pwned).png', '_a.png', os.fsdecode(b'\xff\xfe.png'))


def make(folder: Path, originals: Path, rng: Random) -> Case:
    shutil.copytree(originals / 'data/images', folder / 'data/images')
    for copied in ('weights.pth', 'other.pth'):
        shutil.copy(originals / 'weights.pth', folder / copied)
    make_special(folder / 'round', 'a link to itself')
    make_special(folder / 'fifo', 'a FIFO')
    (folder / 'link.png').symlink_to('data/images/0.png')
    kind = rng.choice(list(KINDS))
    words, target, suffix = [kind, *KINDS[kind]], 'out.png', rng.choice(('.png', '.png', '.pdf', '.svg'))
    way = rng.choice(('options', 'options', 'options', 'output', 'config', 'image', 'name', 'checkpoint'))
    if way == 'options':
        odd = _change(words, rng)
        target = f'out{suffix}'
    elif way == 'output':
        target = rng.choice(OUTPUTS)
        odd = f'the target {target[:60]!r}'
    elif way == 'config':
        odd = _config(folder, kind, rng)
        words = [*rng.choice(([], [], [kind])), '-config', 'figure.yaml', '-data', 'data']
    elif way == 'checkpoint':
        odd = checkpoints.write(folder / 'weights.pth', originals, rng)
    else:
        name = rng.choice(NAMES) if way == 'name' else 'a.png'
        odd = images.write(folder / 'data/images' / name, rng) if way == 'image' else f'the name {name[:60]!r}'
        new = {'data/images/0.png': f'data/images/{name}'}
        if way == 'name':
            shutil.copy(originals / 'data/images/0.png', folder / 'data/images' / name)
            shutil.copy(originals / 'weights.pth', folder / name)
            new['weights.pth'] = name
        words = [new.get(word, word) for word in words]
    words += ['-output', target, *CPU]
    names = (*filter(None, words), 'kind of figure', '-model', '-input', '-box', '-at', '-scales', '-names', 'box ',
             'figure', 'no such', 'data/images', 'test_dataset', 'the options',
             'is a folder')
    return Case(command='visualize', words=words, odd=odd, names=names, outputs=() if '-h' in words else (target,),
                workers=True, writes=('out.png', 'new', 'output', *({target} - {*INPUTS})))


def _change(words: list[str], rng: Random) -> str:
    """Puts one to three odd values or options into a command line; → what they are."""
    whats = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        given = [word for word in words if word in TABLES]
        option = rng.choice(given) if given and rng.random() < 0.7 else rng.choice(list(TABLES))
        value = rng.choice(TABLES[option])
        change = rng.choice(('replaced', 'replaced', 'replaced', 'added', 'kind', 'gone'))
        if change == 'kind':
            words[0] = value = rng.choice((*KINDS, 'zom', '', 'x' * 300, '-h', 'a\nb'))
        elif change == 'gone' and len(words) > 1:
            value = words.pop(rng.randrange(len(words)))
        elif change == 'replaced' and option in words and words.index(option) + 1 < len(words):
            words[words.index(option) + 1] = value
        elif option in words:
            words.insert(words.index(option) + 1, value)
        else:
            words += [option, value]
        whats.append(f'{change} {option} {value[:60]!r}')
    return '; '.join(whats)


def _config(folder: Path, kind: str, rng: Random) -> str:
    """Writes figure.yaml, a config of a kind with something wrong in it; → what it is."""
    content = copy.deepcopy(TEST)
    args = {'scale': 2, 'scales': [2], 'input': ['0'], 'box': [[2, 3, 10, 12]],
            'at': [[0.5, 0.5]], 'steps': 2}
    given = {'zoom': ('scale', 'input', 'box'), 'scales': ('scales', 'input', 'box'), 'error': ('scales',),
             'features': ('scale', 'input'), 'attention': ('scale', 'input', 'at'), 'curve': ('scales',), 'kernels': (),
             'lam': ('scale', 'input', 'box', 'steps')}[kind]
    args = {'model': ['weights.pth', 'other.pth'], **{key: args[key] for key in given}}
    content['figure'] = {'name': kind, 'args': args}
    content, odd = changed_often(content, rng)
    (folder / 'figure.yaml').write_bytes(as_yaml(content).encode('utf-8', 'surrogatepass'))
    return odd
