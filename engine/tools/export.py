"""Exports a trained checkpoint for inference: python -m engine.export -model save/X/epoch-best.pth -output modelzoo/X.pth

The file holds the folded network (RIM becomes ordinary convolutions) without optimiser or run state: for this project (.pth
or .safetensors); with `-format released` for the official programs of LIIF, LTE and MSIT; with `-format onnx` for programs
without PyTorch. Files of tensors alone need `-config`, a training config that names their network.
"""
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.cli import Parser
from engine.checkpoint import write_checkpoint
from engine.config import TRAIN_KEYS, load_config
from engine.tools.onnx import write_onnx
from models import released
from models.checkpoint import build, read_checkpoint
from models.layouts import SAFETENSORS
from models.releasing import released_content
from utils import UserError, check_output

DTYPES = {'float32': torch.float32, 'float16': torch.float16}
# of this project, of the official programs, for programs without PyTorch; and the suffixes of their files
FORMATS = {'msit': ('.pth', '.pt', SAFETENSORS), 'released': ('.pth', '.pt'), 'onnx': ('.onnx',)}
_STAGE_ARGS = ('reparam', 'reparam_init')


def export(source: str | Path, target: str | Path, dtype: str = 'float32', network: dict | None = None,
           layout: str = 'msit') -> None:
    """Writes the folded, weights-only form of checkpoint `source` to `target`, atomically.

    Args:
        network: a training config, for a file of tensors alone; see `models.checkpoint.read_checkpoint`.
        layout: one of FORMATS.
        dtype: 'float32', or 'float16' for half the size: then kernels and matrices are rounded to it, and vectors
            (biases, batch-norm statistics, the FEM stride), which are few, keep float32.
    Raises: UserError when `source` is not a checkpoint, when `target` cannot be written, or when a weight is beyond the
        range of `dtype`; RunError when the disk is full.
    """
    check_output(target, FORMATS[layout])
    checkpoint = read_checkpoint(source, network)
    model = build(checkpoint, str(source)).fold()
    spec, _ = released.translate(checkpoint['model'])
    if layout == 'onnx':
        if dtype != 'float32':
            raise UserError(f'-dtype {dtype}: an ONNX file is written in float32')
        return _named(source, write_onnx, model, released.our_spec(spec), target)
    if layout == 'released':
        entry = _named(source, released_content, model, spec)
    else:
        args = {key: value for key, value in spec['args'].items() if key not in _STAGE_ARGS}
        entry = {'name': spec['name'], 'args': args, 'sd': model.state_dict()}
    state = {key: _rounded(value, dtype, f'{source}: {key}') for key, value in entry['sd'].items()}
    content = {'model': {**entry, 'sd': state}, 'data_norm': model.data_norm}
    write_checkpoint(target, content | {key: checkpoint[key] for key in ('epoch', 'global_batch') if key in checkpoint})


def _named(source: str | Path, function: Callable, *arguments: Any) -> Any:
    """The function's result; the message of a UserError begins with the file."""
    try:
        return function(*arguments)
    except UserError as error:
        raise UserError(f'{source}: {error}') from error


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
    parser.option('format', choices=list(FORMATS), default='msit',
                  help="this project's (default), that of the official programs of LIIF, LTE and MSIT, or ONNX")
    parser.option('config', metavar='FILE', help='for a file of tensors alone: a training config that names their network')
    options = parser.parse_args()
    network = load_config(options.config, TRAIN_KEYS) if options.config else None
    export(options.model, options.output, options.dtype, network, options.format)
    size = Path(options.output).stat().st_size
    print(f'{options.model} -> {options.output} ({options.dtype}, {size / 2 ** 20:.1f} MiB)')
