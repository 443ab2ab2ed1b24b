"""What the program keeps between its runs: decoded images and results."""
import json
import os
import shutil
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from tests.hostile.case import Case
from tests.hostile.inputs.states import make_special
from tests.hostile.mutate import ODD, changed_often, damaged

KINDS = ('bytes', 'bytes', 'bytes', 'special', 'name', 'left', 'swapped')


def make(folder: Path, originals: Path, rng: Random) -> Case:
    shutil.copytree(originals / 'data', folder / 'data')  # with the times of the images, which entries are named after
    return rng.choice((_make_store, _make_results))(folder, originals, rng)


def _make_store(folder: Path, originals: Path, rng: Random) -> Case:
    """A store with damaged entries: its images are decoded again."""
    shutil.copy(originals / 'train.yaml', folder)
    store = folder / 'data/decoded/images'
    entry, kind = rng.choice(sorted(store.glob('*.npy'))), rng.choice(KINDS)
    odd = f'an entry with {kind}'
    if kind == 'bytes':
        data, odd = damaged(entry.read_bytes(), rng)
        entry.write_bytes(data)
    elif kind == 'special':
        odd = rng.choice(('a folder', 'a FIFO', 'a link to itself', 'nothing', 'no bytes'))
        entry.unlink()
        make_special(entry, odd)
    elif kind == 'name':
        entry.rename(store / rng.choice((f'x{entry.name}', f'{entry.name}.npy', '.npy', '.v3-1-1.npy',
                                         os.fsdecode(b'\xff.npy'))))
    elif kind == 'left':
        (store / f'.partial-{entry.stem}-00000000-1-0000000000000000.npy').write_bytes(bytes(10))
        (folder / 'data/decoded/.lock').touch()
    else:
        other = rng.choice(sorted(store.glob('*.npy')))
        first, second = entry.read_bytes(), other.read_bytes()
        entry.write_bytes(second)
        other.write_bytes(first)
    words = ['-config', 'train.yaml', '-name', 'x', '-device', 'cpu', '-set', 'train_dataset.dataset.args.cache=mapped']
    return Case(command='train', words=words, odd=odd, names=('data/decoded',), outputs=('save/x/epoch-last.pth',),
                writes=('save', 'data/decoded'), verify=_wrong_entries)


def _wrong_entries(folder: Path) -> str | None:
    """Whether an entry does not hold its image."""
    for file in sorted((folder / 'data/images').glob('*.png')):
        entries = list((folder / 'data/decoded/images').glob(f'{file.name}.v*.npy'))
        if not any(np.array_equal(np.load(entry), np.asarray(Image.open(file))) for entry in entries):
            return f'the store does not hold {file.name}'
    return None


def _make_results(folder: Path, originals: Path, rng: Random) -> Case:
    """Damaged results: what is not credible is measured anew."""
    for name in ('test.yaml', 'weights.pth'):
        shutil.copy(originals / name, folder)
    shutil.copytree(originals / 'test/kept', folder / 'test/kept')
    file = folder / 'test/kept/results.json'
    kind = rng.choice(('bytes', 'values', 'values', 'values', 'special', 'depth', 'encoding'))
    if kind == 'bytes':
        data, odd = damaged(file.read_bytes(), rng)
        file.write_bytes(data)
    elif kind == 'values':
        value, odd = changed_often(json.loads(file.read_text()), rng, tuple(v for v in ODD if v != 10 ** 400))
        try:
            file.write_text(json.dumps(value, skipkeys=True))
        except ValueError:  # it contains itself
            file.write_text(repr(value))
    elif kind == 'special':
        odd = rng.choice(('a folder', 'a link to itself', 'nothing', 'no bytes', 'a FIFO'))
        file.unlink()
        make_special(file, odd)
    elif kind == 'depth':
        odd = 'JSON nested 100,000 levels deep'
        file.write_text('[' * 10 ** 5 + ']' * 10 ** 5)
    else:
        odd = 'UTF-16'
        file.write_text(file.read_text(), encoding='utf-16')
    words = ['-config', 'test.yaml', '-model', 'weights.pth', '-name', 'kept', '-device', 'cpu']
    return Case(command='test', words=words, odd=odd, names=('test/kept',), outputs=('test/kept/results.json',),
                writes=('test/kept',), verify=lambda place: _wrong_results(place, originals, kind in ('values', 'bytes')))


def _wrong_results(folder: Path, originals: Path, plausible: bool) -> str | None:
    """Whether the results differ from those of an undisturbed measurement.

    Args:
        plausible: a changed score may be one that the program could have measured.
    """
    mine, theirs = (json.loads((place / 'test/kept/results.json').read_text())['rows'] for place in (folder, originals))
    if [row['scale'] for row in mine] != [row['scale'] for row in theirs]:
        return 'the results are not those of the config'
    if not plausible and any(a['psnr'] != b['psnr'] for a, b in zip(mine, theirs)):
        return 'the results are not those of the model'
    return None
