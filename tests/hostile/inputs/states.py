"""States of runs, continued by train."""
import math
import os
import shutil
from pathlib import Path
from random import Random

import torch

from tests.hostile.case import Case
from tests.hostile.mutate import ODD, changed_often, damaged

VALUES = (*ODD, torch.tensor(1), torch.tensor(math.nan), torch.zeros(0), torch.zeros(3), torch.zeros(1).expand(2 ** 40),
          torch.zeros(5056, dtype=torch.uint8), (), (1, 2, 3), [3, [0] * 625, None])
FOLDERS = ('a folder', 'a FIFO', 'a link to itself', 'nothing', 'no bytes', 'the log is a folder', 'the curves are a file',
           'the config is a folder', 'a left lock', 'left partial files', 'no log', 'best damaged', 'best is a folder')


def make(folder: Path, originals: Path, rng: Random) -> Case:
    shutil.copytree(originals / 'data/images', folder / 'data/images')
    shutil.copy(originals / 'train.yaml', folder)
    shutil.copytree(originals / 'save/run', folder / 'save/run')
    last = folder / 'save/run/epoch-last.pth'
    kind = rng.choice(('values', 'values', 'values', 'values', 'bytes', 'folder'))
    if kind == 'bytes':
        data, odd = damaged(last.read_bytes(), rng)
        last.write_bytes(data)
    elif kind == 'folder':
        odd = rng.choice(FOLDERS)
        _spoil(folder / 'save/run', odd)
    else:
        content = torch.load(last, weights_only=True)
        rest = {key: value for key, value in content.items() if key not in ('model', 'data_norm')}
        part = rng.choice([None, None, 'optimizer', 'random_state', 'config', 'scaler'])
        if part and rest.get(part):
            rest[part], odd = changed_often(rest[part], rng, VALUES)
            odd = f'{part}: {odd}'
        else:
            rest, odd = changed_often(rest, rng, VALUES)
        torch.save({**content, **rest} if rng.random() < 0.8 else {'model': content['model'], **rest}, last)
    words = ['-config', 'train.yaml', '-name', 'run', '-device', 'cpu', '-resume', 'auto', '-set', 'epoch_max=2']
    return Case(command='train', words=words, odd=odd, names=('save/run', 'the loss'), writes=('save',),
                outputs=('save/run/epoch-last.pth',))


def _spoil(run: Path, kind: str) -> None:
    """Makes a run folder odd."""
    last = run / 'epoch-last.pth'
    if kind in ('a folder', 'a FIFO', 'a link to itself', 'nothing', 'no bytes'):
        last.unlink()
        make_special(last, kind)
    elif kind == 'the log is a folder':
        (run / 'log.txt').unlink()
        (run / 'log.txt').mkdir()
    elif kind == 'the curves are a file':
        shutil.rmtree(run / 'tensorboard')
        (run / 'tensorboard').touch()
    elif kind == 'the config is a folder':
        (run / 'config.yaml').unlink()
        (run / 'config.yaml').mkdir()
    elif kind == 'a left lock':
        (run / '.lock').touch()
    elif kind == 'left partial files':
        (run / '.partial-x-00000000-1-0000000000000000.pth').touch()
    elif kind == 'no log':
        (run / 'log.txt').unlink()
    elif kind == 'best damaged':
        (run / 'epoch-best.pth').write_bytes(bytes(1000))
    else:
        (run / 'epoch-best.pth').unlink()
        (run / 'epoch-best.pth').mkdir()


def make_special(path: Path, kind: str) -> None:
    """A folder, a FIFO, … at a path where nothing is."""
    if kind == 'a folder':
        path.mkdir()
    elif kind == 'a FIFO':
        os.mkfifo(path)
    elif kind == 'a link to itself':
        path.symlink_to(path.name)
    elif kind == 'no bytes':
        path.touch()
