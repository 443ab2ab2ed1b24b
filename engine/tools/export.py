"""Exports a trained checkpoint for inference: python -m engine.export -model save/X/epoch-best.pth -output modelzoo/X.pth

The file holds the folded network (RIM becomes ordinary convolutions) without optimiser or run state.
"""
from pathlib import Path

import torch
from torch import Tensor

from common.cli import Parser
from engine.checkpoint import write_checkpoint
from models import released
from models.checkpoint import build, read_checkpoint
from utils import UserError, check_output

DTYPES = {'float32': torch.float32, 'float16': torch.float16}
_STAGE_ARGS = ('reparam', 'reparam_init')


def export(source: str | Path, target: str | Path, dtype: str = 'float32') -> None:
    """Writes the folded, weights-only form of checkpoint `source` to `target`, atomically.

    Args:
        dtype: 'float32', or 'float16' for half the size: then kernels and matrices are rounded to it, and vectors
            (biases, batch-norm statistics, the FEM stride), which are few, keep float32.
    Raises: UserError when `source` is not a checkpoint, when `target` cannot be written, or when a weight is beyond the
        range of `dtype`; RunError when the disk is full.
    """
    check_output(target, ('.pth', '.pt'))
    checkpoint = read_checkpoint(source)
    model = build(checkpoint, str(source)).fold()
    spec, _ = released.translate(checkpoint['model'])
    args = {key: value for key, value in spec['args'].items() if key not in _STAGE_ARGS}
    state = {key: _rounded(value, dtype, f'{source}: {key}') for key, value in model.state_dict().items()}
    content = {'model': {'name': spec['name'], 'args': args, 'sd': state}, 'data_norm': model.data_norm}
    write_checkpoint(target, content | {key: checkpoint[key] for key in ('epoch', 'global_batch') if key in checkpoint})


def _rounded(value: Tensor, dtype: str, name: str) -> Tensor:
    """A kernel or matrix in `dtype`, anything else as it is. Raises UserError when a finite number would become infinite."""
    if not value.is_floating_point() or value.ndim < 2:
        return value
    rounded = value.to(DTYPES[dtype])
    if (rounded.isinf() & value.isfinite()).any():
        largest = value[value.isfinite()].abs().max().item()
        raise UserError(f'{name}: holds {largest:.4g}, beyond the range of {dtype} '
                        f'({torch.finfo(DTYPES[dtype]).max:.5g}); export it as float32')
    return rounded


def main() -> None:
    parser = Parser(prog='python -m engine.export', description='Writes a folded, weights-only checkpoint for inference.')
    parser.option('model', required=True, metavar='FILE', help='the checkpoint of a run')
    parser.option('output', required=True, metavar='FILE', help='file to write')
    parser.option('dtype', choices=list(DTYPES), default='float32', help='of kernels and matrices (default: float32)')
    options = parser.parse_args()
    export(options.model, options.output, options.dtype)
    size = Path(options.output).stat().st_size
    print(f'{options.model} -> {options.output} ({options.dtype}, {size / 2 ** 20:.1f} MiB)')
