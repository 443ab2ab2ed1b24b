"""demo.py on several inputs: which files become which, what is refused before the work, and what one failure costs."""
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Done, call, message
from lab import slow_except
from PIL import Image

import demo
import engine.jobs
import models
from engine.files import FileOptions
from engine.jobs import JobOptions, ignores_case, plan
from engine.sizes import Size
from engine.upscaling import Work, upscale_file
from models.contract import SRModel


def image(path: str | Path, height: int = 4, width: int = 6, seed: int = 0) -> np.ndarray:
    """Writes an image of noise; makes its folder."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def loaded(path: str | Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


def files_below(folder: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob('*') if path.is_file())


@pytest.fixture
def upscale(tmp_path, monkeypatch, capsys):
    """demo.py with bicubic in an empty folder; the size is that of the input unless given. → how it ended."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, size: tuple[str, ...] = ('-scale', '1')) -> Done:
        return call(demo.main, ('-model', 'bicubic', '-device', 'cpu', *size, *words), capsys, monkeypatch)
    return run


# which files become which

TREE = ['a.png', 'in/b.jpg', 'in/c.webp', 'in/deep/d.png', 'in/deep/er/e.bmp', 'in/.hidden/f.png', 'in/.g.png',
        'other/b.png']
INPUTS = {  # words → outputs
    'one folder': (['in'], ['b.png', 'c.png']),
    'a tree': (['in', '-recursive'], ['b.png', 'c.png', 'deep/d.png', 'deep/er/e.png']),
    'a file and a folder': (['a.png', 'in'], ['a.png', 'in/b.png', 'in/c.png']),
    'two trees with files of one name': (['in', 'other', '-recursive'], [
        'in/b.png', 'in/c.png', 'in/deep/d.png', 'in/deep/er/e.png', 'other/b.png']),
    'two files': (['a.png', 'in/b.jpg'], ['a.png', 'b.png']),
    'a file twice': (['a.png', './in/../a.png'], ['a.png']),
    'a pattern': (['in/*.jpg'], ['b.png']),
    'a pattern of one file among files': (['a.png', 'in/*.jpg'], ['a.png', 'b.png']),
    'a pattern of folders': (['in/*/*'], ['deep/d.png']),
    'a pattern of any folders': (['in/**/*.*'], ['b.png', 'c.png', 'deep/d.png', 'deep/er/e.png']),
    'a pattern with a class': (['in/[bx].*'], ['b.png']),
    'everything here': (['.', '-recursive'], ['a.png', 'in/b.png', 'in/c.png', 'in/deep/d.png', 'in/deep/er/e.png',
                                             'other/b.png']),
}


@pytest.mark.parametrize('name', slow_except(['two trees with files of one name', 'a pattern'], INPUTS))
def test_inputs(upscale, name):
    words, outputs = INPUTS[name]
    for file in TREE:
        image(file)
    done = upscale('-input', *words, '-output', 'out')
    assert (done.status, done.err) == (0, '') and files_below('out') == outputs
    assert upscale('-input', *words, '-output', 'out').status == 0 and files_below('out') == outputs   # out is no input


def test_names_without_an_output(upscale):
    image('in/a.png')
    image('in/deep/a.png', 5, 5)
    assert upscale('-input', 'in', '-recursive').status == 0
    assert files_below('output') == ['a_4x6.png', 'deep/a_5x5.png']


def test_what_is_ignored_is_counted(upscale):
    image('in/a.png')
    (Path('in') / 'deep').mkdir()
    for name in ('x.txt', 'y.TXT', 'z.psd', 'none'):
        (Path('in') / name).write_text('')
    done = upscale('-input', 'in', '-output', 'out')
    assert done.out.splitlines()[:2] == ['4 files ignored: 2 .txt, 1 without suffix, 1 .psd',
                                         '1 folder is not looked into; -recursive does']
    assert '3 files ignored' in upscale('-input', 'in/?.*', '-output', 'out').out


REFUSED = {  # words → what is said, before anything is computed or written
    'a missing file among others': (['a.png', 'none.png'], 'none.png: no such image or folder'),
    'a pattern that fits nothing': (['in/*.tga'], 'in/*.tga: no image fits this pattern'),
    'a folder whose folders have images': (['other'], '-recursive looks into its folders'),
    'two files that become one': (['a.png', 'in/a.png'], 'a.png and in/a.png would both become out/a.png'),
    'a file and one of a folder': (['in/in/c.png', 'in/c.png'], 'would both become out/c.png'),
    'two targets that are one file': (['in', '-output', 'linked'], 'would both become linked/c.png'),
    'a target that is another input': (['in/a.png', 'out2/a.png', '-output', 'out2'], 'would both become out2/a.png'),
    'a target that is an input by a link': (['in', '-output', 'tolink'], 'tolink/a.png: is the input in/a.png itself'),
    'a folder into itself': (['in', 'other/x', '-output', 'in/.'], 'is the input folder itself'),
    'several into a file': (['a.png', 'in', '-output', 'a.png'], 'a.png: is a file'),
    'several into a new file': (['a.png', 'in', '-output', 'new.png'], 'new.png: is the name of one image'),
    'a comparison that is an input': (['a.png', '-compare', '-output', 'b.png'], 'b_compare.png: is the input'),
    'a comparison that is a result': (['two', '-compare'], 'would both become'),
    'a zoom of two': (['a.png', 'in', '-zoom', '1,2'], 'one image'),
}


@pytest.mark.parametrize('name', slow_except(['two files that become one', 'a target that is an input by a link'], REFUSED))
def test_refused_before_the_work(upscale, name):
    words, said = REFUSED[name]
    for file in ('a.png', 'in/a.png', 'in/c.png', 'in/in/c.png', 'other/x/a.png', 'out2/b.png', 'two/x.png',
                 'two/x_compare.png'):
        image(file)
    for folder in ('linked', 'tolink'):
        Path(folder).mkdir()
    os.link('in/a.png', 'out2/a.png')
    Path('linked/a.png').symlink_to('c.png')
    Path('tolink/a.png').symlink_to('../in/a.png')
    if 'b_compare' in said:
        os.link('a.png', 'b_compare.png')
    before = files_below('.')
    done = upscale('-input', *words, *([] if '-output' in words else ['-output', 'out']),
                   size=() if '-zoom' in words else ('-scale', '1'))
    assert done.status == 2 and said in done.err and done.err.count('\n') == 1, done
    assert files_below('.') == before and done.out == ''


def test_names_that_differ_in_case_alone(upscale, monkeypatch, tmp_path):
    image('in/a.png')
    image('in/A.png', seed=1)
    if ignores_case(tmp_path):
        pytest.skip('this file system has no such names')
    assert upscale('-input', 'in', '-output', 'out').status == 0 and files_below('out') == ['A.png', 'a.png']
    monkeypatch.setattr(engine.jobs, 'ignores_case', lambda folder: True)
    done = upscale('-input', 'in', '-output', 'out')
    assert done.status == 2 and 'would both become out/a.png' in done.err


# the size

SIZES = {  # options → size of an image of 4 × 6
    '-scale 1.5': (6, 9), '-scale 2,3': (8, 18), '-height 10': (10, 15), '-width 10': (7, 10), '-longest 9': (6, 9),
    '-shortest 9': (9, 14), '-resolution 9,7': (9, 7), '-longest 6': (4, 6), '-height 5': (5, 8)}  # 7.5 → 8, 13.5 → 14


@pytest.mark.parametrize('option', slow_except(['-width 10', '-resolution 9,7'], SIZES))
def test_sizes(upscale, option):
    size = SIZES[option]
    image('a.png')
    done = upscale('-input', 'a.png', '-output', 'b.png', size=tuple(option.split()))
    assert (done.status, done.err) == (0, '') and loaded('b.png').shape[:2] == size
    assert ('changes the ratio' in done.out) == (option == '-resolution 9,7')


REFUSED_SIZES = ['-height 3', '-width 5', '-longest 5', '-shortest 3', '-resolution 3,60', '-longest 0', '-longest x',
                 '-height 9 -width 9', '-scale 2 -longest 9', '-height 999999999999', '-shortest 9999999999999']


@pytest.mark.parametrize('option', slow_except(['-height 3', '-height 9 -width 9'], REFUSED_SIZES))
def test_sizes_that_are_refused(upscale, option):
    image('a.png')
    done = upscale('-input', 'a.png', '-output', 'b.png', size=tuple(option.split()))
    assert done.status == 2 and option.split()[-2] in done.err and done.err.count('\n') == 1 and not Path('b.png').exists()


@pytest.mark.parametrize(('height', 'width', 'new', 'changed'), [
    (100, 150, (200, 300), False), (101, 150, (202, 300), False), (101, 151, (200, 299), False),
    (101, 151, (200, 301), True), (3, 1000, (4, 1333), False), (3, 1000, (4, 1499), False), (3, 1000, (4, 1501), True)])
def test_a_ratio_changes_by_more_than_rounding(height, width, new, changed):
    """101 → 200 is a factor between 1.97525 and 1.98515, and 299 between 1.97682 and 1.98344; 301 begins at 1.99007."""
    assert Size('resolution', new).changes_ratio(height, width) is changed
    assert not Size('scale', (2, 3)).changes_ratio(height, width)


# one failure

@pytest.mark.slow
def test_one_that_cannot_be_upscaled_is_one_line(upscale):
    image('a.png')
    image('in/b.png', 40, 40)
    Path('in/c.png').write_text('no image')
    done = upscale('-input', 'a.png', 'in', 'in/none*', 'in/c*', '-output', 'out')
    assert done.status == 2 and done.err.count('\n') == 1                             # a pattern that fits nothing
    done = upscale('-input', 'a.png', 'in', '-output', 'out', size=('-longest', '30'))
    assert files_below('out') == ['a.png'] and done.status == 2
    lines = done.err.splitlines()
    assert [line.split(':')[0] for line in lines] == ['skipped', 'skipped', 'error'] and 'in/c.png' in lines[1]
    assert 'in/b.png (40x40) would become 30x30, which is smaller' in lines[0]
    assert lines[2].startswith('error: -input: 2 of 3 images could not be upscaled')


def job(name: str = 'a.png', **settings):
    return plan(JobOptions([name], Path('out/b.png')), Size('scale', (2, 2)), FileOptions(**settings)).jobs[0]


def test_a_failed_allocation_halves_the_memory(upscale, capsys, monkeypatch):
    source, asked = image('a.png'), []
    model = models.load('bicubic', 'cpu')
    original = type(model).upscale_parts

    def short(self, lr, size, write, memory, halo):
        asked.append(memory)
        if memory is None or memory > 2 ** 29:
            raise MemoryError
        return original(self, lr, size, write, memory, halo)
    monkeypatch.setattr(type(model), 'upscale_parts', short)
    upscale_file(model, job(), Work(Size('scale', (2, 2))))
    assert asked == [None, 3 * 2 ** 28, 3 * 2 ** 27]                                 # 1.5 GiB by default
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 and out[1] == 'a.png: an allocation failed; done with -memory 384M'
    assert np.array_equal(loaded('out/b.png'), np.asarray(Image.fromarray(source).resize((12, 8), Image.Resampling.BICUBIC)))


def test_a_result_that_is_not_finite_is_no_file(upscale, monkeypatch):
    image('in/a.png')
    image('in/b.png', 5, 5)
    bicubic = type(models.load('bicubic', 'cpu'))
    original = bicubic.query_grid

    def infinite(self, latent, rows, columns, cell, memory):
        rgb = original(self, latent, rows, columns, cell, memory)
        return rgb / 0 if len(rows) == 5 else rgb
    monkeypatch.setattr(bicubic, 'query_grid', infinite)
    done = upscale('-input', 'in', '-output', 'out')
    assert done.status == 1 and files_below('out') == ['a.png']
    assert done.err.startswith('skipped: in/b.png: upscale: the output is not finite') and done.err.count('\n') == 2


# -resume

def test_resume_leaves_out_what_is_finished(upscale):
    for name in 'abcd':
        image(f'in/{name}.png')
    words = ('-input', 'in', '-output', 'out', '-resume')
    assert upscale(*words).status == 0
    whole = {name: Path('out', name).read_bytes() for name in files_below('out')}
    os.utime('in/a.png', (4e9, 4e9))                                                 # newer than its result
    shutil.copy2('in/c.png', 'kept.png')
    os.replace('kept.png', 'in/b.png')                                               # another file, with the older time
    Path('out/c.png').write_bytes(b'no image')                                       # not by this program
    done = upscale(*words)
    assert done.out.splitlines()[0] == '1 of 4 images are finished already' and done.status == 0
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == ['in/a.png', 'in/b.png', 'in/c.png']
    assert {name: Path('out', name).read_bytes() for name in files_below('out')}.keys() == whole.keys()
    assert Path('out/c.png').read_bytes() == whole['c.png']
    os.utime('in/a.png', (1e9, 1e9))
    done = upscale(*words, size=('-scale', '2'))
    assert 'finished' not in done.out and loaded('out/d.png').shape == (8, 12, 3)    # another size


@pytest.mark.slow
def test_resume_without_anything_left(upscale):
    image('a.png')
    for _ in range(2):
        done = upscale('-input', 'a.png', '-output', 'b.png', '-resume', '-compare')
        assert done.status == 0
    assert done.out == '1 of 1 images are finished already\n'
    os.unlink('b_compare.png')
    assert 'finished' not in upscale('-input', 'a.png', '-output', 'b.png', '-resume', '-compare').out


# -compare

@pytest.mark.parametrize('suffix', slow_except(['png'], ['png', 'tif', 'gif']))
def test_a_comparison_has_bicubic_and_the_result_under_their_names(upscale, suffix):
    pixels = image('a.png', 30, 50)
    done = upscale('-input', 'a.png', '-output', f'b.{suffix}', '-compare', size=('-scale', '2,3'))
    assert (done.status, done.err) == (0, '')
    bicubic = np.asarray(Image.fromarray(pixels).resize((150, 60), Image.Resampling.BICUBIC))
    with Image.open(f'b.{suffix}') as result:
        right = np.asarray(result.convert('RGB'))
    found = loaded('b_compare.png')
    strip = found.shape[0] - 60
    assert found.shape[1] == 2 * 150 + 8 and strip > 0
    assert np.array_equal(found[strip:, :150], bicubic) and np.array_equal(found[strip:, 158:], right)
    assert (found[strip:, 150:158] == 255).all()
    for half in (found[:strip, :150], found[:strip, 158:]):                          # black letters on white
        assert half.min() < 50 and (half == 255).mean() > 0.5


# devices and precision

@pytest.mark.parametrize(('words', 'said'), [
    (('-precision', 'float16'), '-precision float16: this CPU'),
    (('-precision', 'bfloat16'), '-precision bfloat16: this CPU'), (('-precision', 'float8'), 'invalid choice'),
    (('-ensemble',), '-ensemble: this model')])
def test_what_a_device_or_model_cannot_do_is_refused(upscale, monkeypatch, words, said):
    image('a.png')
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: {'avx2': True}, raising=False)
    done = upscale('-input', 'a.png', '-output', 'b.png', *words)
    assert done.status == 2 and said in done.err and done.err.count('\n') == 1 and not Path('b.png').exists()


def test_the_device_is_named_and_half_precision_used(upscale, monkeypatch):
    image('a.png')
    asked = []
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: {'avx512_bf16': True}, raising=False)
    bicubic = type(models.load('bicubic', 'cpu'))
    original = bicubic.encode

    def encode(self: SRModel, *arguments):
        asked.append(torch.is_autocast_enabled('cpu') and torch.get_autocast_dtype('cpu'))
        return original(self, *arguments)
    monkeypatch.setattr(bicubic, 'encode', encode)
    for words in ((), ('-precision', 'bfloat16')):
        assert upscale('-input', 'a.png', '-output', 'b.png', *words).out.endswith(' s on cpu\n')
    assert asked[0] is False and set(asked[1:]) == {torch.bfloat16} and not torch.is_autocast_enabled('cpu')


def test_messages_about_files(tmp_path):
    (tmp_path / 'in').mkdir()
    assert 'holds no image' in message(plan, JobOptions([str(tmp_path / 'in')]), Size(), FileOptions())
