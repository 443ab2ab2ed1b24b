"""The mean of several checkpoints' weights."""
import copy
from typing import Annotated

import pytest
import torch
from test_models import grid, image

import models
from common.registry import Registry
from engine.checkpoint import save_checkpoint
from engine.tools.average import average
from engine.tools.export import export
from engine.tools.grow import grow
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
        if key.endswith('running_var'):
            expected = ((a.double().sqrt() + b.double().sqrt() + c.double().sqrt()) / 3).square().to(a.dtype)
        else:
            expected = ((a.double() + b.double() + c.double()) / 3).to(a.dtype) if a.is_floating_point() else a
        assert torch.equal(value, expected), key
        moved += not torch.equal(value, a)
    assert moved > 20
    assert models.load(tmp_path / 'mean.pth').training is False


def test_batch_norm_by_hand(tmp_path, tiny_msit):
    """Variances 4 and 16 belong to standard deviations 2 and 4: the mean is 3, its variance 9. Means 1 and 7 give 4."""
    sources = [saved(tmp_path / f'{seed}.pth', tiny_msit, seed) for seed in (3, 4)]
    for source, mean, variance, count in zip(sources, (1.0, 7.0), (4.0, 16.0), (5, 8)):
        content = read(source)
        content['model']['sd']['msno.sim.bn.running_mean'].fill_(mean)
        content['model']['sd']['msno.sim.bn.running_var'].fill_(variance)
        content['model']['sd']['msno.sim.bn.num_batches_tracked'].fill_(count)
        torch.save(content, source)
    average(sources, tmp_path / 'mean.pth')
    state = read(tmp_path / 'mean.pth')['model']['sd']
    assert state['msno.sim.bn.running_mean'].unique().tolist() == [4] and state['msno.sim.bn.num_batches_tracked'] == 5
    torch.testing.assert_close(state['msno.sim.bn.running_var'], torch.full_like(state['msno.sim.bn.running_var'], 9))


def test_statistics_are_those_of_the_averaged_layer():
    """Why: runs whose values before the normalisation are 1 + 2z and 7 + 4z average to 4 + 3z, of mean 4 and variance 9."""
    z = torch.randn(10 ** 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = (z - z.mean()) / z.std()
    mean = ((1 + 2 * z) + (7 + 4 * z)) / 2
    assert mean.mean().item() == pytest.approx(4) and mean.var().item() == pytest.approx(9)


def test_specs_that_mean_the_same_are_one_network(tmp_path, tiny_msit):
    """Defaults may be written out, at any depth, and a whole number may stand for a real one."""
    plain = saved(tmp_path / 'plain.pth', tiny_msit, 0)
    written = copy.deepcopy(tiny_msit)
    written['args'].update(attention='mssa', value_projections=1, cell_decode=True, reparam='none')
    written['args']['encoder_spec']['args'].update(res_scale=1, scale=2)
    average([plain, saved(tmp_path / 'written.pth', written, 1)], tmp_path / 'mean.pth')
    assert read(tmp_path / 'mean.pth')['model']['args'] == tiny_msit['args']
    written['args']['encoder_spec']['args']['res_scale'] = 0.5
    with pytest.raises(UserError, match=r'scaled.pth: is another network'):
        average([plain, saved(tmp_path / 'scaled.pth', written, 1)], tmp_path / 'mean.pth')


def test_defaults_are_written_out_at_any_depth():
    registry = Registry('part')
    LeafSpec = Annotated[dict, registry]

    @registry.register('leaf')
    def leaf(*, sizes: list[int] = (1, 2), factor: float = 1.0):
        pass

    @registry.register('tree', provided=('width',))
    def tree(*, width: int, leaf_spec: LeafSpec = {'name': 'leaf', 'args': None}, other_spec: LeafSpec | None = None):  # noqa: B006
        pass
    inner = {'name': 'leaf', 'args': {'sizes': [1, 2], 'factor': 1}}
    full = {'name': 'tree', 'args': {'leaf_spec': inner, 'other_spec': None}}
    assert registry.with_defaults({'name': 'tree'}) == registry.with_defaults(full) == full
    other = {'name': 'tree', 'args': {'other_spec': {'name': 'leaf', 'args': {'factor': 2}}}}
    assert registry.with_defaults(other)['args']['other_spec'] == {'name': 'leaf', 'args': {'sizes': [1, 2], 'factor': 2}}
    assert other == {'name': 'tree', 'args': {'other_spec': {'name': 'leaf', 'args': {'factor': 2}}}}  # left as it was


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


@pytest.mark.parametrize(('target', 'expected'), [
    ('folder', 'is a folder'), ('folder.pth', 'is a folder'), ('mean', "has suffix ''"), ('mean.png', "has suffix '.png'"),
    ('file/new/mean.pth', 'is a file and no folder')])
@pytest.mark.parametrize('tool', ['average', 'export', 'grow'])
def test_a_target_that_cannot_be_written_is_refused_before_the_work(tmp_path, tiny_msit, target, expected, tool):
    """The sources do not even exist: nothing has been read."""
    for folder in ('folder', 'folder.pth'):
        (tmp_path / folder).mkdir()
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError) as error:
        if tool == 'average':
            average(['a.pth', 'b.pth'], tmp_path / target)
        elif tool == 'export':
            export('a.pth', tmp_path / target)
        else:
            grow('a.pth', tiny_msit, tmp_path / target)
    assert str(error.value).startswith(str(tmp_path / target)) and expected in str(error.value)
    assert '\n' not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'folder', 'folder.pth']
