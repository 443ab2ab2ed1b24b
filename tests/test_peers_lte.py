"""LTE and LTE+ against their programs' outputs."""
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from peers_fill import assert_row, fill, hr_grid, lr_image
from test_models import assert_user_error, golden, grid, image, unsettled, variant

import models
from common.coords import Region
from engine.config import TRAIN_KEYS, load_config
from models.registries import MODELS

CONFIGS = Path(__file__).resolve().parent.parent / 'configs/train'
ENCODER = {'name': 'edsr-baseline', 'args': {'n_resblocks': 2, 'n_feats': 8, 'no_upsampling': True}}
SPECS = {
    'lte': {'name': 'lte', 'args': {'encoder_spec': ENCODER, 'hidden_dim': 16,
                                    'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [16, 16]}}}},
    'lte-fast': {'name': 'lte-fast', 'args': {'encoder_spec': ENCODER, 'hidden_dim': 16, 'num_layer': 2}},
}


@torch.no_grad()
def filled(name: str, height: int, width: int, zoom: float = 1.0) -> torch.Tensor:
    """The output of a filled model, normalised: (1, h·w, 3); the cell is `zoom` times that of the grid."""
    model = fill(models.make(SPECS[name]))
    coord, cell = hr_grid(height, width)
    return model.query(model.encode(lr_image()), coord, zoom * cell)


# reference outputs

def test_lte_gives_the_reference_output(shared):
    assert_row(filled('lte', 9, 16), 'lte', shared)


@pytest.mark.parametrize('zoom', [1, 2], ids=['clipped by the model', 'clipped before'])
def test_lte_at_a_factor_beyond_its_training(shared, zoom):
    """The reference got a cell of twice its size at ×8: the phase of ×4, which the model takes by itself."""
    assert_row(filled('lte', 40, 56, zoom), 'lte_x8cell', shared)


def test_lte_plus_gives_the_reference_output(shared):
    assert_row(filled('lte-fast', 9, 16).view(1, 9, 16, 3).permute(0, 3, 1, 2), 'lte_fast', shared)


def test_released_lte(shared):
    """Row 25 and column 31 of ×3 are left out: all four areas are zero there, and rounding alone decides the weights."""
    model, arrays, lr = golden(shared, 'lte')
    settled = np.ix_(*([line for line in range(n) if line != hit] for n, hit in ((27, 25), (33, 31))))
    for size, expected, part in (((27, 33), arrays['out_a'], settled), ((23, 40), arrays['out_b'], ...)):
        with torch.no_grad():
            rgb = model(lr, *grid(*size)).view(*size, 3) * 2 - 1
        assert (rgb - expected[0])[part].abs().max() < 1e-4
        sr = model.upscale(lr, size)[0].permute(1, 2, 0) * 2 - 1
        assert (sr - expected[0].clamp(-1, 1))[part].abs().max() < 1e-4
    with torch.no_grad():
        rgb = model(lr, arrays['query'], arrays['cell'][:, 0]) * 2 - 1
    assert (rgb - arrays['out_query']).abs().max() < 1e-4


# recipes and parameters

@pytest.mark.parametrize('name', ['lte', 'lte-fast'])
@pytest.mark.parametrize('family, encoder', [('edsr', 'edsr-baseline'), ('rdn', 'rdn')])
def test_the_recipe_is_that_of_liif(name, family, encoder):
    config, liif = (load_config(CONFIGS / f'train_{family}_baseline_{each}.yaml', TRAIN_KEYS) for each in (name, 'liif'))
    assert {**config, 'model': None} == {**liif, 'model': None}
    assert config['model']['name'] == name and config['model']['args']['hidden_dim'] == 256
    assert config['model']['args']['encoder_spec'] == {'name': encoder, 'args': {'no_upsampling': True}}


@pytest.mark.parametrize('name, decoder', [
    ('lte', {'imnet_spec': {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': [256, 256, 256]}}}), ('lte-fast', {})])
@pytest.mark.parametrize('encoder, parameters', [('edsr-baseline', 1_714_243), ('rdn', 22_467_779)])
def test_trainable_parameters(name, decoder, encoder, parameters):
    spec = {'name': name, 'args': {'encoder_spec': {'name': encoder, 'args': {'no_upsampling': True}}, **decoder}}
    with torch.device('meta'):
        model = MODELS.make(spec)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == parameters


def test_layout_of_released_files():
    state = models.make(SPECS['lte']).state_dict()
    heads = {key: tuple(value.shape) for key, value in state.items() if 'encoder' not in key}
    assert heads['phase.weight'] == (8, 2) and 'phase.bias' not in heads
    assert heads['coef.weight'] == heads['freq.weight'] == (16, 8, 3, 3)
    assert [key for key in heads if 'imnet' in key] == [f'imnet.layers.{i}.{kind}' for i in (0, 2, 4)
                                                        for kind in ('weight', 'bias')]
    state = models.make(SPECS['lte-fast']).state_dict()
    assert state['layers.4.weight'].shape == (3, 16, 1, 1) and state['layers.2.weight'].shape == (16, 16, 1, 1)


# the parts

@pytest.mark.parametrize('name', ['lte', 'lte-fast'])
def test_one_wave_by_hand(name):
    """One pixel, so four times the same neighbour: amplitude · [cos, sin](π(f·rel + phase)), read out by red and green."""
    spec = {'lte': {'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': []}}}, 'lte-fast': {'num_layer': 0}}[name]
    model = models.make({'name': name, 'args': {'encoder_spec': ENCODER, 'hidden_dim': 2, **spec}}).eval()
    last = (model.imnet.layers if name == 'lte' else model.layers)[0]
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.coef.bias.copy_(torch.tensor([0.5, -0.25]))
        model.freq.bias.copy_(torch.tensor([0.3, 0.7]))                              # along y, along x
        model.phase.weight.copy_(torch.tensor([[0.1, 0.2]]))
        last.weight.view(3, 2)[0, 0] = last.weight.view(3, 2)[1, 1] = 1
        rgb = model(torch.full((1, 3, 1, 1), 0.5), torch.tensor([[[0.2, -0.6]]]), torch.tensor([[1.0, 0.8]])) * 2 - 1
    angle = math.pi * (0.3 * 0.2 + 0.7 * -0.6 + 0.1 * 1.0 + 0.2 * 0.8)
    assert rgb.flatten().tolist() == pytest.approx([0.5 * math.cos(angle), -0.25 * math.sin(angle), 0], abs=1e-6)


def test_the_phase_is_kept_beyond_scale_max_on_each_axis():
    coord, _ = grid(3, 3)
    free, kept = (unsettled(models.make({'name': 'lte', 'args': {**SPECS['lte']['args'], 'scale_max': limit}}))
                  for limit in (None, 4))
    kept.load_state_dict(free.state_dict())
    lr = image(height=6, width=4)
    cell = torch.tensor([[2 / 48, 2 / 8]])                                           # ×8 and ×2
    with torch.no_grad():
        assert torch.equal(kept(lr, coord, cell), free(lr, coord, cell * torch.tensor([2, 1])))
        assert not torch.allclose(kept(lr, coord, cell), free(lr, coord, cell))


@pytest.mark.parametrize('name', ['lte', 'lte-fast'])
def test_regions_make_the_whole_image(name):
    """In float64, ties included (×1.5): 20×40 LR pixels from regions with a margin of `reach`."""
    model = variant(name, 0).double()
    lr = image(2, 20, 40).double()
    coord, cell = (x.expand(2, *x.shape[1:]) for x in grid(30, 60))
    with torch.no_grad():
        whole = model.query(model.encode(lr), coord, cell)
        inside = ((coord[0] > -0.5) & (coord[0] < 0.5)).all(-1)
        part = model.encode(lr, Region(5, 15, 10, 30, 20, 40))
        assert part.region != Region.whole(20, 40)
        assert (model.query(part, coord[:, inside], cell) - whole[:, inside]).abs().max() < 1e-12


@pytest.mark.parametrize('args, fragment', [
    ({'hidden_dim': 3}, 'hidden_dim is 3, expected an even number'), ({'scale_max': 0.5}, 'scale_max is 0.5'),
    ({'encoder_spec': {'name': 'edsr-baseline'}}, "encoder_spec: 'edsr-baseline' has its upsampling tail: set"),
    ({'encoder_spec': {'name': 'bicubic'}}, "encoder_spec.name: 'bicubic' is a model, expected an encoder")])
@pytest.mark.parametrize('name', ['lte', 'lte-fast'])
def test_wrong_arguments_are_refused(name, args, fragment):
    with assert_user_error(fragment):
        models.make({'name': name, 'args': {**SPECS[name]['args'], **args}})
