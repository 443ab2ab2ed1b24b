"""LIIF, UltraSR, IPE, Meta-SR, the encoders and RefConv: outputs of the released programs, and by explicit loops."""
import math

import numpy as np
import pytest
import torch
from peers_fill import assert_row, fill, hr_grid, lr_image
from torch import nn

import models
from common.coords import Region, make_cell, nearest_index, pixel_centres
from models.decoders.ensemble import neighbour_lines, neighbours
from models.decoders.fixed_scale import FixedScale
from models.msit.rim import RefConv2d
from models.registries import MODELS
from utils import UserError, count_parameters

SMALL = {'name': 'edsr-baseline', 'args': {'n_resblocks': 2, 'n_feats': 8, 'no_upsampling': True}}
MLP = {'name': 'mlp', 'args': {'hidden_list': [16, 16]}}
LIIF = {'name': 'liif', 'args': {'encoder_spec': SMALL, 'imnet_spec': MLP}}
METASR = {'name': 'metasr', 'args': {'encoder_spec': SMALL}}
ULTRASR = {'name': 'ultrasr', 'args': {'encoder_spec': SMALL, 'enc_dims': 8, 'sigma': 3, 'width': 12, 'depth': 3}}
IPE = {'name': 'ipe', 'args': {'encoder_spec': SMALL, 'imnet_spec': MLP, 'octaves': 3}}


def with_args(spec: dict, **args) -> dict:
    return {'name': spec['name'], 'args': {**spec['args'], **args}}


ALL = [LIIF, with_args(LIIF, local_ensemble=False), with_args(LIIF, feat_unfold=False), with_args(LIIF, cell_decode=False),
       with_args(LIIF, imnet_spec={'name': 'mlp', 'args': {'hidden_list': []}}), METASR, ULTRASR,
       with_args(ULTRASR, residual=True, cell_decode=True), IPE,
       with_args(IPE, times_pi=True, keep_offset=True, cell_decode=True, local_ensemble=False)]
EACH = pytest.mark.parametrize('spec', ALL, ids=[
    'liif', 'liif-e', 'liif-u', 'liif-c', 'liif-linear', 'metasr', 'ultrasr', 'ultrasr-options', 'ipe', 'ipe-options'])


def filled(spec: dict) -> nn.Module:
    return fill(models.make(spec))


# outputs of the released programs

@pytest.mark.parametrize(('row', 'spec', 'gain'), [
    ('edsr_small_feat', SMALL, 1.4),
    *((f'edsr_small_x{s}', {'name': 'edsr-baseline', 'args': {'n_resblocks': 2, 'n_feats': 8, 'scale': s}}, 1.4)
      for s in (2, 3, 4)),
    ('rdnA_G8_feat', {'name': 'rdn', 'args': {'RDNconfig': 'A', 'G0': 8, 'no_upsampling': True}}, 0.6),
    *((f'rdnA_G8_x{s}', {'name': 'rdn', 'args': {'RDNconfig': 'A', 'G0': 8, 'scale': s}}, 0.6) for s in (2, 4)),
])
def test_encoder_rows(shared, row, spec, gain):
    with torch.no_grad():
        assert_row(fill(models.ENCODERS.make(spec), gain).features(lr_image()), row, shared)


@pytest.mark.parametrize(('row', 'spec', 'size'), [
    ('liif_full', LIIF, (9, 16)),
    ('liif_no_ens', with_args(LIIF, local_ensemble=False), (9, 16)),
    ('liif_no_unfold', with_args(LIIF, feat_unfold=False), (9, 16)),
    ('liif_no_cell', with_args(LIIF, cell_decode=False), (9, 16)),
    ('liif_fixed_x2_wrapper', with_args(LIIF, imnet_spec=None, encoder_spec={
        'name': 'edsr-baseline', 'args': {'n_resblocks': 2, 'n_feats': 8, 'scale': 2, 'no_upsampling': False}}), (10, 14)),
    ('metasr', METASR, (9, 16)),
])
def test_decoder_rows(shared, row, spec, size):
    model = filled(spec)
    latent = model.encode(lr_image())
    assert_row(model.query(latent, *hr_grid(*size)), row, shared)
    grid = model.query_grid(latent, pixel_centres(size[0]), pixel_centres(size[1]), make_cell(*size)[None], 2 ** 20)
    assert_row(grid.flatten(1, 2), row, shared)


@pytest.mark.parametrize(('row', 'inputs', 'outputs', 'size', 'groups'), [
    ('refconv_dense', 4, 6, 5, 1), ('refconv_dw', 4, 4, 5, 4), ('refconv_grp', 4, 6, 3, 2)])
def test_refconv_rows(shared, row, inputs, outputs, size, groups):
    layer = fill(RefConv2d(inputs, outputs, size, groups=groups))
    nn.init.zeros_(layer.bias)  # theirs has none
    x = torch.sin(0.31 * torch.arange(144.)).view(1, 4, 6, 6)
    assert_row(layer(x), row, shared)
    folded = layer.folded()
    assert folded.groups == groups
    assert_row(folded(x), row, shared)


@pytest.mark.parametrize('name', ['liif', 'metasr'])
def test_released_files(shared, name):
    arrays = {key: torch.from_numpy(value) for key, value in np.load(shared / f'golden/{name}.npz').items()}
    model = models.load(shared / f'golden/{name}.pth')
    lr = arrays['inp'] * 0.5 + 0.5
    with torch.no_grad():
        latent = model.encode(arrays['inp'])
        scattered = model.query(latent, arrays['query'], arrays['cell'][:, 0])       # theirs has a cell for each query
        assert (scattered - arrays['out_query']).abs().max() < 1e-4
        for output, size in (('out_a', (27, 33)), ('out_b', (23, 40))):
            expected = arrays[output]
            # out_a holds row 25 and column 31 too, at which rounding decided the released weights, nearly as ours do
            assert (model.query(latent, *hr_grid(*size)).view(1, *size, 3) - expected).abs().max() < 1e-4
            sr = 2 * model.upscale(lr, size).permute(0, 2, 3, 1) - 1
            assert (sr - expected.clamp(-1, 1)).abs().max() < 1e-4


# trainable parameters

@pytest.mark.parametrize(('name', 'args', 'edsr', 'rdn'), [
    ('liif', {'imnet_spec': {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': [256] * 4}}}, 1_567_299, 22_320_835),
    ('metasr', {}, 1_665_536, 22_419_072),
    ('ultrasr', {}, 1_617_625, 22_371_161),
    ('ultrasr', {'enc_dims': 24}, 1_592_977, 22_346_513),
    ('ipe', {'imnet_spec': {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': [256] * 4}}}, 1_576_515, 22_330_051),
])
def test_trainable_parameters(name, args, edsr, rdn):
    for encoder, parameters in (('edsr-baseline', edsr), ('rdn', rdn)):
        spec = {'name': name, 'args': {**args, 'encoder_spec': {'name': encoder, 'args': {'no_upsampling': True}}}}
        with torch.device('meta'):
            assert count_parameters(MODELS.make(spec)) == parameters


@pytest.mark.parametrize(('encoder', 'counts'), [
    ('edsr-baseline', [1_369_859, 1_554_499, 1_517_571]), ('rdn', [22_123_395, 22_308_035, 22_271_107])])
def test_trainable_parameters_of_fixed_scales(encoder, counts):
    for scale, parameters in zip((2, 3, 4), counts):
        spec = {'name': 'liif', 'args': {'encoder_spec': {'name': encoder, 'args': {'scale': scale}}}}
        with torch.device('meta'):
            model = MODELS.make(spec)
        assert count_parameters(model) == parameters
        assert model.fixed_scale == scale and all(key.startswith('encoder.') for key in model.state_dict())


# the decoders, query by query

def linear(x: np.ndarray, layer: nn.Linear) -> np.ndarray:
    return layer.weight.detach().numpy() @ x + layer.bias.detach().numpy()


def plain_mlp(x: np.ndarray, layers: nn.Sequential) -> np.ndarray:
    for layer in layers:
        x = linear(x, layer) if isinstance(layer, nn.Linear) else np.maximum(x, 0)
    return x


def surroundings(features: np.ndarray, y: int, x: int, window: int) -> np.ndarray:
    """(F, H, W) → the features around a pixel, zeros outside, channel by channel."""
    _, height, width = features.shape
    reach = range(-(window // 2), window // 2 + 1)
    return np.array([channel[y + i, x + j] if 0 <= y + i < height and 0 <= x + j < width else 0.
                     for channel in features for i in reach for j in reach])


def plain_predict(model: nn.Module, spec: dict, features: np.ndarray, rel: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """What one neighbour answers."""
    args = spec['args']
    kept = list(cell) if args.get('cell_decode', spec['name'] == 'liif') else []
    if spec['name'] == 'liif':
        return plain_mlp(np.array([*features, *rel, *kept]), model.imnet.layers)
    if spec['name'] == 'ipe':
        def mean(function, antiderivative, u, r, w):
            """Over [u − r, u + r], by the antiderivative."""
            return (antiderivative(w * (u + r)) - antiderivative(w * (u - r))) / (2 * r * w)

        omega = [2 ** i * (math.pi if args.get('times_pi') else 1) for i in range(args['octaves'])]
        sines = [mean(math.sin, lambda t: -math.cos(t), u, c / 2, w) for u, c in zip(rel, cell) for w in omega]
        cosines = [mean(math.cos, math.sin, u, c / 2, w) for u, c in zip(rel, cell) for w in omega]
        offset = list(rel) if args.get('keep_offset') else []
        return plain_mlp(np.array([*features, *offset, *sines, *cosines, *kept]), model.imnet.layers)
    n = args['enc_dims'] // 4
    omega = [2 ** (args['sigma'] * i / (n - 1)) for i in range(n)]
    angles = [w * u for u in rel for w in omega]
    e = np.array([*rel, *map(math.sin, angles), *map(math.cos, angles)])
    first, *inner, last = model.imnet.layers
    x = np.maximum(linear(np.array([*features, *e, *kept]), first), 0)
    for layer in inner:
        y = np.maximum(linear(np.array([*x, *e]), layer), 0)
        x = x + y if args.get('residual') else y
    return linear(np.array([*x, *e]), last)


def plain_ensemble(model: nn.Module, spec: dict, features: np.ndarray, coord: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """One query of LIIF, UltraSR or IPE, as section 3 of LIIF's paper describes it."""
    size = np.array(features.shape[1:])
    window = 3 if spec['args'].get('feat_unfold', True) else 1
    answers, areas = [], []
    for vy, vx in [(-1, -1), (-1, 1), (1, -1), (1, 1)] if spec['args'].get('local_ensemble', True) else [(0, 0)]:
        moved = coord + np.array([vy, vx]) / size + (1e-6 if vy else 0)
        index = np.clip(np.floor((moved + 1) / 2 * size), 0, size - 1).astype(int)
        rel = (coord - (-1 + (2 * index + 1) / size)) * size
        answers.append(plain_predict(model, spec, surroundings(features, *index, window), rel, cell * size))
        areas.append(abs(rel[0] * rel[1]) + 1e-9)
    return sum(area * answer for area, answer in zip(areas[::-1], answers)) / sum(areas)


def plain_metasr(model: nn.Module, features: np.ndarray, coord: np.ndarray, cell: np.ndarray) -> np.ndarray:
    size = np.array(features.shape[1:])
    corner = coord - cell / 2
    index = np.clip(np.floor((corner + 1e-6 + 1) / 2 * size), 0, size - 1).astype(int)
    rel = (corner - (-1 + 2 * index / size)) * size / 2
    filters = plain_mlp(np.array([*rel, cell[0] * size[0] / 2]), model.imnet.layers).reshape(-1, 3)
    return surroundings(features, *index, 3) @ filters


@EACH
def test_queries_one_by_one(spec):
    """No shared layers, no gathers, float64: every query at the centre, at the borders and between pixels."""
    model = filled(spec).double()
    lr = torch.cat([lr_image(), lr_image().flip(3)]).double()
    generator = torch.Generator().manual_seed(0)
    coord = torch.rand(2, 12, 2, generator=generator, dtype=torch.float64) * 2 - 1
    coord[:, :4] = torch.tensor([[-0.99, -0.98], [0.97, 0.99], [-0.8, 0.2], [0.4, 0.999]], dtype=torch.float64)
    cell = torch.tensor([[2 / 9, 2 / 16], [2 / 12, 2 / 40]], dtype=torch.float64)
    with torch.no_grad():
        out = model.query(model.encode(lr), coord, cell)
        features = model.encoder.features(lr).numpy()
    plain = plain_metasr if spec['name'] == 'metasr' else lambda model, *args: plain_ensemble(model, spec, *args)
    expected = [[plain(model, features[b], coord[b, q].numpy(), cell[b].numpy()) for q in range(12)] for b in range(2)]
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-7 * np.abs(expected).max())  # areas are a product: ~1e-9 apart


def test_neighbours_by_hand():
    """Four pixels with centres −0.75, −0.25, 0.25, 0.75; an offset of 2 is one pixel."""
    coord = torch.tensor([0.0, -0.35, -0.95, 0.95, 0.25, 0.75])
    index, offset, weight = neighbour_lines(coord, 4, True)
    assert index.tolist() == [[1, 2], [0, 1], [0, 0], [3, 3], [2, 3], [3, 3]]
    np.testing.assert_allclose(offset, [[1, -1], [1.6, -0.4], [-0.8, -0.8], [0.8, 0.8], [0, -2], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(weight, [[.5, .5], [.2, .8], [.5, .5], [.5, .5], [1, 0], [.5, .5]], atol=1e-6)
    index, offset, weight = neighbour_lines(coord, 4, False)
    assert index.tolist() == [[2], [1], [0], [3], [2], [3]]
    assert offset[1].item() == pytest.approx(-0.4) and (weight == 1).all()


def test_neighbours_between_two_pixels_go_to_the_second_at_any_size():
    for n in (7, 48, 339, 2040):
        edges = torch.arange(1, n, dtype=torch.float64) * 2 / n - 1                  # between pixels k − 1 and k
        index, _, _ = neighbour_lines(edges, n, True)
        assert torch.equal(index, torch.stack([torch.arange(n - 1), torch.arange(1, n)], -1))
        index, _, _ = neighbour_lines(pixel_centres(n), n, True)                     # and so is a pixel's own centre
        assert torch.equal(index[:-1], torch.stack([torch.arange(n - 1), torch.arange(1, n)], -1))
        assert index[-1].tolist() == [n - 1, n - 1]


def test_neighbours_on_the_centre_of_a_border_line_are_still_weighted_along_it():
    """All four areas are zero there; the weights are the limit, not an average."""
    near = neighbours(torch.tensor([[[0.75, 0.1]]], dtype=torch.float64), Region.whole(4, 4), True)
    assert near.row.tolist() == [[[13, 14, 13, 14]]]
    np.testing.assert_allclose(near.weight[0, 0], [0.15, 0.35, 0.15, 0.35], atol=1e-8)


def test_rows_of_a_region():
    whole, part = Region.whole(6, 8), Region(2, 5, 3, 8, 6, 8)
    coord = torch.tensor([[[0.1, 0.2]], [[0.3, 0.4]]])
    rows = [neighbours(coord, region, True).row for region in (whole, part)]
    cut = part.of(torch.arange(96).view(2, 1, 6, 8)).flatten()                       # a map that holds its own row numbers
    assert torch.equal(cut[rows[1]], rows[0])


@EACH
def test_regions_equal_the_whole_image(spec):
    """In float64, at factors with ties (×1.5, ×2.5), queries exactly on the regions' edges included."""
    model = filled(spec).double()
    lr = torch.rand(1, 3, 26, 31, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    latent = model.encode(lr)
    for height, width in ((39, 62), (65, 31)):
        rows, columns, cell = pixel_centres(height), pixel_centres(width), make_cell(height, width)[None]
        with torch.no_grad():
            whole = model.query_grid(latent, rows, columns, cell, 2 ** 24)
            for region in Region.whole(26, 31).split(9, 11):
                y, x = (torch.isin(nearest_index(lines, n), torch.arange(*ends)) for lines, n, ends in (
                    (rows, 26, (region.top, region.bottom)), (columns, 31, (region.left, region.right))))
                part = model.query_grid(model.encode(lr, region), rows[y], columns[x], cell, 2 ** 24)
                expected = whole[:, y][:, :, x]
                assert (part - expected).abs().max() < 1e-11 * expected.abs().max()


@EACH
def test_reach_is_as_far_as_outputs_see(spec):
    """By the gradient of queries all over one LR pixel, at ×1.67, where an HR pixel may lie in two of them."""
    model = filled(spec).double()
    far = 0
    for column in pixel_centres(100)[47:57]:
        lr = torch.rand(1, 3, 1, 60, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
        coord = torch.tensor([[[0.0, column.item()]]], dtype=torch.float64)
        model.query(model.encode(lr), coord, make_cell(2, 100)[None]).sum().backward()
        seen = lr.grad.abs().amax((0, 1, 2)).nonzero().flatten()
        far = max(far, (seen - nearest_index(column, 60)).abs().max().item())
    assert far == model.reach


def test_ultrasr_and_ipe_say_that_they_are_reimplementations():
    assert 'figure' in models.make(ULTRASR).reimplementation and 'abstract' in models.make(IPE).reimplementation
    assert models.make(LIIF).reimplementation is None and models.make(METASR).reimplementation is None


# errors

@pytest.mark.parametrize(('spec', 'part'), [
    (with_args(LIIF, imnet_spec=None), "'edsr-baseline' without its upsampling tail makes no image: set no_"),
    (with_args(LIIF, imnet_spec=None, encoder_spec=MLP), 'mlp'),
    (with_args(LIIF, encoder_spec={'name': 'edsr-baseline', 'args': {'n_feats': 8}}),
     'has its upsampling tail: set no_upsampling to true'),
    (with_args(METASR, encoder_spec={'name': 'rdn'}), 'has its upsampling tail: set no_upsampling to true'),
    (with_args(LIIF, cell_decod=False), "did you mean 'cell_decode'"),
    (with_args(ULTRASR, enc_dims=6), 'enc_dims is 6, expected a multiple of 4'),
    (with_args(ULTRASR, depth=0), 'expected width and depth of at least 1, got 12 and 0'),
    (with_args(IPE, octaves=0), 'octaves is 0, expected at least 1'),
])
def test_wrong_specs(spec, part):
    with pytest.raises(UserError) as error:
        models.make(spec)
    assert part in str(error.value) and '\n' not in str(error.value)


def test_fixed_scale_is_the_network_itself():
    spec = {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 4, 'scale': 3}}
    wrapped = filled({'name': 'liif', 'args': {'encoder_spec': spec}})
    network = models.make(spec).eval()
    network.load_state_dict(wrapped.state_dict())
    lr = torch.rand(1, 3, 6, 7)
    assert isinstance(wrapped, FixedScale)
    assert type(network) is FixedScale and wrapped.reach == network.reach
    assert torch.equal(wrapped.upscale(lr, (18, 21)), network.upscale(lr, (18, 21)))
    with pytest.raises(UserError, match='by exactly 3'):
        wrapped.upscale(lr, (12, 14))
