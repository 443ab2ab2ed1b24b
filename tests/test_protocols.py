"""Protocols and metrics by name: what the shipped ones fix, and that a new one is all that a new set of rules needs."""
import math

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
import models
from common.registry import SpecError
from datasets import protocols
from datasets.protocols import PROTOCOLS, Protocol
from engine.evaluation import metrics
from engine.evaluation.evaluate import evaluate
from engine.evaluation.metrics import METRICS, Metric


@pytest.mark.parametrize(('name', 'borders', 'channels'), [
    ('benchmark', {1: 1, 2: 2, 2.5: 3, 4: 4}, 1), ('div2k', {1: 7, 2: 8, 2.5: 9, 4: 10}, 3)])
def test_shipped(name, borders, channels):
    protocol = protocols.make(name)
    assert protocol.name == name and {scale: protocol.border(scale) for scale in borders} == borders
    assert protocol.compared(torch.rand(3, 40, 50), 2).shape == (channels, 40 - 2 * borders[2], 50 - 2 * borders[2])
    assert protocol.inside(torch.rand(3, 40, 50), 2).shape == (3, 40 - 2 * borders[2], 50 - 2 * borders[2])
    # 43 / 2.3 = 18.7, 38 / 2.3 = 16.5; 18 · 2.3 = 41.4, 16 · 2.3 = 36.8
    assert protocol.lr_size((43, 38), 2.3) == (18, 16) and protocol.hr_size((43, 38), 2.3) == (41, 37)


def test_unknown_names_list_the_choices():
    with pytest.raises(SpecError, match=r"^protocol: unknown protocol 'bench'; did you mean 'benchmark'\? .*div2k"):
        protocols.make('bench')
    with pytest.raises(SpecError, match=r"^-metrics: unknown metric 'pnsr'; did you mean 'psnr'\? .*lpips, psnr, ssim"):
        metrics.make(['ssim', 'pnsr'])


def test_names_are_taken_once():
    for register, entry in ((protocols.register, PROTOCOLS.entries['div2k']), (metrics.register, METRICS.entries['psnr'])):
        with pytest.raises(ValueError, match='already registered'):
            register(entry)
    assert [metric.name for metric in metrics.make(['ssim', 'psnr', 'ssim'])] == ['ssim', 'psnr']


class Green(Protocol):
    """The green channel of the left upper quarter, without a border; own LR images at no scale."""
    name = 'green'
    prepared_scales = ()

    def hr_size(self, size, scale):
        height, width = (int(side * scale) for side in self.lr_size(size, scale))
        return height, width

    def lr_size(self, size, scale):
        return int(size[0] / scale / 2), int(size[1] / scale / 2)

    def border(self, scale):
        return 0

    def channels(self, rgb):
        return rgb[1:2]


class Largest(Metric):
    """The largest difference, in 8-bit levels."""
    name = 'largest'
    heading = 'largest difference'
    decimals = 1
    higher_is_better = False

    def score(self, prediction, target):
        return 255 * (prediction - target).abs().max().item()


def test_new_ones_are_measured_by(tmp_path, monkeypatch):
    """One class each, registered: the evaluation follows them in LR, crop, region and score."""
    monkeypatch.setitem(PROTOCOLS.entries, 'green', Green)
    monkeypatch.setitem(PROTOCOLS.provided, 'green', ())
    monkeypatch.setitem(METRICS.entries, 'largest', Largest)
    monkeypatch.setitem(METRICS.provided, 'largest', ())
    pixels = np.random.default_rng(1).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    dataset = datasets.make({
        'dataset': {'name': 'image-folder', 'args': {'root_path': '.'}},
        'wrapper': {'name': 'sr-evaluation', 'args': {'name': 'S', 'protocol': 'green', 'scales': 2, 'lr_path': 'none'}},
    }, tmp_path)
    row, = evaluate(models.load('bicubic'), dataset, torch.device('cpu'), metrics=metrics.make(['largest', 'psnr']))
    hr = pixels[:20, :24]
    resize = Image.Resampling.BICUBIC
    upscaled = np.asarray(Image.fromarray(hr).resize((12, 10), resize).resize((24, 20), resize))
    difference = upscaled[..., 1].astype(float) - hr[..., 1]
    assert row['protocol'] == 'green' and set(row['per_image'][0]) == {'name', 'largest', 'psnr'}
    assert row['largest'] == pytest.approx(np.abs(difference).max(), abs=1e-4)
    assert row['psnr'] == pytest.approx(-10 * math.log10((difference ** 2).mean() / 255 ** 2), abs=1e-5)
