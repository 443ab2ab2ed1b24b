"""`engine.export -format onnx`: onnxruntime gives the outputs of the network at sizes and factors that were not traced."""
import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from conftest import ROOT
from test_layouts import made
from test_models import assert_user_error, tiny_encoder, tiny_inr, tiny_msit_args, unsettled

import models
from common.coords import make_cell, make_grid
from engine.checkpoint import save_checkpoint
from engine.tools.export import export
from engine.tools.onnx import METHODS, PACKAGES, Queries, exported_program

CASES = {  # LR and output sizes
    'x1.5': ((13, 8), (20, 12)), 'x2': ((20, 26), (40, 52)), 'unequal': ((7, 9), (23, 40)), 'x8': ((5, 4), (40, 32))}
SPECS = {'liif': {'name': 'liif', 'args': tiny_inr()}, 'lte': {'name': 'lte', 'args': {**tiny_inr(), 'hidden_dim': 6}},
         'msit': {'name': 'msit', 'args': tiny_msit_args(reparam='rim', reparam_init='random')},
         'authors': {'name': 'msit', 'args': tiny_msit_args(fem='authors')},
         'large kernels': {'name': 'msit', 'args': {**tiny_msit_args(), 'base_dim': 16, 'msc_convs': 8}}}


def queries(case: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch of two, all points of the grid."""
    sides, size = CASES[case]
    lr = torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(0))
    return lr, make_grid(*size).view(1, -1, 2).expand(2, -1, -1).contiguous(), make_cell(*size).expand(2, 2).contiguous()


@pytest.mark.slow
@pytest.mark.parametrize('name', SPECS)
def test_onnxruntime_agrees(tmp_path, name):
    runtime = pytest.importorskip('onnxruntime')
    for package in PACKAGES:
        pytest.importorskip(package)
    model = unsettled(made(SPECS[name]))
    save_checkpoint(tmp_path / 'a.pth', model, SPECS[name])
    export(tmp_path / 'a.pth', tmp_path / 'a.onnx', layout='onnx')
    session = runtime.InferenceSession(tmp_path / 'a.onnx', providers=['CPUExecutionProvider'])
    model = models.load(tmp_path / 'a.pth')
    for case, (_, size) in CASES.items():
        lr, coord, cell = queries(case)
        rgb, = session.run(None, {'lr': lr.numpy(), 'coord': coord.numpy(), 'cell': cell.numpy()})
        rgb = torch.from_numpy(rgb)
        with torch.no_grad():
            assert (rgb - model(lr, coord, cell)).abs().max() < 1e-4
        grid = rgb.clamp(0, 1).view(2, *size, 3).permute(0, 3, 1, 2)
        assert (grid - model.upscale(lr, size)).abs().max() < 1e-4
        single, = session.run(None, {'lr': lr[:1].numpy(), 'coord': coord[:1, 7:8].numpy(), 'cell': cell[:1].numpy()})
        assert (torch.from_numpy(single) - rgb[:1, 7:8]).abs().max() < 1e-5
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata['method'] == SPECS[name]['name'] and json.loads(metadata['data_norm']) == model.data_norm
    assert json.loads(metadata['model'])['args']['encoder_spec'] == tiny_encoder(no_upsampling=True)
    said = ' '.join(metadata.values())
    assert all(word in said for word in ('[-1, 1]', '(2 / height, 2 / width)', 'not clamped', 'float64'))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['lte', 'msit'])
def test_torch_export_agrees(name):
    model = unsettled(made(SPECS[name])).fold()
    with torch.no_grad():
        program = exported_program(model, SPECS[name]).module()
        for case in CASES:
            assert (program(*queries(case)) - Queries(model)(*queries(case))).abs().max() < 1e-5


@pytest.mark.parametrize(('spec', 'words', 'needed'), [
    ({'name': 'metasr', 'args': {'encoder_spec': tiny_encoder(no_upsampling=True)}}, "'metasr' with encoder 'edsr", ()),
    ({'name': 'liif', 'args': {'encoder_spec': tiny_encoder(scale=2)}}, 'cannot be exported as a graph', ()),
    ({'name': 'bicubic', 'args': {}}, "'bicubic' cannot be exported", ()),
    pytest.param({'name': 'lte', 'args': {**tiny_inr(), 'hidden_dim': 6, 'encoder_spec': {'name': 'swinir', 'args': {
        'embed_dim': 6, 'depths': [1], 'num_heads': [1], 'window_size': 4}}}}, "'lte' with encoder 'swinir'", ('timm',),
                 marks=pytest.mark.slow)])
def test_what_cannot_be_exported_is_refused_by_name(tmp_path, spec, words, needed):
    if not all(map(find_spec, (*PACKAGES, *needed))):
        pytest.skip('the packages are not installed')
    save_checkpoint(tmp_path / 'a.pth', made(spec), spec)
    with assert_user_error('a.pth: ', words, f"expected one of {', '.join(METHODS)}"):
        export(tmp_path / 'a.pth', tmp_path / 'a.onnx', layout='onnx')
    assert not (tmp_path / 'a.onnx').exists()


@pytest.mark.parametrize(('options', 'words'), [
    ({'dtype': 'float16'}, '-dtype float16: an ONNX file is written in float32'), ({'target': 'a.pth'}, 'expected .onnx')])
def test_wrong_options(tmp_path, options, words):
    save_checkpoint(tmp_path / 'in.pth', made(SPECS['liif']), SPECS['liif'])
    with assert_user_error(words):
        target = tmp_path / options.get('target', 'a.onnx')
        export(tmp_path / 'in.pth', target, options.get('dtype', 'float32'), layout='onnx')


@pytest.mark.slow
def test_a_missing_package_is_named(tmp_path):
    """In an interpreter that finds neither the packages nor anything else beside PyTorch's and the project's own."""
    save_checkpoint(tmp_path / 'a.pth', made(SPECS['liif']), SPECS['liif'])
    code = ('import sys, importlib.util as u; find = u.find_spec\n'
            'u.find_spec = lambda name, *rest: None if name == "onnx" else find(name, *rest)\n'
            'import runpy; sys.argv = ["export", *sys.argv[1:]]; runpy.run_module("engine.export", run_name="__main__")')
    done = subprocess.run([sys.executable, '-c', code, '-model', tmp_path / 'a.pth', '-format', 'onnx', '-output',
                           tmp_path / 'a.onnx'], cwd=ROOT, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 2 and 'a.pth: -format onnx: needs more packages: pip install onnx' in done.stderr
