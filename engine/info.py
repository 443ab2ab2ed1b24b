"""What a checkpoint file is: python demo.py -info FILE … The file is read and checked; its network is not run."""
import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.checkpoint import build, find, read_checkpoint
from utils import UserError, count_parameters, printable, shortened

_BLOCK = 2 ** 20  # bytes that are read at a time


def add_info_option(group: argparse._MutuallyExclusiveGroup) -> None:
    """The option -info.

    Args:
        group: the parser's group of options that exclude each other.
    """
    group.add_argument('-info', '--info', nargs='+', metavar='FILE',
                       help='say what checkpoints are: method, parameters, scales, training; nothing is upscaled')


def print_info(files: Sequence[str]) -> None:
    """Prints a block of lines about each checkpoint. Raises UserError when one of them cannot be read; the others go on."""
    failed = 0
    for number, file in enumerate(files):
        try:
            lines = describe(file)
        except UserError as error:
            if len(files) == 1:
                raise
            failed += 1
            print(f'skipped: {printable(str(error))}', file=sys.stderr)
            continue
        print('\n'.join(([''] if number else []) + lines))
    if failed:
        raise UserError(f'-info: {failed} of {len(files)} files are no checkpoints that can be used, see above')


def describe(file: str) -> list[str]:
    """Lines about a checkpoint. Raises UserError when it is missing, damaged or of no known model."""
    path, checkpoint = find(file), read_checkpoint(file)
    model = build(checkpoint, file)
    args = checkpoint['model'].get('args') or {}
    encoder = args.get('encoder_spec')
    encoder = f', encoder {_plain(encoder.get("name"))}' if isinstance(encoder, dict) else ''
    trained, folded = count_parameters(model), count_parameters(model.fold())
    types: Counter[str] = Counter()
    for tensor in checkpoint['model']['sd'].values():
        types[str(tensor.dtype).removeprefix('torch.')] += tensor.numel()
    norm = '; '.join(f'{side} {_numbers(values["sub"])} subtracted, divided by {_numbers(values["div"])}'
                     for side, values in zip(('input', 'target'), model.data_norm.values()))
    rows = {
        'method': f'{_plain(checkpoint["model"]["name"])}{encoder}',
        'parameters': f'{trained:,}' + (f', {folded:,} when folded' if folded != trained else '')
                      + f', {types.most_common(1)[0][0] if types else "no tensors"}',
        'scales': f'exactly {model.fixed_scale}' if model.fixed_scale else 'any factor of at least 1',
        'training': _training(checkpoint, args),
        'data norm': norm,
        'file': f'{path.stat().st_size:,} bytes, SHA-256 {_digest(path)}'}
    return [printable(path), *(f'  {name:<12}{text}' for name, text in rows.items())]


def _training(checkpoint: dict, args: dict) -> str:
    """What the file says of its training."""
    said = [f'stage {1 if args.get("reparam", "none") == "none" else 2}'] if 'optimizer' in checkpoint else []
    said += [f'{what} {_plain(checkpoint[key])}' for key, what in (('epoch', 'epoch'), ('global_batch', 'iteration'))
             if key in checkpoint]
    wrapper: Any = checkpoint.get('config')
    for key in ('train_dataset', 'wrapper', 'args'):
        wrapper = wrapper.get(key) if isinstance(wrapper, dict) else None
    if isinstance(wrapper, dict) and {'scale_min', 'scale_max'} <= wrapper.keys():
        said.append(f'scales {_plain(wrapper["scale_min"])} to {_plain(wrapper["scale_max"])}')
    return ', '.join(said) or 'the file does not say'


def _plain(value: object) -> str:
    """A value of a file, of which nothing is known, on one short line."""
    return printable(shortened(value, quotes=False))


def _numbers(values: list[float]) -> str:
    return ', '.join(f'{value:g}' for value in values)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
