"""Layouts of checkpoint files → that of this family of programs, {'model': {'name', 'args', 'sd'}, …}.

Read are
    {'model': {'name', 'args', 'sd'}, …}                                  LIIF, LTE, CLIT, SRNO, MSIT and this project
    {'model': state}, {'params_ema': state}, {'params': state}, {'state_dict': state}, or the state alone: a config names the
                                                                          network; BasicSR, mmediting and others
    safetensors                                                           with what `to_safetensors` writes, or a config
with the prefixes that wrappers of PyTorch give to the names of tensors, and with NumPy's numbers and arrays.
"""
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils import UserError

SAFETENSORS = '.safetensors'
_STATES = ('params_ema', 'params', 'state_dict', 'model')  # where a state is looked for, before the file itself
_WRAPPERS = re.compile(r'^((module|_orig_mod)\.)+|(?<=\.)_orig_mod\.')  # DistributedDataParallel, torch.compile
_KEPT = ('model', 'data_norm', 'epoch', 'global_batch')  # of a file, in the metadata of safetensors


class _Type:
    """A pickled numpy.dtype: numbers alone, never objects."""

    def __init__(self, name: str, *_: Any):
        self.dtype = np.dtype(str(name))
        if self.dtype.kind not in 'biuf':
            raise ValueError(f'NumPy type {name}')

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ('<', '>'):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """A pickled numpy.ndarray of numbers; nothing of the file's size is taken for granted."""

    value: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        flat = np.frombuffer(bytes(data), kind.dtype)
        value = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
        self.value = value.astype(kind.dtype.newbyteorder('='))


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(kind: _Type, data: bytes) -> Any:
    return np.frombuffer(bytes(data), kind.dtype, 1)[0].item()


def _from_buffer(data: bytes, kind: _Type, shape: tuple, order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, kind, order == 'F', data))
    return array


# what the pickles of NumPy's numbers and arrays may call, and what is called in its place
NUMPY_GLOBALS: list[Any] = [
    (_Type, 'numpy.dtype'), (_Array, 'numpy.ndarray'),
    *((function, f'numpy.{core}.{name}') for core in ('core', '_core') for function, name in (
        (_reconstruct, 'multiarray._reconstruct'), (_scalar, 'multiarray.scalar'), (_from_buffer, 'numeric._frombuffer')))]


def family_layout(content: Any, network: dict | None = None) -> dict | None:
    """The content of a file in the layout of this family; None where it is no checkpoint.

    Args:
        network: a config, whose `model` and `data_norm` belong to a state that is stored without them.
    Raises: UserError where such a state is alone.
    """
    if not isinstance(content, dict):
        return None
    model = content.get('model')
    if not (isinstance(model, dict) and 'sd' in model):
        state = next((content[key] for key in _STATES if _is_state(content.get(key))), content)
        if not _is_state(state):
            return None
        if network is None:
            raise UserError('holds the tensors of a network, but not its name and arguments; give a training config that '
                            'names it: python -m engine.export -model FILE -config TRAIN.yaml -output NEW.pth')
        spec = network['model']
        model = {'name': spec['name'], 'args': spec.get('args'), 'sd': state}
        norm = {'data_norm': network['data_norm']} if 'data_norm' in network else {}
        content = {**norm, **{key: content[key] for key in ('epoch', 'global_batch') if key in content}}
    if not (isinstance(model.get('name'), str) and isinstance(model.get('args'), (dict, type(None)))
            and isinstance(model['sd'], dict) and all(isinstance(key, str) for key in model['sd'])):
        return None
    state = {_WRAPPERS.sub('', key): _tensor(value) for key, value in model['sd'].items()}
    if len(state) < len(model['sd']):
        raise UserError('holds two tensors of the same name, with and without the prefix of a wrapper')
    plain = {key: _without_arrays(content[key]) for key in _KEPT[1:] if key in content}
    args = _lists(_without_arrays(model.get('args')))
    return {**content, **plain, 'model': {'name': model['name'], 'args': args, 'sd': state}}


def _is_state(value: Any) -> bool:
    """Whether a value is a dict of named tensors, with a matrix or a kernel among them."""
    return isinstance(value, dict) and bool(value) and all(
        isinstance(key, str) and isinstance(item, (Tensor, _Array)) for key, item in value.items())


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value.value) if isinstance(value, _Array) else value


def _without_arrays(value: Any) -> Any:
    """Plain values, with lists in the place of NumPy's arrays."""
    if isinstance(value, _Array):
        return value.value.tolist()
    if isinstance(value, dict):
        return {key: _without_arrays(item) for key, item in value.items()}
    return type(value)(map(_without_arrays, value)) if type(value) in (list, tuple) else value


def _lists(value: Any) -> Any:
    """Plain values, with lists in the place of tuples."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


# safetensors

def from_safetensors(path: Path) -> dict:
    """The content of a safetensors file; without metadata of ours its state alone. Raises what safetensors raises."""
    from safetensors import safe_open
    with safe_open(path, 'pt') as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no dict)
        metadata = file.metadata() or {}
    content = {key: json.loads(metadata[key]) for key in _KEPT if key in metadata}
    if not isinstance(content.get('model'), dict):
        return state
    return {**content, 'model': {**content['model'], 'sd': state}}


def to_safetensors(content: dict, path: Path) -> None:
    """Writes a checkpoint's model; its spec, normalisation and training time are the file's metadata, as JSON."""
    from safetensors.torch import save_file
    spec = {key: value for key, value in content['model'].items() if key != 'sd'}
    metadata = {key: json.dumps(spec if key == 'model' else content[key]) for key in _KEPT if key in content}
    save_file({key: value.contiguous().clone() for key, value in content['model']['sd'].items()}, path, metadata)
