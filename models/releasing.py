"""Our models → files that the released programs load: `models/released.py` the other way round.

Their programs compare every tensor by name, those that they never use among them: the mean shift of EDSR and RCAN, the FEM
that `use_lem: False` switches off, and what SwinIR stores for an LR image of 48×48.
"""
import re
from typing import Any

import torch
from torch import Tensor, nn

from models.contract import SRModel
from models.msit.fem import AuthorsFEM
from models.released import AMSIT_ARGUMENTS, AMSIT_FIXED, AMSIT_NAMES, our_spec
from utils import UserError

MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, in the mean shift
SHIFTED = ('edsr', 'edsr-baseline', 'rcan')  # encoders whose programs store it
TRAINING_SIDE = 48  # LR pixels, of SwinIR's stored masks
PLAIN = {  # models that carry the same names there, and the arguments that their programs know
    'liif': ('encoder_spec', 'imnet_spec', 'local_ensemble', 'feat_unfold', 'cell_decode'),
    'metasr': ('encoder_spec',), 'lte': ('encoder_spec', 'imnet_spec', 'hidden_dim')}
# arguments of MSIT that the authors' program has at one value only
MSIT_FIXED = {'sim': True, 'attention': 'mssa', 'value_projections': 1}


def released_content(model: SRModel, spec: dict) -> dict:
    """The 'model' entry of a released file: name, arguments and tensors of the official program.

    Args:
        model: folded.
        spec: {'name', 'args'} of the model.
    Raises: UserError for a model, or an argument, that no released program has.
    """
    spec = our_spec(spec)
    name, args = spec['name'], spec.get('args') or {}
    state = dict(model.state_dict())
    if name == 'msit':
        name, args, state = 'amsit', _amsit_arguments(args), _amsit_state(state, args)
    elif name in PLAIN:
        args = {key: value for key, value in args.items() if key in PLAIN[name]}
    else:
        raise UserError(f"'{name}' cannot be written in the released format; expected one of {', '.join((*PLAIN, 'msit'))}")
    stored = _stored_by_encoders(args['encoder_spec'], model)
    return {'name': name, 'args': args, 'sd': {**{f'encoder.{key}': value for key, value in stored.items()}, **state}}


def _amsit_arguments(args: dict) -> dict:
    """Arguments of MSIT under the authors' names."""
    for key, value in MSIT_FIXED.items():
        if args.get(key, value) != value:
            raise UserError(f'{key}: {args[key]} cannot be written in the released format: the program knows {value} alone')
    if args.get('fem', 'paper') == 'paper':
        raise UserError("fem: paper cannot be written in the released format: the authors' program shifts by fixed kernels; "
                        'only networks with fem: authors or none can')
    theirs = {ours: name for name, ours in AMSIT_ARGUMENTS.items()}
    skipped = (*MSIT_FIXED, 'fem', 'reparam', 'reparam_init')
    return {**{theirs.get(key, key): value for key, value in args.items() if key not in skipped}, **AMSIT_FIXED,
            'use_lem': args['fem'] == 'authors'}


def _amsit_state(state: dict[str, Tensor], args: dict) -> dict[str, Tensor]:
    """Tensors of MSIT under the authors' names, with a FEM."""
    if args['fem'] == 'none':
        fem = AuthorsFEM(args.get('base_dim', 256))
        state = {**state, 'msno.fem.stride': fem.stride, 'msno.fem.kernels': fem.kernels}
    return {_amsit_name(key): value for key, value in state.items()}


def _amsit_name(key: str) -> str:
    """The authors' name of one of our tensors; numbers count from one there."""
    for pattern, ours in AMSIT_NAMES:
        match = re.match(re.escape(ours).replace(r'\{\}', r'(\d+)') + ('$' if not ours.endswith('.') else ''), key)
        if match:
            theirs = pattern.removeprefix('^').removesuffix('$').replace(r'\.', '.')
            for number in match.groups():
                theirs = theirs.replace(r'(\d+)', str(int(number) + 1), 1)
            return theirs + key[match.end():]
    return key


def _stored_by_encoders(encoder_spec: dict, model: Any) -> dict[str, Tensor]:
    """What the released programs store of an encoder beside our tensors."""
    stored: dict[str, Tensor] = {}
    if encoder_spec['name'] in SHIFTED:
        scale = (encoder_spec.get('args') or {}).get('rgb_range', 1)
        for name, sign in (('sub_mean', -1), ('add_mean', 1)):
            stored |= {f'{name}.weight': torch.eye(3).view(3, 3, 1, 1), f'{name}.bias': sign * scale * torch.tensor(MEAN)}
    for path, module in model.encoder.named_modules():
        if hasattr(module, 'relative_position_index'):
            stored[f'{path}.relative_position_index'] = module.relative_position_index
            if module.shift:
                stored[f"{path.removesuffix('.attn')}.attn_mask"] = _attention_mask(module)
    return stored


def _attention_mask(attention: nn.Module) -> Tensor:
    """The mask of shifted windows of an LR image of 48×48: (windows, N, N), 0 and −100."""
    window: Any = attention.window
    shift: Any = attention.shift
    line = torch.arange(TRAINING_SIDE)
    side = (line >= TRAINING_SIDE - window).long() + (line >= TRAINING_SIDE - shift)  # 0, 1, 2 along an axis
    parts = (3 * side[:, None] + side).unflatten(0, (-1, window)).unflatten(2, (-1, window))   # (i, w, j, w)
    parts = parts.transpose(1, 2).flatten(0, 1).flatten(1)                           # (windows, N)
    return torch.where(parts.unsqueeze(1) == parts.unsqueeze(2), 0.0, -100.0)
