"""Deepens a trained encoder without changing what it computes:

    python -m engine.grow -model modelzoo/MSIT-S.pth -config CONFIG.yaml -output save/start.pth

The network of the config has more residual blocks than that of the file and is otherwise the same. The added blocks start as
the identity (Net2Net, arXiv 1511.05641), so training with `-pretrain save/start.pth` continues from the function of the
smaller network. Encoders that can be deepened implement `Encoder.deepened_state`. With `-fresh-decoder` only the encoder is
taken from the file; the decoder, which may be of another method, starts afresh.
"""
from pathlib import Path
from typing import Any

import torch

from common.cli import Parser
from common.coords import make_cell, make_grid
from engine.checkpoint import save_checkpoint
from engine.config import TRAIN_KEYS, load_config
from models.checkpoint import build, load_state, make, read_checkpoint
from models.contract import SRModel
from utils import UserError, check_output, seed_everything

_ENCODER = 'encoder.'  # names of the encoder's tensors in a model's state begin so
_PROBE = 12            # side of the LR image on which the two networks are compared, in pixels


def grow(source: str | Path, spec: dict, target: str | Path, fresh_decoder: bool = False, seed: int = 0,
         title: str = 'model') -> int:
    """Writes checkpoint `source`, deepened to the model of `spec`, to `target`, atomically; returns the blocks added.

    Args:
        fresh_decoder: take only the encoder from the file; it may then have as many blocks as the config.
        seed: for the tensors that start afresh.
        title: of the spec, for messages.
    Raises: UserError when a model has no encoder, when the encoder cannot be deepened or has no more blocks than that of the
        file, or when the two networks differ in anything else.
    """
    check_output(target, ('.pth', '.pt'))
    checkpoint = read_checkpoint(source)
    small = build(checkpoint, str(source))
    seed_everything(seed)
    large = make(spec, checkpoint.get('data_norm'), title)
    encoder, deeper = _encoder(small, f'{source}: its model'), _encoder(large, f"the config's model '{spec['name']}'")

    state = {key: value for key, value in small.state_dict().items() if not key.startswith(_ENCODER)}
    try:
        deepened, added = deeper.deepened_state(encoder.state_dict())
    except UserError as error:
        raise UserError(f'{source}: {error}') from error
    if not added and not fresh_decoder:
        raise UserError(f"{source}: its encoder has as many blocks as the config's; expected fewer in the file")
    if fresh_decoder:
        state = {key: value for key, value in large.state_dict().items() if not key.startswith(_ENCODER)}
    load_state(large, state | {_ENCODER + key: value for key, value in deepened.items()}, str(source))
    if not _same_function(small, large, fresh_decoder):
        raise UserError(f"{source}: its {'encoder' if fresh_decoder else 'network'} computes something else than the "
                        "config's; expected the same arguments in both, except the number of blocks")
    save_checkpoint(target, large, spec, global_batch=checkpoint.get('global_batch', 0))
    return added


def _encoder(model: SRModel, title: str) -> Any:
    """The encoder of a model; `title` names the model in the message."""
    encoder = getattr(model, 'encoder', None)
    if encoder is None:
        raise UserError(f'{title} has no encoder to deepen; expected a model with an encoder_spec')
    return encoder


@torch.no_grad()
def _same_function(small: SRModel, large: SRModel, encoder_only: bool) -> bool:
    """Whether two models, or their encoders, agree on an image of noise. Arguments without tensors can make a difference."""
    lr = torch.rand(1, 3, _PROBE, _PROBE, generator=torch.Generator().manual_seed(0))
    coord, cell = make_grid(2 * _PROBE, 2 * _PROBE).view(1, -1, 2), make_cell(2 * _PROBE, 2 * _PROBE).unsqueeze(0)
    one, other = (_encoder(model.eval(), '').features(lr) if encoder_only else model.eval()(lr, coord, cell)
                  for model in (small, large))
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def main() -> None:
    parser = Parser(prog='python -m engine.grow', description='Deepens a trained encoder: same function, more blocks.')
    parser.option('model', required=True, metavar='FILE', help='a stage-1 checkpoint')
    parser.option('config', required=True, metavar='FILE', help='training config of the deeper network')
    parser.option('output', required=True, metavar='FILE', help='file to write, for -pretrain')
    parser.option('fresh-decoder', action='store_true', help='take only the encoder from the file')
    options = parser.parse_args()
    config = load_config(options.config, TRAIN_KEYS)
    added = grow(options.model, config['model'], options.output, options.fresh_decoder, config.get('seed', 0),
                 f'{options.config}: model')
    print(f'{options.model} -> {options.output}: {added} residual blocks added')
