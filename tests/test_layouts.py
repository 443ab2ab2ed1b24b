"""Checkpoint files of other layouts than ours: each is written as its program writes it, and gives the same network."""
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from lab import slow_except
from test_models import assert_user_error, tiny_decoder, tiny_encoder

import models
from engine.config import TRAIN_KEYS, load_config
from engine.tools.export import export
from engine.training.pretrain import load_stage1
from models import released
from models.checkpoint import build, read_checkpoint
from models.contract import SRModel
from models.layouts import to_safetensors
from utils import UserError

SPEC = {'name': 'liif', 'args': {'encoder_spec': tiny_encoder(no_upsampling=True),
                                 'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [6, 6]}}}}
NORM = {'inp': {'sub': [0.4488, 0.4371, 0.404], 'div': [1.0]}, 'gt': {'sub': [0.4488, 0.4371, 0.404], 'div': [1.0]}}


def made(spec: dict, norm: dict | None = None) -> SRModel:
    torch.manual_seed(0)
    return models.make(spec, norm).eval()


def output(model: SRModel) -> torch.Tensor:
    lr = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(1))
    return model.upscale(lr, (15, 14))


def prefixed(prefix: str, state: dict) -> dict:
    return {prefix + key: value for key, value in state.items()}


def family(state: dict, spec: dict = SPEC) -> dict:
    return {'model': {**spec, 'sd': state}}


def with_numpy(state: dict) -> dict:
    """Arrays of both orders in memory and a byte order, numbers of NumPy, and tuples."""
    arrays = {key: np.asfortranarray(value.numpy()) if value.ndim == 2 else value.numpy().astype('>f8')
              for key, value in state.items()}
    args = {**SPEC['args'], 'cell_decode': np.bool_(True), 'imnet_spec': {
        'name': 'mlp', 'args': {'hidden_list': (np.int64(6), 6)}}, 'encoder_spec': tiny_encoder(
            no_upsampling=True, res_scale=np.float32(1))}
    return {'model': {'name': 'liif', 'args': args, 'sd': arrays}, 'epoch': np.int64(7)}


WHOLE = {  # files that name their network
    'family': family,
    'distributed': lambda state: family(prefixed('module.', state)),
    'compiled': lambda state: family(prefixed('_orig_mod.', state)),
    'compiled and distributed': lambda state: family(prefixed('module._orig_mod.', state)),
    'a part compiled': lambda state: family({key.replace('encoder.', 'encoder._orig_mod.'): value
                                             for key, value in state.items()}),
    'numpy': with_numpy,
    'rgb_range': lambda state: family(state, {'name': 'liif', 'args': {**SPEC['args'], 'encoder_spec': tiny_encoder(
        no_upsampling=True, rgb_range=1)}}),
    'edsr': lambda state: family(state, {'name': 'liif', 'args': {**SPEC['args'], 'encoder_spec': {
        'name': 'edsr', 'args': {'n_resblocks': 1, 'n_feats': 4, 'res_scale': 1, 'no_upsampling': True, 'rgb_range': 1}}}}),
    'mean shift': lambda state: family({**state, 'encoder.sub_mean.weight': torch.eye(3).view(3, 3, 1, 1)}),
}
ALONE = {  # files whose network a config names
    'bare': dict, 'model': lambda state: {'model': state, 'epoch': 3}, 'params': lambda state: {'params': state},
    'params_ema': lambda state: {'params': {key: value + 1 for key, value in state.items()}, 'params_ema': state},
    'state_dict': lambda state: {'meta': {'iter': 3}, 'state_dict': prefixed('module.', state)},
    'bare, distributed': lambda state: {**prefixed('module.', state), 'n_averaged': torch.tensor(3)},
    'ordered': lambda state: type(made(SPEC).state_dict())(state),
}


@pytest.mark.parametrize(('layout', 'protocol'), [*((layout, 2) for layout in WHOLE), ('numpy', 4), ('numpy', 5)])
def test_files_that_name_their_network(tmp_path, layout, protocol):
    model = made(SPEC)
    torch.save(WHOLE[layout](model.state_dict()), tmp_path / 'a.pth', pickle_protocol=protocol)
    assert torch.equal(output(models.load(tmp_path / 'a.pth')), output(model))
    epoch = read_checkpoint(tmp_path / 'a.pth').get('epoch')
    assert epoch == (7 if layout == 'numpy' else None) and type(epoch) in (int, type(None))


@pytest.mark.parametrize('layout', ALONE)
def test_files_of_tensors_alone(tmp_path, layout):
    """With a config they load, and without one the line says how."""
    model, path = made(SPEC, NORM), tmp_path / 'a.pth'
    torch.save(ALONE[layout](model.state_dict()), path)
    assert torch.equal(output(models.load(path, network={'model': SPEC, 'data_norm': NORM})), output(model))
    with assert_user_error('a.pth: holds the tensors of a network', 'engine.export', '-config'):
        models.load(path)
    with assert_user_error('a.pth', 'its tensors are not those of this model'):
        models.load(path, network={'model': {'name': 'metasr', 'args': {'encoder_spec': tiny_encoder(no_upsampling=True)}}})


@pytest.mark.slow
def test_safetensors_in_and_out(tmp_path, tiny_msit):
    """Of this project, with its spec; of others, with a config. Half precision and the training time are kept."""
    save_file = pytest.importorskip('safetensors.torch').save_file
    model = made({**tiny_msit, 'args': {**tiny_msit['args'], 'reparam': 'rim'}}, NORM)
    torch.save({'model': {'name': 'msit', 'args': {**tiny_msit['args'], 'reparam': 'rim'}, 'sd': model.state_dict()},
                'data_norm': NORM, 'epoch': 5}, tmp_path / 'a.pth')
    export(tmp_path / 'a.pth', tmp_path / 'b.safetensors', 'float16')
    export(tmp_path / 'b.safetensors', tmp_path / 'c.pth')
    for file in ('b.safetensors', 'c.pth'):
        content, loaded = read_checkpoint(tmp_path / file), models.load(tmp_path / file)
        assert content['epoch'] == 5 and content['data_norm']['inp']['sub'] == pytest.approx(NORM['inp']['sub'])
        assert (output(loaded) - output(model.fold())).abs().max() < 1e-2
    assert content['model']['sd']['widen.weight'].dtype == torch.float32
    save_file(dict(made(SPEC).state_dict()), tmp_path / 'd.safetensors')
    assert torch.equal(output(models.load(tmp_path / 'd.safetensors', network={'model': SPEC})), output(made(SPEC)))
    with assert_user_error('d.safetensors: holds the tensors of a network'):
        models.load(tmp_path / 'd.safetensors')


@pytest.mark.parametrize('data', [b'', b'x' * 50, b'\xff' * 8 + b'{}', (2 ** 40).to_bytes(8, 'little') + b'{}',
                                  b'\x0b\0\0\0\0\0\0\0{"a": null}', b'\x02\0\0\0\0\0\0\0{}'])
def test_damaged_safetensors(tmp_path, data):
    pytest.importorskip('safetensors')
    (tmp_path / 'a.safetensors').write_bytes(data)
    with assert_user_error('a.safetensors: '):
        models.load(tmp_path / 'a.safetensors')


@pytest.mark.parametrize('text', ['7', '[]', '{"name": 3}', '{"name": "liif", "args": 3}', '[' * 2000, 'x'])
def test_metadata_that_is_none(tmp_path, text):
    save_file = pytest.importorskip('safetensors.torch').save_file
    save_file(dict(made(SPEC).state_dict()), tmp_path / 'a.safetensors', {'model': text})
    with assert_user_error('a.safetensors: '):
        models.load(tmp_path / 'a.safetensors')


# the authors' MSIT

def authors(**args) -> tuple[dict, SRModel]:
    """A file in their layout, and the network."""
    spec = {'name': 'amsit', 'args': tiny_decoder(head=2, r=1, MsC_heads=2, MsSA_q=2, **args)}
    model = made(spec)
    theirs = {}
    for key, value in model.state_dict().items():
        match = next((name for name in CANDIDATES if released.rename('amsit', name) == key), key)
        theirs[match] = value
    return {'model': {**spec, 'sd': theirs}}, model


CANDIDATES = [f'{part}.{kind}' for part in (
    'conv_ch', 'amsno.v', 'amsno.s', 'amsno.Ms_conv_1', 'amsno.Ms_conv_2', 'amsno.sim0', 'amsno.bn', 'amsno.sim1',
    'amsno.proj', 'multi_conv_qs.0.proj0', 'multi_conv_qs.0.local_conv_1', 'multi_conv_qs.0.local_conv_2',
    'multi_conv_qs.0.proj1',
    'multi_conv_qs.0.bn', 'multi_conv_qs.0.proj2', 'conv_vs.0', 'pb_encoder.proj', 'imnets.0.layers.0', 'imnets.0.layers.2')
    for kind in ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')]
CANDIDATES += ['amsno.lem.mix_margin', 'amsno.lem.mask']


def test_files_without_fem_store_its_tensors(tmp_path):
    content, model = authors(use_lem=False, verbose=True)
    content['model']['sd'] |= {'amsno.lem.mask': torch.zeros(8, 1, 3, 3), 'amsno.lem.mix_margin': torch.ones(())}
    torch.save(content, tmp_path / 'a.pth')
    assert torch.equal(output(models.load(tmp_path / 'a.pth')), output(model))


@pytest.mark.parametrize(('use_lem', 'fem'), slow_except([(True, 'authors')], [(True, 'authors'), (False, 'none')]))
def test_pretraining_from_the_authors_stage_1_names_their_fem(tmp_path, use_lem, fem):
    content, model = authors(use_lem=use_lem)
    torch.save(content, tmp_path / 'a.pth')
    args = tiny_decoder(heads=2, radius=1, msc_convs=2, mssa_projections=2, reparam='rim')
    spec = {'name': 'msit', 'args': args}
    with assert_user_error(f'-pretrain {tmp_path}', f'fem: {fem}', 'fem: paper', f'-set model.args.fem={fem}'):
        load_stage1(made(spec), spec, tmp_path / 'a.pth')
    spec = {'name': 'msit', 'args': {**args, 'fem': fem}}
    stage2 = made(spec)
    load_stage1(stage2, spec, tmp_path / 'a.pth')
    assert (output(stage2) - output(model)).abs().max() < 1e-5
    wider = {'name': 'msit', 'args': {**args, 'fem': fem, 'base_dim': 16}}
    with assert_user_error('the file has base_dim: 8; the config base_dim: 16'):
        load_stage1(made(wider), wider, tmp_path / 'a.pth')


@pytest.mark.slow
def test_pretraining_from_tensors_alone(tmp_path, tiny_msit):
    torch.save({'params': made(tiny_msit).state_dict()}, tmp_path / 'a.pth')
    model = models.make(tiny_msit)
    load_stage1(model, tiny_msit, tmp_path / 'a.pth')
    assert torch.equal(output(model), output(made(tiny_msit)))


# CiaoSR's own program

CIAOSR = {'edsr': {'n_resblocks': 2, 'n_feats': 4, 'no_upsampling': True}, 'rdn': {
    'G0': 4, 'RDNconfig': 'A', 'no_upsampling': True}}


def in_mmediting(key: str, encoder: str) -> str:
    """The name of a tensor of ours there."""
    if not key.startswith('encoder.'):
        return f'generator.{key}'
    words = key.split('.')[1:]
    if encoder == 'edsr':
        if words[0] == 'head':
            return f'generator.conv_first.{words[-1]}'
        if words[1] == '2':
            return f'generator.conv_after_body.{words[-1]}'
        return f'generator.body.{words[1]}.conv{1 + int(words[3]) // 2}.{words[-1]}'
    if words[0].startswith('SFENet'):
        return f'generator.sfe{words[0][-1]}.{words[-1]}'
    if words[0] == 'GFF':
        return f'generator.gff.{words[1]}.{words[-1]}'
    middle = 'lff' if words[2] == 'LFF' else f'layers.{words[3]}.conv'
    return f'generator.rdbs.{words[1]}.{middle}.{words[-1]}'


@pytest.mark.parametrize('encoder', slow_except(['edsr'], CIAOSR))
def test_mmeditings_ciaosr(tmp_path, encoder):
    name = {'edsr': 'edsr-baseline'}.get(encoder, encoder)
    spec = {'name': 'ciaosr', 'args': {'encoder_spec': {'name': name, 'args': CIAOSR[encoder]}, 'hidden_list': [4]}}
    model = made(spec, NORM)
    state = {in_mmediting(key, encoder): value for key, value in model.state_dict().items()}
    assert len(state) == len(model.state_dict())
    state |= {'step_counter': torch.tensor(5), 'generator.cs_attn.escape_NaN': torch.tensor([1e-4])}
    torch.save({'meta': {'epoch': 1}, 'state_dict': state}, tmp_path / 'a.pth')
    loaded = models.load(tmp_path / 'a.pth', network={'model': spec, 'data_norm': NORM})
    assert torch.equal(output(loaded), output(model))


# what a stranger may write

@pytest.mark.slow
@pytest.mark.parametrize('args', [
    {'base_dim': 10 ** 9}, {'base_dim': 4096, 'MsC_heads': 1}, {'r': 10 ** 6}, {'base_dim': np.int64(10 ** 9)},
    {'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [4096] * 64}}}])
def test_hostile_arguments_are_refused_before_memory_is_touched(tmp_path, args, monkeypatch):
    """No tensor of more than a million numbers is made on the CPU."""
    content, _ = authors()
    content['model']['args'] |= args
    torch.save(content, tmp_path / 'a.pth')
    checkpoint = read_checkpoint(tmp_path / 'a.pth')
    empty, made_there = torch.empty, []

    def counted(*shape, **options):
        tensor = empty(*shape, **options)
        made_there.append(tensor.numel() if tensor.device.type == 'cpu' else 0)
        return tensor
    monkeypatch.setattr(torch, 'empty', counted)
    with pytest.raises(UserError):
        build(checkpoint, 'a.pth')
    assert sum(made_there) < 10 ** 6


class Calls:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('value', [
    np.array([object()]), np.array(['text']), np.void(b'x'), np.array([1], [('a', 'i4')]), np.datetime64('2020-01-01'),
    Calls(np.zeros, 2 ** 40), Calls(np.dtype, 'O'), Calls(np.dtype, 'V1000000000'), Calls(np.ndarray, (2 ** 40,)),
    Calls(np.fromfile, '/dev/zero')], ids=range(10))
def test_of_numpy_numbers_alone_are_read(tmp_path, value):
    content = family(made(SPEC).state_dict())
    content['model']['args'] = {**SPEC['args'], 'cell_decode': value}
    with open(tmp_path / 'a.pth', 'wb') as file:
        torch.save(content, file, pickle_module=pickle)
    with assert_user_error('a.pth: '):
        models.load(tmp_path / 'a.pth')


def test_a_name_twice(tmp_path):
    state = made(SPEC).state_dict()
    torch.save(family({**state, **prefixed('module.', state)}), tmp_path / 'a.pth')
    with assert_user_error('a.pth: holds two tensors of the same name'):
        models.load(tmp_path / 'a.pth')


# the commands

@pytest.mark.slow
def test_the_config_of_the_commands(tmp_path, train_config):
    config = {**train_config, 'model': SPEC}
    (tmp_path / 'c.yaml').write_text(yaml.safe_dump(config))
    torch.save({'params': made(SPEC).state_dict()}, tmp_path / 'a.pth')
    assert load_config(tmp_path / 'c.yaml', TRAIN_KEYS)['model'] == SPEC

    def call(*words):
        return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    bare, config = tmp_path / 'a.pth', tmp_path / 'c.yaml'
    done = call('-m', 'engine.export', '-model', bare, '-output', tmp_path / 'b.pth')
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and '-config TRAIN.yaml' in done.stderr
    done = call('-m', 'engine.export', '-model', bare, '-config', config, '-output', tmp_path / 'b.pth')
    assert done.returncode == 0 and torch.equal(output(models.load(tmp_path / 'b.pth')), output(made(SPEC)))
    done = call('demo.py', '-model', bare, '-config', config, '-input', 'assets/harbour.png', '-width', '400',
                '-output', tmp_path / 'o.png', '-device', 'cpu')
    assert done.returncode == 0 and (tmp_path / 'o.png').exists(), done.stderr


def test_safetensors_hold_the_model_alone(tmp_path):
    pytest.importorskip('safetensors')
    to_safetensors({**family(made(SPEC).state_dict()), 'optimizer': {'lr': 1}}, tmp_path / 'a.safetensors')
    assert set(read_checkpoint(tmp_path / 'a.safetensors')) == {'model'}
