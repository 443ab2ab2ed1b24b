"""visualize.py: each kind of figure, what it says when something is wrong, and that its labels are the data's."""
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from helpers import call, message, save
from lab import slow_except
from PIL import Image

import models
import visualize
from common.arrays import resize_bicubic
from engine.evaluation.metrics import METRICS
from figures import FIGURES, Studio, look
from figures.base import labels
from figures.config import figure_config, make_figure
from figures.options import boxes_for, checked_points, checked_scales

CONFIGS = sorted((ROOT / 'configs/figures').glob('*.yaml'))
SIZE = (48, 60)
LUMA = np.array([65.738, 129.057, 25.064]) / 256  # of the protocol `benchmark`


def noise(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A smooth image, so that upscaling it means something."""
    small = np.random.default_rng(seed).integers(0, 256, (size[0] // 6, size[1] // 6, 3), dtype=np.uint8)
    return resize_bicubic(small, *size)


@pytest.fixture
def bench(tmp_path, tiny_msit, monkeypatch, capsys):
    """A folder with two images, two networks with random weights and one of stage 2, in which visualize.py is called."""
    for number in range(2):
        save(tmp_path / f'HR/{number}.png', noise(number))
    for name, changes in (('one', {}), ('two', {'fem': 'none'}), ('stage2', {'reparam': 'rim', 'reparam_init': 'random'})):
        torch.manual_seed(len(name))
        spec = {'name': 'msit', 'args': {**tiny_msit['args'], **changes}}
        torch.save({'model': {**spec, 'sd': models.make(spec).state_dict()}}, tmp_path / f'{name}.pth')
    monkeypatch.chdir(tmp_path)
    return lambda *words: call(visualize.main, words, capsys, monkeypatch)


def studio() -> Studio:
    return Studio(device=torch.device('cpu'), data=Path('data'), quiet=True)


def texts(figure) -> list[str]:
    """All texts of a figure."""
    from matplotlib.text import Text
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


KINDS = {  # kind: its options
    'zoom': '-model bicubic one.pth two.pth -input HR -box 8,8,24,24 0,0,16,32',
    'scales': '-model bicubic one.pth -input HR/0.png -box 8,8,24,24 -scales 1.7 2.6',
    'error': '-model bicubic one.pth two.pth -input HR -scales 2 3',
    'features': '-model one.pth two.pth -input HR/0.png -scale 2',
    'attention': '-model one.pth two.pth -input HR/0.png -scale 2 -at 0.5,0.5 0,1',
    'lam': '-model one.pth two.pth -input HR/0.png -box 8,8,24,24 -scale 2 -set figure.args.steps=3',
    'curve': '-model bicubic one.pth two.pth -input HR -scales 1.5 2 3 -scale 2',
    'kernels': '-model stage2.pth',
}


def test_every_kind_is_tested():
    assert {*KINDS} == {*FIGURES.entries}


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_writes_what_it_says(bench, tmp_path, kind):
    """PNG of the width that was asked for, PDF and SVG; the same file when it is drawn again; no text outside the page."""
    for width, inches in look.WIDTHS.items():
        done = bench(kind, *KINDS[kind].split(), '-width', width, '-output', f'{width}.png')
        assert (done.status, done.out) == (0, f'wrote {width}.png\n'), done.err
        with Image.open(f'{width}.png') as image:
            assert abs(image.width - 300 * inches) <= 1
            assert image.height < 3 * image.width and np.asarray(image.convert('L')).std() > 5
    if kind != 'curve':  # seconds differ
        for suffix in ('svg', 'pdf'):
            assert bench(kind, *KINDS[kind].split(), '-output', f'a.{suffix}').status == 0
        assert bench(kind, *KINDS[kind].split(), '-output', 'b.svg').status == 0
        assert (tmp_path / 'a.svg').read_bytes() == (tmp_path / 'b.svg').read_bytes()
        assert (tmp_path / 'a.pdf').read_bytes().startswith(b'%PDF')


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_no_text_leaves_the_page(bench, kind):
    given = figure_of(kind)
    with look.style():
        figure = make_figure(given).draw(studio())
        figure.draw_without_rendering()
        titles = [text for axes in figure.axes for text in (axes.title, axes.xaxis.label, axes.yaxis.label)]
        for text in filter(lambda text: text.get_text(), (*figure.texts, *titles)):
            box = text.get_window_extent()
            assert min(box.x0, box.y0) > -1 and box.x1 < figure.bbox.x1 + 1 and box.y1 < figure.bbox.y1 + 1, text


def figure_of(kind: str) -> dict:
    """The config that the options of `KINDS` make."""
    words, old = [kind, *KINDS[kind].split()], sys.argv
    sys.argv = ['visualize.py', *words]
    try:
        options = visualize.read_options()
    finally:
        sys.argv = old
    return figure_config(None, kind, visualize.given_arguments(options), options.set)


@pytest.mark.slow
def test_zoom_shows_the_metrics_of_the_crops(bench):
    """Boxes and scores by hand: luma of the crop, Pillow's bicubic."""
    figure = make_figure(figure_of('zoom')).draw(studio())
    shown = texts(figure)
    for number, (top, left, height, width) in enumerate(((8, 8, 24, 24), (0, 0, 16, 32))):
        hr = noise(number)
        result = resize_bicubic(resize_bicubic(hr, 12, 15), *SIZE)
        inside = [(image[top:top + height, left:left + width] / 255 @ LUMA) for image in (hr, result)]
        psnr = -10 * math.log10(np.square(inside[0] - inside[1]).mean())
        ssim = METRICS.entries['ssim']().score(*(torch.from_numpy(part)[None] + 16 / 256 for part in inside))
        assert f'{psnr:.2f} / {ssim:.4f}' in shown
    assert [text for text in shown if text in ('HR', 'bicubic', 'one', 'two')] == ['HR', 'bicubic', 'one', 'two'] * 2
    assert {'0', '1', '×4'} <= set(shown)
    images = [axes.images[0].get_array() for axes in figure.axes]
    given = {'model': ['bicubic'], 'input': ['HR/0.png'], 'box': [[8, 8, 24, 24], [1, 2, 4, 6]]}
    several = figure_config(None, 'zoom', given)
    crops = [axes.images[0].get_array() for axes in make_figure(several).draw(studio()).axes]
    assert np.array_equal(crops[4], noise(0)[1:5, 2:8]) and np.array_equal(crops[2], images[2])
    assert np.array_equal(images[0], noise(0)) and np.array_equal(images[1], noise(0)[8:32, 8:32])
    assert np.array_equal(images[2], resize_bicubic(resize_bicubic(noise(0), 12, 15), *SIZE)[8:32, 8:32])


@pytest.mark.slow
def test_error_maps_are_the_differences(bench):
    """The map of a single image, its mean in the caption, and one colour scale."""
    figure = make_figure(figure_of('error')).draw(studio())
    hr = noise(0).astype(float)
    expected = np.abs(resize_bicubic(resize_bicubic(noise(0), 24, 30), *SIZE) - hr).mean(2)
    panels = [axes.images[0] for axes in figure.axes if axes.images]
    single = [panel for panel in panels if panel.get_array().shape == SIZE]
    assert any(np.allclose(panel.get_array(), expected, atol=1e-3) for panel in single)
    assert f'{expected.mean():.2f}' in texts(figure)
    assert len({panel.get_clim() for panel in panels}) == 1


@pytest.mark.slow
def test_curves_show_what_test_py_measures(bench):
    figure = make_figure(figure_of('curve')).draw(studio())
    line = figure.axes[0].lines[0]
    expected = []
    for number in range(2):
        hr = noise(number)
        lr = resize_bicubic(hr, SIZE[0] // 2, SIZE[1] // 2)
        y = [image[2:-2, 2:-2] / 255 @ LUMA for image in (resize_bicubic(lr, *SIZE), hr)]
        expected.append(-10 * math.log10(np.square(y[0] - y[1]).mean()))
    assert line.get_xdata().tolist() == [1.5, 2, 3]
    assert line.get_ydata()[1] == pytest.approx(np.mean(expected), abs=1e-4)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ['bicubic', 'one', 'two']
    parameters = figure.axes[2].lines[1].get_xdata()[0]
    assert parameters == sum(tensor.numel() for tensor in models.load('one.pth').parameters())


@pytest.mark.slow
def test_kernels_of_two_files_are_those_of_one(bench, tiny_msit):
    """A stage-1 network with W, and a folded one with W', show what the unfolded checkpoint shows."""
    spec = {'name': 'msit', 'args': {**tiny_msit['args'], 'reparam': 'rim', 'reparam_init': 'random'}}
    state = torch.load('stage2.pth', weights_only=True)['model']['sd']
    plain = {'name': 'msit', 'args': tiny_msit['args']}
    first = {name: state[name] for name in models.make(plain).state_dict()}
    network = models.make(spec)
    network.load_state_dict(state)
    for name, tensors in (('stage1', first), ('folded', network.fold().state_dict())):
        torch.save({'model': {**plain, 'sd': tensors}}, f'{name}.pth')
    assert bench('kernels', '-model', 'stage2.pth', '-output', 'a.svg').status == 0
    assert bench('kernels', '-model', 'stage1.pth', 'folded.pth', '-output', 'b.svg').status == 0
    assert Path('a.svg').read_bytes() == Path('b.svg').read_bytes()


@pytest.mark.slow
def test_a_test_config_gives_the_set(bench, tmp_path):
    """Names of images choose from it; its protocol and LR images are used."""
    save(tmp_path / 'data/HR/a.png', noise(0))
    save(tmp_path / 'data/HR/b.png', noise(1))
    save(tmp_path / 'data/LR/X2/bx2.png', np.full((24, 30, 3), 128, np.uint8))
    config = {'test_dataset': {'dataset': {'name': 'image-folder', 'args': {'root_path': 'HR'}}, 'wrapper': {
        'name': 'sr-evaluation', 'args': {'name': 'S', 'protocol': 'benchmark', 'scales': [2], 'lr_path': 'LR'}}}}
    (tmp_path / 'set.yaml').write_text(yaml.safe_dump(config))
    words = ('zoom', '-config', 'set.yaml', '-model', 'bicubic', '-box', '8,8,24,24', '-scale', '2', '-output', 'a.svg')
    assert bench(*words, '-input', 'b').status == 0
    y = [image[8:32, 8:32] / 255 @ LUMA for image in (noise(1), np.full((*SIZE, 3), 128))]
    config['figure'] = {'name': 'zoom', 'args': {'model': ['bicubic'], 'box': [[8, 8, 24, 24]], 'scale': 2, 'input': ['b']}}
    evaluation = visualize.make_evaluation(config, tmp_path / 'data')
    figure = make_figure(config).draw(Studio(device=torch.device('cpu'), data=tmp_path, evaluation=evaluation, quiet=True))
    assert any(text.startswith(f'{-10 * math.log10(np.square(y[0] - y[1]).mean()):.2f} / ') for text in texts(figure))
    done = bench(*words, '-input', 'c')
    assert done.status == 2 and done.err.startswith('error: -input c: S has no such image') and '(choices: a, b)' in done.err


WRONG = [  # words, and a part of the line
    ('', 'expected a kind of figure'),
    ('zom', r"unknown kind of figure 'zom'; did you mean 'zoom'\? \(choices: attention, curve"),
    ('zoom', "figure 'zoom' needs model, box"),
    ('zoom -model bicubic -box 0,0,8,8', 'expected files or folders of HR images'),
    ('zoom -model bicubic -input none.png -box 0,0,8,8', r'-input none.png: no such image or folder'),
    ('zoom -model bicubik -input HR/0.png -box 0,0,8,8', 'bicubik: no such checkpoint'),
    ('zoom -model bicubic -input HR/0.png -box 0,0,8', 'expected 4 whole numbers'),
    ('zoom -model bicubic -input HR/0.png -box 40,0,16,16', r'box 40,0,16,16: lies outside of 0 at ×4, which has 48x60'),
    ('zoom -model bicubic -input HR/0.png -box 0,0,0,16', 'the last two at least 1'),
    ('zoom -model bicubic -input HR -box 0,0,8,8 0,0,8,8 0,0,8,8', 'one for each of the 2, got 3'),
    ('zoom -model bicubic -input HR/0.png -box 0,0,8,8 -scale 0.5', 'expected a number from 1'),
    ('zoom -model bicubic -input HR/0.png -box 0,0,8,8 -scales 2',
     "figure 'zoom' has no such argument; did you mean 'scale'"),
    ('zoom -model bicubic bicubic -input HR/0.png -box 0,0,8,8', 'bicubic is given twice'),
    ('zoom -model bicubic -names a b -input HR/0.png -box 0,0,8,8', 'expected 1 different names'),
    ('zoom -model bicubic -input HR/0.png -box 0,0,8,8 -output a.jpg', r'expected .png or .pdf or .svg'),
    ('zoom -model bicubic -input HR/0.png -box 0,0,8,8 -width wide', 'invalid choice'),
    ('zoom -model bicubic -input HR/0.png -box 0,0,8,8 -output HR/0.png', 'HR/0.png: is one of the images of -input'),
    ('zoom -model bicubic -input HR/0.png -box 0,0,8,8 -set figure.args.model=[7]', r'expected list\[str\], got \[7\]'),
    ('zoom -model bicubic -input HR/0.png -set figure.args.box=7', r'figure.args.box: expected .*, got 7'),
    ('zoom -config none.yaml', 'none.yaml: no such config file'),
    ('scales -model bicubic -input HR -box 0,0,8,8', 'scales shows one image, got 2'),
    ('scales -model bicubic -input HR/0.png -box 0,0,8,8 -scales 2 2', 'expected different factors'),
    ('features -model bicubic -input HR/0.png', '-model bicubic: this network has no SIM; choose one of kind msit'),
    ('attention -model bicubic -input HR/0.png', '-model bicubic: this network has no MSSA'),
    ('attention -model one.pth -input HR/0.png -at 1.5,0', 'expected a number from 0 to 1'),
    ('lam -model bicubic -input HR/0.png -box 0,0,8,8', '-model bicubic: its result has no gradient'),
    ('lam -model one.pth -input HR/0.png -box 0,0,1,8', 'at least 2x2'),
    ('kernels -model one.pth', '-model one: this network has no re-parameterised convolutions'),
    ('kernels -model bicubic', '-model bicubic: this network has no re-parameterised convolutions'),
    ('kernels -model bicubic one.pth', 'expected two networks of kind msit'),
    ('kernels -model one.pth two.pth stage2.pth', 'at most two networks, got 3'),
    ('curve -model bicubic -input HR -set figure.args.panels=[speed]', "unknown panel 'speed'"),
    ('curve -model bicubic -input HR -set figure.args.metric=psnrr', "unknown metric 'psnrr'; did you mean 'psnr'"),
    ('curve -model bicubic -input HR -scales 30', 'too small for protocol'),
]


@pytest.mark.parametrize(('words', 'part'), slow_except([WRONG[1], WRONG[7], WRONG[22]], WRONG))
def test_wrong_input_is_one_line(bench, words, part):
    done = bench(*words.split())
    assert (done.status, done.out) == (2, '')
    assert done.err.count('\n') == 1 and re.search(part, done.err), done.err


def test_options_by_hand():
    assert labels(['a/epoch-last.pth', 'b/epoch-last.pth']) == {'a_epoch-last': 'a/epoch-last.pth',
                                                               'b_epoch-last': 'b/epoch-last.pth'}
    assert labels(['x.pth'], ['ours']) == {'ours': 'x.pth'}
    assert boxes_for([[1, 2, 3, 4]], 3) == [[1, 2, 3, 4]] * 3
    assert checked_scales([4, 1.5]) == [4.0, 1.5] and checked_points([[0, 1]]) == [[0, 1]]
    assert '-at: expected points' in message(checked_points, [[0, 2]])
    assert '-scales: expected different' in message(checked_scales, [0.5])


@pytest.mark.slow
def test_an_image_is_no_output_under_any_name(bench, tmp_path):
    """Nothing is written, and nothing is computed first."""
    before = (tmp_path / 'HR/0.png').read_bytes()
    (tmp_path / 'link.png').symlink_to('HR/0.png')
    for target in ('HR/../HR/0.png', 'link.png'):
        done = bench('zoom', '-model', 'none.pth', '-input', 'HR', '-box', '0,0,8,8', '-output', target)
        assert done.status == 2 and f'{target}: is one of the images' in done.err
    assert (tmp_path / 'HR/0.png').read_bytes() == before and (tmp_path / 'link.png').is_symlink()


NAMES = ['$x$', '$a_{', '_a', '\\frac', '漢🙂', 'a\nb', '\x1b[31m', 'n' * 3000]


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES, ids=range(len(NAMES)))
def test_names_are_shown_as_they_are(bench, tmp_path, name):
    """Nothing in them is a formula, an order to a terminal or too long; letters that the font lacks cost no line."""
    shutil.copy('one.pth', 'x.pth')
    for kind in ('zoom', 'curve'):
        words = [word for word in KINDS[kind].split() if word != 'two.pth']
        done = bench(kind, *words, '-names', 'b', name, '-output', f'{kind}.svg')
        assert (done.status, done.out, done.err) == (0, f'wrote {kind}.svg\n', '')
    figure = make_figure({'figure': {'name': 'curve', 'args': {
        'model': ['bicubic'], 'names': [name[:20]], 'input': ['HR'], 'scales': [2], 'panels': ['scale']}}}).draw(studio())
    shown = name[:20].encode('unicode_escape').decode() if not name.isprintable() else name[:20]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [shown]


@pytest.mark.slow
def test_long_texts_are_fitted():
    short, size = look.fitted('HR', 1)
    assert (short, size) == ('HR', look.LETTER)
    long, size = look.fitted('a name of a model that is much too long', 0.6)
    assert size == look.SMALLEST and '…' in long and long.startswith('a n') and long.endswith('g')
    middle, size = look.fitted('a rather long name', 0.8)
    assert middle == 'a rather long name' and look.SMALLEST < size < look.LETTER
    cut, size = look.fitted('n' * 100_000, 2)
    assert size == look.SMALLEST and 40 < len(cut) < 60 and cut.count('…') == 1  # of letters 3 points wide


@pytest.mark.slow
def test_the_documented_kind(tmp_path, bench):
    """The file that docs/figures.md shows, in a copy of the program: it is a kind like all others."""
    page = (ROOT / 'docs/figures.md').read_text(encoding='utf-8')
    (name, text), = re.findall(r'^`([\w/.]+)`:\n\n```python\n(.*?)^```', page, re.MULTILINE | re.DOTALL)
    for folder in ('common', 'imaging', 'models', 'datasets', 'engine', 'figures'):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns('__pycache__'))
    for file in ('utils.py', 'visualize.py'):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / name).write_text(text, encoding='utf-8')
    words = ['visualize.py', 'histogram', '-model', 'bicubic', 'one.pth', '-input', 'HR', '-output', 'h.svg']
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                          env={'PATH': '/usr/bin:/bin'})
    assert (done.returncode, done.stdout, done.stderr) == (0, 'wrote h.svg\n', '')
    for kind in FIGURES.entries:
        assert f'| `{kind}` |' in page


@pytest.mark.parametrize('file', CONFIGS, ids=lambda file: file.name)
def test_shipped_configs_are_valid(file):
    assert make_figure(figure_config(str(file), None, {})) is not None
