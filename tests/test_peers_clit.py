"""CLIT against its program's outputs; which cascades a scale takes; memory."""
import math
import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from peers_fill import assert_row, fill, hr_grid, lr_image
from test_models import assert_user_error, golden, grid, image, tiny_decoder, unsettled, variant

import models
from common import coords
from common.coords import Region
from datasets import WRAPPERS
from engine.checkpoint import save_checkpoint
from engine.config import TRAIN_KEYS, load_config
from engine.training.pretrain import load_stage1
from models.decoders.clit import CLIT
from models.layers import bilinear_grid, sample_bilinear
from models.registries import MODELS

CONFIGS = Path(__file__).resolve().parent.parent / 'configs/train'
GRIDS = [(9, 16), (18, 32), (27, 48)]  # of the reference outputs, one for each cascade


def filled(cascades: int, radius: int = 1) -> CLIT:
    return fill(models.make({'name': 'clit', 'args': {
        'base_dim': 16, 'head': 4, 'r': radius, 'imnet_num': cascades, 'conv_num': cascades,
        'encoder_spec': {'name': 'edsr-baseline', 'args': {'n_resblocks': 2, 'n_feats': 8, 'no_upsampling': True}},
        'pb_spec': {'name': 'posenc', 'args': {'posenc_scale': 10, 'enc_dims': 8}},
        'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [16, 16], 'act': 'gelu'}}}}))


def reference_grid(height: int, width: int) -> torch.Tensor:
    """Pixel centres worked out in float32, whose rounding decides between two equally near pixels."""
    y, x = ((2 * torch.arange(n) + 1) / n - 1 for n in (height, width))
    return torch.stack(torch.meshgrid(y, x, indexing='ij'), -1).view(1, -1, 2)


def clit(**args) -> CLIT:
    return models.make({'name': 'clit', 'args': tiny_decoder(head=2, r=1, **args)})


# reference outputs

@pytest.mark.parametrize('cascades, taking_part', [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)])
def test_each_cascade_gives_the_reference_output(shared, monkeypatch, cascades, taking_part):
    """Queries of the last of all grids; what fewer cascades give there is the answer of the last that takes part."""
    model = filled(cascades)
    monkeypatch.setattr(CLIT, 'grids', lambda self, region, cell: GRIDS[:taking_part - 1])
    coord, cell = reference_grid(*GRIDS[cascades - 1]), hr_grid(*GRIDS[cascades - 1])[1]
    with torch.no_grad():
        latent = model.encode(lr_image())
        rgb = model.query(latent, coord[:, ::7][:, :40], cell)
        assert_row(rgb, f'clit_n{cascades}_stage{taking_part}', shared, 1e-3)
        if taking_part == cascades:
            assert_row(model.query(latent, coord, cell), f'clit_n{cascades}_chop', shared, 1e-3)


def test_a_window_of_7x7_gives_the_reference_output(shared):
    model = filled(1, radius=3)
    coord, cell = hr_grid(9, 16)
    with torch.no_grad():
        assert_row(model.query(model.encode(lr_image()), coord, cell), 'clit_n1_r3', shared, 1e-3)


@pytest.mark.parametrize('name', ['clit1', 'clit2'])
def test_released_clit(shared, name):
    """Grids and scattered coordinates; two cascades pass a grid of 18×22."""
    model, arrays, lr = golden(shared, name)
    model.scale_base = 2.0
    for size, key in (((27, 33), 'out_a'), ((23, 40), 'out_b')):
        allowed = 3e-4 if (name, key) == ('clit2', 'out_a') else 1e-4
        cell = grid(*size)[1]
        assert model.grids(Region.whole(9, 11), cell) == ([(18, 22)] if name == 'clit2' else [])
        with torch.no_grad():
            rgb = model(lr, *grid(*size)).view(1, *size, 3) * 2 - 1
        assert (rgb - arrays[key]).abs().max() < allowed
        sr = model.upscale(lr, size).permute(0, 2, 3, 1) * 2 - 1
        assert (sr - arrays[key].clamp(-1, 1)).abs().max() < allowed
    with torch.no_grad():
        rgb = model(lr, arrays['query'], arrays['cell']) * 2 - 1
    assert (rgb - arrays['out_query']).abs().max() < 1e-4


@pytest.mark.parametrize('encoder, cascades, parameters', [
    ('edsr-baseline', 1, 6_549_067), ('edsr-baseline', 2, 11_729_486), ('edsr-baseline', 3, 16_909_905),
    ('rdn', 1, 27_302_603), ('rdn', 2, 32_483_022), ('rdn', 3, 37_663_441)])
def test_trainable_parameters(encoder, cascades, parameters):
    spec = {'name': 'clit', 'args': {
        'encoder_spec': {'name': encoder, 'args': {'no_upsampling': True}}, 'imnet_num': cascades, 'conv_num': cascades,
        'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [256] * 4, 'act': 'gelu'}}}}
    with torch.device('meta'):
        model = MODELS.make(spec)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters


# the grids that lead to an output

@pytest.mark.parametrize('scale, steps', [
    (1, []), (3.5, []), (4, []), (6, [4]), (16, [4]), (18, [4, 16]), (30, [4, 16]), (64, [4, 16]), (100, [4, 16])])
def test_three_cascades_split_a_scale_as_the_released_test_configs_do(scale, steps):
    model = clit(imnet_num=3, conv_num=3)
    cell = coords.make_cell(int(scale * 10), int(scale * 20)).expand(2, 2)
    assert model.grids(Region.whole(10, 20), cell) == [(10 * step, 20 * step) for step in steps]
    assert clit(imnet_num=2, conv_num=2).grids(Region.whole(10, 20), cell) == [(40, 80)] * (scale > 4)
    assert clit().grids(Region.whole(10, 20), cell) == []


def test_unequal_scales_take_the_steps_of_the_larger_one():
    cell = coords.make_cell(20, 180).expand(1, 2)
    assert clit(imnet_num=3, conv_num=3).grids(Region.whole(10, 20), cell) == [(20, 80)]
    assert clit(imnet_num=3, conv_num=3, scale_base=2.5).grids(Region.whole(10, 20), cell) == [(20, 50), (20, 125)]


def test_images_of_a_batch_have_one_scale_where_there_are_cascades():
    lr, (coord, cell) = image(2), grid(14, 18)
    coord, cells = coord.expand(2, -1, 2), torch.cat([cell, cell / 2])
    assert clit().eval()(lr, coord, cells).shape == (2, 14 * 18, 3)  # one cascade needs no grid
    with assert_user_error('clit: the images of a batch', 'set scale_per to batch'):
        clit(imnet_num=2, conv_num=2)(lr, coord, cells)


def test_a_later_cascade_reads_the_features_of_the_first_on_its_grid():
    """Against the plain form: the whole grid resampled by grid_sample, which fades to zero at the border."""
    model = unsettled(clit(imnet_num=2, conv_num=2)).double()
    lr = image(2, 6, 5).double()
    with torch.no_grad():
        latent = model.encode(lr)
        points = coords.make_grid(24, 20).view(1, -1, 2).expand(2, -1, 2)
        expected = sample_bilinear(latent.features, points, 'zeros').view(2, 24, 20, -1)
        got = bilinear_grid(latent.features, Region.whole(6, 5), *(coords.pixel_centres(n) for n in (24, 20)), 'zeros')
        assert (got - expected).abs().max() < 1e-12
        maps = model.attention(1).maps(expected.permute(0, 3, 1, 2), Region.whole(24, 20))
        coord, cell = (x.expand(2, *x.shape[1:]) for x in grid(30, 25))
        last = model.decode(1, maps, coord, cell) + 0.75 * model.decode(0, latent.maps, coord, cell)
        expected = last + sample_bilinear(lr, coord, 'border')
        assert (model.query(latent, coord, cell) - expected).abs().max() < 1e-12
        part = coord[:, 300:340]  # needs a part of the grid only
        assert (model.query(latent, part, cell) - expected[:, 300:340]).abs().max() < 1e-12


# memory and regions

@pytest.mark.parametrize('index', [0, 1, 2])
def test_regions_make_the_whole_image(index):
    """In float64, ties included (×1.5): 25×32 LR pixels; a smaller halo changes the encoder's part alone."""
    model = variant('clit', index).double()
    lr = image(2, 25, 32).double()
    coord, cell = (x.expand(2, *x.shape[1:]) for x in grid(75, 48))
    with torch.no_grad():
        whole = model.query(model.encode(lr), coord, cell)
        region = Region(10, 15, 12, 20, 25, 32)
        y, x = (coords.nearest_index(coord[0, :, axis], n) for axis, n in enumerate((25, 32)))
        inside = (y >= 10) & (y < 15) & (x >= 12) & (x < 20)
        part = model.encode(lr, region)
        assert (model.query(part, coord[:, inside], cell) - whole[:, inside]).abs().max() < 1e-12
        hasty = model.query(model.encode(lr, region, halo=0), coord[:, inside], cell)
        assert 0 < (hasty - whole[:, inside]).abs().max() < 1


@pytest.mark.slow
def test_blocks_of_a_finer_grid_make_the_whole_one(monkeypatch):
    model = unsettled(clit(imnet_num=3, conv_num=3, scale_base=1.5)).double()
    latent = model.encode(image(2, 8, 9).double())
    rows, columns, cell = coords.pixel_centres(29), coords.pixel_centres(40), coords.make_cell(29, 40).expand(2, 2)
    sizes, finer_maps = [], model.finer_maps
    monkeypatch.setattr(model, 'finer_maps', lambda *args: sizes.append(finer_maps(*args).region) or finer_maps(*args))
    with torch.no_grad():
        whole = model.query_grid(latent, rows, columns, cell, 2 ** 30)
        assert len(sizes) == 2 * 2  # each after a small one that was measured
        small = model.query_grid(latent, rows, columns, cell, 2 ** 10)
    assert len(sizes) > 20
    assert max(region.height for region in sizes[4:]) <= 3 * model.attention(0).reach
    assert (small - whole).abs().max() < 1e-12


@pytest.mark.parametrize('args, fragment', [
    ({'imnet_num': 2}, 'imnet_num and conv_num must be the same number'), ({'local_attn': False}, 'local_attn true'),
    ({'imnet_num': 0, 'conv_num': 0}, 'at least 1'), ({'base_dim': 0}, 'base_dim >= 1'), ({'r': -1}, 'r >= 0'),
    ({'head': 3}, '8 channels cannot be split evenly among 3 heads'), ({'scale_base': 1}, 'scale_base is 1'),
    ({'scale_base': math.nan}, 'scale_base: expected a finite number, got nan')])
def test_wrong_arguments_are_refused(args, fragment):
    with assert_user_error(fragment):
        models.make({'name': 'clit', 'args': {**tiny_decoder(), **args}})


# cumulative training

def test_a_cascade_is_added_to_a_checkpoint(tmp_path):
    """All of the file is copied, the new cascade keeps its start, and a scale of one step gives what it gave."""
    specs = [{'name': 'clit', 'args': tiny_decoder(head=2, r=1, imnet_num=n, conv_num=n)} for n in (1, 2)]
    first = unsettled(models.make(specs[0]))
    save_checkpoint(tmp_path / 'first.pth', first, specs[0], global_batch=7)
    second = models.make(specs[1]).eval()
    start = {key: value.clone() for key, value in second.state_dict().items()}
    line, batches = load_stage1(second, specs[1], tmp_path / 'first.pth')
    added = [key for key in start if re.match(r'(conv_[qkv]s|imnets)\.1\.', key)]
    assert len(added) == 3 * 2 + 2 * 2 and sorted(second.fresh_tensors(first.state_dict())) == sorted(added)
    state = second.state_dict()
    assert all(torch.equal(state[key], start[key]) for key in added)
    assert all(torch.equal(state[key], value) for key, value in first.state_dict().items())
    assert batches == 7 and line.endswith(' 10 start afresh')
    lr = image()
    assert torch.equal(second.upscale(lr, (21, 27)), first.upscale(lr, (21, 27)))
    assert not torch.equal(second.upscale(lr, (42, 54)), first.upscale(lr, (42, 54)))
    assert second.fresh_tensors(second.state_dict()) == []


def test_the_scales_of_cumulative_training(tmp_path):
    """×48-pixel crops of boundless images: one, two or three factors, equally often; the third one is at most 2."""
    images = types.SimpleNamespace(size=lambda index: (10 ** 6, 10 ** 6))
    spec = {'name': 'sr-implicit-downsampled', 'args': {'cascade': [4, 4, 2]}}
    wrapper = WRAPPERS.make(spec, 'wrapper', dataset=images, data_root=tmp_path)
    rng = np.random.default_rng(0)
    batches = [wrapper.draw_scales([0, 1], rng) for _ in range(20000)]
    assert all(a == b and not a[1] for a, b in batches)
    scales = np.array([batch[0][0] for batch in batches])
    assert 1 < scales.min() < 1.01 and 24 < scales.max() < 32
    # E = 2.5, 2.5² and 2.5² · 1.5; the product of two is above 4 with 1 − (4 ln 4 − 3)/9, and one number never is
    assert scales.mean() == pytest.approx((2.5 + 2.5 ** 2 + 2.5 ** 2 * 1.5) / 3, rel=0.02)
    assert (scales <= 4).mean() > (1 + (4 * math.log(4) - 3) / 9) / 3


def test_a_wrong_cascade_is_refused(tmp_path):
    with assert_user_error('expected 1 <= scale_min <= scale_max', '[4, 0.5]'):
        WRAPPERS.make({'name': 'sr-implicit-downsampled', 'args': {'cascade': [4, 0.5]}}, 'wrapper', data_root=tmp_path,
                      dataset=types.SimpleNamespace(size=None))


@pytest.mark.parametrize('encoder', ['edsr-baseline', 'rdn'])
def test_recipes(encoder):
    """Batch 32 of one scale each, rates halved four times; each cascade trains from the one before."""
    family = 'edsr' if encoder == 'edsr-baseline' else 'rdn'
    for cascades, upper, epochs in ((1, None, 1000), (2, [4, 4], 1000), (3, [4, 4, 2], 1500)):
        name = f'train_{family}_baseline_clit{f"_{cascades}" * (cascades > 1)}.yaml'
        milestones = [epochs * i // 5 for i in (1, 2, 3, 4)]
        config = load_config(CONFIGS / name, TRAIN_KEYS)
        assert config['train_dataset']['dataset']['args']['root_path'] == 'DIV2K/DIV2K_train_HR'
        assert config['train_dataset']['wrapper']['args'].get('cascade') == upper
        assert config['train_dataset']['wrapper']['args'].get('scale_per', 'batch') == 'batch'
        assert config['train_dataset']['batch_size'] == 32 and config['train_dataset']['epoch_batches'] == 1000
        assert config['lr_schedule'] == {'name': 'multistep', 'args': {'milestones': milestones, 'gamma': 0.5}}
        assert config['optimizer'] == {'name': 'adam', 'args': {'lr': 1e-4}} and config['epoch_max'] == epochs
        args = config['model']['args']
        assert args['encoder_spec']['name'] == encoder and args['imnet_num'] == args['conv_num'] == cascades
