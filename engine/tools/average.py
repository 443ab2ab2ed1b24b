"""Averages the weights of several runs into one network of the same size:

    python -m engine.average -models save/a/epoch-last.pth save/b/epoch-last.pth -output save/average.pth

The runs must have continued from the same checkpoint, with other seeds or settings ("Model soups", arXiv 2203.05482).
Networks that were trained separately from the beginning have no useful average.

Batch normalisation: the running statistics of the averaged network are not known without data (SWA, arXiv 1803.05407, and
`torch.optim.swa_utils.update_bn` recompute them from batches). Where a normalised value a is linear in the weights, that of
the averaged network is the mean of the runs' a_i, so its mean is the mean of their means. Its standard deviation is at most
the mean of theirs, and equals it when the a_i are perfectly correlated, which those of runs from one checkpoint nearly are.
So standard deviations are averaged. (The law of total variance would add the variance of the means: it describes values
drawn from all runs, not the mean of the runs.)
"""
from pathlib import Path

import torch
from torch import Tensor

from common.cli import Parser
from engine.checkpoint import save_checkpoint
from models import released
from models.checkpoint import build, load_state, read_checkpoint
from models.contract import DEFAULT_NORM, SRModel
from models.registries import MODELS
from utils import UserError, check_output

_VARIANCE = 'running_var'  # last part of the name of a variance in torch's normalisations


def average(sources: list[str | Path], target: str | Path) -> None:
    """Writes the mean of checkpoints `sources` to `target`, atomically. Counters are those of the first one.

    Raises: UserError for fewer than two files, and for a file whose network or data_norm is not that of the first one.
    """
    if len(sources) < 2:
        raise UserError(f'expected two checkpoints or more to average, got {len(sources)}')
    check_output(target, ('.pth', '.pt'))
    first = read_checkpoint(sources[0])
    spec, _ = released.translate(first['model'])
    model = build(first, str(sources[0]))
    total = _summands(model)
    for source in sources[1:]:
        checkpoint = read_checkpoint(source)
        other, state = released.translate(checkpoint['model'])
        MODELS.check(other, f'{source}: model')
        same = MODELS.with_defaults(other) == MODELS.with_defaults(spec)  # however much of it the files write out
        if not same or checkpoint.get('data_norm', DEFAULT_NORM) != model.data_norm:
            raise UserError(f'{source}: is another network than {sources[0]}, or has another data_norm; expected runs of '
                            'one network')
        load_state(model, state, str(source))
        for key, value in _summands(model).items():
            total[key] += value
    mean = {key: value / len(sources) for key, value in total.items()}
    mean = {key: value.square() if key.endswith(_VARIANCE) else value for key, value in mean.items()}
    load_state(model, released.translate(first['model'])[1] | mean, str(sources[0]))
    save_checkpoint(target, model, spec, **{key: first[key] for key in ('epoch', 'global_batch') if key in first})


def _summands(model: SRModel) -> dict[str, Tensor]:
    """What is averaged, in float64: the floating-point tensors of a model, of variances their square roots."""
    state = {key: value.to(torch.float64, copy=True) for key, value in model.state_dict().items()
             if value.is_floating_point()}
    return {key: value.sqrt() if key.endswith(_VARIANCE) else value for key, value in state.items()}


def main() -> None:
    parser = Parser(prog='python -m engine.average', description='Averages the weights of runs from one checkpoint.')
    parser.option('models', required=True, nargs='+', metavar='FILE', help='checkpoints of one network')
    parser.option('output', required=True, metavar='FILE', help='file to write')
    options = parser.parse_args()
    average(options.models, options.output)
    print(f"{', '.join(options.models)} -> {options.output}")
