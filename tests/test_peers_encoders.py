"""SwinIR and RCAN, as encoders, against their programs' outputs; windows, mirroring and regions of SwinIR."""
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from lab import differences, slow_except
from test_models import assert_user_error, golden, grid

import models
from common.coords import Region
from engine.config import TRAIN_KEYS, load_config
from models.contract import SRModel
from models.registries import ENCODERS, MODELS
from models.upscale import halo_error
from utils import UserError

pytestmark = pytest.mark.skipif(find_spec('timm') is None, reason='timm is not installed')

CONFIGS = Path(ROOT) / 'configs/train'
SWIN = {'name': 'swinir', 'args': {'embed_dim': 6, 'depths': [2, 1], 'num_heads': [2, 1], 'window_size': 4}}
RCAN = {'name': 'rcan', 'args': {'n_resgroups': 1, 'n_resblocks': 1, 'n_feats': 4, 'reduction': 2}}
MLP = {'name': 'mlp', 'args': {'hidden_list': [8]}}


def lte(encoder: dict) -> SRModel:
    torch.manual_seed(0)
    return models.make({'name': 'lte', 'args': {'encoder_spec': encoder, 'imnet_spec': MLP, 'hidden_dim': 8}}).eval()


def image(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


# reference outputs

@pytest.mark.parametrize('name', slow_except(['rcan_lte'], ['swinir_lte', 'swinir_liif', 'rcan_lte']))
@pytest.mark.parametrize('output, size', slow_except([('out_b', (25, 46))], [('out_a', (30, 39)), ('out_b', (25, 46))]))
def test_released_files_on_whole_grids(shared, name, output, size):
    """By regions of 5×7 LR pixels, by `upscale` and query by query. Sides of 10 and 13 are mirrored to 12 and 16.

    Row 28 and column 37 of ×3 are left out: all four areas are zero there, and rounding alone decides the weights.
    """
    model, arrays, lr = golden(shared, name)
    whole, regions = (model.render(model.encode_image(lr, side=side), (0, 0, 10, 13), size) for side in (None, 7))
    with torch.no_grad():
        scattered = model(lr, *grid(*size)).view(1, *size, 3).permute(0, 3, 1, 2).clamp(0, 1)
    settled = np.ix_(*([line for line in range(n) if (n, line) not in ((30, 28), (39, 37))] for n in size))
    for rgb in (model.upscale(lr, size), scattered, whole, regions):
        assert (rgb[0].permute(1, 2, 0) * 2 - 1 - arrays[output][0].clamp(-1, 1))[settled].abs().max() < 1e-4


@pytest.mark.parametrize('name', slow_except(['rcan_lte'], ['swinir_lte', 'swinir_liif', 'rcan_lte']))
def test_released_files_on_scattered_coordinates(shared, name):
    """Sides of 12 and 8, multiples of the window: as in training, without mirrored pixels."""
    model, arrays, _ = golden(shared, name)
    with torch.no_grad():
        features = model.encoder(arrays['inp_whole'])
        rgb = model(arrays['inp_whole'] * 0.5 + 0.5, arrays['query'], arrays['cell'][:, 0]) * 2 - 1
    assert (features - arrays['features_whole']).abs().max() < 1e-4
    assert (rgb - arrays['out_query']).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize('name', ['swinir_lte', 'swinir_liif'])
def test_upscaling_mirrors_a_whole_window_where_sides_are_multiples(shared, name):
    model, arrays, _ = golden(shared, name)
    sr = model.upscale(arrays['inp_whole'] * 0.5 + 0.5, (36, 24)) * 2 - 1
    assert (sr.permute(0, 2, 3, 1) - arrays['out_whole_a'].clamp(-1, 1)).abs().max() < 1e-4


def test_no_region_has_mirrored_pixels_alone(monkeypatch):
    """128×32 LR pixels are continued to 144×48, of which regions of 16×16 would have a row and a column without output."""
    model = lte({'name': 'swinir', 'args': {'embed_dim': 6, 'depths': [1], 'num_heads': [1], 'window_size': 16}})
    lr, size = image(128, 32), (140, 40)
    with pytest.raises(UserError) as error:
        model.upscale(lr, size, memory=2 ** 20)
    least = int(re.search(r'allow at least (\d+) MiB', str(error.value))[1]) * 2 ** 20
    whole, regions, encode = model.upscale(lr, size), [], model.encode
    monkeypatch.setattr(model, 'encode', lambda *args: regions.extend(args[1:2]) or encode(*args))
    assert (model.upscale(lr, size, memory=least) - whole).abs().max() < 1e-5
    used = [region for region in regions if region.image_height == 144]
    assert len(used) > 1 and all(region.top < 128 and region.left < 32 for region in used)
    assert 0 < halo_error(model, lr, size, 2, least) < 1


# recipes and parameters

@pytest.mark.slow
@pytest.mark.parametrize(('name', 'parameters'), [('swinir', 11_603_044), ('rcan', 15_295_200)])
def test_parameters_of_the_published_encoders(name, parameters):
    with torch.device('meta'):
        encoder = ENCODERS.make({'name': name, 'args': {'no_upsampling': True}})
    assert sum(p.numel() for p in encoder.parameters()) == parameters and encoder.out_channels == 64


@pytest.mark.parametrize('encoder', ['swinir', 'rcan'])
@pytest.mark.parametrize('decoder', ['lte', 'MsIT'])
def test_recipes_differ_from_those_of_edsr_where_the_authors_do(encoder, decoder):
    config, edsr = (load_config(CONFIGS / f'train_{name}_{decoder}.yaml', TRAIN_KEYS)
                    for name in (encoder, 'edsr_baseline'))
    edsr['model']['args']['encoder_spec']['name'] = encoder
    if (encoder, decoder) == ('swinir', 'lte'):
        edsr['train_dataset'].update(batch_size=32, epoch_batches=800 * 20 // 32)
        edsr['optimizer']['args']['lr'], edsr['lr_schedule']['args']['milestones'] = 2e-4, [500, 800, 900, 950]
    assert config == edsr


@pytest.mark.parametrize(('name', 'args', 'words'), [
    ('swinir', {'no_upsampling': False}, 'no_upsampling must be true'), ('rcan', {'no_upsampling': False}, 'must be true'),
    ('swinir', {'depths': [2]}, 'as many depths as num_heads'), ('swinir', {'depths': [0] * 6}, 'each at least 1'),
    ('swinir', {'embed_dim': 181}, 'a multiple of all num_heads'), ('swinir', {'window_size': 1}, 'window_size >= 2'),
    ('swinir', {'drop_path_rate': 1.0}, 'drop_path_rate < 1'), ('swinir', {'window_size': 10 ** 6}, 'at most 64'),
    ('swinir', {'depths': [2] * 17, 'num_heads': [6] * 17}, 'at most 16 values'), ('swinir', {'embed_dim': 9999}, 'at most'),
    ('rcan', {'reduction': 65}, 'reduction <= n_feats'), ('rcan', {'n_resgroups': 512}, 'from 0 to 512'),
    ('rcan', {'reduction': 0}, '1 <= reduction')])
def test_wrong_arguments(name, args, words):
    with assert_user_error('encoder_spec', words):
        lte({'name': name, 'args': args})


# the parts

@pytest.mark.slow
def test_attention_stays_inside_the_windows_of_each_block():
    """A pixel that changes moves the 4×4 window around it; the shifted block's windows begin at rows and columns 2 and 6.

    What only the wrapping brings together, the first and the last two rows or columns, stays apart.
    """
    torch.manual_seed(0)
    model = ENCODERS.make({'name': 'swinir', 'args': {**SWIN['args'], 'depths': [2], 'num_heads': [2]}}).eval()
    plain, shifted = model.layers[0].residual_group.blocks
    for block, (y, x), rows, columns in ((plain, (5, 2), (4, 8), (0, 4)), (shifted, (5, 2), (2, 6), (2, 6)),
                                         (shifted, (0, 7), (0, 2), (6, 8)), (shifted, (7, 4), (6, 8), (2, 6))):
        tokens = torch.rand(1, 8, 8, 6, generator=torch.Generator().manual_seed(2))
        other = tokens.clone()
        other[0, y, x] += 1
        with torch.no_grad():
            changed = (block.attn(tokens) - block.attn(other)).abs().amax(-1)[0] > 1e-7
        expected = torch.zeros(8, 8, dtype=torch.bool)
        expected[slice(*rows), slice(*columns)] = True
        assert torch.equal(changed, expected)


@pytest.mark.slow
@pytest.mark.parametrize('args', [{}, {'window_size': 5, 'depths': [1, 2]}])
def test_reach_is_the_farthest_that_any_pixel_of_a_window_sees(args):
    """By gradients, from one pixel of each of the window's diagonals."""
    encoder = ENCODERS.make({'name': 'swinir', 'args': {**SWIN['args'], **args}}).eval()
    side = encoder.multiple * (2 * encoder.reach // encoder.multiple + 4)
    x, farthest = image(side, side).requires_grad_(), 0
    features = encoder.features(x)
    for pixel in range(side // 2, side // 2 + encoder.multiple):
        gradient, = torch.autograd.grad(features[0, :, pixel, pixel].sum(), x, retain_graph=True)
        seen = gradient.abs().sum((0, 1)).nonzero()
        farthest = max(farthest, (seen - pixel).abs().max().item())
    assert farthest == encoder.reach


@pytest.mark.slow
def test_regions_and_smaller_halos():
    """Regions are exact with their whole reach; a smaller halo is not, and reads whole windows."""
    model, lr = lte(SWIN), image(41, 50)
    expected = model.upscale(lr, (90, 110))
    parts = model.render(model.encode_image(lr, side=14), (0, 0, 41, 50), (90, 110))
    assert (parts - expected).abs().max() < 1e-5
    region, larger = Region(12, 20, 16, 24, 44, 52), torch.rand(1, 3, 44, 52)
    with torch.no_grad():
        exact = model.encoder(larger)[:, :, 12:20, 16:24]
        assert (model.encoder(larger, region) - exact).abs().max() < 1e-5
        errors = [(model.encoder(larger, region, halo) - exact).abs().max() for halo in (0, 1, 4, 5)]
    assert errors[0] > errors[1] == errors[2] > errors[3]


@pytest.mark.slow
def test_forward_continues_other_sides_as_upscaling_does():
    model, lr = lte(SWIN), image(7, 9, batch=2)
    coord, cell = grid(16, 31)
    with torch.no_grad():
        rgb = model(lr, coord.expand(2, -1, -1), cell.expand(2, 2)).clamp(0, 1)
    assert (rgb.view(2, 16, 31, 3).permute(0, 3, 1, 2) - model.upscale(lr, (16, 31))).abs().max() < 1e-6


def test_rcan_is_encoded_as_a_whole():
    model = lte(RCAN)
    assert model.reach is None
    with assert_user_error('MiB of memory are too few'):
        model.upscale(image(200, 200), (400, 400), memory=2 ** 20)


@pytest.mark.parametrize('encoder', [pytest.param(SWIN, id='swinir', marks=pytest.mark.slow), pytest.param(RCAN, id='rcan')])
@pytest.mark.parametrize('decoder', slow_except(
    ['lte'], ['lte', 'lte-fast', 'liif', 'metasr', 'ciaosr', 'sronet', 'clit', 'msit']))
def test_in_front_of_every_decoder(encoder, decoder):
    own = {'lte': {'imnet_spec': MLP, 'hidden_dim': 8}, 'lte-fast': {'hidden_dim': 8}, 'liif': {'imnet_spec': MLP},
           'ciaosr': {'hidden_list': [8]}, 'sronet': {'width': 8, 'blocks': 2},
           'clit': {'imnet_spec': MLP, 'base_dim': 8, 'head': 2, 'r': 1},
           'msit': {'imnet_spec': MLP, 'base_dim': 8, 'heads': 2, 'radius': 1, 'msc_convs': 2, 'mssa_projections': 2}}
    model = models.make({'name': decoder, 'args': {'encoder_spec': encoder, **own.get(decoder, {})}}).eval()
    lr = image(5, 6)
    sr = model.upscale(lr, (12, 15))
    with torch.no_grad():
        rgb = model(lr, *grid(12, 15)).clamp(0, 1).view(1, 12, 15, 3).permute(0, 3, 1, 2)
    assert sr.isfinite().all() and (rgb - sr).abs().max() < 1e-5
    model.train()
    model(image(8, 8), *grid(9, 9)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# the commands

@pytest.mark.slow
@pytest.mark.parametrize('encoder', [SWIN, RCAN], ids=['swinir', 'rcan'])
def test_training_resumes_bit_for_bit_and_is_evaluated(lab, encoder):
    """DropPath draws the same numbers after a resume."""
    model = {'name': 'lte', 'args': {'encoder_spec': encoder, 'imnet_spec': MLP, 'hidden_dim': 8}}
    assert lab.train('whole', model=model, epoch_max=3).status == 0
    assert lab.train('parts', model=model, epoch_max=2).status == 0
    assert lab.train('parts', '-resume', 'auto', model=model, epoch_max=3).status == 0
    assert differences(lab.loaded('whole'), lab.loaded('parts')) == []
    test = {'test_dataset': {'dataset': {'name': 'image-folder', 'args': {'root_path': 'images'}}, 'wrapper': {
        'name': 'sr-evaluation', 'args': {'name': 'S', 'protocol': 'benchmark', 'scales': [2, 2.5], 'lr': 'pil'}}}}
    (lab.folder / 'test.yaml').write_text(yaml.safe_dump(test))
    done = subprocess.run([sys.executable, ROOT / 'test.py', '-config', 'test.yaml', '-model', 'save/parts/epoch-last.pth',
                           '-device', 'cpu'], cwd=lab.folder, capture_output=True, text=True)
    assert done.returncode == 0 and 'PSNR' in done.stdout, done.stderr


@pytest.mark.slow
def test_other_encoders_do_not_import_timm():
    code = "import sys, models; models.load('MSIT-S'); sys.exit('timm' in sys.modules)"
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_every_name_is_registered_once():
    assert not {'swinir', 'rcan'} & MODELS.entries.keys()
