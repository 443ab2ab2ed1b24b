"""Disks that are full, which a limit on the size of files stands for, and folders that may not be written to."""
import shutil
from pathlib import Path
from random import Random

from tests.hostile.case import Case
from tests.hostile.films import HAS_FILMS

CPU = ['-device', 'cpu']
VALID = {  # command → its options, and what it may write
    'demo': (['-input', 'in.png', '-scale', '3', '-model', 'bicubic', '-output', 'new/out.png', *CPU], ('new',)),
    'folder': (['-input', 'data/images', '-scale', '3', '-model', 'bicubic', '-output', 'new', *CPU], ('new',)),
    'test': (['-config', 'test.yaml', '-model', 'weights.pth', '-name', 'x', '-save-images', *CPU], ('test',)),
    'several': (['-config', 'test.yaml', '-model', 'weights.pth', 'bicubic', '-name', 'x', *CPU], ('test',)),
    'train': (['-config', 'train.yaml', '-name', 'x', *CPU], ('save',)),
    'mapped': (['-config', 'train.yaml', '-name', 'x', *CPU, '-set', 'train_dataset.dataset.args.cache=mapped'],
               ('save', 'data/decoded')),
    'resume': (['-config', 'train.yaml', '-name', 'run', '-resume', 'auto', *CPU, '-set', 'epoch_max=2'], ('save',)),
    'export': (['-model', 'weights.pth', '-output', 'new/out.pth'], ('new',)),
    'average': (['-models', 'weights.pth', 'weights.pth', '-output', 'new/out.pth'], ('new',)),
    'grow': (['-model', 'weights.pth', '-config', 'deeper.yaml', '-output', 'new/out.pth'], ('new',)),
    'zoom': (['-input', 'in.png', '-zoom', '1,3', '-frames', '3', '-size', '48,48', '-model', 'bicubic', '-output',
              'new/z.gif', *CPU], ('new',)),
    'animation': (['-input', 'moving.webp', '-scale', '2', '-model', 'bicubic', '-output', 'new/m.png', *CPU], ('new',)),
    'prepare': (['Set5', '-data', 'data', '-archives', 'archives'], ('data/benchmark',))}
if HAS_FILMS:
    VALID['film'] = (['-input', 'films/a.mp4', '-scale', '2', '-model', 'bicubic', '-output', 'new/f.mp4', *CPU], ('new',))
COMMANDS = {'zoom': 'demo', 'animation': 'demo', 'film': 'demo', 'folder': 'demo',
            'several': 'test', 'mapped': 'train', 'resume': 'train'}


def make(folder: Path, originals: Path, rng: Random) -> Case:
    kind = rng.choice(list(VALID))
    words, writes = VALID[kind]
    shutil.copytree(originals / 'data/images', folder / 'data/images')
    shutil.copytree(originals / 'archives', folder / 'archives')
    shutil.copytree(originals / 'films', folder / 'films')
    shutil.copy(originals / 'data/images/0.png', folder / 'in.png')
    shutil.copy(originals / 'moving.webp', folder)
    for name in ('weights.pth', 'test.yaml', 'train.yaml', 'deeper.yaml'):
        shutil.copy(originals / name, folder)
    if kind == 'resume':
        shutil.copytree(originals / 'save/run', folder / 'save/run')
    full = rng.random() < 0.6
    size = rng.choice((0, 1, 100, 500, 1000, 3000, rng.randrange(60_000))) if full else None
    hidden = None if full else _give_away(folder, [folder / place for place in writes], rng)
    odd = f'files of at most {size} bytes' if full else f'files of another user, hidden: {hidden}'
    return Case(command=COMMANDS.get(kind, kind), words=words, odd=odd, may_fail=True, file_size=size, unprivileged=not full,
                names=(*writes, 'output', 'epoch-last.pth', 'No space', 'too large', hidden or 'new', 'see above'),
                writes=writes, lines='skipped: .*|data/benchmark/.*')


def _give_away(folder: Path, written: list[Path], rng: Random) -> str | None:
    """Takes the right to write from others; what the command writes may exist already.

    Returns: the file that they cannot read either, if any.
    """
    if rng.random() < 0.5:
        for place in written:
            place.mkdir(parents=True, exist_ok=True)
    hidden = rng.choice([None, None, *sorted(path for path in folder.rglob('*') if path.is_file())])
    for path in (folder, *folder.rglob('*')):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if hidden:
        hidden.chmod(0o000)
    return str(hidden.relative_to(folder)) if hidden else None
