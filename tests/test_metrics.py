"""PSNR and SSIM by hand, by explicit loops, and on the sets for which bicubic is known."""
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import datasets
import models
from datasets import protocols
from datasets.evaluation import Evaluation
from datasets.image_folder import ImageFolder
from engine.config import TEST_KEYS, load_config
from engine.evaluation import metrics
from engine.evaluation.evaluate import evaluate, format_table, plain_numbers
from imaging import save_image, to_image
from models.contract import SRModel
from utils import UserError

CONFIGS = Path(__file__).resolve().parent.parent / 'configs' / 'test'
LUMA = {'red': 65.738 / 256, 'green': 129.057 / 256, 'blue': 25.064 / 256}
C1, C2 = 0.01 ** 2, 0.03 ** 2


def score(prediction, target, protocol, scale, metric='psnr') -> float:
    """A metric of two images by a protocol."""
    metric, = metrics.make([metric])
    return metric.measure(torch.as_tensor(prediction), torch.as_tensor(target), protocols.make(protocol), scale)


def plain(metric: str, prediction: torch.Tensor, target: torch.Tensor) -> float:
    """A metric of two regions, without any protocol."""
    metric, = metrics.make([metric])
    return metric.score(prediction, target)


def constant(*rgb: float, size=(30, 34)) -> torch.Tensor:
    """A (3, H, W) image of one colour."""
    return torch.tensor(rgb, dtype=torch.float64).view(3, 1, 1).expand(3, *size).clone()


def waves() -> tuple[torch.Tensor, torch.Tensor]:
    """The two images of the reference rows: 0.5 + 0.5 sin(0.37 i) and 0.5 + 0.5 cos(0.11 i), (3, 40, 50)."""
    i = torch.arange(3 * 40 * 50, dtype=torch.float32)  # the reference numbers are of float32 images
    return tuple((0.5 + 0.5 * wave).view(3, 40, 50) for wave in (torch.sin(0.37 * i), torch.cos(0.11 * i)))


# PSNR

def test_psnr_of_a_constant_difference():
    """All channels off by 0.1: 20 dB in RGB; Y weighs the three by 219.859 / 256 together."""
    pair = constant(0.2, 0.3, 0.4), constant(0.3, 0.4, 0.5)
    assert score(*pair, 'div2k', 2) == pytest.approx(20, abs=1e-9)
    assert score(*pair, 'benchmark', 2) == pytest.approx(20 - 20 * math.log10(219.859 / 256), abs=1e-9)


@pytest.mark.parametrize('channel', range(3))
def test_psnr_of_one_channel(channel):
    """Off by 0.5 in one channel: its weight alone counts in Y, and a third of the mean in RGB."""
    changed = [0.25] * 3
    changed[channel] = 0.75
    pair = constant(0.25, 0.25, 0.25), constant(*changed)
    weight = list(LUMA.values())[channel]
    assert score(*pair, 'benchmark', 3) == pytest.approx(-20 * math.log10(0.5 * weight), abs=1e-9)
    assert score(*pair, 'div2k', 3) == pytest.approx(-10 * math.log10(0.25 / 3), abs=1e-9)


def test_channels_of_opposite_sign_cancel_in_luma():
    """The weighted sum is squared, not the channels one by one."""
    red = 0.1
    green = -red * LUMA['red'] / LUMA['green']
    pair = constant(0.5, 0.5, 0.5), constant(0.5 + red, 0.5 + green, 0.5)
    assert score(*pair, 'benchmark', 2) > 250
    assert score(*pair, 'div2k', 2) == pytest.approx(-10 * math.log10((red ** 2 + green ** 2) / 3), abs=1e-9)


def test_luma_has_its_offset():
    luma = protocols.make('benchmark').compared(constant(0.2, 0.4, 0.6), 2)
    expected = (16 + 0.2 * 65.738 + 0.4 * 129.057 + 0.6 * 25.064) / 256
    assert luma.shape == (1, 26, 30) and torch.allclose(luma, torch.full_like(luma, expected), rtol=0, atol=1e-12)


def test_mean_squared_difference_over_all_pixels():
    """One of 26 × 30 pixels off by 1 in every channel of a float32 image."""
    target = torch.zeros(3, 30, 34)
    prediction = target.clone()
    prediction[:, 10, 20] = 1
    assert score(prediction, target, 'benchmark', 2) == pytest.approx(
        10 * math.log10(26 * 30) - 20 * math.log10(219.859 / 256), abs=1e-9)


@pytest.mark.parametrize(('protocol', 'scale', 'border'), [
    ('benchmark', 2, 2), ('benchmark', 2.5, 3), ('benchmark', 3.01, 4), ('benchmark', 8, 8),
    ('div2k', 2, 8), ('div2k', 2.5, 9), ('div2k', 4, 10), ('div2k', 12, 18)])
def test_border(protocol, scale, border):
    """Errors inside the border do not count; one pixel further in, on any side, they do."""
    target = torch.zeros(3, 41, 47)
    prediction = torch.ones(3, 41, 47)
    prediction[:, border:-border, border:-border] = 0
    assert score(prediction, target, protocol, scale) == math.inf
    for line in (np.s_[:, border], np.s_[:, -border - 1], np.s_[:, :, border], np.s_[:, :, -border - 1]):
        prediction = target.clone()
        prediction[line] = 1
        assert math.isfinite(score(prediction, target, protocol, scale))


@pytest.mark.parametrize(('protocol', 'scale', 'border'), [('benchmark', 2.5, 3), ('div2k', 4, 10)])
def test_too_small_an_image(protocol, scale, border):
    for size in ((2 * border, 40), (40, 2 * border)):
        with pytest.raises(UserError, match=f'{size[0]}x{size[1]} is too small.*{protocol}.*{border} pixels'):
            protocols.make(protocol).compared(torch.zeros(3, *size), scale)
    assert protocols.make(protocol).compared(torch.zeros(3, 2 * border + 1, 40), scale).shape[1:] == (1, 40 - 2 * border)


@pytest.mark.parametrize(('protocol', 'scale', 'expected'), [
    ('benchmark', 2, 8.68936), ('benchmark', 3, 8.70472), ('div2k', 2, 6.07492), ('div2k', 4, 6.04681)])
def test_reference_rows(protocol, scale, expected):
    """Numbers of the released programs."""
    assert score(*waves(), protocol, scale) == pytest.approx(expected, abs=1e-5)


def test_reference_row_without_border():
    assert plain('psnr', *waves()) == pytest.approx(6.02482, abs=1e-5)


# SSIM

def ssim_by_loop(prediction: np.ndarray, target: np.ndarray) -> float:
    """One window at a time, (C, H, W) float64: weighted means, variances and covariance as they are defined."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5 ** 2))
    weights /= weights.sum()
    values = []
    for p, t in zip(prediction, target):
        for y in range(p.shape[0] - 10):
            for x in range(p.shape[1] - 10):
                a, b = p[y:y + 11, x:x + 11], t[y:y + 11, x:x + 11]
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                variance_a, variance_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
                covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
                values.append((2 * mean_a * mean_b + C1) * (2 * covariance + C2)
                              / ((mean_a ** 2 + mean_b ** 2 + C1) * (variance_a + variance_b + C2)))
    return float(np.mean(values))


def noisy_pair(size) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    target = rng.random((3, *size))
    return np.clip(target + 0.2 * rng.standard_normal(target.shape), 0, 1), target


def test_ssim_of_rgb_by_loop():
    pair = noisy_pair((16 + 13, 16 + 15))  # 13 × 15 remain: border 2 + 6
    inner = [image[:, 8:-8, 8:-8] for image in pair]
    assert score(*pair, 'div2k', 2, 'ssim') == pytest.approx(ssim_by_loop(*inner), abs=1e-10)


def test_ssim_of_luma_by_loop():
    pair = noisy_pair((6 + 14, 6 + 12))
    weights = np.array(list(LUMA.values()))[:, None, None]
    inner = [(weights * image).sum(0, keepdims=True)[:, 3:-3, 3:-3] + 16 / 256 for image in pair]
    assert score(*pair, 'benchmark', 2.5, 'ssim') == pytest.approx(ssim_by_loop(*inner), abs=1e-10)


@pytest.mark.parametrize('protocol', ['benchmark', 'div2k'])
def test_ssim_of_equal_and_of_constant_images(protocol):
    image = noisy_pair((30, 30))[0]
    assert score(image, image, protocol, 2, 'ssim') == pytest.approx(1, abs=1e-12)
    a, b = 0.2, 0.6
    dark, bright = constant(a, a, a), constant(b, b, b)
    if protocol == 'benchmark':
        a, b = ((16 + 219.859 * grey) / 256 for grey in (a, b))
    # no variance: only the luminance term is left
    assert score(dark, bright, protocol, 2, 'ssim') == pytest.approx((2 * a * b + C1) / (a * a + b * b + C1), abs=1e-9)


def test_ssim_needs_a_whole_window():
    assert math.isnan(plain('ssim', torch.zeros(1, 10, 30), torch.zeros(1, 10, 30)))
    assert plain('ssim', torch.zeros(1, 11, 11), torch.zeros(1, 11, 11)) == 1


# rows

class Black(SRModel):
    """Predicts black everywhere, but notes the sizes that it is asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def upscale(self, lr, size, memory=None):
        self.asked.append((tuple(lr.shape), tuple(size)))
        return torch.zeros(1, 3, *size)


def black_rows(tmp_path, **settings) -> tuple[list[dict], Black, list]:
    """Black against grey images of 0.2, 0.4 and 0.6, each of 41 × 36 pixels."""
    for name, grey in (('a.png', 51), ('b.png', 102), ('c.png', 153)):
        Image.fromarray(np.full((41, 36, 3), grey, np.uint8)).save(tmp_path / name)
    images = ImageFolder(data_root=tmp_path, root_path='.')
    dataset = Evaluation(dataset=images, data_root=tmp_path, name='Greys', **settings)
    model, shown = Black(), []
    rows = evaluate(model, dataset, torch.device('cpu'), 'black', lambda *image: shown.append(image))
    return rows, model, shown


def test_rows_average_the_images_scores(tmp_path):
    rows, model, shown = black_rows(tmp_path, protocol='div2k', scales=[2, 2.5])
    greys = (0.2, 0.4, 0.6)
    each = [-20 * math.log10(grey) for grey in greys]
    assert [row['scale'] for row in rows] == [2, 2.5]
    for row in rows:
        assert {key: row[key] for key in ('model', 'dataset', 'protocol', 'lr', 'images')} == {
            'model': 'black', 'dataset': 'Greys', 'protocol': 'div2k', 'lr': 'pil_bicubic', 'images': 3}
        assert [image['name'] for image in row['per_image']] == ['a.png', 'b.png', 'c.png']
        assert [image['psnr'] for image in row['per_image']] == pytest.approx(each, abs=1e-5)
        assert row['psnr'] == pytest.approx(sum(each) / 3, abs=1e-5)
        expected = [C1 / (grey ** 2 + C1) for grey in greys]
        assert [image['ssim'] for image in row['per_image']] == pytest.approx(expected, rel=1e-5)
        assert row['ssim'] == pytest.approx(sum(expected) / 3, rel=1e-5)
    # 41 × 36 at ×2: 20 × 18 → 40 × 36; at ×2.5: 16 × 14 → 40 × 35
    assert model.asked == 3 * [((1, 3, 20, 18), (40, 36))] + 3 * [((1, 3, 16, 14), (40, 35))]
    assert [(prediction.shape, pair.hr.shape, scale, pair.name) for pair, scale, prediction in shown] == [
        ((3, *size), (*size, 3), scale, name)
        for size, scale in (((40, 36), 2), ((40, 35), 2.5)) for name in ('a.png', 'b.png', 'c.png')]


def test_rows_by_luma(tmp_path):
    rows, _, _ = black_rows(tmp_path, protocol='benchmark', scales=2)
    expected = [-20 * math.log10(grey * 219.859 / 256) for grey in (0.2, 0.4, 0.6)]
    assert [image['psnr'] for image in rows[0]['per_image']] == pytest.approx(expected, abs=1e-5)


def test_table_of_rows():
    row = {'model': 'M', 'dataset': 'Set5', 'scale': 2.5, 'psnr': 32.746, 'ssim': 0.90004, 'protocol': 'benchmark',
           'lr': 'pil_bicubic', 'images': 5, 'seconds_per_image': 0.126}
    lines = format_table([row, {**row, 'scale': 4.0}]).splitlines()
    assert [cell.strip() for cell in lines[2].strip('|').split('|')] == [
        'M', 'Set5', '2.5', '32.75', '0.9000', 'benchmark', 'pil_bicubic', '5', '0.13']
    assert len(lines) == 4 and '| 4 |' in lines[3] and len({line.count('|') for line in lines}) == 1


def test_infinite_scores_become_null():
    value = {'a': [1.5, math.inf, {'b': math.nan}], 'c': -math.inf, 'd': 3, 'e': 'x'}
    expected = {'a': [1.5, None, {'b': None}], 'c': None, 'd': 3, 'e': 'x'}
    assert json.loads(json.dumps(plain_numbers(value), allow_nan=False)) == expected


def test_saved_images_are_rounded_to_8_bits(tmp_path):
    rgb = torch.tensor([0, 0.4, 0.6, 254.4, 254.6, 255]).div(255).view(1, 2, 3).repeat(3, 1, 1)
    rgb[2] = 0
    save_image(to_image(rgb), tmp_path / 'new' / 'x.png')
    with Image.open(tmp_path / 'new' / 'x.png') as image:
        pixels = np.asarray(image)
    assert pixels[..., 0].tolist() == pixels[..., 1].tolist() == [[0, 0, 1], [254, 255, 255]]
    assert not pixels[..., 2].any()


@pytest.mark.parametrize('name', [
    'Set5', pytest.param('Set14', marks=pytest.mark.slow), pytest.param('BSD100', marks=pytest.mark.slow)])
def test_bicubic_as_measured(shared, name):
    """The check that comes before any other number is believed."""
    measured = yaml.safe_load((shared / 'spec' / 'published.yaml').read_text(encoding='utf-8'))['bicubic_measured']
    spec = load_config(CONFIGS / f'test-{name.lower()}.yaml', TEST_KEYS)['test_dataset']
    spec['wrapper']['args']['scales'] = measured['scales']
    dataset = datasets.make(spec, shared / 'data', 'test_dataset')
    rows = evaluate(models.load('bicubic'), dataset, torch.device('cpu'))
    assert [row['lr'] for row in rows] == ['LR_bicubic'] * 3
    assert {row['images'] for row in rows} == {{'Set5': 5, 'Set14': 14, 'BSD100': 100}[name]}
    assert [row['psnr'] for row in rows] == pytest.approx(measured[name], abs=0.02)
