"""Exports a trained checkpoint for inference: python -m engine.export -model save/X/epoch-best.pth -output modelzoo/X.pth

The file holds the folded network (RIM becomes ordinary convolutions) without optimiser or run state.
"""
from pathlib import Path

import torch

from common.cli import Parser, run
from models import released
from models.checkpoint import build, read_checkpoint
from utils import atomic_path

DTYPES = {'float32': torch.float32, 'float16': torch.float16}
STAGE_ARGS = ('reparam', 'reparam_init')


def export(source: str | Path, target: str | Path, dtype: str = 'float32') -> None:
    """Writes the folded, weights-only form of checkpoint `source` to `target`, atomically.

    Args:
        dtype: 'float32', or 'float16' for half the size: then kernels and matrices are rounded to it, and vectors
            (biases, batch-norm statistics, the FEM stride), which are few, keep float32.
    Raises: UserError when `source` is not a checkpoint.
    """
    checkpoint = read_checkpoint(source)
    model = build(checkpoint, str(source)).fold()
    spec, _ = released.translate(checkpoint['model'])
    args = {key: value for key, value in spec['args'].items() if key not in STAGE_ARGS}
    state = {key: value.to(DTYPES[dtype]) if value.is_floating_point() and value.ndim > 1 else value
             for key, value in model.state_dict().items()}
    content = {'model': {'name': spec['name'], 'args': args, 'sd': state}, 'data_norm': model.data_norm}
    content |= {key: checkpoint[key] for key in ('epoch', 'global_batch') if key in checkpoint}
    with atomic_path(target) as temporary:
        torch.save(content, temporary)


def main() -> None:
    parser = Parser(prog='python -m engine.export', description='Writes a folded, weights-only checkpoint for inference.')
    parser.option('model', required=True, metavar='FILE', help='the checkpoint of a run')
    parser.option('output', required=True, metavar='FILE', help='file to write')
    parser.option('dtype', choices=list(DTYPES), default='float32', help='of kernels and matrices (default: float32)')
    options = parser.parse_args()
    export(options.model, options.output, options.dtype)
    size = Path(options.output).stat().st_size
    print(f'{options.model} -> {options.output} ({options.dtype}, {size / 2 ** 20:.1f} MiB)')


if __name__ == '__main__':
    run(main)
