"""CiaoSR against its program's outputs; its non-local features in the plain form; regions."""
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peers_fill import assert_row, fill, hr_grid, lr_image
from test_models import grid, image, variant

import models
from common import coords
from common.coords import Region
from engine.config import TRAIN_KEYS, load_config
from models.decoders import ciaosr
from models.decoders.ciaosr import CiaoSR, CrossScaleAttention
from models.decoders.ensemble import neighbours
from models.registries import MODELS

CONFIGS = Path(__file__).resolve().parent.parent / 'configs/train'


def filled(non_local: bool) -> CiaoSR:
    encoder = {'name': 'edsr-baseline', 'args': {'n_resblocks': 2, 'n_feats': 8, 'no_upsampling': True}}
    return fill(models.make({'name': 'ciaosr', 'args': {
        'encoder_spec': encoder, 'hidden_list': [16, 16], 'non_local_attn': non_local}}))


# reference outputs

@pytest.mark.parametrize('non_local, row', [(True, 'ciaosr_nonlocal'), (False, 'ciaosr_local')])
def test_ciaosr_gives_the_reference_output(shared, non_local, row):
    model = filled(non_local)
    with torch.no_grad():
        assert_row(model.query(model.encode(lr_image()), *hr_grid(9, 16)), row, shared)


def test_non_local_features_are_those_of_the_reference(shared):
    model = filled(True)
    with torch.no_grad():
        assert_row(model.cs_attn(model.encoder.features(lr_image())), 'ciaosr_csattn_feat', shared)


@pytest.mark.parametrize('encoder, parameters', [('edsr-baseline', 2_649_030), ('rdn', 23_402_566)])
def test_trainable_parameters(encoder, parameters):
    with torch.device('meta'):
        model = MODELS.make({'name': 'ciaosr', 'args': {'encoder_spec': {'name': encoder, 'args': {'no_upsampling': True}}}})
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters


# the parts

@pytest.mark.parametrize('queries', [1, 10, 256])
@pytest.mark.parametrize('height, width', [(6, 8), (5, 7)])
def test_non_local_features_in_the_plain_form(monkeypatch, height, width, queries):
    """Filters cut out of the halved map, convolution, softmax, transposed convolution with the patches they stand for.

    However many queries are computed at once.
    """
    monkeypatch.setattr(ciaosr, 'QUERIES', queries)
    torch.manual_seed(0)
    module = CrossScaleAttention(4).double()
    x = torch.randn(1, 4, height, width, dtype=torch.float64)
    padded = F.pad(x, (0, width % 2, 0, height % 2), 'reflect')
    rows, columns = padded.shape[2] // 2, padded.shape[3] // 2
    halved = padded.view(1, 4, rows, 2, columns, 2).mean((3, 5))
    reference = F.pad(module.conv_match_2(halved), (1,) * 4)[0]
    assembly = F.pad(module.conv_assembly(padded), (2,) * 4)[0]
    places = [(y, x) for y in range(rows) for x in range(columns)]
    filters = torch.stack([reference[:, y:y + 3, x:x + 3] for y, x in places])
    patches = torch.stack([assembly[:, 2 * y:2 * y + 6, 2 * x:2 * x + 6] for y, x in places])
    filters = filters / filters.flatten(1).norm(dim=1).clamp(min=1e-4).view(-1, 1, 1, 1)
    scores = F.conv2d(module.conv_match_1(padded), filters, padding=1) * 10
    doubled = F.conv_transpose2d(scores.softmax(1), patches, stride=2, padding=2)
    expected = module.down(doubled)[:, :, :height, :width] / 6
    assert (module(x) - expected).abs().max() < 1e-12


def test_a_image_of_one_pixel():
    assert variant('ciaosr', 0).upscale(image(1, 1, 1), (3, 4)).isfinite().all()


def test_neighbours_are_looked_for_at_another_distance():
    """(1 − cell)/(n − 1) instead of half an LR pixel, which is 1/n: the neighbours of a query on a centre by hand."""
    coord, cell = torch.tensor([[[0.0, 0.0]]], dtype=torch.float64), torch.tensor([[0.25, 1.0]], dtype=torch.float64)
    distance = (1 - cell) / torch.tensor([3 - 1, 5 - 1])                             # 0.375 · 3/2 = 0.5625 rows; none in x
    near = neighbours(coord, Region.whole(3, 5), True, distance)
    assert near.row.flatten().tolist() == [0 * 5 + 2, 0 * 5 + 2, 2 * 5 + 2, 2 * 5 + 2]
    assert near.offset[0, 0, 0].tolist() == [2, 0]


def test_regions_make_the_whole_image_without_non_local_features():
    """In float64: 20×40 LR pixels at ×1.5; with non-local features every pixel sees the whole image."""
    assert variant('ciaosr', 0).reach is None
    model = variant('ciaosr', 1).double()
    lr = image(2, 20, 40).double()
    coord, cell = (x.expand(2, *x.shape[1:]) for x in grid(30, 60))
    y, x = (coords.nearest_index(coord[0, :, axis], n) for axis, n in enumerate((20, 40)))
    inside = (y >= 8) & (y < 12) & (x >= 10) & (x < 30)
    with torch.no_grad():
        whole = model.query(model.encode(lr), coord, cell)
        part = model.encode(lr, Region(8, 12, 10, 30, 20, 40))
        assert (model.query(part, coord[:, inside], cell) - whole[:, inside]).abs().max() < 1e-12


@pytest.mark.parametrize('family, encoder', [('edsr', 'edsr-baseline'), ('rdn', 'rdn')])
def test_recipe(family, encoder):
    config, liif = (load_config(CONFIGS / f'train_{family}_baseline_{name}.yaml', TRAIN_KEYS) for name in ('ciaosr', 'liif'))
    norm = {'sub': [0.4488, 0.4371, 0.4040], 'div': [1]}
    assert config['data_norm'] == {'inp': norm, 'gt': norm} and config['train_dataset']['batch_size'] == 128
    assert config['train_dataset']['wrapper'] == liif['train_dataset']['wrapper']
    assert config['lr_schedule'] == {'name': 'multistep', 'args': {'milestones': [200, 400, 600, 800], 'gamma': 0.5}}
    assert config['epoch_max'] * config['train_dataset']['epoch_batches'] == 10 ** 6
    assert config['model']['args']['encoder_spec']['name'] == encoder
