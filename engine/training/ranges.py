"""What the numbers of a run's state may be, checked before a run continues from a file."""
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from common.ranges import Range
from models.checkpoint import dense_shape
from utils import UserError, shortened

MOST_DB = 1000.0  # highest score of a validation: identical images have an infinite PSNR
ITERATIONS = Range(0, 10 ** 15, True)  # of all stages
COUNT = 10 ** 9  # most epochs, and most steps of an optimiser
LONGEST = 1000  # characters of a line of the log
HUGE = 1e30  # no number of an optimiser's state is as large
NOT_NEGATIVE = ('exp_avg_sq', 'max_exp_avg_sq', 'square')  # averages of squares, in the optimisers' names


SCALER = {'scale': Range(1e-30, 2.0 ** 64), 'growth_factor': Range(1.0, 1000.0), 'backoff_factor': Range(1e-3, 1.0),
          'growth_interval': Range(1, COUNT, True), '_growth_tracker': Range(0, COUNT, True)}
# of NumPy's state: the position in the words, whether a normal number is kept, and that number
NUMPY = {2: Range(0, 624, True), 3: Range(0, 1, True), 4: Range(-100.0, 100.0)}


class RunStateError(UserError):
    """A number of a run's state is out of its range, or of another type, or missing."""


def check_numbers(checkpoint: dict, epoch_iterations: int) -> None:
    """Raises RunStateError for a value of a checkpoint that no run of so many iterations an epoch can have written."""
    _check(checkpoint, 'epoch', Range(0, COUNT, True))
    _check(checkpoint, 'batch', Range(0, epoch_iterations, True))
    _check(checkpoint, 'global_batch', ITERATIONS)
    _check(checkpoint, 'lowered', Range(0, checkpoint['batch'], True))
    _check(checkpoint, 'loss_sum', Range(-1e15, 1e15))
    if checkpoint.get('best') != -math.inf:  # before the first validation
        _check(checkpoint, 'best', Range(-MOST_DB, MOST_DB))
    if checkpoint.get('best_epoch') is not None:  # absent in files of earlier versions
        _check(checkpoint, 'best_epoch', Range(0, checkpoint['epoch'], True))
    report = checkpoint.get('report')  # absent in files of earlier versions
    if report is not None and not (isinstance(report, str) and len(report) <= LONGEST and report.isprintable()):
        raise RunStateError(f'report is {shortened(report)}, expected a line of the log')
    scaler = checkpoint.get('scaler')
    if scaler:  # empty unless the run computed in float16
        _check_kind(scaler, dict, 'scaler')
        for key, allowed in SCALER.items():
            _check(scaler, key, allowed, 'scaler.')
    _check_random(checkpoint['random_state'])


def _check_random(state: Any) -> None:
    """The state of NumPy's generator, which reads outside of its memory at a wrong position, and Python's next normal."""
    _check_kind(state, dict, 'random_state')
    numpy, python = (state.get(key) for key in ('numpy', 'python'))
    if not isinstance(numpy, (list, tuple)) or len(numpy) != 5 or not isinstance(numpy[1], list) or len(numpy[1]) != 624:
        raise RunStateError(f'random_state.numpy is {shortened(numpy)}, expected the state of a Mersenne Twister')
    for position, allowed in NUMPY.items():
        _check(dict(enumerate(numpy)), position, allowed, 'random_state.numpy.')
    word = Range(0, 2 ** 32 - 1, True)
    for value in numpy[1]:
        _check({'keys': value}, 'keys', word, 'random_state.numpy.')
    if not isinstance(python, (list, tuple)) or len(python) != 3:
        raise RunStateError(f'random_state.python is {shortened(python)}, expected the state of a generator')
    if python[2] is not None:
        _check({'normal': python[2]}, 'normal', Range(-100.0, 100.0), 'random_state.python.')


def checked_optimizer(state: Any, optimizer: torch.optim.Optimizer, complete: bool) -> dict:
    """The state of an optimiser as `optimizer.load_state_dict` takes it: running averages, counts and learning rates.

    All other settings are those of `optimizer`, which the config gives.

    Args:
        state: of a checkpoint.
        complete: every parameter must have its averages; not so before the first iteration, or where parts may idle.
    Raises: RunStateError.
    """
    _check_kind(state, dict, 'optimizer.sd')
    groups, entries, own = state.get('param_groups'), state.get('state'), optimizer.state_dict()['param_groups']
    _check_kind(entries, dict, 'optimizer.sd.state')
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups) or (
            [group.get('params') for group in groups] != [group['params'] for group in own]):
        raise RunStateError('optimizer.sd.param_groups: expected the parameters of this model')
    for group in groups:
        _check(group, 'lr', Range(0.0, 1e6), 'optimizer.sd.param_groups.')
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    required = _required(optimizer)
    for index, parameter in enumerate(parameters):
        entry, path = entries.get(index), f'optimizer.sd.state[{index}]'
        if entry is None and not (complete and required):
            continue
        _check_kind(entry, dict, path)
        for name in required | entry.keys():
            _check_average(entry, name, parameter.shape, path)
    if further := entries.keys() - set(range(len(parameters))):
        raise RunStateError(f'optimizer.sd.state: {shortened(next(iter(further)))} is no parameter of this model')
    return {'state': entries, 'param_groups': [{**mine, 'lr': group['lr']} for mine, group in zip(own, groups)]}


def _required(optimizer: torch.optim.Optimizer) -> set[str]:
    """What an optimiser of PyTorch keeps for each parameter after a step. Muon starts afresh what is missing."""
    defaults = optimizer.defaults
    if isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        return {'step', 'exp_avg', 'exp_avg_sq', *(['max_exp_avg_sq'] if defaults['amsgrad'] else [])}
    if isinstance(optimizer, torch.optim.SGD) and defaults['momentum']:
        return {'momentum_buffer'}
    return set()


def _check_average(entry: dict, name: object, shape: torch.Size, path: str) -> None:
    """A value that an optimiser keeps for a parameter: a count of steps, or numbers for each of the parameter's."""
    value = entry.get(name)
    if name == 'step':
        value = value.item() if isinstance(value, Tensor) and dense_shape(value) == () else value
        _check({name: int(value) if isinstance(value, float) and value.is_integer() else value}, name,
               Range(0, COUNT, True), f'{path}.')
        return
    if not isinstance(value, Tensor) or dense_shape(value) != shape or not value.is_floating_point():
        raise RunStateError(f'{path}.{shortened(name, quotes=False)}: expected real numbers of shape {tuple(shape)}')
    lowest, highest = (float(limit) for limit in value.aminmax()) if value.numel() else (0.0, 0.0)
    allowed = Range(0.0 if name in NOT_NEGATIVE else -HUGE, HUGE)
    if not (lowest in allowed and highest in allowed):
        raise RunStateError(f'{path}.{shortened(name, quotes=False)} has values from {lowest:g} to {highest:g}, expected '
                            f'{allowed}')


def _check(content: Mapping, key: object, allowed: Range, prefix: str = '') -> None:
    """Raises RunStateError unless content[key] is in a range."""
    value = content.get(key)
    if value not in allowed:
        raise RunStateError(f'{prefix}{key} is {shortened(value)}, expected {allowed}')


def _check_kind(value: object, kind: type, path: str) -> None:
    if not isinstance(value, kind):
        raise RunStateError(f'{path} is {shortened(value)}, expected a {kind.__name__}')
