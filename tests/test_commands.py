"""demo.py and test.py, and how all three commands leave: exact status, one line on stderr, nothing left behind."""
import contextlib
import errno
import hashlib
import importlib.util
import json
import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import Done, call
from PIL import Image

import demo
import models
import train

ROOT = Path(__file__).resolve().parent.parent


def load_command(path: Path):
    """The module of an entry script whose own name is taken by the standard library (`test`)."""
    spec = importlib.util.spec_from_file_location(f'command_{path.stem}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


benchmark = load_command(ROOT / 'test.py')
COMMANDS = {'demo': demo.main, 'test': benchmark.main, 'train': train.main}


class Place:
    """A folder to work in: small images, a tiny checkpoint, and the commands."""

    def __init__(self, folder: Path, spec: dict, capsys, monkeypatch):
        self.folder, self.spec, self.capsys, self.monkeypatch = folder, spec, capsys, monkeypatch

    def call(self, command: str, *arguments, cpu: bool = True) -> Done:
        """Runs a command in this process."""
        words = (*arguments, *(['-device', 'cpu'] if cpu else []))
        return call(COMMANDS[command], words, self.capsys, self.monkeypatch)

    def demo(self, *arguments, **settings) -> Done:
        return self.call('demo', *arguments, **settings)

    def tree(self) -> dict[str, str | None]:
        """Everything below the folder, files with a hash of their content."""
        return {str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
                for path in sorted(self.folder.rglob('*'))}

    @contextlib.contextmanager
    def untouched(self):
        """Asserts that nothing is written, changed or removed."""
        before = self.tree()
        yield
        assert self.tree() == before

    def assert_refused(self, command: str, *arguments, naming: str, status: int = 2, **settings) -> None:
        """Asserts status, exactly one line on stderr that holds `naming`, an empty stdout, and no trace in the folder."""
        with self.untouched():
            done = self.call(command, *arguments, **settings)
        assert done.status == status, done
        assert done.err.count('\n') == 1 and done.err.endswith('\n') and done.err.startswith('error: '), done.err
        assert naming in done.err
        assert done.out == ''

    def write_image(self, name: str, height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
        """Writes a smooth random image; returns its pixels."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small = np.random.default_rng(seed).integers(0, 256, (5, 6, channels), dtype=np.uint8)
        mode = {1: 'L', 3: 'RGB', 4: 'RGBA'}[channels]
        image = Image.fromarray(small.squeeze(), mode).resize((width, height), Image.Resampling.BICUBIC)
        image.save(path)
        return np.asarray(image)

    def pixels(self, name: str) -> np.ndarray:
        with Image.open(self.folder / name) as image:
            return np.asarray(image)

    def checkpoint(self, name: str = 'tiny.pth', edit=None, **settings) -> Path:
        """Saves the tiny model; `edit` changes the content first."""
        torch.manual_seed(0)
        content = {'model': {**self.spec, 'sd': models.make(self.spec).state_dict()}, 'epoch': 1}
        if edit:
            edit(content)
        torch.save(content, self.folder / name, **settings)
        return self.folder / name

    def config(self, name: str, content: dict | str) -> Path:
        path = self.folder / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path


@pytest.fixture
def place(tmp_path, monkeypatch, capsys, tiny_msit) -> Place:
    monkeypatch.chdir(tmp_path)
    place = Place(tmp_path, tiny_msit, capsys, monkeypatch)
    place.write_image('a.png', 11, 14)
    return place


BICUBIC = ('-input', 'a.png', '-model', 'bicubic')


def bicubic(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


# demo.py

@pytest.mark.parametrize('option, size', [
    (('-scale', '2.5'), (28, 35)),            # 27.5 to even, 35
    (('--scale', '2,3.5'), (22, 49)),
    (('-scale', '1'), (11, 14)),
    (('-scale', '1.3'), (14, 18)),            # 14.3, 18.2
    (('-resolution', '30,41'), (30, 41)),
    (('--resolution', '11,100'), (11, 100)),
    ((), (44, 56)),
])
def test_demo_writes_exactly_this_size(place, option, size):
    source = place.pixels('a.png')
    done = place.demo(*BICUBIC, *option, '-output', 'new/b.png')
    assert (done.status, done.err) == (0, '')
    assert done.out.splitlines()[-1].startswith(f'a.png (11x14) -> new/b.png ({size[0]}x{size[1]}) in ')
    assert place.pixels('new/b.png').dtype == np.uint8
    assert np.array_equal(place.pixels('new/b.png'), bicubic(source, *size))
    assert sorted(place.tree()) == ['a.png', 'new', 'new/b.png']


@pytest.mark.parametrize('dashes', ['-', '--'])
def test_demo_image_is_the_models(place, dashes):
    """The file holds model.upscale rounded to 8 bits."""
    source, weights = place.pixels('a.png'), place.checkpoint()
    options = {'input': 'a.png', 'model': weights, 'resolution': '25,33', 'output': 'b.png'}
    assert place.demo(*(word for name, value in options.items() for word in (dashes + name, value))).status == 0
    lr = torch.from_numpy(source.copy()).permute(2, 0, 1)[None] / 255
    upscaled = models.load(weights).upscale(lr, (25, 33))[0].permute(1, 2, 0).numpy()
    assert np.array_equal(place.pixels('b.png'), np.rint(upscaled * 255).astype(np.uint8))
    assert np.abs(place.pixels('b.png').astype(int) - bicubic(source, 25, 33)).max() > 2     # another model than bicubic


def test_demo_without_arguments(place):
    """The bundled image and weights, by 4; only the weights are stood in for."""
    asked = []
    bicubic_model = models.load('bicubic')
    place.monkeypatch.setattr(demo.models, 'load', lambda path, *_: asked.append(path) or bicubic_model)
    done = place.demo(cpu=False)
    with Image.open(ROOT / 'assets/harbour.png') as image:
        source = np.asarray(image.convert('RGB'))
    height, width = source.shape[0] * 4, source.shape[1] * 4
    assert (done.status, done.err, asked) == (0, '', ['MSIT-S'])
    assert np.array_equal(place.pixels(f'output/harbour_{height}x{width}.png'), bicubic(source, height, width))


def test_demo_with_the_bundled_weights(place):
    assert place.demo().status == 0
    with Image.open(ROOT / 'assets/harbour.png') as image:
        source = np.asarray(image.convert('RGB'))
    height, width = source.shape[0] * 4, source.shape[1] * 4
    upscaled = place.pixels(f'output/harbour_{height}x{width}.png').astype(int)
    difference = upscaled - bicubic(source, height, width)
    assert upscaled.shape == (height, width, 3)
    assert 0.2 < np.abs(difference).mean() < 8                                       # sharper than bicubic, the same scene


def test_demo_folder(place):
    one, two = place.write_image('in/one.png', 9, 12, 1), place.write_image('in/two.bmp', 10, 8, 2)
    (place.folder / 'in/notes.txt').write_text('no image')
    (place.folder / 'in/.hidden.png').write_text('no image')
    done = place.demo('-input', 'in', '-model', 'bicubic', '-scale', '2,1.5', '-output', 'out')
    assert (done.status, done.err) == (0, '')
    assert sorted(path.name for path in (place.folder / 'out').iterdir()) == ['one.png', 'two.png']
    assert np.array_equal(place.pixels('out/one.png'), bicubic(one, 18, 18))
    assert np.array_equal(place.pixels('out/two.png'), bicubic(two, 20, 12))
    assert place.demo('-input', 'in', '-model', 'bicubic', '-scale', '2').status == 0
    assert sorted(path.name for path in (place.folder / 'output').iterdir()) == ['one_18x24.png', 'two_20x16.png']


def test_demo_folder_of_equal_stems_loses_no_image(place):
    """`a.png` beside `a.bmp`, and `a.png.bmp`, whose stem is the name of another."""
    sources = {name: place.write_image(f'in/{name}', 9, 12, seed)
               for seed, name in enumerate(('a.png', 'a.bmp', 'a.png.bmp', 'b.bmp'))}
    done = place.demo('-input', 'in', '-model', 'bicubic', '-scale', '1', '-output', 'out')
    assert (done.status, done.err) == (0, '')
    written = {path.name: place.pixels(str(path)) for path in (place.folder / 'out').iterdir()}
    assert written.keys() == {'a.png.png', 'a.bmp.png', 'a.png.bmp.png', 'b.png'}
    assert all(np.array_equal(written['b.png' if name == 'b.bmp' else f'{name}.png'], image)
               for name, image in sources.items())


@pytest.mark.parametrize(('source', 'output'), [
    ('in', 'in'), ('in', './in/../in'), ('in', 'linked'), ('in', 'out'), ('in/one.png', 'in/one.png'), ('in/one.png', 'in'),
    ('in/one.png', 'linked'), ('in/one.png', 'linked/../in/./one.png'), ('in/one.png', 'out/one.png'),
    ('out/one.png', 'in/one.png'), ('in/one.png', 'hard.png')])
def test_demo_never_overwrites_its_input(place, source, output):
    """By whatever path it is given: `linked` leads to the folder, `out/one.png` to the image, `hard.png` is the image."""
    place.write_image('in/one.png', 9, 12, 1)
    (place.folder / 'out').mkdir()
    (place.folder / 'linked').symlink_to('in')
    (place.folder / 'out/one.png').symlink_to('../in/one.png')
    os.link(place.folder / 'in/one.png', place.folder / 'hard.png')
    place.assert_refused('demo', '-input', source, '-model', 'none', '-output', output, naming=' itself; give another')


def test_demo_reads_and_writes_one_folder_under_other_names(place):
    assert place.demo(*BICUBIC, '-scale', '1', '-output', 'c.png').status == 0
    assert np.array_equal(place.pixels('c.png'), place.pixels('a.png'))


def test_demo_folder_with_a_broken_image_does_the_others(place):
    one = place.write_image('in/one.png', 9, 12, 1)
    (place.folder / 'in/bad.png').write_text('no image')
    done = place.demo('-input', 'in', '-model', 'bicubic', '-scale', '1', '-output', 'out')
    assert done.status == 2 and 'in/bad.png' in done.err and 'Traceback' not in done.err
    assert [path.name for path in (place.folder / 'out').iterdir()] == ['one.png']
    assert np.array_equal(place.pixels('out/one.png'), one)


def test_demo_grey(place):
    source = place.write_image('grey.png', 9, 12, 3, channels=1)
    assert place.demo('-input', 'grey.png', '-model', 'bicubic', '-scale', '3', '-output', 'b.png').status == 0
    assert np.array_equal(place.pixels('b.png'), bicubic(np.repeat(source[..., None], 3, 2), 27, 36)[..., 0])


def test_demo_keeps_transparency(place):
    source = place.write_image('clear.png', 9, 12, 4, channels=4)
    assert place.demo('-input', 'clear.png', '-model', 'bicubic', '-scale', '3', '-output', 'b.png').status == 0
    upscaled = place.pixels('b.png')
    assert upscaled.shape == (27, 36, 4)
    assert np.array_equal(upscaled[..., :3], bicubic(source[..., :3].copy(), 27, 36))
    assert np.array_equal(upscaled[..., 3], bicubic(source[..., 3].copy(), 27, 36))
    assert place.demo('-input', 'clear.png', '-model', 'bicubic', '-output', 'b.jpg').status == 0
    assert place.pixels('b.jpg').shape == (36, 48, 3)                                # JPEG has no alpha


def test_demo_sixteen_bits(place):
    pytest.importorskip('imagecodecs')
    values = np.array([[0, 128, 129, 257], [40000, 65535, 65407, 32768]], dtype=np.uint16)
    Image.fromarray(values).save('deep.png')
    assert place.demo('-input', 'deep.png', '-model', 'bicubic', '-scale', '1', '-output', 'b.png').status == 0
    assert np.array_equal(place.pixels('b.png'), values)
    expected = np.array([[0, 0, 1, 1], [156, 255, 255, 128]])                        # v / 257, rounded
    assert place.demo('-input', 'deep.png', '-model', 'bicubic', '-scale', '1', '-bits', '8', '-output', 'b.png').status == 0
    assert np.array_equal(place.pixels('b.png'), expected) and place.pixels('b.png').dtype == np.uint8


def test_demo_upright_by_its_exif_tag(place):
    source = place.write_image('turned.png', 9, 12, 5)
    exif = Image.Exif()
    exif[0x0112] = 6                                                                 # turn by 90° clockwise to view
    Image.fromarray(source).save(place.folder / 'turned.png', exif=exif)
    assert place.demo('-input', 'turned.png', '-model', 'bicubic', '-scale', '1', '-output', 'b.png').status == 0
    assert np.array_equal(place.pixels('b.png'), np.rot90(source, -1))


def test_demo_into_an_existing_folder(place):
    (place.folder / 'out').mkdir()
    assert place.demo(*BICUBIC, '-output', 'out').status == 0
    assert place.pixels('out/a.png').shape == (44, 56, 3)


BAD_DEMO = {
    'missing path': (('-input', 'nowhere.png', '-model', 'bicubic'), 'nowhere.png'),
    'text as png': (('-input', 'text.png', '-model', 'bicubic'), 'text.png'),
    'truncated png': (('-input', 'cut.png', '-model', 'bicubic'), 'cut.png'),
    'empty file': (('-input', 'nothing.png', '-model', 'bicubic'), 'nothing.png'),
    'empty folder': (('-input', 'empty', '-model', 'bicubic'), 'empty'),
    'folder into a file': (('-input', '.', '-model', 'bicubic', '-output', 'a.png'), 'a.png'),
    'suffix': ((*BICUBIC, '-output', 'b.xyz'), 'b.xyz'),
    'no suffix': ((*BICUBIC, '-output', 'b'), 'b: '),
    'both': ((*BICUBIC, '-scale', '2', '-resolution', '50,50'), '-resolution'),
    'too wide for webp': ((*BICUBIC, '-resolution', '11,16384', '-output', 'b.webp'), 'b.webp: 11x16384'),
    'smaller height': ((*BICUBIC, '-resolution', '10,50'), '10x50'),
    'smaller width': ((*BICUBIC, '-resolution', '50,13'), '50x13'),
    'unknown option': ((*BICUBIC, '-scael', '2'), '-scael'),
    'stray word': (('stray', *BICUBIC), 'stray'),
    'option without value': ((*BICUBIC, '-scale'), '-scale'),
    'gpu': ((*BICUBIC, '-gpu', 'one'), '-gpu'),
    'device': ((*BICUBIC, '-device', 'nonsense'), 'nonsense'),
    'memory of 400 digits': ((*BICUBIC, '-memory', '9' * 400), '-memory'),
    'memory in full-width digits': ((*BICUBIC, '-memory', '５００M'), '-memory'),
    'memory of 10^24': ((*BICUBIC, '-memory', f'1{"0" * 12}T'), '-memory'),
    'halo of 5000 digits': ((*BICUBIC, '-halo', '9' * 5000), '-halo'),
    'halo below 0': ((*BICUBIC, '-halo', '-1'), '-halo'),
    'gpu of 14 digits': ((*BICUBIC, '-device', 'cuda:99999999999999'), 'cuda:99999999999999'),
    'gpu in full-width digits': ((*BICUBIC, '-device', 'cuda:０'), 'cuda:０'),
    'no such gpu': ((*BICUBIC, '-device', 'cuda:99'), 'cuda:99'),
    'negative gpu': ((*BICUBIC, '-device', 'cuda:-1'), 'cuda:-1'),
    'meta device': ((*BICUBIC, '-device', 'meta'), 'meta'),
    'absent kind of device': ((*BICUBIC, '-device', 'xpu'), 'xpu'),
    'model that needs arguments': (('-input', 'a.png', '-model', 'msit'), 'msit'),
    'model that needs weights': (('-input', 'a.png', '-model', 'edsr-baseline'), 'edsr-baseline'),
    'missing checkpoint': (('-input', 'a.png', '-model', 'nowhere.pth'), 'nowhere.pth'),
    'folder as checkpoint': (('-input', 'a.png', '-model', 'empty'), 'empty'),
}
BAD_SIZES = [('-resolution', value) for value in (
    '9' * 5000 + ',50', '５０,５０',
    '0,50', '50x50', '-5,50', '5', '5,5,5', 'a,b', '5,', '50.5,50', '50,1e2', '²0,50', '', '99999999999,99999999999')]
BAD_SIZES += [('-scale', value) for value in (
    '1e308', '9' * 5000, '４', '1_0', '0', '-1', 'nan', 'inf', '-inf', '0.5', '2,0.5', '1,2,3', 'abc', '2,', '', '1e9')]


@pytest.mark.parametrize('arguments, naming', BAD_DEMO.values(), ids=BAD_DEMO)
def test_demo_refuses(place, arguments, naming):
    (place.folder / 'text.png').write_text('no image')
    (place.folder / 'nothing.png').write_bytes(b'')
    place.write_image('whole.png', 60, 60)
    whole = (place.folder / 'whole.png').read_bytes()
    (place.folder / 'cut.png').write_bytes(whole[:len(whole) // 2])
    (place.folder / 'empty').mkdir()
    place.assert_refused('demo', *arguments, naming=naming, cpu='-device' not in arguments)


@pytest.mark.parametrize('option, value', BAD_SIZES, ids=[' '.join(words) for words in BAD_SIZES])
def test_demo_refuses_size(place, option, value):
    place.assert_refused('demo', *BICUBIC, option, value, '-output', 'b.png', naming=option)


@pytest.mark.parametrize('words', [
    ('-input', 'a.png', '-output', 'a.png/b.png'), ('-input', 'in', '-output', 'a.png/new/out'),
    ('-input', 'in', '-output', 'taken')])
def test_demo_output_that_cannot_be_written(place, words):
    """A file where a folder is needed, or the other way round, is reported before the model is loaded."""
    place.write_image('in/one.png', 9, 12, 1)
    (place.folder / 'taken/one.png').mkdir(parents=True)
    place.assert_refused('demo', *words, '-model', 'no such file', naming='folder')


# checkpoints

class Bomb:
    """Unpickles into a call that leaves a file."""

    def __reduce__(self):
        return os.mkdir, ('boom',)


def set_in(*keys, value):
    """An edit of a checkpoint's content: content[key][…] = value."""
    def edit(content: dict) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value
    return edit


NAN_NORM = {'inp': {'sub': ['a'], 'div': [0.5]}, 'gt': {'sub': [0.5], 'div': [0.5]}}
BAD_CONTENT = {
    'code': (set_in('bomb', value=Bomb()), 'bad.pth'),
    'code in the weights': (set_in('model', 'sd', 'widen.bias', value=Bomb()), 'bad.pth'),
    'no model': (lambda content: content.pop('model'), 'bad.pth'),
    'no weights': (lambda content: content['model'].pop('sd'), 'bad.pth'),
    'no name': (lambda content: content['model'].pop('name'), 'bad.pth'),
    'model is a list': (set_in('model', value=[1, 2]), 'bad.pth'),
    'weights are a list': (set_in('model', 'sd', value=[1, 2]), 'bad.pth'),
    'unknown model': (set_in('model', 'name', value='mist'), "'msit'"),
    'unknown argument': (set_in('model', 'args', 'base_dims', value=16), 'base_dims'),
    'arguments are a number': (set_in('model', 'args', value=5), 'bad.pth'),
    "arguments of 'amsit' are a number": (set_in('model', value={'name': 'amsit', 'args': 5, 'sd': {}}), 'bad.pth'),
    'negative size': (set_in('model', 'args', 'base_dim', value=-16), 'bad.pth'),
    'absurd size': (set_in('model', 'args', 'base_dim', value=2 ** 40), 'bad.pth'),
    'tensor missing': (lambda content: content['model']['sd'].pop('widen.weight'), 'widen.weight'),
    'tensor left over': (set_in('model', 'sd', 'extra', value=torch.zeros(1)), 'extra'),
    'tensor of another shape': (set_in('model', 'sd', 'widen.bias', value=torch.zeros(3)), 'widen.bias'),
    'number for a tensor': (set_in('model', 'sd', 'widen.bias', value=3), 'widen.bias'),
    'number as a name': (set_in('model', 'sd', 1, value=torch.zeros(1)), 'bad.pth'),
    'tensor without data': (set_in('model', 'sd', 'widen.bias', value=torch.zeros(16, device='meta')), 'bad.pth'),
    'norm is a number': (set_in('data_norm', value=3), 'bad.pth'),
    'half a norm': (set_in('data_norm', value={'inp': {'sub': [0.5], 'div': [0.5]}}), 'bad.pth'),
    'norm of text': (set_in('data_norm', value=NAN_NORM), 'bad.pth'),
    'part, no model': (set_in('model', value={'name': 'mlp', 'args': {'hidden_list': [3]}, 'sd': {}}), 'bad.pth'),
}


@pytest.mark.parametrize('edit, naming', BAD_CONTENT.values(), ids=BAD_CONTENT)
def test_checkpoint_is_refused(place, edit, naming):
    place.checkpoint('bad.pth', edit)
    place.assert_refused('demo', '-input', 'a.png', '-model', 'bad.pth', naming=naming)
    assert not (place.folder / 'boom').exists()


def test_bomb_would_go_off(place):
    """The guard of the test above: opened carelessly, the file does run code."""
    path = place.checkpoint('bad.pth', set_in('bomb', value=Bomb()))
    torch.load(path, weights_only=False)
    assert (place.folder / 'boom').is_dir()


@pytest.mark.parametrize('legacy', [False, True], ids=['zip', 'legacy'])
def test_damaged_checkpoint_is_refused(place, legacy):
    """Cut anywhere, or not a checkpoint at all: always the same one line."""
    whole = place.checkpoint(_use_new_zipfile_serialization=not legacy).read_bytes()
    assert place.demo('-input', 'a.png', '-model', 'tiny.pth', '-output', 'b.png').status == 0
    contents = [b'', b'some text, no checkpoint\n', b'\x80\x02}q\x00.', bytes(1000), whole[::-1]]
    cuts = [2, 5, 20, *np.linspace(30, 3000, 40, dtype=int), len(whole) // 2, len(whole) - 20, len(whole) - 1]
    for content in contents + [whole[:cut] for cut in cuts]:
        (place.folder / 'bad.pth').write_bytes(content)
        place.assert_refused('demo', '-input', 'a.png', '-model', 'bad.pth', naming='bad.pth')


def test_pickle_that_runs_code_is_refused(place):
    """A bare pickle, as someone might name .pth."""
    (place.folder / 'bad.pth').write_bytes(pickle.dumps({'model': {'name': 'msit', 'args': {}, 'sd': {}}, 'x': Bomb()}))
    place.assert_refused('demo', '-input', 'a.png', '-model', 'bad.pth', naming='bad.pth')
    assert not (place.folder / 'boom').exists()


# test.py

def evaluation(name: str = 'Mini', scales=(2, 2.5), **args) -> dict:
    args = {'name': name, 'protocol': 'benchmark', 'scales': list(scales), **args}
    return {'test_dataset': {
        'dataset': {'name': 'image-folder', 'args': {'root_path': f'{name}/HR'}},
        'wrapper': {'name': 'sr-evaluation', 'args': args},
    }}


@pytest.fixture
def sets(place) -> Place:
    """Two sets: Mini, of two images, and Other, of one."""
    place.write_image('data/Mini/HR/one.png', 41, 46, 1)
    place.write_image('data/Mini/HR/two.png', 50, 43, 2)
    place.write_image('data/Other/HR/three.png', 44, 44, 3)
    place.config('mini.yaml', evaluation())
    place.config('other.yaml', evaluation('Other', [3]))
    return place


ROW = {'model', 'dataset', 'scale', 'protocol', 'lr', 'images', 'psnr', 'ssim', 'seconds_per_image', 'per_image',
       'peak_memory', 'measured_on', 'code'}


def strict_json(path: Path) -> dict:
    """JSON without the constants (NaN, Infinity) that Python alone accepts."""
    def refuse(constant: str):
        raise AssertionError(f'{constant} is no JSON')
    return json.loads(path.read_text(), parse_constant=refuse)


def test_results_json(sets):
    done = sets.call('test', '-config', 'mini.yaml', '-model', 'bicubic', '-name', 'X')
    assert (done.status, done.err) == (0, '')
    assert sorted(path.name for path in (sets.folder / 'test/X').iterdir()) == ['results.json', 'results.md']
    results = strict_json(sets.folder / 'test/X/results.json')
    assert set(results) == {'model', 'params', 'device', 'weights', 'rows'}
    assert (results['model'], results['params'], results['device']) == ('X', 0, 'cpu')
    assert [row['scale'] for row in results['rows']] == [2.0, 2.5]
    for row in results['rows']:
        assert set(row) == ROW
        assert (row['model'], row['dataset'], row['protocol'], row['lr'], row['images']) == \
               ('X', 'Mini', 'benchmark', 'pil_bicubic', 2)
        assert [set(image) for image in row['per_image']] == [{'name', 'psnr', 'ssim'}] * 2
        assert [image['name'] for image in row['per_image']] == ['one.png', 'two.png']
        for key in ('psnr', 'ssim'):
            assert row[key] == pytest.approx(np.mean([image[key] for image in row['per_image']]), rel=1e-12)
        assert row['seconds_per_image'] > 0


def test_psnr_is_the_protocols(sets):
    """×2 on 41×46: LR 20×23, HR cut to 40×46, luma, border 2, worked out with NumPy and Pillow alone."""
    sets.call('test', '-config', 'mini.yaml', '-model', 'bicubic', '-name', 'X')
    hr = sets.pixels('data/Mini/HR/one.png')[:40, :46]
    prediction = bicubic(bicubic(hr, 20, 23), 40, 46)
    difference = (prediction.astype(float) - hr)[2:-2, 2:-2] / 255 @ (np.array([65.738, 129.057, 25.064]) / 256)
    expected = -10 * math.log10((difference ** 2).mean())
    row = strict_json(sets.folder / 'test/X/results.json')['rows'][0]
    assert row['per_image'][0]['psnr'] == pytest.approx(expected, abs=1e-4)


def test_results_table(sets):
    done = sets.call('test', '-config', 'mini.yaml', 'other.yaml', '-model', 'bicubic')
    table = (sets.folder / 'test/bicubic/results.md').read_text()
    assert table == done.out
    header, rule, *lines = table.splitlines()
    assert header.split('|')[1:-1] == [f' {name} ' for name in (
        'model', 'set', 'scale', 'PSNR (dB)', 'SSIM', 'protocol', 'LR', 'images', 's/image')]
    assert re.fullmatch(r'(\|:?-+:?)+\|', rule)
    rows = strict_json(sets.folder / 'test/bicubic/results.json')['rows']
    assert [(row['dataset'], row['scale'], row['images']) for row in rows] == [
        ('Mini', 2.0, 2), ('Mini', 2.5, 2), ('Other', 3.0, 1)]
    for line, row in zip(lines, rows, strict=True):
        cells = [cell.strip() for cell in line.split('|')[1:-1]]
        assert cells[:8] == ['bicubic', row['dataset'], f'{row["scale"]:g}', f'{row["psnr"]:.2f}', f'{row["ssim"]:.4f}',
                             'benchmark', 'pil_bicubic', str(row['images'])]


def test_metrics_that_are_asked_for(sets):
    """In the table, in both files, and for every image; in the order of the command line."""
    done = sets.call('test', '-config', 'mini.yaml', '-model', 'bicubic', '-metrics', 'ssim')
    assert (done.status, done.err) == (0, '') and '| scale | SSIM | protocol |' in done.out
    row = strict_json(sets.folder / 'test/bicubic/results.json')['rows'][0]
    assert set(row) == ROW - {'psnr'} and [set(image) for image in row['per_image']] == [{'name', 'ssim'}] * 2
    done = sets.call('test', '-config', 'mini.yaml', '-model', 'bicubic', '-metrics', 'ssim', 'psnr', '-fresh')
    assert '| scale | SSIM | PSNR (dB) | protocol |' in done.out


def test_a_metric_that_lacks_its_weights(sets):
    sets.monkeypatch.setenv('LPIPS_WEIGHTS', 'nowhere.pth')
    words = ('-config', 'mini.yaml', '-model', 'bicubic', '-metrics', 'psnr', 'lpips')
    sets.assert_refused('test', *words, naming='nowhere.pth')


def test_results_of_other_code(sets):
    """Measured anew, or with -reuse taken as they are, which a line says."""
    assert sets.call('test', '-config', 'mini.yaml', '-model', 'bicubic').status == 0
    path = sets.folder / 'test/bicubic/results.json'
    kept = strict_json(path)
    for row in kept['rows']:
        row.update(code='other', psnr=12.34)
    path.write_text(json.dumps(kept))
    done = sets.call('test', '-config', 'mini.yaml', '-model', 'bicubic', '-reuse')
    assert done.status == 0 and done.out.count('| 12.34 |') == 2
    assert done.err == '-reuse: 2 of the results were made by other code than this\n'
    done = sets.call('test', '-config', 'mini.yaml', '-model', 'bicubic')
    assert (done.status, done.err) == (0, '') and '12.34' not in done.out
    assert sets.call('test', '-config', 'mini.yaml', '-model', 'bicubic', '-reuse').err == ''


def test_infinite_psnr_is_null(sets):
    for name in ('one', 'two'):                                                      # black and white: exact in any units
        pixels = sets.pixels(f'data/Mini/HR/{name}.png')
        Image.fromarray((pixels > 127).astype(np.uint8) * 255).save(sets.folder / f'data/Mini/HR/{name}.png')
    sets.config('one.yaml', evaluation(scales=[1, 2]))
    assert sets.call('test', '-config', 'one.yaml', '-model', 'bicubic').status == 0
    same, other = strict_json(sets.folder / 'test/bicubic/results.json')['rows']
    assert same['psnr'] is None and [image['psnr'] for image in same['per_image']] == [None, None]
    assert same['ssim'] == pytest.approx(1) and 5 < other['psnr'] < 60


def test_own_lr_images_are_used(sets):
    """LR images of the set itself: here black ones, so the score is that of black."""
    for name, size in (('one', (23, 20)), ('two', (21, 25))):
        path = sets.folder / f'data/Mini/LR_bicubic/X2/{name}x2.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', size).save(path)
    sets.config('own.yaml', evaluation(lr_path='Mini/LR_bicubic'))
    assert sets.call('test', '-config', 'own.yaml', '-model', 'bicubic').status == 0
    own, pil = strict_json(sets.folder / 'test/bicubic/results.json')['rows']
    assert (own['lr'], pil['lr']) == ('LR_bicubic', 'pil_bicubic')
    hr = sets.pixels('data/Mini/HR/one.png')[2:38, 2:44] / 255 @ (np.array([65.738, 129.057, 25.064]) / 256)
    assert own['per_image'][0]['psnr'] == pytest.approx(-10 * math.log10((hr ** 2).mean()), abs=1e-6)


def test_save_images(sets):
    done = sets.call('test', '-config', 'mini.yaml', 'other.yaml', '-model', 'bicubic', '-name', 'X', '-save-images')
    assert done.status == 0
    saved = {str(path.relative_to(sets.folder / 'test/X')): sets.pixels(str(path)).shape
             for path in (sets.folder / 'test/X').rglob('*.png')}
    assert saved == {
        'Mini/X2/one.png': (40, 46, 3), 'Mini/X2/two.png': (50, 42, 3),
        'Mini/X2.5/one.png': (40, 45, 3), 'Mini/X2.5/two.png': (50, 42, 3),          # 16·2.5, 18·2.5; 20·2.5, 17·2.5 = 42.5
        'Other/X3/three.png': (42, 42, 3),
    }
    hr = sets.pixels('data/Mini/HR/one.png')[:40, :46]
    assert np.array_equal(sets.pixels('test/X/Mini/X2/one.png'), bicubic(bicubic(hr, 20, 23), 40, 46))


def test_benchmark_of_a_checkpoint(sets):
    weights = sets.checkpoint()
    assert sets.call('test', '--config', 'other.yaml', '--model', weights).status == 0
    results = strict_json(sets.folder / 'test/tiny/results.json')
    assert results['model'] == 'tiny' and results['params'] == sum(p.numel() for p in models.make(sets.spec).parameters())


def test_undefined_ssim_is_null(sets):
    """What is left of the image is smaller than SSIM's window."""
    sets.write_image('data/Little/HR/x.png', 13, 40)
    sets.config('little.yaml', evaluation('Little', [2]))
    assert sets.call('test', '-config', 'little.yaml', '-model', 'bicubic').status == 0
    row, = strict_json(sets.folder / 'test/bicubic/results.json')['rows']
    assert row['ssim'] is None and row['psnr'] > 0


# configs

def with_source(**changes) -> dict:
    """An evaluation config with keys of its test_dataset replaced or added."""
    return {'test_dataset': {**evaluation()['test_dataset'], **changes}}


def with_wrapper(**changes) -> dict:
    """An evaluation config with arguments of its wrapper replaced or added."""
    config = evaluation()
    config['test_dataset']['wrapper']['args'].update(changes)
    return config


BAD_TEST = {
    'missing config': (None, 'bad.yaml'),
    'no YAML': ('a: [1, 2', 'bad.yaml'),
    'empty': ('', 'bad.yaml'),
    'a list': ('- 1', 'bad.yaml'),
    'a key twice': ('test_dataset: 1\ntest_dataset: 2\n', "'test_dataset'"),
    'a list as key': ('? [a, b]\n: 1\n', 'bad.yaml'),
    'no such date': ('test_dataset: 2024-13-45\n', 'bad.yaml'),
    'control character': ('a: "\x01"', 'bad.yaml'),
    'code': ('a: !!python/object/apply:os.mkdir [boom]', 'bad.yaml'),
    'missing base': ('base: nowhere.yaml\n', 'nowhere.yaml'),
    'own base': ('base: bad.yaml\n', 'bad.yaml'),
    'misspelt key': ({'test_datasets': {}}, "'test_dataset'"),
    'misspelt inner key': (with_source(wraper={}), 'bad.yaml: test_dataset.wraper'),
    'misspelt argument': (with_wrapper(scale=[2]), "bad.yaml: test_dataset.wrapper.args.scale"),
    'missing wrapper': ({'test_dataset': {'dataset': evaluation()['test_dataset']['dataset']}}, 'test_dataset.wrapper'),
    'unknown data set': (with_source(dataset={'name': 'image-folders', 'args': {}}), "did you mean 'image-folder'"),
    'unknown protocol': (with_wrapper(protocol='bench'), 'test_dataset.wrapper.args'),
    'scale below 1': (with_wrapper(scales=[2, 0.5]), 'test_dataset.wrapper.args'),
    'text as scale': (with_wrapper(scales=['x']), 'test_dataset.wrapper.args'),
    'missing data folder': (evaluation('Nowhere'), 'data/Nowhere/HR'),
    'missing LR folder': (with_wrapper(lr_path='Mini/LR'), 'data/Mini/LR/X2'),
    'missing LR folder of a later scale': (with_wrapper(lr_path='Mini/LR', scales=[2.5, 2]), 'data/Mini/LR/X2'),
    'scale too large': (with_wrapper(scales=[60]), 'Mini/HR/one.png'),
    'fractional crop': (with_wrapper(crop=24.5), 'test_dataset.wrapper.args'),
}


@pytest.mark.parametrize('content, naming', BAD_TEST.values(), ids=BAD_TEST)
def test_benchmark_refuses(sets, content, naming):
    if content is not None:
        sets.config('bad.yaml', content)
    sets.assert_refused('test', '-config', 'bad.yaml', '-model', 'bicubic', '-save-images', naming=naming)


@pytest.mark.parametrize('arguments, naming', [
    (('-model', 'bicubic'), '-config'),
    (('-config', 'mini.yaml'), '-model'),
    (('-config', 'mini.yaml', '-model', 'nowhere.pth'), 'nowhere.pth'),
    (('-config', 'mini.yaml', '-model', 'bicubic', '-data', 'nowhere'), 'nowhere/Mini/HR'),
    (('-config', 'mini.yaml', 'nowhere.yaml', '-model', 'bicubic'), 'nowhere.yaml'),
    (('-config', 'mini.yaml', '-model', 'bicubic', '-device', 'nonsense'), 'nonsense'),
    (('-config', 'mini.yaml', '-model', 'bicubic', '-device', 'cuda:99'), 'cuda:99'),
    (('-config', 'mini.yaml', '-model', 'bicubic', '-saveimages'), '-saveimages'),
    (('-config', 'mini.yaml', '-model', 'bicubic', '-metrics', 'psnr', 'sim'), "unknown metric 'sim'; did you mean 'ssim'?"),
    (('-config', 'mini.yaml', '-model', 'bicubic', '-metrics', 'x'), '(choices: lpips, psnr, ssim)'),
    (('-config', 'mini.yaml', '-model', 'bicubic', '-columns', 'param'), "unknown column 'param'; did you mean 'params'?"),
    (('-config', 'mini.yaml', '-model', 'bicubic', '-columns', 'x'), '(choices: macs, memory, params, seconds)'),
    (('-config', 'mini.yaml', '-model', 'bicubic', '-reuse', '-fresh'), '-reuse: not together with -fresh'),
])
def test_benchmark_refuses_option(sets, arguments, naming):
    sets.assert_refused('test', *arguments, naming=naming, cpu='-device' not in arguments)


def training(spec: dict) -> dict:
    """A small training config."""
    return {
        'train_dataset': {
            'dataset': {'name': 'image-folder', 'args': {'root_path': 'Mini/HR'}},
            'wrapper': {'name': 'sr-implicit-downsampled', 'args': {'inp_size': 8, 'sample_q': 16}},
            'batch_size': 2, 'epoch_batches': 1,
        },
        'model': spec,
        'optimizer': {'name': 'adam', 'args': {'lr': 1e-3}},
        'epoch_max': 1,
    }


BAD_TRAIN = {  # path of the key, its value (None removes it), what the message names
    'misspelt key': ('epoch_maxx', 3, "'epoch_max'"),
    'missing key': ('epoch_max', None, 'bad.yaml: epoch_max'),
    'text as number': ('epoch_max', 'x', 'bad.yaml: epoch_max'),
    'yes as number': ('epoch_max', True, 'bad.yaml: epoch_max'),
    'negative number': ('epoch_max', -1, 'bad.yaml: epoch_max'),
    'no batch size': ('train_dataset.batch_size', 0, 'train_dataset.batch_size'),
    'no batches': ('train_dataset.epoch_batches', 0, 'train_dataset.epoch_batches'),
    'validation every 0': ('epoch_val', 0, 'epoch_val'),
    'seed too large': ('seed', 2 ** 70, 'seed'),
    'unknown model': ('model.name', 'mist', "bad.yaml: model.name: unknown model 'mist'; did you mean 'msit'?"),
    'unknown encoder': ('model.args.encoder_spec.name', 'edsr-base', 'bad.yaml: model.args.encoder_spec.name: '),
    'misspelt model argument': ('model.args.head', 4, "bad.yaml: model.args.head: model 'msit' has no such argument"),
    'wrong model argument': ('model.args.heads', 3, 'model.args'),
    'negative size': ('model.args.base_dim', -4, 'model.args'),
    'size of 0': ('model.args.base_dim', 0, 'model.args'),
    'decoder as encoder': ('model.args.encoder_spec', {'name': 'bicubic'}, 'encoder_spec'),
    'wrong inner argument': ('model.args.pb_spec.args.enc_dims', 7, 'model.args.pb_spec.args'),
    'missing model argument': ('model.args.imnet_spec', None, 'imnet_spec'),
    'unknown data set': ('train_dataset.dataset.name', 'folder', 'bad.yaml: train_dataset.dataset.name'),
    'unknown wrapper': ('train_dataset.wrapper.name', 'sr-implicit', 'bad.yaml: train_dataset.wrapper.name'),
    'evaluation to train on': ('train_dataset.wrapper', evaluation()['test_dataset']['wrapper'], 'train_dataset.wrapper'),
    'crops to validate on': ('val_dataset', training({})['train_dataset'] | {'batch_size': None, 'epoch_batches': None},
                             'val_dataset'),
    'too many queries': ('train_dataset.wrapper.args.sample_q', 65, 'sample_q'),
    'half a query': ('train_dataset.wrapper.args.sample_q', 2.5, 'train_dataset.wrapper.args'),
    'half a pixel': ('train_dataset.wrapper.args.inp_size', 8.5, 'train_dataset.wrapper.args'),
    'unknown optimiser': ('optimizer.name', 'adan', "optimizer.name: unknown optimizer 'adan'; did you mean 'adam'?"),
    'misspelt optimiser argument': ('optimizer.args.betaz', [0.9, 0.99], "'betas'"),
    'wrong optimiser argument': ('optimizer.args.lr', -1, 'optimizer.args'),
    'half of the betas': ('optimizer.args.betas', [0.9], 'optimizer.args'),
    'unknown schedule': ('lr_schedule', {'name': 'cosine'}, 'bad.yaml: lr_schedule.name'),
    'text in the schedule': ('lr_schedule', {'name': 'warmup-cosine', 'args': {'warmup': 1, 'cosine': 2, 'start_lr': 'x'}},
                             'lr_schedule.args'),
    'data_norm of text': ('data_norm', NAN_NORM, 'data_norm.inp.sub'),
    'half a data_norm': ('data_norm', {'inp': NAN_NORM['gt']}, 'data_norm.gt'),
    'missing data folder': ('train_dataset.dataset.args.root_path', 'Nowhere', 'data/Nowhere'),
    'number as data folder': ('train_dataset.dataset.args.root_path', 5, 'train_dataset.dataset.args'),
    'model without weights': ('model', {'name': 'bicubic'}, 'this model has no parameters to train'),
}


def put(config: dict, path: str, value: object) -> None:
    """Sets or (None) removes the key at a dotted path."""
    *folders, key = path.split('.')
    for folder in folders:
        config = config[folder]
    if value is None:
        config.pop(key)
    else:
        config[key] = value


@pytest.mark.parametrize('path, value, naming', BAD_TRAIN.values(), ids=BAD_TRAIN)
def test_training_refuses(sets, path, value, naming):
    config = training(sets.spec)
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if item is not None}
    put(config, path, value)
    sets.config('bad.yaml', config)
    sets.assert_refused('train', '-config', 'bad.yaml', naming=naming)


@pytest.mark.parametrize('arguments, naming', [
    ((), '-config'),
    (('-config', 'nowhere.yaml'), 'nowhere.yaml'),
    (('-config', 'good.yaml', '-epochs', '3'), '-epochs'),
    (('-config', 'good.yaml', '-device', 'nonsense'), 'nonsense'),
    (('-config', 'good.yaml', '-device', 'cuda:99'), 'cuda:99'),
    (('-config', 'good.yaml', '-data', 'nowhere'), 'nowhere/Mini/HR'),
])
def test_training_refuses_option(sets, arguments, naming):
    sets.config('good.yaml', training(sets.spec))
    sets.assert_refused('train', *arguments, naming=naming, cpu='-device' not in arguments)


# devices

def test_gpu_on_a_machine_without_one_is_the_cpu(place):
    place.monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    weights = place.checkpoint()
    assert place.demo('-input', 'a.png', '-model', weights, '-gpu', '0', '-output', 'gpu.png', cpu=False).status == 0
    assert place.demo('-input', 'a.png', '-model', weights, '-output', 'cpu.png').status == 0
    assert place.tree()['gpu.png'] == place.tree()['cpu.png']


def test_a_numbered_gpu_on_a_machine_without_one_is_refused(place):
    place.monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    place.assert_refused('demo', *BICUBIC, '-gpu', '1', naming='-gpu 1: this machine has 0 GPUs', cpu=False)


@pytest.mark.parametrize('number', ['2', '-1', '99', '1025', '9' * 5000, '１'])
def test_gpu_that_is_not_there_is_refused(place, number):
    place.monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    place.assert_refused('demo', *BICUBIC, '-gpu', number, naming='-gpu', cpu=False)


# full disks and other failures of the machine

def half_written(original, place: int):
    """A writer that stops in the middle of its file; the path is its argument number `place`."""
    def write(*args, **kwargs):
        original(*args, **kwargs)
        os.truncate(args[place], os.path.getsize(args[place]) // 2)
        raise OSError(errno.ENOSPC, 'No space left on device')
    return write


@pytest.mark.parametrize('existing', [True, False])
def test_demo_on_a_full_disk(place, existing):
    if existing:
        place.write_image('b.png', 5, 5)
    place.monkeypatch.setattr(Image.Image, 'save', half_written(Image.Image.save, 1))
    place.assert_refused('demo', *BICUBIC, '-output', 'b.png', status=1, naming='No space left on device')


def test_benchmark_on_a_full_disk(sets):
    assert sets.call('test', '-config', 'mini.yaml', '-model', 'bicubic').status == 0
    sets.monkeypatch.setattr(Path, 'write_text', half_written(Path.write_text, 0))
    sets.assert_refused('test', '-config', 'other.yaml', '-model', 'bicubic', status=1, naming='No space left on device')


def test_training_on_a_full_disk(sets):
    """A checkpoint that cannot be written costs nothing but itself."""
    sets.config('good.yaml', training(sets.spec))
    assert sets.call('train', '-config', 'good.yaml', '-name', 'run').status == 0
    sets.config('good.yaml', {**training(sets.spec), 'epoch_max': 2})
    before = sets.tree()
    sets.monkeypatch.setattr(torch, 'save', half_written(torch.save, 1))
    done = sets.call('train', '-config', 'good.yaml', '-name', 'run', '-resume', 'auto')
    assert done.status == 1 and done.err.count('\n') == 1 and 'No space left on device' in done.err
    after = sets.tree()
    assert after['save/run/epoch-last.pth'] == before['save/run/epoch-last.pth']
    assert [name for name in after if name.endswith('.pth')] == ['save/run/epoch-last.pth']


def test_checkpoint_beyond_the_size_limit(sets):
    """A disk that is really full: the system refuses to write, and torch raises its own kind of error."""
    resource = pytest.importorskip('resource')
    sets.config('good.yaml', training(sets.spec))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        done = sets.call('train', '-config', 'good.yaml', '-name', 'run')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.status == 1 and done.err.count('\n') == 1 and done.err.startswith('error: ')
    assert [name for name in sets.tree() if name.endswith('.pth')] == []


def test_interrupt_is_130(place):
    def interrupt(*args):
        raise KeyboardInterrupt
    place.monkeypatch.setattr(demo, 'upscale_files', interrupt)
    with place.untouched():
        done = place.demo(*BICUBIC)
    assert (done.status, done.err) == (130, 'interrupted\n')


# as processes of their own

def test_one_line_from_a_real_process(place):
    done = subprocess.run([sys.executable, ROOT / 'demo.py', '-input', 'nowhere.png', '-model', 'bicubic'], cwd=place.folder,
                          capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.count('\n') == 1 and done.stderr.startswith('error: nowhere.png')


@pytest.mark.slow
def test_benchmark_and_its_silence_in_a_real_process(sets):
    """Every line of stdout belongs to the table, and nothing is on stderr: the commands can be piped."""
    done = subprocess.run([sys.executable, ROOT / 'test.py', '-config', 'other.yaml', '-model', 'bicubic', '-device', 'cpu'],
                          cwd=sets.folder, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout == (sets.folder / 'test/bicubic/results.md').read_text()
