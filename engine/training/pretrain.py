"""The start of the cumulative stage: a stage-1 checkpoint becomes a re-parameterised network (paper section III-D)."""
from pathlib import Path

from engine.training.ranges import ITERATIONS
from models import released
from models.checkpoint import load_state, read_checkpoint
from models.contract import DEFAULT_NORM, SRModel
from utils import UserError, shortened


def load_stage1(model: SRModel, spec: dict, path: Path) -> tuple[str, int]:
    """Copies a stage-1 checkpoint into `model`; what the file has no tensors for (`fresh_tensors`) keeps its start.

    These are the kernel maps of RIM or RefConv. Without re-parameterisation the network trains on as it is, or has more
    cascades (CLIT).

    Args:
        spec: {'name', 'args'} of the model.
        path: a stage-1 file of ours or in the authors' layout.
    Returns: a line that says what was copied, and the iterations that the file was trained for (0 where it does not say).
    Raises: UserError when anything is left over on either side, or the file is of another method, width or stage.
    """
    checkpoint = read_checkpoint(path, {'model': spec, 'data_norm': model.data_norm})
    theirs, state = released.translate(checkpoint['model'])
    args = theirs['args']
    fems = [_fem(each) for each in (theirs, spec)]
    if released.method(theirs['name']) != released.method(spec['name']):
        raise UserError(f"-pretrain {path}: holds a '{theirs['name']}', but the config's model is '{spec['name']}'")
    if args.get('reparam', 'none') != 'none':
        raise UserError(f"-pretrain {path}: is a second-stage file (reparam: {args['reparam']}); it needs a stage-1 file. "
                        'To continue a second stage use -resume')
    if fems[0] != fems[1]:
        raise UserError(f"-pretrain {path}: its network has fem: {fems[0]}, the config's has fem: {fems[1]}; train with "
                        f'-set model.args.fem={fems[0]}')
    norm = checkpoint.get('data_norm') or DEFAULT_NORM
    if norm != model.data_norm:
        raise UserError(f"-pretrain {path}: was trained with data_norm {norm}, but the config has {model.data_norm}")
    try:
        fresh = model.fresh_tensors(state)
        load_state(model, state, f'-pretrain {path}', fresh=tuple(fresh))
    except UserError as error:
        differing = _differences(*(released.our_spec(each).get('args') or {} for each in (theirs, spec)))
        raise UserError(f'{error}; {differing}' if differing else str(error)) from None
    iterations = checkpoint.get('global_batch', 0)
    if iterations not in ITERATIONS:
        raise UserError(f'-pretrain {path}: global_batch is {shortened(iterations)}, expected {ITERATIONS}')
    line = f'pretrained from {path}: {len(state)} tensors copied, {len(fresh)} start afresh'
    return line, iterations


def _fem(spec: dict) -> str | None:
    """The FEM of an MSIT's spec; None for other methods."""
    spec = released.our_spec(spec)
    return (spec.get('args') or {}).get('fem', 'paper') if spec['name'] == 'msit' else None


def _differences(theirs: dict, ours: dict) -> str:
    """'the file has base_dim: 64; the config base_dim: 256' for the arguments that differ, re-parameterisation excepted."""
    keys = sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key) and not key.startswith('reparam'))

    def listed(args: dict) -> str:
        return ', '.join(f'{key}: {args.get(key, "(default)")}' for key in keys)
    return f'the file has {listed(theirs)}; the config {listed(ours)}' if keys else ''
