"""Optimisers, and learning-rate schedules as functions of the position in the run alone: resuming cannot lose them."""
import math
from collections.abc import Callable
from typing import Annotated

import torch

from common.ranges import AtMost
from common.registry import Registry, SpecError
from engine.training.muon import Muon
from utils import nearest_name

OPTIMIZERS = Registry('optimizer', AtMost(10_000))
for optimizer in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, Muon):
    OPTIMIZERS.register(optimizer.__name__.lower(), provided=('params',))(optimizer)


def parameter_groups(model: torch.nn.Module, factors: dict[str, float]) -> list[dict]:
    """The trainable parameters in groups for an optimiser: those of each module in `factors`, after all the others.

    Args:
        factors: names of modules or parameters, and what multiplies the learning rate of the parameters below them. Of two
            names that fit, the first counts.
    Returns: {'params'} of the rest, then of each name, in its order.
    Raises: SpecError for a name below which nothing is trained, and for a model without anything to train.
    """
    groups: dict[str, list[torch.nn.Parameter]] = {name: [] for name in ('', *factors)}
    names: dict[str, None] = {}  # everything that a factor may be given for
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts = path.split('.')
            above = ['.'.join(parts[:count]) for count in range(1, len(parts) + 1)]
            names |= dict.fromkeys(above)
            groups[next((name for name in factors if name in above), '')].append(parameter)
    if not names:
        raise SpecError('model: this model has no parameters to train')
    for name in factors:
        if not groups[name]:
            raise SpecError(f'lr_factors.{name}: no parameter is trained by it; {nearest_name(name, names)}')
    return [{'params': group} for group in groups.values()]


SCHEDULES = Registry('learning-rate schedule')
UNITS = ('epoch', 'batch')

# a schedule: (epochs done, iterations done since the start, base learning rate) → learning rate of the next iteration
Schedule = Callable[[int, int, float], float]


@SCHEDULES.register('constant')
def constant() -> Schedule:
    """The optimiser's learning rate throughout."""
    return lambda epoch, iteration, base: base


@SCHEDULES.register('multistep')
def multistep(*, milestones: list[int], gamma: Annotated[float, AtMost(1000)] = 0.5) -> Schedule:
    """The base learning rate, multiplied by `gamma` after each epoch of `milestones`: as LIIF and its successors do."""
    if milestones != sorted(set(milestones)) or min(milestones, default=1) < 1 or gamma <= 0:
        raise ValueError(f'expected rising milestones from 1 on and gamma > 0, got {milestones} and {gamma}')
    return lambda epoch, iteration, base: base * gamma ** sum(epoch >= milestone for milestone in milestones)


@SCHEDULES.register('warmup-cosine')
def warmup_cosine(*, warmup: int, cosine: int, start_lr: Annotated[float, AtMost(1000)] = 0.0,
                  unit: str = 'epoch') -> Schedule:
    """Linear warm-up from `start_lr` to the base learning rate, then a cosine to 0 (the paper's schedule).

    The base is reached after `warmup` units and the cosine starts with the next one, as in the authors' program: with
    start_lr 1e-5, base 1e-4, warmup 50, cosine 1000 the learning rates of epochs 1, 2, 51 and 301 (counted from 1) are
    1.00e-5, 1.18e-5, 1e-4 and 8.55e-5.

    Args:
        warmup, cosine: lengths, in units.
        unit: 'epoch' changes the learning rate once an epoch, 'batch' with every iteration.
    """
    if unit not in UNITS:
        raise ValueError(f"unit is {unit!r}, expected one of {', '.join(UNITS)}")
    if warmup < 0 or cosine < 1 or start_lr < 0:
        raise ValueError(f'expected warmup >= 0, cosine >= 1 and start_lr >= 0, got {warmup}, {cosine} and {start_lr}')

    def learning_rate(epoch: int, iteration: int, base: float) -> float:
        position = epoch if unit == 'epoch' else iteration
        if position < warmup:
            return start_lr + (base - start_lr) * position / warmup
        progress = min(1.0, max(0, position - warmup - 1) / cosine)
        return base * 0.5 * (1 + math.cos(math.pi * progress))
    return learning_rate
