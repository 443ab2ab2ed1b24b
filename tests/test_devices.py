"""Models on a device without float64, such as the GPUs of Apple, computed on the CPU: see `other_device.py`."""
import argparse

import numpy as np
import pytest
import torch
from other_device import DEVICE, OtherDevice, put_there
from test_models import TINY, variant

from common.cli import choose_device
from datasets import protocols
from datasets.evaluation import Pair
from engine.evaluation.evaluate import evaluate_scale
from models import upscale
from models.flips import SelfEnsemble
from utils import UserError

NAMES = pytest.mark.parametrize('name', sorted(TINY))


def image(height: int = 7, width: int = 9) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b.cpu()).abs().max().item()


@NAMES
@pytest.mark.parametrize('scale', [2, 2.5, 5])
def test_every_model_upscales_there_as_on_the_cpu(name, scale):
    model = variant(name, 0).use_kernels(False)
    if model.fixed_scale not in (None, scale):
        pytest.skip('another factor than its own')
    size = (round(7 * scale), round(9 * scale))
    expected = model.upscale(image(), size)
    with OtherDevice() as device:
        out = put_there(model).upscale(image(), size)
        assert out.device == DEVICE and largest(expected, out) < 1e-5
    assert expected.std() > 0.01 and device.waits


@pytest.mark.parametrize('name', ['msit', 'clit', 'lte'])
def test_windows_and_the_ensemble_of_turns(name):
    model, window = variant(name, 0).use_kernels(False), (1.5, 2, 5.25, 8)
    ensemble = SelfEnsemble(model)
    part, mean = model.render(model.encode_image(image()), window, (13, 17)), ensemble.upscale(image(), (16, 20))
    with OtherDevice():
        put_there(ensemble)  # and the model in it
        assert largest(part, model.render(model.encode_image(image()), window, (13, 17))) < 1e-5
        assert largest(mean, ensemble.upscale(image(), (16, 20))) < 1e-5


@pytest.mark.parametrize('scale', [2, 3.5])
@pytest.mark.parametrize('side', [12, 40])
def test_the_host_waits_once_however_many_bands(side, scale, monkeypatch):
    """For whether the output is finite. An image that is there needs three more, for its range."""
    monkeypatch.setattr(upscale, 'BAND_COPIES', 2 ** 20)
    model, lr = variant('msit', 0).use_kernels(False), torch.rand(1, 3, side, side)
    size = (round(scale * side), round(scale * side))
    with OtherDevice() as device:
        put_there(model)
        bands = []
        model.upscale_parts(lr, size, lambda *part: bands.append(part))
        assert len(bands) > 5 and device.waits == ['_local_scalar_dense']
        device.waits.clear()
        model.upscale(lr.to(DEVICE), size)
        assert device.waits == ['_local_scalar_dense'] * 4


def test_metrics_are_computed_on_the_host():
    """In float64, which is not there."""
    class Set(list):
        name, protocol = 'set', protocols.make('benchmark')

        def pairs(self, scale, part):
            return self[part]

        def lr_text(self, scale):
            return 'a test'
    rng = np.random.default_rng(0)
    pairs = Set([Pair(name='a', lr=rng.integers(256, size=(12, 14, 3), dtype=np.uint8),
                      hr=rng.integers(256, size=(24, 28, 3), dtype=np.uint8))])
    model = variant('msit', 0).use_kernels(False)
    expected = evaluate_scale(model, pairs, 2, torch.device('cpu'))
    with OtherDevice():
        row = evaluate_scale(put_there(model), pairs, 2, DEVICE)
    for metric in ('psnr', 'ssim'):
        assert row[metric] == pytest.approx(expected[metric], abs=1e-4)


def test_what_is_no_such_device_is_seen():
    with OtherDevice() as device:
        there = torch.ones(3).to(DEVICE)
        assert there.device == DEVICE and device.waits == []
        with pytest.raises(RuntimeError, match='one device'):
            there + torch.ones(3)
        for make in (lambda: there.double(), lambda: torch.ones(3, dtype=torch.float64).to(DEVICE),
                     lambda: torch.arange(3, dtype=torch.float64, device=DEVICE)):
            with pytest.raises(TypeError, match='no float64'):
                make()
        assert (there + 1).cpu().tolist() == [2, 2, 2] and there.sum().item() == 3
        assert device.waits == ['_to_copy to the host', '_local_scalar_dense']


def test_a_gpu_of_apple_is_asked_for_by_name(monkeypatch):
    options = argparse.Namespace(device='mps', gpu=None)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: True)
    assert choose_device(options, apple=True) == torch.device('mps')
    with pytest.raises(UserError, match='-device mps: this command computes in float64'):
        choose_device(options)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: False)
    with pytest.raises(UserError, match='-device mps: this machine has no GPU of Apple'):
        choose_device(options, apple=True)
