"""Deepens a trained EDSR encoder without changing what it computes:

    python -m engine.grow -model modelzoo/MSIT-S.pth -config CONFIG.yaml -output save/start.pth

The config's network has more residual blocks and is otherwise that of the file. Each added block starts as the identity (the
kernel and bias of its second convolution are zero; Net2Net, arXiv 1511.05641), so training with `-pretrain save/start.pth`
goes on from where the smaller network stands. With `-fresh-decoder` the encoder alone is taken over: all else is the
config's, another method even, and starts anew.
"""
import re
from pathlib import Path

import torch

from common.cli import Parser, run
from engine.checkpoint import save_checkpoint
from engine.config import TRAIN_KEYS, load_config
from models import released
from models.checkpoint import load_state, make, read_checkpoint
from models.encoders.edsr import EDSR
from utils import UserError, seed_everything

BLOCK = re.compile(r'encoder\.body\.\d+\.body\.')  # of a residual block
LAST = re.compile(r'(encoder\.body\.)\d+\.(weight|bias)')  # the convolution after them


def grow(source: str | Path, spec: dict, target: str | Path, fresh_decoder: bool = False, seed: int = 0) -> int:
    """Writes checkpoint `source`, deepened to the model of `spec`, to `target`, atomically; returns the blocks added.

    Args:
        fresh_decoder: take over nothing but the encoder, which need not be deepened then.
        seed: of what starts anew.
    Raises: UserError when the encoder is no EDSR, or has no more blocks than the file's, or anything else differs.
    """
    checkpoint = read_checkpoint(source)
    _, state = released.translate(checkpoint['model'])
    seed_everything(seed)
    model = make(spec, checkpoint.get('data_norm'))
    if not isinstance(model.encoder, EDSR):
        raise UserError(f"only EDSR encoders are deepened; the config's is a {type(model.encoder).__name__}")
    had = len({found[0] for found in map(BLOCK.match, state) if found})
    blocks = len(model.encoder.body) - 1
    if had > blocks or (had == blocks and not fresh_decoder):
        raise UserError(f'{source}: has {had} residual blocks, the config {blocks}; expected '
                        f"{'no more' if fresh_decoder else 'fewer'} in the file")
    state = {LAST.sub(rf'\g<1>{blocks}.\2', key): value for key, value in state.items()}
    for number in range(had, blocks):
        block = model.encoder.body[number]
        torch.nn.init.zeros_(block.body[2].weight)
        torch.nn.init.zeros_(block.body[2].bias)
        state |= {f'encoder.body.{number}.{key}': value for key, value in block.state_dict().items()}
    if fresh_decoder:
        state = {key: value for key, value in state.items() if key.startswith('encoder.')}
        state |= {key: value for key, value in model.state_dict().items() if not key.startswith('encoder.')}
    load_state(model, state, source)
    save_checkpoint(target, model, spec, global_batch=checkpoint.get('global_batch', 0))
    return blocks - had


def main() -> None:
    parser = Parser(prog='python -m engine.grow', description='Deepens a trained EDSR encoder: same function, more blocks.')
    parser.option('model', required=True, metavar='FILE', help='a stage-1 checkpoint')
    parser.option('config', required=True, metavar='FILE', help='training config of the deeper network')
    parser.option('output', required=True, metavar='FILE', help='file to write, for -pretrain')
    parser.option('fresh-decoder', action='store_true', help='take over the encoder alone')
    options = parser.parse_args()
    config = load_config(options.config, TRAIN_KEYS)
    added = grow(options.model, config['model'], options.output, options.fresh_decoder, config.get('seed', 0))
    print(f'{options.model} -> {options.output}: {added} residual blocks added')


if __name__ == '__main__':
    run(main)
