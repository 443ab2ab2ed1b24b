"""The average over eight flips and rotations, and what a checkpoint is said to be."""
import copy
import itertools

import numpy as np
import pytest
import torch
from helpers import call, message
from lab import slow_except

import demo
import models
from common.coords import Region
from models.flips import TURNS
from models.upscale import plan_regions


@pytest.fixture
def model(tiny_msit):
    torch.manual_seed(0)
    return models.make(tiny_msit).eval()


def turned(x: torch.Tensor, rows: bool, columns: bool, swap: bool) -> torch.Tensor:
    """By NumPy, which knows nothing of the project's turns."""
    y = x.numpy()
    y = y[:, :, ::-1] if rows else y
    y = y[..., ::-1] if columns else y
    return torch.from_numpy(np.ascontiguousarray(y.swapaxes(2, 3) if swap else y))


def turned_back(x: torch.Tensor, rows: bool, columns: bool, swap: bool) -> torch.Tensor:
    y = x.numpy()
    y = y.swapaxes(2, 3) if swap else y
    y = y[..., ::-1] if columns else y
    return torch.from_numpy(np.ascontiguousarray(y[:, :, ::-1] if rows else y))


@pytest.mark.parametrize(('height', 'width', 'memory'), slow_except(
    [(30, 27, None)], [(30, 27, None), (20, 20, None), (80, 60, 6 * 2 ** 20)]))
def test_the_ensemble_is_the_mean_of_eight_upscaled_images(model, height, width, memory):
    """A factor per axis, too, and region by region. Values outside [0, 1] would be cut before and not after the mean."""
    lr = 0.4 + 0.2 * torch.rand(1, 3, 12, 9)
    ensemble = models.SelfEnsemble(model)
    if memory:
        lr = torch.cat([lr, lr.flip(3), lr], 3).repeat(1, 1, 6, 2)
        with torch.no_grad():
            assert len(plan_regions(ensemble, lr, (height, width), memory, None)[0]) > 1
    results = []
    for turn in itertools.product((False, True), repeat=3):
        size = (width, height) if turn[2] else (height, width)
        results.append(turned_back(model.upscale(turned(lr, *turn), size), *turn))
    expected = torch.stack(results).mean(0)
    assert (expected - results[0]).abs().max() > 1e-3
    found = ensemble.upscale(lr, (height, width), memory)
    inside = ((torch.stack(results) > 0) & (torch.stack(results) < 1)).all(0)
    assert inside.float().mean() > 0.9 and (found - expected)[inside].abs().max() < 2e-5


@pytest.mark.slow
def test_a_turned_image_has_a_turned_result(model):
    """What the ensemble is symmetric by."""
    ensemble, lr = models.SelfEnsemble(model), torch.rand(1, 3, 10, 7)
    result = ensemble.upscale(lr, (23, 15))
    for turn in TURNS:
        size = (15, 23) if turn.swap else (23, 15)
        assert (turned_back(ensemble.upscale(turned(lr, *turn), size), *turn) - result).abs().max() < 2e-5


def test_turns_of_regions_and_coordinates():
    """A region of a numbered map has the same numbers in the turned map."""
    x = torch.arange(4 * 6.).view(1, 1, 4, 6)
    region = Region(1, 3, 0, 2, 4, 6)
    assert len(set(TURNS)) == 8
    for turn in TURNS:
        assert torch.equal(turn.of_map(x), turned(x, *turn))
        assert torch.equal(turn.of_region(region).of(turn.of_map(x)), turned(region.of(x), *turn))


@pytest.mark.slow
def test_windows_and_scattered_queries(model):
    """A window that is a part of the grid has its pixels; `forward` agrees with `upscale`."""
    ensemble, lr = models.SelfEnsemble(model), 0.4 + 0.2 * torch.rand(1, 3, 10, 8)
    whole = ensemble.upscale(lr, (30, 24))
    window = ensemble.render(ensemble.encode_image(lr, side=6), (2, 1, 9, 7), (21, 18))
    assert (window - whole[:, :, 6:27, 3:21]).abs().max() < 2e-5
    y, x = (torch.arange(n) * 2 / n + 1 / n - 1 for n in (30, 24))
    coord = torch.stack(torch.meshgrid(y.double(), x.double(), indexing='ij'), -1).view(1, -1, 2)
    rgb = ensemble(lr, coord, torch.tensor([[2 / 30, 2 / 24]]))
    assert (rgb.clamp(0, 1).view(30, 24, 3).permute(2, 0, 1) - whole[0]).abs().max() < 1e-4


# -info

def info(capsys, monkeypatch, *words):
    return call(demo.main, ('-info', *words), capsys, monkeypatch)


def test_info_of_the_shipped_weights(capsys, monkeypatch):
    done = info(capsys, monkeypatch, 'MSIT-S')
    assert (done.status, done.err) == (0, '')
    found = {line[2:14].strip(): line[14:] for line in done.out.splitlines()[1:]}
    assert done.out.splitlines()[0].endswith('modelzoo/MSIT-S.pth')
    assert found['method'] == 'msit, encoder edsr-baseline' and found['parameters'] == '635,268, float16'
    assert found['training'] == 'epoch 14, iteration 28000' and found['scales'] == 'any factor of at least 1'
    sums = (models.checkpoint.ZOO / 'SHA256SUMS').read_text().split()
    assert found['file'].endswith(f'SHA-256 {sums[sums.index("MSIT-S.pth") - 1]}')
    assert found['data norm'] == 'input 0.5 subtracted, divided by 0.5; target 0.5 subtracted, divided by 0.5'


def test_info_of_several_files(tmp_path, capsys, monkeypatch, tiny_msit):
    """A run of the second stage, a fixed scale, and a damaged file, which costs one line."""
    monkeypatch.chdir(tmp_path)
    spec = copy.deepcopy(tiny_msit)
    spec['args']['reparam'] = 'rim'
    config = {'train_dataset': {'wrapper': {'args': {'scale_min': 1, 'scale_max': 4}}}}
    torch.save({'model': {**spec, 'sd': models.make(spec).state_dict()}, 'optimizer': {}, 'epoch': 3, 'config': config},
               'run.pth')
    fixed = {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 8, 'scale': 3}}
    torch.save({'model': {**fixed, 'sd': models.make(fixed).state_dict()}}, 'fixed.pth')
    (tmp_path / 'bad.pth').write_bytes(b'no checkpoint')
    done = info(capsys, monkeypatch, 'run.pth', 'bad.pth', 'fixed.pth')
    assert done.status == 2 and done.err.count('\n') == 2 and done.err.startswith('skipped: bad.pth: ')
    run, other = done.out.split('\n\n')
    assert run.startswith('run.pth\n') and 'stage 2, epoch 3, scales 1 to 4' in run and 'when folded' in run
    assert other.startswith('fixed.pth\n') and 'exactly 3' in other and 'the file does not say' in other
    done = info(capsys, monkeypatch, 'bad.pth')
    assert done.status == 2 and done.err.startswith('error: bad.pth: ') and done.err.count('\n') == 1
    assert 'whole output at once' in message(models.SelfEnsemble, models.load('bicubic'))
