"""The mean of several checkpoints' weights."""
import copy

import pytest
import torch
from test_models import grid, image

import models
from engine.checkpoint import save_checkpoint
from engine.tools.average import average
from utils import UserError


def saved(path, spec: dict, seed: int, **run_state) -> str:
    torch.manual_seed(seed)
    model = models.make(spec)
    model(image(1, 9, 11), *grid(20, 30))  # batch norm has seen something
    save_checkpoint(path, model, spec, **run_state)
    return str(path)


def read(path) -> dict:
    return torch.load(path, weights_only=True)


def test_mean_of_three(tmp_path, tiny_msit):
    sources = [saved(tmp_path / f'{seed}.pth', tiny_msit, seed, epoch=seed, global_batch=70, optimizer={})
               for seed in (3, 4, 5)]
    average(sources, tmp_path / 'mean.pth')
    states, mean = [read(source)['model']['sd'] for source in sources], read(tmp_path / 'mean.pth')
    assert mean.keys() == {'model', 'data_norm', 'epoch', 'global_batch'}
    assert (mean['epoch'], mean['global_batch'], mean['model']['args']) == (3, 70, tiny_msit['args'])
    assert mean['model']['sd'].keys() == states[0].keys()
    moved = 0
    for key, value in mean['model']['sd'].items():
        a, b, c = (state[key] for state in states)
        expected = ((a.double() + b.double() + c.double()) / 3).to(a.dtype) if a.is_floating_point() else a
        assert torch.equal(value, expected), key
        moved += not torch.equal(value, a)
    assert moved > 20
    assert models.load(tmp_path / 'mean.pth').training is False


def test_refusals(tmp_path, tiny_msit):
    source = saved(tmp_path / 'a.pth', tiny_msit, 0)
    with pytest.raises(UserError, match='two checkpoints or more'):
        average([source], tmp_path / 'mean.pth')
    other = copy.deepcopy(tiny_msit)
    other['args']['radius'] = 2 if tiny_msit['args'].get('radius') != 2 else 1
    with pytest.raises(UserError, match=r'b.pth: is another network than .*a.pth'):
        average([source, saved(tmp_path / 'b.pth', other, 0)], tmp_path / 'mean.pth')
    content = read(source)
    torch.save({**content, 'data_norm': {key: {'sub': [0.4], 'div': [0.5]} for key in ('inp', 'gt')}}, tmp_path / 'c.pth')
    with pytest.raises(UserError, match=r'c.pth: .* another data_norm'):
        average([source, str(tmp_path / 'c.pth')], tmp_path / 'mean.pth')
    assert not (tmp_path / 'mean.pth').exists()
