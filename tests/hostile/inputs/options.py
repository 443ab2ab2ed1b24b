"""Options of all commands, with values from tables of odd ones."""
import os
import shutil
from pathlib import Path
from random import Random

from tests.hostile.case import Case

CPU = ['-device', 'cpu']
VALID = {  # command → its options, of which some get odd values
    'demo': [['-input', 'in.png', '-scale', '2', '-model', 'weights.pth', '-output', 'out.png', *CPU],
             ['-input', 'data/images', '-scale', '1.5', '-model', 'bicubic', '-output', 'out', *CPU],
             ['-input', 'in.png', '-resolution', '40,50', '-model', 'weights.pth', '-output', 'out.png', '-memory', '100M',
              '-halo', '3', *CPU],
             ['-input', 'in.png', '-scale', '2', '-model', 'bicubic', '-output', 'out.webp', '-format', 'webp',
              '-quality', '90', '-bits', '8', '-background', '0,0,0', '-range', '0,1', '-first-frame', *CPU],
             ['-input', 'in.png', '-zoom', '1,4', '-at', '0.5,0.5', '-frames', '3', '-fps', '10', '-size', '16,16', '-model',
              'bicubic', '-output', 'out.gif', *CPU]],
    'test': [['-config', 'test.yaml', '-model', 'weights.pth', '-name', 'x', '-data', 'data', *CPU],
             ['-config', 'test.yaml', '-model', 'weights.pth', 'bicubic', '-columns', 'params', '-name', 'x', *CPU],
             ['-hr', 'data/images', '-scales', '2', '-protocol', 'div2k', '-model', 'bicubic', '-name', 'x', *CPU],
             ['-hr', 'data/images', '-lr', 'data/images', '-scales', '1', '-model', 'bicubic', '-name', 'x', *CPU],
             ['-config', 'test.yaml', '-model', 'bicubic', '-metrics', 'psnr', '-set',
              'test_dataset.wrapper.args.scales=3']],
    'train': [['-config', 'train.yaml', '-name', 'x', '-data', 'data', *CPU],
              ['-config', 'train.yaml', '-name', 'x', '-pretrain', 'weights.pth', '-resume', 'auto', *CPU],
              ['-config', 'train.yaml', '-name', 'x', '-set', 'optimizer.args.lr=1e-3', '-resume', 'auto', *CPU]],
    'export': [['-model', 'weights.pth', '-output', 'out.pth', '-dtype', 'float16']],
    'average': [['-models', 'weights.pth', 'weights.pth', '-output', 'out.pth']],
    'grow': [['-model', 'weights.pth', '-config', 'deeper.yaml', '-output', 'out.pth']],
    'prepare': [['-check', '-data', 'data'], ['Set5', '-data', 'data', '-archives', 'archives'],
                ['Set5', '-check', '-data', 'data']]}
TEXTS = ('', ' ', '.', '~', '-', '--', '-1', 'x', '*', '%s', '{}', '%(prog)s', '$(touch pwned)', 'a\nb', 'é€漢', '\udcff',
         '１２', 'x' * 300, 'x' * 5000, 'a/' * 2500, '/dev/null', '/dev/zero', '/proc', 'in.png', 'data', 'weights.pth',
         'train.yaml', 'fifo', 'round', 'absent', 'absent/x', 'in.png/x', 'None', 'null', 'true', '\x1b[31m', 'out',
         'out.xyz', 'out.PNG', 'new/folder/out.png', 'new/folder/out.pth')
NUMBERS = ('0', '-0', '-1', '1', '1.0', '0.5', '1e3', '1e308', '1e-308', '1e999', 'nan', 'inf', '-inf', '0x10', '1_000',
           '１', '²', '1,',
           ',1', ',', '1,2,3', '2,2', '1;2', '1 2', '9' * 18, '9' * 400, '9' * 5000, '+2', '2.', '.5', '٣', '1e', '--1',
           '2x3', '2x', 'x3', '0x0', '1G', '1g', '-1G', '0G', '1e3G', '1.5.5G', '99999T', '1K', '1', '3,nan', '1/2')
KEYS = ('x=1', '=1', 'x=', 'x', 'a.b.c.d=1', '.=1', 'seed=1', 'seed=-1', 'seed=[', 'seed={a: 1', 'epoch_max=0',
        'epoch_max=1e3',
        'model=null', 'model.name=x', 'model.args=null', 'train_dataset.batch_size=1e9', 'base=x', '{}=1',
        'seed=!!python/name:os.system',
        f'seed={"[" * 2000}', f'{"a." * 3000}b=1', 'test_dataset.wrapper.args.scales=[]', 'optimizer.args.lr=nan',
        'seed=1\n2')
FLAGS = ('-h', '-x', '--', '-fresh', '-reuse', '-save-images', '-print-config', '-no-kernels', '-check', '-fresh-decoder',
         '-halo', '-gpu', '-set', '-memory', '-resume', '-columns', '-metrics', '')


def make(folder: Path, originals: Path, rng: Random) -> Case:
    shutil.copytree(originals / 'data/images', folder / 'data/images')
    shutil.copytree(originals / 'archives', folder / 'archives')
    shutil.copy(originals / 'data/images/0.png', folder / 'in.png')
    for name in ('weights.pth', 'test.yaml', 'train.yaml', 'deeper.yaml'):
        shutil.copy(originals / name, folder)
    (folder / 'round').symlink_to('round')
    os.mkfifo(folder / 'fifo')
    command = rng.choice(list(VALID))
    words = list(rng.choice(VALID[command]))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _change(words, rng)
    odd = 'options from the tables'
    names = (*filter(None, words), '-h', '-model', '-models', '-output', '-config', '-input', 'data', 'device', 'no such',
             'checkpoints', 'is a folder', 'has suffix')
    return Case(command=command, words=words, odd=odd, names=names, writes=(
        'out', 'out.png', 'out.webp', 'out.gif',
        'out.pth', 'output', 'save', 'test', 'data', 'new', *words), lines=LINES, workers=True)


LINES = r'skipped: .*|.* are left out|data/benchmark/.*|-reuse: .*|.*: no such folder of images.*|.*expected \d+ images'


def _change(words: list[str], rng: Random) -> None:
    """Puts an odd value, or another option, into a command line."""
    values = [place for place, word in enumerate(words) if not word.startswith('-') and words[place - 1] != '-device']
    kind = rng.choice(('value', 'value', 'value', 'value', 'value', 'flag', 'gone', 'twice', 'new'))
    if kind == 'value' and values:
        place = rng.choice(values)
        option = words[place - 1]
        table = KEYS if option == '-set' else NUMBERS if option in NUMERIC and rng.random() < 0.8 else TEXTS
        words[place] = rng.choice(table)
    elif kind == 'flag':
        words.insert(rng.randrange(len(words) + 1), rng.choice(FLAGS))
    elif kind == 'gone' and words:
        del words[rng.randrange(len(words))]
    elif kind == 'twice' and words:
        words += words[-2:]
    else:
        words += rng.choice((['-memory', rng.choice(NUMBERS)], ['-halo', rng.choice(NUMBERS)], ['-gpu', rng.choice(NUMBERS)],
                             ['-device', rng.choice(('cuda', 'cuda:99', 'mps', 'cpu:0', 'meta', ''))],
                             ['-set', rng.choice(KEYS)], ['-data', rng.choice(TEXTS)], ['-name', rng.choice(TEXTS)]))


NUMERIC = ('-scale', '-scales', '-resolution', '-memory', '-halo', '-gpu', '-quality', '-bits', '-background', '-range',
           '-zoom', '-at', '-frames', '-fps', '-size')
