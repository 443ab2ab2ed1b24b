"""Checkpoint files of strangers, for every command that opens one."""
import builtins
import math
import os
import pickle
import shutil
import warnings
from pathlib import Path
from random import Random

import torch

from tests.hostile.case import Case
from tests.hostile.mutate import changed_often, damaged

COMMANDS = {  # what a command does with bad.pth, and what it writes then
    'demo': (['-input', 'in.png', '-scale', '2', '-model', 'bad.pth', '-output', 'out.png', '-device', 'cpu'], ('out.png',)),
    'test': (['-config', 'test.yaml', '-model', 'bad.pth', '-name', 'x', '-device', 'cpu'], ('test/x/results.json',)),
    'export': (['-model', 'bad.pth', '-output', 'out.pth'], ('out.pth',)),
    'average': (['-models', 'weights.pth', 'bad.pth', '-output', 'out.pth'], ('out.pth',)),
    'grow': (['-model', 'bad.pth', '-config', 'deeper.yaml', '-output', 'out.pth'], ('out.pth',)),
    'train': (['-config', 'train.yaml', '-name', 'x', '-pretrain', 'bad.pth', '-device', 'cpu'], ('save/x/epoch-last.pth',))}


class Runs:
    """An object whose reading runs a command, where it is read as a pickle of anything."""

    def __init__(self, function: object, *arguments: object):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def make(folder: Path, originals: Path, rng: Random) -> Case:
    shutil.copytree(originals / 'data/images', folder / 'data/images')
    shutil.copy(originals / 'data/images/0.png', folder / 'in.png')
    for name in ('weights.pth', 'test.yaml', 'train.yaml', 'deeper.yaml'):
        shutil.copy(originals / name, folder)
    command = rng.choice(list(COMMANDS))
    odd = write(folder / 'bad.pth', originals, rng)
    words, outputs = COMMANDS[command]
    return Case(command=command, words=words, odd=odd, names=('bad.pth', 'the loss', 'the weights'), outputs=outputs,
                writes=('save', 'test', 'out.pth', 'out.png'))


def write(path: Path, originals: Path, rng: Random) -> str:
    """Writes a checkpoint with something wrong; → what it is."""
    file = rng.choice((originals / 'weights.pth', originals / 'weights.pth', originals / 'save/run/epoch-last.pth'))
    content = torch.load(file, weights_only=True)
    kind = rng.choice(('bytes', 'bytes', 'tensor', 'tensor', 'spec', 'spec', 'keys', 'code', 'format', 'norm'))
    if kind == 'bytes':
        data, odd = damaged(file.read_bytes(), rng)
        path.write_bytes(data)
        return odd
    if kind == 'code':
        return _write_code(path, content, rng)
    if kind == 'format':
        protocol, odd = rng.choice((0, 1, 2, 3, 4, 5)), 'an unusual format'
        torch.save(content, path, pickle_protocol=max(protocol, 2), _use_new_zipfile_serialization=rng.random() < 0.5)
        if rng.random() < 0.6:
            data, odd = damaged(path.read_bytes(), rng)
            path.write_bytes(data)
        return f'pickle protocol {protocol}, {odd}'
    state = content['model']['sd']
    if kind == 'tensor':
        key = rng.choice(list(state))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of torch, about the tensors that are made here
            name, state[key] = rng.choice(_tensors(state[key], rng))
        odd = f'{key} is {name}'
    elif kind == 'keys':
        odd = _change_keys(state, rng)
    elif kind == 'spec':
        spec = {key: value for key, value in content['model'].items() if key != 'sd'}
        spec, odd = changed_often(spec, rng)
        content['model'] = {**spec, 'sd': state} if rng.random() < 0.9 else spec
    else:
        rest, odd = changed_often({key: value for key, value in content.items() if key != 'model'} or {'x': 1}, rng)
        content = {**rest, 'model': content['model']}
    try:
        torch.save(content, path)
    except Exception as error:  # what cannot be written is no input: an empty file is
        path.write_bytes(b'')
        return f'no bytes, since {odd} cannot be saved ({type(error).__name__})'
    return odd


def _tensors(value: torch.Tensor, rng: Random) -> list[tuple[str, object]]:
    """Name and value of what may lie in the place of a tensor."""
    shape, spoilt = value.shape, value.double().clone()
    if spoilt.numel():
        spoilt.view(-1)[rng.randrange(spoilt.numel())] = rng.choice((math.nan, math.inf, -math.inf, 1e39, 1e300))
    real = value.float()
    return [
        ('not finite', spoilt.float()), ('huge in float64', spoilt), ('of zeros', torch.zeros_like(value)),
        ('huge', torch.full_like(real, 1e30)), ('tiny', torch.full_like(real, 1e-40)), ('negative', -real.abs() - 1),
        ('transposed', value.t().contiguous() if value.ndim == 2 else value.unsqueeze(0)),
        ('without values', torch.zeros(0)), ('a scalar', torch.tensor(1.0)), ('flat', value.reshape(-1)),
        ('larger', torch.zeros([side + 1 for side in shape])), ('one value repeated', torch.zeros(1).expand(2 ** 40)),
        ('one value as its shape', torch.zeros(1).expand(shape) if shape else torch.zeros(())),
        ('of whole numbers', torch.ones(shape, dtype=torch.int64)), ('boolean', torch.ones(shape, dtype=torch.bool)),
        ('bfloat16', value.bfloat16()), ('float8', real.to(torch.float8_e4m3fn)), ('complex', value.to(torch.complex64)),
        ('sparse', real.to_sparse()), ('quantised', torch.quantize_per_tensor(real, 0.1, 0, torch.qint8)),
        ('nested', torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])),
        ('on no device', torch.zeros(shape, device='meta')), ('a parameter', torch.nn.Parameter(real)),
        ('conjugated', torch.ones(shape, dtype=torch.complex64).conj()), ('negated', torch.ones(
            shape, dtype=torch.complex64).conj().imag), ('a list', [1.0]), ('nothing', None), ('a text', 'x' * 3000),
        ('a number', 7), ('a dict', {'a': value})]


def _change_keys(state: dict, rng: Random) -> str:
    key = rng.choice(list(state))
    kind = rng.choice(('removed', 'renamed', 'added', 'all removed', 'swapped', 'many'))
    if kind == 'removed':
        del state[key]
    elif kind == 'renamed':
        state[rng.choice((f'module.{key}', f'{key}.x', '', 'x' * 5000, '\0', key.upper()))] = state.pop(key)
    elif kind == 'added':
        state[rng.choice(('x', '', 'a\nb', 'é€漢', 7, None, ('a', 1)))] = rng.choice((torch.zeros(2), 3, None))
    elif kind == 'all removed':
        state.clear()
    elif kind == 'many':
        state.update({f'x{number}': 0 for number in range(50_000)})
    else:
        other = rng.choice(list(state))
        state[key], state[other] = state[other], state[key]
    return f'{key}: {kind}'


def _write_code(path: Path, content: dict, rng: Random) -> str:
    """A pickle that would run something, write somewhere, or grow beyond all memory."""
    calls = [Runs(os.system, 'touch ../pwned'), Runs(builtins.exec, 'open("../pwned", "w")'), Runs(open, '../pwned', 'w'),
             Runs(builtins.eval, '1'), Runs(builtins.__import__, 'os'), Runs(bytearray, 2 ** 40),
             Runs(torch.zeros, 2 ** 40), Runs(torch.load, 'weights.pth'), Runs(print, 'x'), Runs(range, 2 ** 60),
             Runs(torch.set_default_dtype, torch.float16), Runs(complex, 1, 2), Runs(set, [1])]
    call = rng.choice(calls)
    where = rng.choice(('alone', 'beside', 'in the model', 'in the arguments', 'as a key'))
    content = {'alone': call, 'beside': {**content, 'x': call}, 'in the model': {**content, 'model': {
        **content['model'], 'sd': call}}, 'in the arguments': {**content, 'model': {
            **content['model'], 'args': {'base_dim': call}}}, 'as a key': {**content, (call,): 1}}[where]
    way = rng.choice(('zip', 'legacy', 'pickle', 'protocol 4', 'protocol 5'))
    try:
        if way == 'pickle':
            path.write_bytes(pickle.dumps(content, rng.choice((0, 2, 5))))
        else:
            torch.save(content, path, pickle_protocol=int(way[-1]) if 'protocol' in way else 2,
                       _use_new_zipfile_serialization=way != 'legacy')
    except Exception:  # not every call can be written in every place
        path.write_bytes(pickle.dumps(call))
    return f'{call.call} {where}, written as {way}'[:200]

