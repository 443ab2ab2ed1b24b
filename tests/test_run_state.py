"""Every number of a run's state has a range: one line names what is wrong in the file, whatever it holds."""
import io
import math
from pathlib import Path

import pytest
import torch
from helpers import message
from lab import one_error_line

import engine.checkpoint
import models
from common.ranges import Range
from engine.config import changes
from engine.training.muon import Muon
from engine.training.state import RunState

CPU = torch.device('cpu')
ITERATIONS = 5  # of an epoch
ADAM = {'name': 'adam', 'args': {'lr': 1e-3}}


def made_state(spec: dict, optimizer: dict = ADAM, **config) -> RunState:
    config = {'model': spec, 'optimizer': optimizer, **config}
    return RunState(config=config, model=models.make(spec), device=CPU, epoch_iterations=ITERATIONS)


def stepped(spec: dict, optimizer: dict = ADAM, **config) -> RunState:
    """A state after seven iterations, whose gradients are noise."""
    state, generator = made_state(spec, optimizer, **config), torch.Generator().manual_seed(0)
    for number in range(7):
        for parameter in state.model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        state.optimizer.step()
        state.advance(torch.tensor(0.25), torch.tensor(number % 2 == 0))
        if state.iteration == ITERATIONS:
            state.finish_epoch()
    state.best, state.best_epoch = 21.5, 1
    return state


@pytest.fixture
def content(tiny_msit, tmp_path) -> dict:
    stepped(tiny_msit).save(tmp_path / 'run.pth')
    return torch.load(tmp_path / 'run.pth', weights_only=True)


def nested(levels: int) -> list:
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value


def put(*path):
    """An edit: the value at the end of a path of keys."""
    *keys, last, value = path

    def edit(content: dict) -> None:
        for key in keys:
            content = content[key]
        content[last] = value
    return edit


def drop(*path):
    *keys, last = path

    def edit(content: dict) -> None:
        for key in keys:
            content = content[key]
        del content[last]
    return edit


SD = ('optimizer', 'sd')
ENTRY = (*SD, 'state', 0)
NUMPY = ('random_state', 'numpy')
SCALER = {'scale': 65536.0, 'growth_factor': 2.0, 'backoff_factor': 0.5, 'growth_interval': 2000, '_growth_tracker': 7}
SCALARS = [(put(key, value), f'{key} is ') for key in ('epoch', 'batch', 'global_batch', 'lowered', 'loss_sum', 'best')
           for value in (math.inf, math.nan, 1e30, '3', None, True, [1], {}, 10 ** 400, torch.tensor(1))]
ROWS = [
    *SCALARS,
    *[(put(key, value), f'{key} is ') for key in ('epoch', 'batch', 'global_batch', 'lowered', 'best_epoch')
      for value in (-1, 1.5, 10 ** 30)],
    (put('batch', ITERATIONS + 1), 'batch is 6, expected a whole number from 0 to 5'),
    (put('lowered', 3), 'lowered is 3, expected a whole number from 0 to 2'),
    (put('best_epoch', 2), 'best_epoch is 2'), (put('best', 1000.5), 'best is'), (put('best', -1e30), 'best is'),
    *[(put('report', value), 'report is ') for value in (3, ['x'], 'x' * 1001, 'a\nb', b'x')],
    (put('loss_sum', -math.inf), 'loss_sum is'), (drop('best'), 'best is'), (drop('loss_sum'), 'loss_sum is'),
    *[(put('scaler', {**SCALER, key: value}), f'scaler.{key} is ') for key in SCALER
      for value in (-1, math.inf, math.nan, 1e30, '1', None)],
    (put('scaler', [3]), 'scaler is'), (put('scaler', {'scale': 1.0}), 'scaler.growth_factor is None'),
    (put('random_state', 3), 'random_state is 3'), (put('random_state', {}), 'random_state.numpy is None'),
    (put(*NUMPY, 2, 10 ** 9), 'random_state.numpy.2 is'), (put(*NUMPY, 2, -1), 'random_state.numpy.2 is'),
    (put(*NUMPY, 3, 7), 'random_state.numpy.3 is'), (put(*NUMPY, 4, math.nan), 'random_state.numpy.4 is'),
    (put(*NUMPY, 1, 5, -1), 'random_state.numpy.keys is -1'), (put(*NUMPY, 1, 5, 2 ** 32), 'random_state.numpy.keys is'),
    (put(*NUMPY, 1, 5, 0.5), 'random_state.numpy.keys is'), (put(*NUMPY, 1, [1, 2]), 'random_state.numpy is'),
    (put(*NUMPY, 0, 'PCG64'), 'run state'), (drop('random_state', 'torch'), "'torch'"),
    (put('random_state', 'torch', torch.zeros(3)), 'run state'), (put('random_state', 'torch', torch.zeros(
        5056, dtype=torch.uint8)), 'run state'), (put('random_state', 'torch', 'x'), 'run state'),
    (put('random_state', 'python', [3, [1] * 625, None]), 'run state'),
    (put('random_state', 'python', None), 'random_state.python is None'),
    (put('random_state', 'python', (3, (2 ** 40,) * 625, None)), 'run state'),
    (put('random_state', 'python', (3, (1,) * 624 + (10 ** 9,), None)), 'run state'),
    (put('random_state', 'python', (3, (1,) * 625, 'x')), 'random_state.python.normal is'),
    (put(*SD, 3), 'optimizer.sd is 3'), (put(*SD, {}), 'optimizer.sd.state is None'), (drop(*SD), 'optimizer.sd is None'),
    (put(*SD, 'state', []), 'optimizer.sd.state is []'), (put(*SD, 'state', {}), 'optimizer.sd.state[0] is None'),
    (drop(*ENTRY), 'optimizer.sd.state[0] is None'), (put(*SD, 'state', 10 ** 6, {}), '1000000 is no parameter'),
    (put(*ENTRY, {}), 'optimizer.sd.state[0].'), (put(*ENTRY, [1]), 'optimizer.sd.state[0] is [1]'),
    *[(drop(*ENTRY, key), f'optimizer.sd.state[0].{key}') for key in ('step', 'exp_avg', 'exp_avg_sq')],
    *[(put(*ENTRY, 'step', value), 'optimizer.sd.state[0].step is ') for value in (
        torch.tensor(-1.0), torch.tensor(math.inf), torch.tensor(1e30), torch.tensor(math.nan), torch.tensor(0.5),
        torch.ones(2), '7', None, -1, 10 ** 30)],
    *[(lambda content, key=key, value=value: content['optimizer']['sd']['state'][0][key].view(-1)[0].fill_(value),
       f'optimizer.sd.state[0].{key} has values from ')
      for key in ('exp_avg', 'exp_avg_sq') for value in (math.inf, -math.inf, math.nan, 2e30)],
    (lambda content: content['optimizer']['sd']['state'][0]['exp_avg_sq'].view(-1)[0].fill_(-1e-9), 'exp_avg_sq has values'),
    *[(put(*ENTRY, 'exp_avg', value), 'optimizer.sd.state[0].exp_avg: expected real numbers of shape') for value in (
        torch.zeros(3), 3.0, None, 'x', torch.zeros(2, 2).to_sparse(), torch.zeros(8, 3, 3, 3, dtype=torch.int64),
        torch.zeros(8, 3, 3, 3, dtype=torch.complex64))],
    (put(*ENTRY, 'further', 3), 'optimizer.sd.state[0].further: expected'),
    (put(*SD, 'param_groups', []), 'optimizer.sd.param_groups: expected'),
    (put(*SD, 'param_groups', 3), 'optimizer.sd.param_groups: expected'),
    (put(*SD, 'param_groups', 0, 3), 'optimizer.sd.param_groups: expected'),
    (put(*SD, 'param_groups', 0, 'params', [0, 0]), 'optimizer.sd.param_groups: expected'),
    *[(put(*SD, 'param_groups', 0, 'lr', value), 'optimizer.sd.param_groups.lr is ') for value in (
        -1e-4, math.inf, math.nan, 1e30, '1e-4', None)],
]


@pytest.mark.parametrize(('edit', 'expected'), ROWS, ids=[f'{number}: {row[1]}' for number, row in enumerate(ROWS)])
def test_wrong_numbers_are_refused(content, tiny_msit, edit, expected):
    edit(content)
    text = message(made_state(tiny_msit).restore, content, 'run.pth')
    assert text.startswith('run.pth: its run state is damaged') and expected in text and '-pretrain' in text
    assert len(text) < 500


def test_right_ones_are_restored(content, tiny_msit):
    state = made_state(tiny_msit)
    state.restore(content, 'run.pth')
    assert (state.epoch, state.iteration, state.global_iteration, state.best, state.best_epoch) == (1, 2, 7, 21.5, 1)
    assert (float(state.loss_sum), int(state.lowered)) == (0.5, 1)  # of iterations 6 and 7, at 0.25; the seventh was lowered


@pytest.mark.parametrize('edit', [drop('best_epoch'), put('best_epoch', None), drop('report'), put('best', -math.inf),
                                  put('best', 20), put('scaler', SCALER), put('batch', ITERATIONS), put('loss_sum', -3.5)])
def test_unusual_ones_are_restored(content, tiny_msit, edit):
    edit(content)
    state = made_state(tiny_msit)
    state.restore(content, 'run.pth')
    assert (state.epoch, state.iteration) == (content['epoch'], content['batch'])
    assert (state.best, float(state.loss_sum)) == (content['best'], content['loss_sum'])


@pytest.mark.parametrize('optimizer', [
    ADAM, {'name': 'adamw', 'args': {'lr': 1e-3, 'amsgrad': True}}, {'name': 'sgd', 'args': {'lr': 1e-3}},
    {'name': 'sgd', 'args': {'lr': 1e-3, 'momentum': 0.9}}, {'name': 'muon', 'args': {'lr': 1e-3}},
    {'name': 'adam', 'args': {'lr': 1e-3, 'fused': True}}], ids=str)
def test_every_optimiser_is_restored(tiny_msit, tmp_path, optimizer):
    factors = {'lr_factors': {'encoder': 0.5}}
    before = stepped(tiny_msit, optimizer, **factors)
    before.save(tmp_path / 'run.pth')
    after = made_state(tiny_msit, optimizer, **factors)
    after.restore(torch.load(tmp_path / 'run.pth', weights_only=True), 'run.pth')
    files = []
    for state in (before, after):
        for parameter in state.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        state.optimizer.step()
        files.append(io.BytesIO())
        torch.save(state.optimizer.state_dict(), files[-1])
    assert files[0].getvalue() == files[1].getvalue()
    assert all(torch.equal(*pair) for pair in zip(before.model.parameters(), after.model.parameters()))


def test_settings_of_the_optimiser_are_the_configs(content, tiny_msit):
    """Those in the file do not count, however wrong; the log names a key that has changed."""
    content['optimizer']['sd']['param_groups'][0].update(betas='x', eps=-1, weight_decay=1e30)
    state = made_state(tiny_msit, {'name': 'adam', 'args': {'lr': 1e-3, 'betas': [0.8, 0.95]}})
    state.restore(content, 'run.pth')
    group, = state.optimizer.param_groups
    assert (tuple(group['betas']), group['eps'], group['weight_decay']) == ((0.8, 0.95), 1e-8, 0)


def test_muon_starts_missing_averages_afresh(tiny_msit, tmp_path):
    spec = {'name': 'muon', 'args': {'lr': 1e-3}}
    stepped(tiny_msit, spec).save(tmp_path / 'run.pth')
    content = torch.load(tmp_path / 'run.pth', weights_only=True)
    del content['optimizer']['sd']['state'][0]
    state = made_state(tiny_msit, spec)
    state.restore(content, 'run.pth')
    assert isinstance(state.optimizer, Muon)


def test_before_the_first_iteration_there_are_no_averages(tiny_msit, tmp_path):
    made_state(tiny_msit).save(tmp_path / 'start.pth')
    state = made_state(tiny_msit)
    state.restore(torch.load(tmp_path / 'start.pth', weights_only=True), 'start.pth')
    assert not state.optimizer.state and (state.epoch, state.iteration) == (0, 0)


def test_the_command_refuses_in_one_line(lab):
    assert lab.train('run', epoch_max=1).status == 0
    content = lab.loaded('run')
    torch.save({**content, 'batch': -7}, lab.folder / 'other.pth')
    done = lab.train('new', '-resume', 'other.pth')
    assert done.status == 2 and one_error_line(done, 'error: other.pth: its run state', 'batch is -7')
    assert not lab.save('new').exists()


@pytest.mark.parametrize(('value', 'expected'), [
    (nested(33), 'nested more than 32 levels deep'), (nested(10 ** 4), 'nested more than 32 levels deep'),
    ([[0] * 400] * 400, 'more than 100,000 values, counting an alias as what it stands for'),
    (torch.ones(2), 'holds values that no config file can hold'), (1j, 'holds values that no config file can hold')])
def test_a_config_that_no_file_can_hold(content, tmp_path, monkeypatch, value, expected):
    content['config'] = {**content['config'], 'model': value}
    monkeypatch.setattr(engine.checkpoint, 'read_checkpoint', lambda path: content)
    assert message(engine.checkpoint.read_run, Path('run.pth')) == f'run.pth: config: {expected}'


def test_keys_of_any_kind_are_compared():
    assert changes({1: 2, 'a': {None: 3}}, {'a': {'b': 3}}) == ['1 2 → none', 'a.None 3 → none', 'a.b none → 3']


def test_ranges():
    whole, real = Range(0, 5, True), Range(-1.0, 1000000.0)
    assert [value in whole for value in (0, 5, -1, 6, 2.0, True, None, '1')] == [True] * 2 + [False] * 6
    assert all(value in real for value in (-1, 0.5, 10 ** 6))
    assert not any(value in real for value in (-1.1, math.nan, math.inf, False, 10 ** 400))
    assert str(whole) == 'a whole number from 0 to 5' and str(real) == 'a number from -1.0 to 1,000,000.0'
