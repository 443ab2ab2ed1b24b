"""test.py on folders of one's own, without a config: pairs by name, a factor per axis, images made elsewhere."""
import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers import call, message, save
from PIL import Image
from test_commands import COMMANDS, benchmark

import datasets
from common.scales import factors, is_scale, parse_scale, scale_text
from datasets.folders import FolderEvaluation
from imaging import read_rgb
from utils import as_file_name, distinct_stems, is_file_name


def smooth(height: int, width: int, seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return bicubic(small, height, width)


def bicubic(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def psnr(one: np.ndarray, other: np.ndarray, border: int) -> float:
    """On BT.601 luma, without a border."""
    difference = (one.astype(float) - other)[border:-border, border:-border] @ [65.738, 129.057, 25.064] / 256
    return 10 * math.log10(255 ** 2 / np.mean(difference ** 2))


@pytest.fixture
def measure(tmp_path, monkeypatch, capsys):
    """Images a (41×46) and b (50×43) in photos; test.py with options → how it ended, the rows of results.json."""
    monkeypatch.chdir(tmp_path)
    for name, image in (('a', smooth(41, 46, 1)), ('b', smooth(50, 43, 2))):
        save(tmp_path / 'photos' / f'{name}.png', image)

    def run(*words, name: str = 'bicubic'):
        done = call(benchmark.main, (*words, '-device', 'cpu'), capsys, monkeypatch)
        kept = Path('test') / name / 'results.json'
        return done, json.loads(kept.read_text())['rows'] if done.status == 0 else None
    return run


@pytest.mark.parametrize(('text', 'scale'), [
    ('2', 2.0), ('2.5', 2.5), ('2x3', '2x3'), ('2.50x3.0', '2.5x3'), ('2x2', 2.0), ('1', 1.0), ('1x1.5', '1x1.5'),
    *((text, None) for text in ('', 'x', '0.5', '2x', 'x2', '2x0.5', '-2', 'nan', 'inf', '1e3', '2,3', '2x3x4', '２',
                                '9' * 400, '2' * 5000 + 'x2'))])
def test_scales(text, scale):
    assert parse_scale(text) == scale and type(parse_scale(text)) is type(scale)
    if scale is not None:
        assert is_scale(scale) and parse_scale(scale_text(scale)) == scale
    else:
        assert not is_scale(text)


def test_factors():
    assert factors('2x3.5') == (2.0, 3.5) and factors(2.5) == (2.5, 2.5) and not is_scale('2x2') and not is_scale('2')


def test_a_folder_at_several_scales(measure):
    """×2.5 of 41×46: LR 16×18, HR cut to 40×45. ×2x3: LR 20×15, HR 40×45. The border is that of the larger factor."""
    done, rows = measure('-hr', 'photos', '-scales', '2.5', '2x3', '-model', 'bicubic')
    assert (done.status, done.err) == (0, '') and [row['scale'] for row in rows] == [2.5, '2x3']
    assert all(row['dataset'] == 'photos' and row['lr'] == 'pil_bicubic' and row['images'] == 2 for row in rows)
    hr = read_rgb('photos/a.png')[:40, :45]
    for row, lr in zip(rows, ((16, 18), (20, 15))):
        assert row['per_image'][0]['name'] == 'a.png'
        assert row['per_image'][0]['psnr'] == pytest.approx(psnr(bicubic(bicubic(hr, *lr), 40, 45), hr, 3), abs=1e-3)
    assert '| bicubic | photos | 2x3 |' in done.out


def test_own_lr_images_are_matched_by_name(measure):
    """Their content decides: uniform grey. HR names end in _HR, LR names in x2; their order differs."""
    for name, size, level in (('c', (20, 23), 10), ('a-b', (25, 21), 20), ('a', (15, 16), 30)):
        save(Path('hr') / f'{name}_HR.png', smooth(2 * size[0] + 1, 2 * size[1], level))
        save(Path('lr') / f'{name}x2.png', np.full((*size, 3), level, np.uint8))
    done, (row,) = measure('-hr', 'hr', '-lr', 'lr', '-scales', '2', '-model', 'bicubic')
    assert done.status == 0 and row['lr'] == 'LR_bicubic'
    for image in row['per_image']:
        hr, level = read_rgb(f'hr/{image["name"]}'), {'c': 10, 'a-b': 20, 'a': 30}[image['name'].removesuffix('_HR.png')]
        hr = hr[:hr.shape[0] // 2 * 2]
        assert image['psnr'] == pytest.approx(psnr(np.full(hr.shape, level), hr, 2), abs=1e-3)


def test_a_folder_of_lr_images_for_each_scale(measure):
    for scale, sizes in (('X2', ((20, 23), (25, 21))), ('X2x3', ((20, 15), (25, 14)))):
        for name, size in zip('ab', sizes):
            save(Path('lr') / scale / f'{name}{scale.lower()}.png', np.zeros((*size, 3), np.uint8))
    done, rows = measure('-hr', 'photos', '-lr', 'lr', '-scales', '2', '2x3', '-model', 'bicubic')
    assert done.status == 0 and [row['lr'] for row in rows] == ['LR_bicubic'] * 2


def test_thumbnails_are_left_out_and_counted(measure):
    """The border of ×4 is 4 pixels at each side: of 11×40, cut to 8×40, nothing is left, of 12×40 four lines are."""
    save(Path('photos/thumb.png'), smooth(11, 40, 3))
    save(Path('photos/small.png'), smooth(12, 40, 4))
    done, (row,) = measure('-hr', 'photos', '-scales', '4', '-model', 'bicubic')
    assert [image['name'] for image in row['per_image']] == ['a.png', 'b.png', 'small.png'] and row['images'] == 3
    assert done.err == "photos: 1 of 4 images are too small for protocol 'benchmark' at ×4 and are left out\n"


def test_images_made_elsewhere(measure):
    """Bicubic's own images, saved and measured again: the same to the rounding to 8 bits."""
    save(Path('photos/thumb.png'), smooth(5, 5, 3))                                  # left out, and never upscaled
    done, rows = measure('-hr', 'photos', '-scales', '2', '2x3', '-model', 'bicubic', '-save-images')
    assert done.status == 0 and Path('test/bicubic/photos/X2x3/a.png').is_file()
    done, again = measure('-hr', 'photos', '-scales', '2', '2x3', '-images', 'test/bicubic/photos', '-name', 'other',
                          name='other')
    assert done.status == 0 and [row['scale'] for row in again] == [2.0, '2x3']
    for row, other in zip(rows, again):
        assert other['model'] == 'other' and other['psnr'] == pytest.approx(row['psnr'], abs=0.02)
        assert [image['name'] for image in other['per_image']] == ['a.png', 'b.png']


@pytest.mark.parametrize(('words', 'naming'), [
    (('-model', 'bicubic'), '-config: expected a config file, or -hr'),
    (('-hr', 'photos', '-config', 'x.yaml', '-model', 'bicubic'), '-config'),
    (('-hr', 'photos', '-model', 'bicubic'), '-scales: expected'),
    (('-hr', 'photos', '-scales', '2'), '-model'),
    (('-hr', 'photos', '-scales', '0.5', '-model', 'bicubic'), '-scales 0.5'),
    (('-hr', 'photos', '-scales', '9' * 5000, '-model', 'bicubic'), '-scales 999'),
    (('-hr', 'photos', '-scales', '2', '2.0', '-model', 'bicubic'), '-scales: photos at ×2 is asked for twice'),
    (('-hr', 'photos', '-scales', '99', '-model', 'bicubic'), 'photos: all images are too small'),
    (('-hr', 'nowhere', '-scales', '2', '-model', 'bicubic'), 'nowhere: no such folder'),
    (('-hr', 'photos', '-lr', 'nowhere', '-scales', '2', '-model', 'bicubic'), 'nowhere: no such folder'),
    (('-hr', 'photos', '-lr', 'photos', '-scales', '2', '3', '-model', 'bicubic'), 'photos/X2: no such folder'),
    (('-hr', 'photos', '-lr', 'photos', '-scales', '2', '-model', 'bicubic'), 'photos/a.png: is 41x46, expected 20x23'),
    (('-hr', 'photos', '-lr', 'one', '-scales', '2', '-model', 'bicubic'), "1 of 2 HR images have no partner ('b.png')"),
    (('-hr', 'photos', '-scales', '2', '-images', 'one'), "1 of 2 HR images have no partner ('b.png')"),
    (('-hr', 'photos', '-scales', '2', '-images', 'photos'), 'photos/a.png: is 41x46, expected 40x46'),
    (('-hr', 'photos', '-scales', '2', '-images', 'photos', '-model', 'bicubic'), '-images: not together'),
    (('-hr', 'photos', '-scales', '2', '-protocol', 'bench', '-model', 'bicubic'), 'bench'),
    (('-hr', 'photos', '-scales', '2', '-set', 'a=1', '-model', 'bicubic'), '-set'),
    (('-config', 'x.yaml', '-scales', '2', '-model', 'bicubic'), 'only with -hr')])
def test_refused_in_one_line(measure, words, naming):
    save(Path('one/a.png'), smooth(20, 23, 1))
    done, _ = measure(*words)
    assert done.status == 2 and naming in done.err and done.err.count('\n') == 1 and len(done.err) < 400, done
    assert done.out == '' and not Path('test').exists()


# names of sets, which are those of folders

@pytest.mark.parametrize('name', ['../../x', '/tmp/x', 'a/b', 'a\\b', '..', '.', '', ' a', 'a\n', 'a\0', 'C:x', 'x' * 101])
def test_set_names_that_lead_elsewhere(tmp_path, name):
    save(tmp_path / 'HR/a.png', smooth(20, 20, 1))
    spec = {'dataset': {'name': 'image-folder', 'args': {'root_path': 'HR'}},
            'wrapper': {'name': 'sr-evaluation', 'args': {'name': name, 'protocol': 'benchmark', 'scales': 2}}}
    text = message(datasets.make, spec, tmp_path, 'test_dataset')
    assert text.startswith('test_dataset.wrapper.args') and 'expected a plain name' in text and len(text) < 250
    assert not is_file_name(name)


@pytest.mark.parametrize('command', ['test', 'train'])
@pytest.mark.parametrize('name', ['../x', '/tmp/x', 'a/b', 'a\\b', '..', '.', '', ' a', 'a\n', 'C:x', 'x' * 101, 'a\udcff'])
def test_names_that_lead_elsewhere(tmp_path, monkeypatch, capsys, command, name):
    monkeypatch.chdir(tmp_path)
    done = call(COMMANDS[command], ('-config', 'none.yaml', '-name', name), capsys, monkeypatch)
    assert done.status == 2 and done.err.startswith('error: argument -name/--name: expected a plain name of at most')
    assert done.err.count('\n') == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(('text', 'name'), [
    ('MSIT-S', 'MSIT-S'), ('a b', 'a b'), ('a\nb\\c:d', 'a_b_c_d'), ('a\udcff', 'a_'), ('', '_'), ('.', '_'), ('..', '_'),
    ('x' * 300, 'x' * 100), ('漢' * 50, '漢' * 33), (' a ', 'a')])
def test_names_after_files(text, name):
    assert as_file_name(text) == name and is_file_name(name)


@pytest.mark.parametrize(('files', 'names'), [
    (['a.png', 'b.jpg'], ['a', 'b']), (['a.png', 'a.jpg'], ['a.png', 'a.jpg']), (['a.png', 'a.b.png'], ['a', 'a.b']),
    (['a.png', 'a.jpg', 'a.png.png'], ['a.png', 'a.jpg', 'a.png.png']), (['a.png', 'a.png.png'], ['a', 'a.png.png'])])
def test_stems_that_no_two_files_share(files, names):
    assert distinct_stems([Path(file) for file in files]) == names


def test_saved_images_of_equal_stems(tmp_path, monkeypatch, capsys):
    """a.png, a.jpg and a.b.png: each has a file of its own, which is what was measured."""
    monkeypatch.chdir(tmp_path)
    for number, (name, side) in enumerate((('a.png', 24), ('a.jpg', 26), ('a.b.png', 28))):
        save(Path('HR') / name, smooth(side, side, number))
    words = ('-hr', 'HR', '-scales', '2', '-model', 'bicubic', '-device', 'cpu', '-save-images')
    done = call(COMMANDS['test'], words, capsys, monkeypatch)
    assert done.status == 0
    sizes = {file.name: Image.open(file).size for file in Path('test/bicubic/HR/X2').iterdir()}
    assert sizes == {'a.png.png': (24, 24), 'a.jpg.png': (26, 26), 'a.b.png': (28, 28)}


def test_set_names():
    assert all(map(is_file_name, ('Set5', 'DIV2K valid', 'x' * 100, '漢', 'a.b', '..a')))


def test_a_set_named_after_its_folder(tmp_path, monkeypatch):
    save(tmp_path / 'photos/a.png', smooth(20, 20, 1))
    monkeypatch.chdir(tmp_path / 'photos')
    assert FolderEvaluation(hr=Path('.'), scale=2.0, protocol='benchmark').name == 'photos'
