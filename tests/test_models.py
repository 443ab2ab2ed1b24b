"""Whole models: released outputs, parameter counts, the contract of every registered model, errors, checkpoint files."""
import inspect
import pickle
import re
import shutil
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import torch
from torch import nn

import models
from common import coords
from common.ranges import AtMost
from common.registry import Registry
from engine.checkpoint import save_checkpoint
from engine.config import TRAIN_KEYS, load_config
from models import checkpoint, released, upscale
from models.checkpoint import build, read_checkpoint
from models.contract import SRModel
from models.msit.rim import RefConv2d, RIMConv2d
from models.registries import MODELS
from utils import UserError, count_parameters

CONFIGS = Path(__file__).resolve().parent.parent / 'configs/train'
NORM = {'inp': {'sub': [0.25, 0.5, 0.75], 'div': [0.5, 0.25, 1.0]}, 'gt': {'sub': [0.25], 'div': [2.0]}}


# helpers

def tiny_encoder(**args) -> dict:
    return {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 4, **args}}


def tiny_decoder(**args) -> dict:
    """The arguments that 'msit', 'amsit' and 'clit' share, at toy size."""
    return {
        'base_dim': 8, 'encoder_spec': tiny_encoder(no_upsampling=True),
        'pb_spec': {'name': 'posenc', 'args': {'enc_dims': 8}},
        'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [12], 'act': 'gelu'}}, **args,
    }


def tiny_msit_args(**args) -> dict:
    return tiny_decoder(heads=2, radius=1, msc_convs=2, mssa_projections=2, **args)


def tiny_inr(**args) -> dict:
    """An encoder and an MLP: what most decoders need, at toy size."""
    return {'encoder_spec': tiny_encoder(no_upsampling=True),
            'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [12, 12]}}, **args}


# A small spec's arguments for every registered model that can upscale: a list of variants, the first the plainest.
TINY = {
    'bicubic': [{}],
    'edsr-baseline': [tiny_encoder(scale=2)['args'], tiny_encoder(scale=3, res_scale=0.5)['args'],
                      tiny_encoder(scale=4)['args']],
    'rdn': [{'G0': 4, 'RDNconfig': 'A', 'scale': 2}],
    'msit': [tiny_msit_args(), tiny_msit_args(fem='authors'), tiny_msit_args(fem='none', sim=False, cell_decode=False),
             tiny_msit_args(attention='conventional'), tiny_msit_args(value_projections=2), tiny_msit_args(reparam='rim'),
             tiny_msit_args(reparam='refconv', attention='conventional'),
             tiny_msit_args(reparam='rim', reparam_init='random')],
    'amsit': [tiny_decoder(head=2, r=1, MsC_heads=2, MsSA_q=2)],
    'ciaosr': [{'encoder_spec': tiny_encoder(no_upsampling=True), 'hidden_list': [6]},
               {'encoder_spec': tiny_encoder(no_upsampling=True), 'hidden_list': [6], 'non_local_attn': False}],
    'clit': [tiny_decoder(head=2, r=1), tiny_decoder(head=2, r=1, imnet_num=3, conv_num=3, scale_base=1.5),
             tiny_decoder(head=4, r=2, imnet_num=2, conv_num=2, scale_base=2, is_cell=False)],
    'liif': [tiny_inr(), tiny_inr(local_ensemble=False),
             tiny_inr(feat_unfold=False, cell_decode=False),
             {'encoder_spec': tiny_encoder(scale=2)}],
    'metasr': [{'encoder_spec': tiny_encoder(no_upsampling=True)}],
    'ultrasr': [{'encoder_spec': tiny_encoder(no_upsampling=True), 'enc_dims': 8, 'width': 8, 'depth': 3},
                {'encoder_spec': tiny_encoder(no_upsampling=True), 'enc_dims': 8, 'width': 8, 'depth': 3, 'residual': True,
                 'cell_decode': True}],
    'ipe': [tiny_inr(octaves=3),
            tiny_inr(octaves=3, times_pi=True, keep_offset=True, cell_decode=True)],
    'lte': [{**tiny_inr(), 'hidden_dim': 6}],
    'sronet': [{'encoder_spec': tiny_encoder(no_upsampling=True), 'width': 8, 'blocks': 2}],
    'srno': [{'encoder_spec': tiny_encoder(no_upsampling=True), 'width': 6, 'blocks': 3}],
    'lte-fast': [{'encoder_spec': tiny_encoder(no_upsampling=True), 'hidden_dim': 6, 'num_layer': 2}],
}

TOGETHER = ('sronet', 'srno')  # their queries attend to each other


def super_resolves(entry) -> bool:
    """Whether a registered entry makes an SRModel; anything but a class that is none counts."""
    return not (inspect.isclass(entry) and not issubclass(entry, SRModel))


def variants(name: str) -> list[dict]:
    if name not in TINY:
        pytest.fail(f"the model '{name}' is registered, but has no tiny spec: add one to TINY in tests/test_models.py")
    return TINY[name]


def unsettled(model: SRModel, seed: int = 3) -> SRModel:
    """Moves every tensor off its start, by noise in proportion to what it holds, so that no part is idle; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith('fem.stride'):
                tensor.fill_(1.25)
            elif tensor.is_floating_point() and not key.endswith('fem.kernels'):
                size = tensor.std().item() if tensor.numel() > 1 and tensor.std() > 0 else 0.3
                tensor.add_(torch.randn(tensor.shape, generator=generator) * size * 0.3)
    return model.eval()


def variant(name: str, index: int) -> SRModel:
    torch.manual_seed(3)
    return unsettled(models.make({'name': name, 'args': variants(name)[index]}))


def image(batch: int = 1, height: int = 7, width: int = 9) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(4))


def sizes(model: SRModel, height: int = 7, width: int = 9) -> list[tuple[int, int]]:
    """×1, a whole factor, and unequal, non-integer factors; or the only one."""
    if model.fixed_scale:
        return [(model.fixed_scale * height, model.fixed_scale * width)]
    return [(height, width), (2 * height, 2 * width), (16, 31), (height, 31)]


def grid(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All coordinates (1, h·w, 2) and the cell (1, 2) of an output grid, written out."""
    points = [(-1 + (2 * y + 1) / height, -1 + (2 * x + 1) / width) for y in range(height) for x in range(width)]
    return torch.tensor(points, dtype=torch.float64)[None], torch.tensor([[2 / height, 2 / width]], dtype=torch.float64)


def assert_user_error(*fragments: str):
    """The block raises a UserError of one line that contains every fragment."""
    pattern = ''.join(f'(?=.*{re.escape(fragment)})' for fragment in fragments)
    return pytest.raises(UserError, match=rf'\A{pattern}[^\n]*\Z')


EVERY = pytest.mark.parametrize('name', sorted(name for name, entry in MODELS.entries.items() if super_resolves(entry)))
EVERY_VARIANT = pytest.mark.parametrize('name, index', [
    pytest.param(name, i, id=f'{name}-{i}') for name, entry in sorted(MODELS.entries.items()) if super_resolves(entry)
    for i in range(len(TINY.get(name, [None])))])


# released outputs

def golden(shared, name: str) -> tuple[SRModel, dict[str, torch.Tensor], torch.Tensor]:
    """The loaded model, the arrays of its file, and the LR image in [0, 1]."""
    arrays = {key: torch.from_numpy(value) for key, value in np.load(shared / f'golden/{name}.npz').items()}
    return models.load(shared / f'golden/{name}.pth'), arrays, arrays['inp'] * 0.5 + 0.5


def assert_golden(rgb: torch.Tensor, expected: torch.Tensor) -> None:
    """RGB in [0, 1] against an output in [−1, 1]."""
    assert rgb.shape == expected.shape
    assert (2 * rgb - 1 - expected).abs().max() < 1e-4


@pytest.mark.parametrize('output, size', [('out_a', (27, 33)), ('out_b', (23, 40))])
def test_released_msit_on_whole_grids(shared, output, size):
    model, arrays, lr = golden(shared, 'msit_edsr')
    expected = arrays[output]
    with torch.no_grad():
        assert_golden(model(lr, *grid(*size)).view(1, *size, 3), expected)
    upscaled = model.upscale(lr, size).permute(0, 2, 3, 1)
    assert_golden(upscaled, expected.clamp(-1, 1))


def test_released_msit_on_scattered_coordinates(shared):
    model, arrays, lr = golden(shared, 'msit_edsr')
    with torch.no_grad():
        assert_golden(model(lr, arrays['query'], arrays['cell']), arrays['out_query'])


@pytest.mark.parametrize('name, scale', [('edsr_x2', 2), ('edsr_x3', 3), ('rdn_x4', 4)])
def test_released_fixed_scale_networks(shared, name, scale):
    model, arrays, lr = golden(shared, name)
    size = (9 * scale, 11 * scale)
    assert model.fixed_scale == scale
    with torch.no_grad():
        rgb = model(lr, *grid(*size)).view(1, *size, 3).permute(0, 3, 1, 2)
    assert_golden(rgb, arrays['out'])
    assert_golden(model.upscale(lr, size), arrays['out'].clamp(-1, 1))


def test_released_names_cover_every_tensor(shared):
    checkpoint = read_checkpoint(shared / 'golden/msit_edsr.pth')
    theirs = [key for key in checkpoint['model']['sd'] if 'sub_mean' not in key and 'add_mean' not in key]
    own = set(build(checkpoint, 'file').state_dict())
    assert {released.rename('amsit', key) for key in theirs} == own
    assert {key for key in theirs if key in own} == {key for key in theirs if key.startswith('encoder.')}
    for pattern, _ in released.AMSIT_NAMES:
        assert any(re.match(pattern, key) for key in theirs), f'{pattern} meets no tensor of the released file'


@pytest.mark.parametrize('theirs, ours', [
    ('conv_ch.weight', 'widen.weight'),
    ('amsno.v.weight', 'msno.modulation.weight'),
    ('amsno.s.weight', 'msno.embed.weight'),
    ('amsno.lem.mix_margin', 'msno.fem.stride'),
    ('amsno.lem.mask', 'msno.fem.kernels'),
    ('amsno.Ms_conv_1.convmap.weight', 'msno.msc.convs.0.convmap.weight'),
    ('amsno.Ms_conv_16.bias', 'msno.msc.convs.15.bias'),
    ('amsno.sim0.weight', 'msno.sim.within.weight'),
    ('amsno.bn.running_var', 'msno.sim.bn.running_var'),
    ('amsno.sim1.bias', 'msno.sim.across.bias'),
    ('amsno.proj.bias', 'msno.proj.bias'),
    ('multi_conv_qs.0.proj0.weight', 'mssa.query_map.proj.weight'),
    ('multi_conv_qs.0.local_conv_4.linear.weight', 'mssa.query_map.msc.convs.3.linear.weight'),
    ('multi_conv_qs.0.proj1.weight', 'mssa.query_map.mix.within.weight'),
    ('multi_conv_qs.0.bn.weight', 'mssa.query_map.mix.bn.weight'),
    ('multi_conv_qs.0.proj2.weight', 'mssa.query_map.mix.across.weight'),
    ('conv_vs.0.weight', 'mssa.value_map.convs.0.weight'),
    ('pb_encoder.proj.bias', 'mssa.position_bias.proj.bias'),
    ('imnets.0.layers.8.weight', 'imnet.layers.8.weight'),
    ('encoder.body.3.body.0.weight', 'encoder.body.3.body.0.weight'),
])
def test_released_name(theirs, ours):
    assert released.rename('amsit', theirs) == ours


# parameters

@pytest.mark.parametrize('config, changes, parameters', [
    ('train_edsr_baseline_MsIT', {}, 8_123_980),
    ('train_rdn_baseline_MsIT', {}, 28_877_516),
    ('train_edsr_baseline_MsIT_rim', {}, 6_047_308),
    ('train_rdn_baseline_MsIT_rim', {}, 26_800_844),
    ('train_edsr_baseline_MsIT_rim', {'reparam': 'refconv'}, 5_961_292),
    ('train_edsr_baseline_MsIT', {'attention': 'conventional'}, 8_431_436),
    ('train_msit_s', {}, 634_488),
])
def test_trainable_parameters_are_those_of_the_paper(config, changes, parameters):
    spec = load_config(CONFIGS / f'{config}.yaml', TRAIN_KEYS)['model']
    with torch.device('meta'):  # shapes only
        model = MODELS.make({**spec, 'args': {**spec['args'], **changes}})
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters
    assert count_parameters(model) == parameters


# the contract, for every model that is registered

@EVERY
def test_every_registered_model_has_a_tiny_spec(name):
    assert variants(name)


def test_a_model_without_a_tiny_spec_would_be_noticed(monkeypatch):
    monkeypatch.setitem(MODELS.entries, 'newcomer', lambda: None)
    assert super_resolves(MODELS.entries['newcomer'])
    with pytest.raises(pytest.fail.Exception, match="'newcomer' is registered, but has no tiny spec"):
        variants('newcomer')


def test_no_tiny_spec_is_left_over():
    assert not set(TINY) - set(MODELS.entries)


@EVERY_VARIANT
def test_upscale_gives_a_finite_image_of_the_size_asked_for(name, index):
    model, lr = variant(name, index), image()
    for size in sizes(model):
        sr = model.upscale(lr, size)
        assert sr.shape == (1, 3, *size)
        assert sr.dtype == torch.float32
        assert not sr.requires_grad
        assert sr.isfinite().all()
        assert 0 <= sr.min() < sr.max() <= 1
        assert torch.equal(sr, model.upscale(lr, size))  # and does so every time


@EVERY_VARIANT
def test_scattered_coordinates_of_the_grid_equal_the_grid(name, index):
    model, lr = variant(name, index), image()
    for size in sizes(model):
        with torch.no_grad():
            rgb = model(lr, *grid(*size))
        assert rgb.shape == (1, size[0] * size[1], 3)
        expected = rgb.clamp(0, 1).view(*size, 3).permute(2, 0, 1)
        assert (model.upscale(lr, size)[0] - expected).abs().max() < 1e-5


@EVERY_VARIANT
def test_scattered_coordinates_are_independent_of_each_other(name, index):
    if name in TOGETHER:
        pytest.skip('its queries attend to each other')
    model, lr = variant(name, index), image()
    size = sizes(model)[-1]
    coord, cell = grid(*size)
    order = torch.randperm(coord.shape[1], generator=torch.Generator().manual_seed(0))[:40]
    with torch.no_grad():
        whole, some = model(lr, coord, cell), model(lr, coord[:, order], cell)
    assert (whole[:, order] - some).abs().max() < 1e-5


@EVERY_VARIANT
def test_queries_in_chunks_make_the_same_grid(name, index, monkeypatch):
    if name in TOGETHER:
        pytest.skip('its queries attend to each other')
    model, lr = variant(name, index), image(2)
    height, width = size = sizes(model)[-1]
    whole = model.upscale(lr, size)
    calls, query = [], model.query
    monkeypatch.setattr(model, 'query', lambda *args: calls.append(args[1].shape) or query(*args))
    monkeypatch.setattr(upscale, 'queries_at_once', lambda ask, coord, memory: 10)
    monkeypatch.setattr(type(model), 'query_grid', SRModel.query_grid)  # the plain path, query by query
    assert (model.upscale(lr, size) - whole).abs().max() < 1e-5
    assert len(calls) == -(-height * width // 10)  # two images at a time
    assert sum(shape[1] for shape in calls) == height * width


def test_a_chunk_holds_as_many_queries_as_fit():
    """Six numbers of four bytes are made for each query, and one of eight is held at the same time."""
    coord = torch.rand(2, 1000, 2, dtype=torch.float64)

    def ask(part: torch.Tensor) -> torch.Tensor:
        wide = part.sum(-1).unsqueeze(-1)                                            # 8 bytes
        return torch.zeros(*part.shape[:2], 6) + wide.mean()                         # 24 bytes twice, with those of 8

    for memory, queries in ((10 ** 6, 10 ** 6 // 112), (112 * 31, 31), (112 * 900, 900)):
        assert 0.999 * queries - 1 <= upscale.queries_at_once(ask, coord, memory) <= queries
    assert upscale.queries_at_once(ask, coord, 0) == 1


@EVERY_VARIANT
def test_batch_equals_its_images(name, index):
    model, lr = variant(name, index), image(2)
    size = sizes(model)[-1]
    together = model.upscale(lr, size)
    for i in range(2):
        assert (together[i] - model.upscale(lr[i:i + 1], size)[0]).abs().max() < 1e-5


@EVERY_VARIANT
def test_every_image_of_a_batch_has_its_own_coordinates_and_cell(name, index):
    model, lr = variant(name, index), image(2)
    size = sizes(model)[-1]
    coord, cell = grid(*size)
    coord = torch.cat([coord, coord.flip(1)])
    with torch.no_grad():
        together = model(lr, coord, cell.expand(2, 2))
        for i in range(2):
            assert (together[i] - model(lr[i:i + 1], coord[i:i + 1], cell)[0]).abs().max() < 1e-5


@EVERY_VARIANT
@pytest.mark.parametrize('training', [False, True])
def test_every_trainable_parameter_gets_a_gradient(name, index, training):
    model, lr = variant(name, index).train(training), image(2)
    size = sizes(model)[-1]
    coord, cell = grid(*size)
    rgb = model(lr, coord.expand(2, -1, 2), cell.expand(2, 2))
    if not list(model.parameters()):
        return
    weight = torch.randn(rgb.shape, generator=torch.Generator().manual_seed(5))
    (rgb * weight).sum().backward()
    # a number added to every logit of a softmax, or before a batch norm's mean is taken off, changes nothing
    idle = r'(position_bias|pb_encoder)\.proj\.bias'
    if training:
        idle += r'|(within|msc\.convs\.\d+)\.bias'
    for key, p in model.named_parameters():
        assert p.grad is not None, f'{key} gets no gradient'
        assert p.grad.isfinite().all(), key
        assert re.search(f'({idle})$', key) or p.grad.abs().max() > 1e-6, f'{key}: its gradient is zero'


def test_the_input_is_normalised_and_the_output_mapped_back(tiny_msit):
    torch.manual_seed(0)
    model = models.make(tiny_msit, NORM).eval()
    lr, (coord, cell) = image(), grid(10, 12)
    sub, div = torch.tensor([0.25, 0.5, 0.75]).view(1, 3, 1, 1), torch.tensor([0.5, 0.25, 1.0]).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = model.query(model.encode((lr - sub) / div), coord, cell) * 2 + 0.25
        assert (model(lr, coord, cell) - expected).abs().max() < 1e-6
    target = torch.tensor([0.25, 2.25, 0.75])
    assert model.normalise_rgb(target).tolist() == [0, 1, 0.25]
    assert model.denormalise_rgb(model.normalise_rgb(target)).tolist() == target.tolist()


@pytest.mark.parametrize('width', [3, 9])
def test_bicubic_is_the_same_in_any_normalisation(width):
    lr = image(2, 7, width)
    expected = models.load('bicubic').upscale(lr, (16, 31))
    assert (models.make({'name': 'bicubic'}, NORM).upscale(lr, (16, 31)) - expected).abs().max() < 1e-6


def test_default_normalisation_is_one_half(tiny_msit):
    half = {'sub': [0.5], 'div': [0.5]}
    assert models.make(tiny_msit).data_norm == {'inp': half, 'gt': half}


def test_msit_adds_the_bilinear_image(tiny_msit):
    model = models.make(tiny_msit).eval()
    for p in model.imnet.parameters():
        nn.init.zeros_(p)
    lr = torch.tensor([0.2, 0.6]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    sr = model.upscale(lr, (1, 4))  # centres at −0.25 (border), 0.25, 0.75 and 1.25 (border) LR pixels
    np.testing.assert_allclose(sr[0, 0, 0].numpy(), [0.2, 0.3, 0.5, 0.6], atol=1e-6)


@pytest.mark.parametrize('cell_decode', [True, False])
def test_msit_appends_the_relative_cell_of_its_axis(tiny_msit, cell_decode):
    tiny_msit['args']['cell_decode'] = cell_decode
    tiny_msit['args']['imnet_spec'] = {'name': 'mlp', 'args': {'hidden_list': []}}
    model = models.make(tiny_msit).eval()
    layer = model.imnet.layers[0]
    assert layer.in_features == 9 * 16 + 2 * cell_decode
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        if cell_decode:  # red reads the vertical cell, green the horizontal one
            layer.weight[0, -2] = layer.weight[1, -1] = 1
        rgb = model(torch.full((1, 3, 5, 8), 0.5), *grid(10, 40))
    expected = [0.5 + 0.5 * 2 / 2, 0.5 + 0.5 * 2 / 5, 0.5] if cell_decode else [0.5] * 3
    np.testing.assert_allclose(rgb[0].numpy(), np.tile(expected, (400, 1)), atol=1e-6)


# errors

@EVERY
@pytest.mark.parametrize('shape', [(3, 7, 9), (1, 1, 7, 9), (1, 4, 7, 9), (0, 3, 7, 9), (1, 3, 0, 9)])
def test_upscale_refuses_other_shapes(name, shape):
    with assert_user_error('expected images of shape (B, 3, H, W)', str(shape)):
        variant(name, 0).upscale(torch.zeros(shape), (20, 20))


@EVERY
@pytest.mark.parametrize('size', [(6, 18), (14, 8)])
def test_upscale_refuses_to_shrink(name, size):
    with assert_user_error(f'{size[0]}x{size[1]} is smaller than the input, 7x9'):
        variant(name, 0).upscale(image(), size)


@pytest.mark.parametrize('name', ['edsr-baseline', 'rdn'])
@pytest.mark.parametrize('size', [(7, 9), (14, 19), (21, 27)])
def test_fixed_scale_network_refuses_another_size(name, size):
    with assert_user_error('by exactly 2', f'7x9 to {size[0]}x{size[1]}'):
        variant(name, 0).upscale(image(), size)


def test_encoder_without_its_tail_makes_no_image():
    with assert_user_error("'edsr-baseline' without its upsampling tail makes no image: set no_upsampling to false"):
        models.make(tiny_encoder(no_upsampling=True))
    assert models.ENCODERS.make(tiny_encoder(no_upsampling=True))(image()).shape == (1, 4, 7, 9)


def altered(spec: dict, path: str, value: object) -> dict:
    """`spec` with one nested key set."""
    *parents, last = path.split('.')
    block = spec
    for key in parents:
        block = block[key]
    block[last] = value
    return spec


@pytest.mark.parametrize('path, value, fragments', [
    ('name', 'mist', ["model.name: unknown model 'mist'", "did you mean 'msit'", 'edsr-baseline']),
    ('args.headz', 8, ["model.args.headz: model 'msit' has no such argument", "did you mean 'heads'"]),
    ('arg', {}, ['model.arg: unknown key', "did you mean 'args'"]),
    ('args', [1], ['model.args: expected a block of arguments']),
    ('args.encoder_spec.name', 'edsr-baselin', ["model.args.encoder_spec.name: unknown encoder 'edsr-baselin'",
                                                "did you mean 'edsr-baseline'"]),
    ('args.encoder_spec.args.n_feat', 8, ['model.args.encoder_spec.args.n_feat: ', "did you mean 'n_feats'"]),
    ('args.encoder_spec', 'edsr-baseline', ["model.args.encoder_spec: expected a block with 'name' and 'args'"]),
    ('args.imnet_spec.args.in_dim', 5, ['model.args.imnet_spec.args.in_dim: ', 'no such argument']),  # not for a spec
    ('args.pb_spec.args.heads', 5, ['model.args.pb_spec.args.heads: ', 'no such argument']),
    ('args.imnet_spec.args', {}, ["model.args.imnet_spec.args: MLP 'mlp' needs hidden_list"]),
    ('args', {'base_dim': 16}, ["model.args: model 'msit' needs encoder_spec, imnet_spec"]),
    ('args', None, ["model.args: model 'msit' needs encoder_spec, imnet_spec"]),
    ('args.heads', 3, ['model.args: ', '16 channels cannot be split evenly among 3 heads']),
    ('args.heads', 0, ['16 channels cannot be split evenly among 0 heads']),
    ('args.radius', -1, ['radius is -1']),
    ('args.msc_convs', 3, ['16 channels cannot be split evenly among 3 convolutions']),
    ('args.mssa_projections', 5, ['16 channels cannot be split evenly among 5 convolutions']),
    ('args.reparam', 'rimm', ["reparam is 'rimm', expected one of none, rim, refconv"]),
    ('args.fem', 'x', ["fem is 'x', expected one of paper, authors, none"]),
    ('args.attention', 'mssa2', ["attention is 'mssa2'"]),
    ('args.imnet_spec.args.act', 'swish', ["act is 'swish', expected one of relu, gelu"]),
    ('args.pb_spec.args.enc_dims', 6, ['enc_dims is 6, expected a multiple of 4']),
    ('args.pb_spec.args.posenc_type', 'ipe', ["posenc_type is 'ipe'"]),
])
def test_wrong_spec_is_refused_with_the_path_of_the_key(tiny_msit, path, value, fragments):
    models.make(tiny_msit)  # right as it is
    with assert_user_error(*fragments):
        models.make(altered(tiny_msit, path, value))


@pytest.mark.parametrize('spec, fragment', [
    ({'name': 'edsr-baseline', 'args': {'scale': 5}}, 'scale is 5, expected 2, 3 or 4'),
    ({'name': 'rdn', 'args': {'RDNconfig': 'C'}}, "RDNconfig is 'C', expected one of A, B"),
    ({'name': 'amsit', 'args': {**tiny_decoder(), 'conv_num': 2}}, 'imnet_num and conv_num must be 1'),
    ('msit', "model: expected a block with 'name' and 'args'"),
    ({'args': {}}, 'model.name: expected the name of a model, got None'),
])
def test_wrong_values_are_refused(spec, fragment):
    with assert_user_error(fragment):
        models.make(spec)


def test_a_name_is_registered_once():
    registry = Registry('toy')
    registry.register('one')(dict)
    with pytest.raises(ValueError, match="toy name 'one' is already registered"):
        registry.register('one')(list)
    assert registry.entries == {'one': dict}
    with pytest.raises(ValueError, match="'msit' is already registered"):
        models.register('msit')(dict)


def test_annotations_in_texts_are_checked():
    """Those of a module with `from __future__ import annotations`."""
    registry = Registry('toy')

    @registry.register('one')
    def one(*, names: 'list[str]', side: 'Annotated[int, AtMost(8)]' = 3) -> int:
        return side
    assert registry.make({'name': 'one', 'args': {'names': ['a'], 'side': 8}}) == 8
    for args, fragment in (({'names': [7]}, 'expected list[str], got [7]'), ({'names': 'a'}, "got 'a'"),
                           ({'names': [], 'side': 9}, 'at most 8'), ({'names': [], 'side': '3'}, 'expected int')):
        with assert_user_error(fragment):
            registry.make({'name': 'one', 'args': args})


@pytest.mark.parametrize('value', [[0.5, 0.5], [], [0.0], [float('nan')]])
def test_wrong_normalisation_is_refused(tiny_msit, value):
    with assert_user_error('data_norm.gt.div: expected a list of 1 or 3 numbers'):
        models.make(tiny_msit, {**NORM, 'gt': {'sub': [0.5], 'div': value}})


# checkpoint files

def write(path, spec: dict, norm: dict | None = None) -> SRModel:
    """A checkpoint of a model of `spec` whose every tensor is off its start; returns the model, in eval mode."""
    torch.manual_seed(6)
    model = unsettled(models.make(spec, norm))
    save_checkpoint(path, model, spec, epoch=3)
    return model


@pytest.mark.parametrize('norm', [None, NORM])
@EVERY
def test_saved_model_comes_back_equal(tmp_path, name, norm):
    path = tmp_path / 'model.pth'
    model = write(path, {'name': name, 'args': variants(name)[0]}, norm)
    loaded = models.load(path)
    assert not loaded.training
    assert loaded.data_norm == model.data_norm
    if norm:
        assert loaded.data_norm == NORM
    lr, size = image(), sizes(model)[-1]
    assert model.upscale(lr, size).isfinite().all()
    assert torch.equal(loaded.upscale(lr, size), model.upscale(lr, size))
    content = torch.load(path, weights_only=True)
    assert content['epoch'] == 3
    assert content['model']['name'] == name


def test_a_name_that_needs_no_weights_loads_and_others_do_not():
    assert type(models.load('bicubic')).__name__ == 'Bicubic'
    with assert_user_error("'edsr-baseline' needs weights: give a checkpoint file"):
        models.load('edsr-baseline')
    with assert_user_error('nowhere.pth: no such checkpoint file'):
        models.load('nowhere.pth')


def test_shipped_weights_load_by_their_name(tmp_path, monkeypatch):
    """From any folder; a file of that name comes first."""
    monkeypatch.chdir(tmp_path)
    file = checkpoint.ZOO / 'MSIT-S.pth'
    named, by_path = models.load('MSIT-S').state_dict(), models.load(file).state_dict()
    assert named.keys() == by_path.keys() and all(torch.equal(named[key], by_path[key]) for key in named)
    with assert_user_error('MSIT-XXL: no such checkpoint file; shipped weights are ', 'MSIT-S'):
        models.load('MSIT-XXL')
    (tmp_path / 'MSIT-S').write_bytes(b'of mine')
    with assert_user_error('MSIT-S: not a checkpoint'):
        models.load('MSIT-S')


def test_shipped_weights_in_folders(tmp_path, monkeypatch):
    """Their names have the folder before them, also where the shipped ones are listed."""
    (tmp_path / 'budget').mkdir()
    shutil.copy(checkpoint.ZOO / 'MSIT-S.pth', tmp_path / 'budget/small.pth')
    monkeypatch.setattr(checkpoint, 'ZOO', tmp_path)
    assert checkpoint.find('budget/small') == tmp_path / 'budget/small.pth'
    assert count_parameters(models.load('budget/small')) == 635_268
    with assert_user_error('budget/smal: no such checkpoint file; shipped weights are budget/small'):
        models.load('budget/smal')


@pytest.mark.parametrize('content', [b'', b'just some text\n', b'\x80', b'PK\x03\x04', b'\x80\x02}q\x00.', bytes(1000)])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    path = tmp_path / 'odd.pth'
    path.write_bytes(content)
    with assert_user_error(str(path), 'checkpoint'):
        models.load(path)


@pytest.mark.parametrize('part', [0.01, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint(tmp_path, tiny_msit, part):
    path = tmp_path / 'cut.pth'
    write(path, tiny_msit)
    content = path.read_bytes()
    path.write_bytes(content[:int(part * len(content))])
    with assert_user_error(str(path), 'not a checkpoint, or a damaged one'):
        models.load(path)


@pytest.mark.parametrize('content', [
    {}, [1, 2], {'model': {}}, {'model': {'name': 'msit'}}, {'model': {'name': 3, 'args': {}, 'sd': {}}}, torch.zeros(2)])
def test_a_file_of_another_layout(tmp_path, content):
    path = tmp_path / 'other.pth'
    torch.save(content, path)
    with assert_user_error(str(path), "expected a checkpoint {'model': {'name', 'args', 'sd'}"):
        models.load(path)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return open, (self.target, 'w')


@pytest.mark.parametrize('plain', [False, True])
def test_a_malicious_checkpoint_runs_nothing(tmp_path, plain):
    target, path = tmp_path / 'written', tmp_path / 'evil.pth'
    content = {'model': {'name': 'bicubic', 'args': {}, 'sd': {}}, 'extra': Malicious(target)}
    if plain:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with assert_user_error(str(path), 'more than tensors and plain values'):
        models.load(path)
    assert not target.exists()
    pickle.loads(pickle.dumps(content))['extra'].close()  # it would have
    assert target.exists()


@pytest.mark.parametrize('change, message', [
    (lambda sd: sd.pop('widen.bias'), '1 missing (widen.bias)'),
    (lambda sd: sd.update(stray=torch.zeros(1)), '1 left over (stray)'),
    (lambda sd: sd.update({'widen.bias': torch.zeros(3)}), '1 of another shape (widen.bias)'),
    (lambda sd: sd.update({'widen.bias': 3}), '1 of another shape (widen.bias)'),
    (lambda sd: [sd.pop(f'imnet.layers.{i}.{kind}') for i in (0, 2) for kind in ('weight', 'bias')],
     '4 missing (imnet.layers.0.weight, imnet.layers.0.bias, imnet.layers.2.weight, …)'),
    (lambda sd: sd.update({'widen.bia': sd.pop('widen.bias')}), '1 missing (widen.bias); 1 left over (widen.bia)'),
])
def test_tensors_that_do_not_fit_are_named(tmp_path, tiny_msit, change, message):
    path = tmp_path / 'model.pth'
    write(path, tiny_msit)
    content = torch.load(path, weights_only=True)
    change(content['model']['sd'])
    torch.save(content, path)
    with assert_user_error(str(path), message):
        models.load(path)


def test_a_wrong_spec_in_a_file_is_refused_with_its_path(tmp_path, tiny_msit):
    path = tmp_path / 'model.pth'
    write(path, tiny_msit)
    content = torch.load(path, weights_only=True)
    torch.save({'model': {**content['model'], 'name': 'misit'}}, path)
    with assert_user_error(f"{path}: model.name: unknown model 'misit'", "did you mean 'msit'"):
        models.load(path)


def assert_folds(path) -> None:
    """The file loads without any re-parameterised convolution, and gives what the unfolded model gives."""
    unfolded, loaded = build(read_checkpoint(path), 'file').eval(), models.load(path)
    assert [m for m in unfolded.modules() if isinstance(m, RefConv2d)]
    assert not [m for m in loaded.modules() if isinstance(m, RefConv2d)]
    lr, (coord, cell) = image(), grid(16, 31)
    with torch.no_grad():
        assert (unfolded(lr, coord, cell) - loaded(lr, coord, cell)).abs().max() < 1e-6
        unfolded.double()
        rgb = unfolded(lr.double(), coord, cell)
        assert (rgb - unfolded.fold()(lr.double(), coord, cell)).abs().max() < 1e-12


@pytest.mark.parametrize('reparam', ['rim', 'refconv'])
def test_a_reparameterised_file_loads_folded(tmp_path, tiny_msit, reparam):
    path = tmp_path / 'model.pth'
    model = write(path, altered(tiny_msit, 'args.reparam', reparam))
    kinds = [type(m) for m in model.modules() if isinstance(m, RefConv2d)]
    assert kinds == [RIMConv2d if reparam == 'rim' else RefConv2d] * 5
    assert_folds(path)


def test_a_released_rim_file_loads_folded(shared):
    assert_folds(shared / 'golden/msit_edsr.pth')


def test_grids_are_read_in_the_order_y_x():
    """The corners of an image that shows its own coordinates, through the models' own grid path."""
    class Coordinates(SRModel):
        def encode(self, lr, region=None, halo=None):
            return lr

        def query(self, latent, coord, cell):
            return torch.cat([coord, cell[:, :1].expand(len(latent), coord.shape[1]).unsqueeze(-1)], -1).float()

    sr = Coordinates().upscale(torch.zeros(1, 3, 1, 2), (2, 4))  # 0.5 · value + 0.5
    np.testing.assert_allclose(sr[0, 0].numpy(), [[0.25] * 4, [0.75] * 4], atol=1e-7)
    np.testing.assert_allclose(sr[0, 1].numpy(), [[0.125, 0.375, 0.625, 0.875]] * 2, atol=1e-7)
    assert (sr[0, 2] == 1).all()  # 2 / 2
    assert coords.make_cell(2, 4).tolist() == [1, 0.5]
