"""Checkpoint files → models. Only tensors and plain values are read, so opening a file can run no code."""
import pickle
import stat
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models import released
from models.contract import DEFAULT_NORM, SRModel
from models.layouts import NUMPY_GLOBALS, SAFETENSORS, family_layout, from_safetensors
from models.pickles import as_protocol_2
from models.registries import MODELS
from utils import ROOT, UserError, file_status

ZOO = ROOT / 'modelzoo'
MAX_NUMBERS = 2 ** 31  # parameters and buffers of a network, 8 GiB in float32
MAX_REACH = 2 ** 14    # LR pixels around an output pixel that it may depend on
# functions for whose results on the meta device PyTorch imports its compiler, which takes as long as upscaling a small image
_NOISE = nn.init.normal_, Tensor.normal_
_ARITHMETIC = Tensor.__rpow__, Tensor.add, Tensor.sub, Tensor.mul
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8, torch.int8, torch.int16,
           torch.int32, torch.int64)  # of tensors in files


def find(path: str | Path) -> Path:
    """A checkpoint file, or shipped weights by name: 'MSIT-S' is modelzoo/MSIT-S.pth, 'a/b' modelzoo/a/b.pth."""
    file_status(path)  # refuses names that are too long or hold a NUL byte
    shipped = ZOO / f'{path}.pth'
    return shipped if shipped.is_file() and not Path(path).exists() else Path(path)


def read_checkpoint(path: str | Path, network: dict | None = None) -> dict:
    """The content of a checkpoint file of any known layout, in that of this family of programs, on the CPU.

    Args:
        network: a config, whose `model` and `data_norm` belong to tensors that are stored without them.
    Raises: UserError when the file is missing, is no checkpoint, or carries anything but tensors and plain values.
    """
    path = find(path)
    status = file_status(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        kind = 'a folder' if stat.S_ISDIR(status.st_mode) else 'no regular file'
        raise UserError(f'{path}: is {kind}, expected a checkpoint file')
    if status is None:
        shipped = ', '.join(sorted(file.relative_to(ZOO).with_suffix('').as_posix() for file in ZOO.rglob('*.pth')))
        hint = f'; shipped weights are {shipped}' if not path.suffix and shipped else ''
        raise UserError(f'{path}: no such checkpoint file{hint}')
    try:
        with open(path, 'rb') as file:
            file.read(1)
    except OSError as error:
        raise UserError(f'{path}: cannot be read ({error.strerror})') from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # torch's hints about unusual files; the errors below are clearer
            checkpoint = _load_plain(path)
    except Exception as error:  # a damaged or foreign file makes torch raise anything
        if isinstance(error, pickle.UnpicklingError) and 'global' in str(error).lower():
            raise UserError(f'{path}: not opened, because it carries more than tensors and plain values') from error
        raise UserError(f'{path}: not a checkpoint, or a damaged one') from error
    try:
        known = family_layout(checkpoint, network)
    except UserError as error:
        raise UserError(f'{path}: {error}') from error
    except RecursionError:  # values inside values without end
        known = None
    if known is None:
        raise UserError(f"{path}: expected a checkpoint {{'model': {{'name', 'args', 'sd'}}, …}} of this family of programs")
    return known


def _load_plain(path: Path) -> Any:
    """The content of a file of tensors and plain values, of any protocol of pickle, or of safetensors. Raises what these
    libraries raise."""
    if path.suffix == SAFETENSORS:
        return from_safetensors(path)
    with torch.serialization.safe_globals(NUMPY_GLOBALS):
        try:
            return torch.load(path, map_location='cpu', weights_only=True)
        except pickle.UnpicklingError:
            try:
                translated = as_protocol_2(path)
            except Exception:  # damaged, or of another kind: the first error says more
                translated = None
            if translated is None:
                raise
            return torch.load(translated, map_location='cpu', weights_only=True)


def build(checkpoint: dict, source: str) -> SRModel:
    """The model of a checkpoint's content, weights loaded; `source` names the file in messages.

    Raises: UserError when the model is unknown, or the tensors are not exactly those it needs.
    """
    spec, state = released.translate(checkpoint['model'])
    outline = _outline(spec, f'{source}: model')
    if outline is not None:  # a small file cannot claim a large network
        _check_shapes(outline, state, source)
    model = MODELS.make(spec, f'{source}: model')
    try:
        model.data_norm = checkpoint.get('data_norm', DEFAULT_NORM)
    except UserError as error:
        raise UserError(f'{source}: {error}') from error
    load_state(model, state, source)
    return model


def load_state(model: SRModel, state: dict, source: str, fresh: tuple[str, ...] = ()) -> None:
    """Loads `state`: exactly the tensors of the model, except for those named in `fresh`, which keep their values.

    Raises: UserError that names what is missing, left over, of another shape or not finite.
    """
    needed = _check_shapes(model, state, source, fresh)
    for key, value in needed.items():
        if not state[key].to(value.dtype).isfinite().all():
            raise UserError(f'{source}: {key} holds values that are not finite in {value.dtype}; the file is damaged, or '
                            'its training failed')
    model.load_state_dict(state, strict=False)  # only the tensors in `fresh` are missing
    if model.reach is not None and model.reach > MAX_REACH:
        raise UserError(f'{source}: an output pixel would depend on {model.reach:,} LR pixels around it, expected at most '
                        f'{MAX_REACH:,}; is the stride of its shifts damaged?')


def _check_shapes(model: SRModel, state: dict, source: str, fresh: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors that `state` must have. Raises UserError unless it has exactly these, by name and shape."""
    needed: dict[str, Tensor] = {key: value for key, value in model.state_dict().items() if key not in fresh}
    problems = {
        'missing': [key for key in needed if key not in state],
        'left over': [key for key in state if key not in needed],
        'of another shape': [key for key in needed if key in state and needed[key].shape != dense_shape(state[key])],
    }
    lines = [f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
             for what, keys in problems.items() if keys]
    if lines:
        raise UserError(f"{source}: its tensors are not those of this model: {'; '.join(lines)}")
    return needed


def dense_shape(value: object) -> torch.Size | None:
    """The shape of a dense tensor of real numbers on the CPU; None for any other value: nested, quantised, sparse, …"""
    if (isinstance(value, Tensor) and not value.is_nested and value.layout == torch.strided and value.device.type == 'cpu'
            and value.dtype in _DTYPES):
        return value.shape
    return None


class _Shapes(TorchFunctionMode):
    """On the meta device: of noise, and of a line and a number, the shape alone."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in _NOISE:
            return args[0] if args else kwargs['tensor']
        if function in _ARITHMETIC and not isinstance(args[1], Tensor):
            return args[0]
        return torch.empty(args[2]) if function is torch.linspace else function(*args, **(kwargs or {}))


def _outline(spec: dict, path: str) -> SRModel | None:
    """The model of a spec without memory for its tensors; None for one whose constructor reads values of tensors.

    Raises: UserError with the path of the wrong key, or when the network is too large.
    """
    try:
        with torch.device('meta'), _Shapes():
            outline = MODELS.make(spec, path)
    except UserError as error:
        if isinstance(error.__cause__, (RuntimeError, NotImplementedError)) and 'meta' in str(error.__cause__).lower():
            return None
        raise
    numbers = sum(tensor.numel() for tensor in (*outline.parameters(), *outline.buffers()))
    if numbers > MAX_NUMBERS:
        raise UserError(f'{path}: this network has {numbers:,} parameters, expected at most {MAX_NUMBERS:,}')
    return outline


def make(spec: dict, data_norm: dict | None = None, path: str = 'model') -> SRModel:
    """A model from its spec {'name': …, 'args': {…}}, with fresh weights.

    Args:
        data_norm: {'inp': {'sub': […], 'div': […]}, 'gt': {…}}; 0.5 and 0.5 by default.
        path: of the spec, for messages.
    Raises: UserError with the path of the wrong key.
    """
    _outline(spec, path)
    model = MODELS.make(spec, path)
    model.data_norm = data_norm or DEFAULT_NORM
    return model


def load(path: str | Path, device: str | torch.device = 'cpu', network: dict | None = None) -> SRModel:
    """A model that is ready to use: in eval mode, RIM folded, on `device`.

    Args:
        path: a checkpoint file of ours or of the released programs, the name of shipped weights ('MSIT-S'), or that of a
            model without weights ('bicubic').
        network: {'model': {'name', 'args'}, 'data_norm': …}, for a file that holds tensors alone.
    Raises: UserError when there is no such file, or it is not a checkpoint that fits.
    """
    name = str(path)
    if name in MODELS.entries and not Path(path).exists():
        model = make({'name': name})
        if any(True for _ in model.parameters()):
            raise UserError(f"'{name}' needs weights: give a checkpoint file")
    else:
        model = build(read_checkpoint(path, network), name)
    return model.fold().eval().to(device)
