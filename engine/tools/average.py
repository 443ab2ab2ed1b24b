"""Averages the weights of runs that went on from the same start with other seeds or rates, into one network of their size:

    python -m engine.average -models save/a/epoch-last.pth save/b/epoch-last.pth -output save/average.pth

("Model soups", arXiv 2203.05482.) Networks that were trained apart from the beginning have no average worth having.
"""
from pathlib import Path

import torch

from common.cli import Parser, run
from engine.checkpoint import save_checkpoint
from models import released
from models.checkpoint import build, load_state, read_checkpoint
from models.sr_model import DEFAULT_NORM
from utils import UserError


def average(sources: list[str | Path], target: str | Path) -> None:
    """Writes the mean of the tensors of checkpoints `sources` to `target`, atomically. Counters are the first one's.

    Raises: UserError for fewer than two files, and for one that is not of the first one's network.
    """
    if len(sources) < 2:
        raise UserError(f'expected two checkpoints or more to average, got {len(sources)}')
    first = read_checkpoint(sources[0])
    spec, _ = released.translate(first['model'])
    model = build(first, str(sources[0]))
    counts = {key: value.clone() for key, value in model.state_dict().items() if not value.is_floating_point()}
    total = {key: value.to(torch.float64, copy=True) for key, value in model.state_dict().items() if key not in counts}
    for source in sources[1:]:
        checkpoint = read_checkpoint(source)
        other, state = released.translate(checkpoint['model'])
        if other != spec or checkpoint.get('data_norm', DEFAULT_NORM) != model.data_norm:
            raise UserError(f'{source}: is another network than {sources[0]}, or has another data_norm; expected runs of '
                            'one network')
        load_state(model, state, str(source))
        state = model.state_dict()
        for key in total:
            total[key] += state[key]
    model.load_state_dict({key: value / len(sources) for key, value in total.items()} | counts)
    save_checkpoint(target, model, spec, **{key: first[key] for key in ('epoch', 'global_batch') if key in first})


def main() -> None:
    parser = Parser(prog='python -m engine.average', description='Averages the weights of runs from the same start.')
    parser.option('models', required=True, nargs='+', metavar='FILE', help='checkpoints of one network')
    parser.option('output', required=True, metavar='FILE', help='file to write')
    options = parser.parse_args()
    average(options.models, options.output)
    print(f"{', '.join(options.models)} -> {options.output}")


if __name__ == '__main__':
    run(main)
