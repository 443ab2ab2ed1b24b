"""`upscale`: the shared grid path against the plain path query by query, regions against whole images, and its memory.

Weights are random, so that no part is idle. References are the plain path, the whole image, NumPy and values by hand.
"""
import math
import re
import threading
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import models
from common import coords
from common.coords import Region
from models import upscale
from models.contract import SRModel
from models.decoders.msit import wrapped as wrapped_map
from models.encoders import rdn
from models.layers import MLP, bilinear_grid
from models.msit import grid
from models.msit.fem import FEM, AuthorsFEM, NoFEM
from models.msit.grid import JointDecoder, PlaneDecoder, decode_grid
from models.msit.msno import MSNO
from models.msit.mssa import MSSA, Maps
from utils import UserError

MIB = 2 ** 20

# every part of MSIT that the grid path or the regions depend on
VARIANTS = {
    'paper': {},
    'radius-0': {'radius': 0},
    'radius-2': {'radius': 2},
    'radius-3': {'radius': 3, 'base_dim': 16, 'heads': 4},
    'one-head': {'heads': 1},
    'heads-of-one-channel': {'heads': 8},
    'fem-authors': {'fem': 'authors'},
    'without-fem-sim-and-cell': {'fem': 'none', 'sim': False, 'cell_decode': False},
    'conventional': {'attention': 'conventional', 'radius': 2},
    'conventional-radius-0': {'attention': 'conventional', 'radius': 0},
    'value-projections': {'value_projections': 4},
    'no-cell': {'cell_decode': False},
    'rim': {'reparam': 'rim', 'reparam_init': 'random'},
    'linear-decoder': {'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': []}}},
}
DECODED_APART = ('paper', 'radius-0', 'radius-2', 'one-head', 'heads-of-one-channel', 'no-cell', 'linear-decoder')

# LR height and width, output height and width
SIZES = {
    'x1': (5, 7, 5, 7), 'x2': (5, 6, 10, 12), 'x3': (4, 5, 12, 15),
    'x1.5-ties': (6, 8, 9, 12), 'x1.5-odd': (7, 9, 10, 14), 'x2.5-ties': (6, 4, 15, 10), 'x2.5-odd': (5, 7, 12, 18),
    'x1.25-ties-upwards': (8, 4, 10, 5), 'x3.3': (7, 5, 23, 16), 'unequal': (6, 5, 7, 19), 'one-axis': (5, 6, 5, 21),
    'x12': (2, 3, 24, 36), 'line': (1, 6, 3, 9), 'column': (6, 1, 15, 1), 'one-pixel': (1, 1, 4, 3),
    'two-pixels': (2, 2, 5, 3),
}


# helpers

def msit(n_resblocks: int = 1, stride: float = 1.25, **args) -> SRModel:
    """A toy MSIT in float64 with random weights."""
    encoder = {'name': 'edsr-baseline', 'args': {'n_resblocks': n_resblocks, 'n_feats': 8, 'no_upsampling': True}}
    model = models.make({'name': 'msit', 'args': {
        'base_dim': 8, 'heads': 2, 'radius': 1, 'msc_convs': 2, 'mssa_projections': 2, 'encoder_spec': encoder,
        'pb_spec': {'name': 'posenc', 'args': {'enc_dims': 16}},
        'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [12, 10], 'act': 'gelu'}}, **args}})
    if isinstance(model.msno.fem, FEM):
        model.msno.fem.stride.data.fill_(stride)
    return randomised(model)


def encoder(name: str, **args) -> SRModel:
    """A toy encoder in float64 with random weights."""
    own = {'n_resblocks': 2, 'n_feats': 8} if name == 'edsr-baseline' else {'G0': 8, 'RDNconfig': 'A'}
    return randomised(models.make({'name': name, 'args': {**own, **args}}))


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Noise in every tensor but FEM's, scaled so that signals keep their size through the layers; float64, eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.double().state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if name.endswith('running_var'):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.ndim > 1 and not name.endswith('fem.kernels'):
                tensor.copy_(noise * (1 / tensor[0].numel()) ** 0.5)
            elif tensor.ndim == 1:
                tensor.copy_(0.3 * noise + (name.endswith('bn.weight')))
    return model.eval()


def random_image(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def lines(height: int, width: int, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, columns and cell (B, 2) of an output grid."""
    cell = torch.tensor([[2 / height, 2 / width]], dtype=torch.float64).expand(batch, 2)
    return coords.pixel_centres(height), coords.pixel_centres(width), cell


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def unclamped(model: SRModel) -> SRModel:
    """The same model with an output that is far inside [0, 1], so that `upscale` hides nothing by clamping."""
    model.data_norm = {'inp': {'sub': [0.5], 'div': [0.5]}, 'gt': {'sub': [0.5], 'div': [0.001]}}
    return model


def in_regions(monkeypatch, rows: int, columns: int) -> None:
    """Cuts every image into parts of at most rows × columns pixels."""
    monkeypatch.setattr(upscale, 'plan_regions', lambda model, lr, size, memory, halo: (
        list(Region.whole(*lr.shape[2:]).split(rows, columns)), memory or 2 ** 30))


def assert_regions_equal_whole(model: SRModel, monkeypatch, lr: torch.Tensor, size: tuple[int, int], parts: tuple[int, int],
                               expected_parts: int) -> None:
    """`upscale` in regions of at most `parts` gives the whole image's numbers, in units of the decoder's output."""
    unclamped(model)
    whole = model.upscale(lr, size)
    assert 0 < whole.min() < whole.max() < 1
    calls, encode = [], model.encode
    with monkeypatch.context() as patch:
        patch.setattr(model, 'encode', lambda *args: calls.append(args[1]) or encode(*args))
        in_regions(patch, *parts)
        assert largest(model.upscale(lr, size), whole) < 1e-10 * 0.001
    assert len(calls) == expected_parts


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made inside it and still alive; those made before are free."""

    def __init__(self):
        super().__init__()
        self.sizes, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.note((args, kwargs), counted=False)
        result = function(*args, **(kwargs or {}))
        self.note(result, counted=True)
        return result

    def note(self, tree, counted: bool) -> None:
        for tensor in tree_leaves(tree):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.sizes:
                storage = tensor.untyped_storage()
                self.sizes[storage._cdata] = storage.nbytes() * counted
                self.now += storage.nbytes() * counted
                weakref.finalize(storage, self.forget, storage._cdata)
        self.peak = max(self.peak, self.now)

    def forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def peak_bytes(compute, *args, **kwargs) -> int:
    """Most bytes of tensors alive at once while `compute` runs, its result aside."""
    with torch.no_grad(), LiveBytes() as live:
        result = compute(*args, **kwargs)
        held = sum(tensor.untyped_storage().nbytes() for tensor in tree_leaves(result) if isinstance(tensor, torch.Tensor))
    return live.peak - held if kwargs else live.peak


# the grid path and the plain path

@pytest.fixture
def joint(monkeypatch):
    """Narrow heads are decoded like wide ones."""
    monkeypatch.setattr(grid, 'WIDEST_PLANE', 0)


@pytest.fixture(params=['joint', 'planes', 'shared planes'])
def way(request, monkeypatch):
    """The ways of decoding a grid."""
    if request.param == 'joint':
        request.getfixturevalue('joint')
    monkeypatch.setattr(grid, 'SHARED', 1 if request.param == 'shared planes' else 10 ** 6)


@pytest.mark.parametrize('variant, way', [
    *((variant, 'joint') for variant in VARIANTS),
    *(pytest.param(variant, way, marks=() if variant in DECODED_APART else pytest.mark.slow)
      for way in ('planes', 'shared planes') for variant in VARIANTS),
], indirect=['way'])
@pytest.mark.parametrize('sizes', SIZES)
def test_grid_path_equals_the_plain_path(variant, sizes, way):
    height, width, *size = SIZES[sizes]
    model, lr = msit(**VARIANTS[variant]), random_image(height, width, batch=2) * 2 - 1
    with torch.no_grad():
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            latent = model.to(dtype).encode(lr.to(dtype))
            fast = model.query_grid(latent, *lines(*size, batch=2), 2 ** 30)
            plain = SRModel.query_grid(model, latent, *lines(*size, batch=2), 2 ** 30)
            assert fast.shape == (2, *size, 3)
            assert fast.dtype == dtype
            assert largest(fast, plain) < tolerance
            assert fast.std() > 0.1  # far from the tolerance
            assert largest(fast[0], fast[1]) > 0.1


def test_every_image_of_a_grid_has_its_own_cell(way):
    model, lr = msit(), random_image(5, 6).expand(2, -1, -1, -1)
    rows, columns, _ = lines(8, 13)
    cell = torch.tensor([[0.25, 0.2], [0.5, 0.1]], dtype=torch.float64)
    with torch.no_grad():
        latent = model.encode(lr)
        fast = model.query_grid(latent, rows, columns, cell, 2 ** 30)
        assert largest(fast, SRModel.query_grid(model, latent, rows, columns, cell, 2 ** 30)) < 1e-10
    assert largest(fast[0], fast[1]) > 1e-3


@pytest.mark.parametrize('size', [(6, 7), (12, 21), (9, 11)])
@pytest.mark.parametrize('pixels, queries, memory', [
    (1, 10 ** 6, 2 ** 30), (3, 10 ** 6, 2 ** 30), (20, 10 ** 6, 2 ** 30), (10 ** 6, 10 ** 6, 2 ** 30),
    (64, 1, 2 ** 30), (64, 20, 2 ** 30), (64, 4096, 0), (64, 4096, 2 ** 15)])
def test_blocks_of_any_size_make_the_same_grid(monkeypatch, joint, size, pixels, queries, memory):
    model = msit()
    with torch.no_grad():
        latent = model.encode(random_image(6, 7))
        expected = SRModel.query_grid(model, latent, *lines(*size), 2 ** 30)
        blocks, call = [], JointDecoder.__call__

        def record(decoder, number, ys, xs):
            blocks.append((len(ys.lr), len(xs.lr), ys.out.shape[1] * xs.out.shape[1]))
            return call(decoder, number, ys, xs)

        monkeypatch.setattr(JointDecoder, '__call__', record)
        monkeypatch.setattr(grid, 'peak_bytes', lambda decoder, image, ys, xs: 1000 * len(ys.lr) * len(xs.lr))
        hidden, keys = model.imnet.layers[0].out_features, (2 * model.mssa.radius + 1) ** 2
        monkeypatch.setattr(grid, 'CPU_U', pixels * keys * hidden)
        monkeypatch.setattr(grid, 'CPU_HIDDEN', queries * hidden)
        fast = model.query_grid(latent, *lines(*size), memory)
    assert largest(fast, expected) < 1e-10
    assert sum(i * j * s for i, j, s in blocks) == size[0] * size[1]
    assert all(i * j <= pixels and (i * j * s <= queries or i * j == 1) for i, j, s in blocks)
    if pixels == 20 and size != (9, 11):
        assert [(i, j) for i, j, _ in blocks] == [(2, 7)] * 3  # several lines at a time
    if pixels == 3 and size != (9, 11):
        assert [(i, j) for i, j, _ in blocks] == [(1, 3), (1, 3), (1, 1)] * 6
    if memory < 2 ** 30:  # a thousand bytes per LR pixel and thread
        most = max(1, memory // 1000 // torch.get_num_threads())
        assert max(i * j for i, j, _ in blocks) in range(min(most, 21) // 2 + 1, most + 1)


@pytest.mark.parametrize('size', [(6, 7), (12, 21), (9, 11)])
@pytest.mark.parametrize('queries, longest, memory', [
    (1, 64, 2 ** 30), (7, 64, 2 ** 30), (50, 2, 2 ** 30), (10 ** 6, 3, 2 ** 30), (10 ** 6, 64, 2 ** 30), (10 ** 6, 64, 0)])
@pytest.mark.parametrize('shared, pixels', [(10 ** 6, 1), (1, 5)])
def test_planes_of_any_size_make_the_same_grid(monkeypatch, size, queries, longest, memory, shared, pixels):
    monkeypatch.setattr(grid, 'SHARED', shared)
    monkeypatch.setattr(grid, 'U_PIXELS', pixels)
    model, blocks, call = msit(), [], PlaneDecoder.__call__

    def record(decoder, number, ys, xs):
        blocks.append((len(ys.lr), len(xs.lr), ys.out.shape[1] * xs.out.shape[1]))
        return call(decoder, number, ys, xs)

    monkeypatch.setattr(PlaneDecoder, '__call__', record)
    monkeypatch.setattr(PlaneDecoder, 'longest', longest)
    monkeypatch.setattr(PlaneDecoder, 'most_queries', queries)
    with torch.no_grad():
        latent = model.encode(random_image(6, 7))
        fast = model.query_grid(latent, *lines(*size), memory)
        assert largest(fast, SRModel.query_grid(model, latent, *lines(*size), 2 ** 30)) < 1e-10
    if memory:  # without, a block is measured first
        assert sum(i * j * s for i, j, s in blocks) == size[0] * size[1]
    assert all(j <= longest and (i * j * s <= queries or i * j == 1) for i, j, s in blocks)
    assert memory or blocks[-1][:2] == (1, 1)


@pytest.mark.parametrize('heads, width, planar', [(4, 64, False), (8, 64, True), (8, 72, False), (16, 64, True)])
def test_narrow_heads_are_decoded_in_planes(heads, width, planar):
    model = msit(base_dim=width, heads=heads)
    with torch.no_grad():
        maps = model.encode(random_image(3, 4)).maps
        assert PlaneDecoder.suits(model.mssa, maps) is planar
    assert not PlaneDecoder.suits(model.mssa, maps)  # planes record no gradients


@pytest.mark.parametrize('longest', [1, 2, 3, 5])
def test_queries_of_an_lr_pixel_in_parts_make_the_same_grid(monkeypatch, longest, way):
    model = msit()
    with torch.no_grad():
        latent = model.encode(random_image(3, 4))
        expected = SRModel.query_grid(model, latent, *lines(20, 16), 2 ** 30)
        monkeypatch.setattr(grid, 'LONGEST', longest)
        assert largest(model.query_grid(latent, *lines(20, 16), 2 ** 30), expected) < 1e-10


def test_lines_are_grouped_by_how_many_share_an_lr_line(monkeypatch):
    index = torch.tensor([0, 0, 1, 2, 2, 4, 4, 4, 4, 4, 4, 4])
    monkeypatch.setattr(grid, 'LONGEST', 3)
    groups = grid.group_by_count(index, torch.arange(12.)[:, None] / 6, torch.arange(12.)[:, None], 3.0)
    assert [(lines.lr.tolist(), lines.out.tolist()) for lines in groups] == [
        ([1, 4], [[2], [11]]), ([0, 2], [[0, 1], [3, 4]]), ([4, 4], [[5, 6, 7], [8, 9, 10]])]
    for lines_ in groups:
        np.testing.assert_allclose(lines_.taps.squeeze(-1), 3 - lines_.out / 4, atol=1e-6)
        assert torch.equal(lines_.bias.squeeze(-1), lines_.out.float())


def test_a_grid_by_hand():
    """One head, radius 0: attention is 1, so the decoder sees the value of the nearest pixel and the cell, nothing else."""
    pb_spec = {'name': 'posenc', 'args': {'enc_dims': 4}}
    mssa = MSSA(2, heads=1, radius=0, projections=1, value_projections=1, pb_spec=pb_spec)
    imnet = MLP(in_dim=4, hidden_list=[])
    weight = torch.tensor([[1., 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 10]])  # red, green: the values; blue: the cell
    with torch.no_grad():
        imnet.layers[0].weight.copy_(weight)
        imnet.layers[0].bias.zero_()
        values = torch.arange(12.).view(1, 2, 2, 3)                                  # channel 0: 0 … 5, channel 1: 6 … 11
        noise = torch.randn(1, 2, 2, 3)
        maps = Maps(mssa.by_pixel(noise), mssa.by_pixel(noise), mssa.by_pixel(values), Region.whole(2, 3))
        rgb = decode_grid(mssa, imnet, maps, *lines(3, 6)[:2], torch.tensor([[0.5, 0.25]]), 2 ** 20)
    red = [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]]  # the middle row is a tie between 0 and 1: to even
    np.testing.assert_allclose(rgb[0, ..., 0].numpy(), red, atol=1e-6)
    np.testing.assert_allclose(rgb[0, ..., 1].numpy(), np.add(red, 6), atol=1e-6)
    np.testing.assert_allclose(rgb[0, ..., 2].numpy(), np.full((3, 6), 3.0), atol=1e-6)


# bilinear samples

def test_bilinear_taps_are_the_hat_function():
    def taps(delta):
        group, = grid.group_by_count(torch.arange(len(delta)), delta, delta, 1.0)
        return group.taps.squeeze(1)

    delta = torch.tensor([-3, -2, -1.5, -1, -0.5, 0, 0.25, 1, 2, 2.5], dtype=torch.float64)
    assert taps(delta[:, None]).flatten().tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 0.875, 0.5, 0, 0]
    generator = torch.Generator().manual_seed(0)
    offset = torch.rand(50, generator=generator, dtype=torch.float64) * 2 - 1  # of a query to its nearest pixel: ±1 at most
    around = torch.stack([offset + 2, offset, offset - 2], 1)
    values = torch.rand(3, generator=generator, dtype=torch.float64)
    expected = np.interp(offset.numpy(), [-2, 0, 2], values.numpy())
    np.testing.assert_allclose((taps(around) @ values).numpy(), expected, atol=1e-15)


@pytest.mark.parametrize('height, width, size', [
    (5, 7, (5, 7)), (6, 8, (9, 12)), (5, 6, (23, 20)), (1, 4, (3, 9)), (3, 1, (7, 1)), (1, 1, (2, 3))])
def test_bilinear_grid_equals_grid_sample(height, width, size):
    image = random_image(height, width, batch=2)
    rows, columns, _ = lines(*size)
    xy = torch.stack(torch.meshgrid(rows, columns, indexing='ij'), -1).flip(-1).expand(2, -1, -1, -1)
    expected = F.grid_sample(image, xy, padding_mode='border', align_corners=False).permute(0, 2, 3, 1)
    assert largest(bilinear_grid(image, Region.whole(height, width), rows, columns), expected) < 1e-13


def test_bilinear_grid_of_a_region_reads_the_image():
    image = random_image(12, 14)
    rows, columns, _ = lines(31, 45)
    whole = bilinear_grid(image, Region.whole(12, 14), rows, columns)
    for part in Region.whole(12, 14).split(4, 5):
        y, x = (upscale.nearest_in(coords.nearest_index(line, n), start, stop) for line, n, start, stop in (
            (rows, 12, part.top, part.bottom), (columns, 14, part.left, part.right)))
        outer = part.grow(1)
        assert largest(bilinear_grid(outer.of(image), outer, rows[y], columns[x]), whole[:, y, x]) < 1e-13


# regions

def test_a_region_by_hand():
    region = Region(2, 5, 0, 4, 8, 9)
    assert not region.is_whole
    assert Region.whole(8, 9) == Region(0, 8, 0, 9, 8, 9)
    assert Region.whole(8, 9).is_whole
    assert region.grow(3) == (0, 8, 0, 7, 8, 9)
    assert region.grow(0) == region
    x = torch.arange(72).view(1, 1, 8, 9)
    assert region.of(x)[0, 0].tolist() == [[18, 19, 20, 21], [27, 28, 29, 30], [36, 37, 38, 39]]
    assert torch.equal(region.of(region.grow(1).of(x), region.grow(1)), region.of(x))
    assert [tuple(part) for part in region.split(2, 3)] == [
        (2, 3, 0, 2, 8, 9), (2, 3, 2, 4, 8, 9), (3, 5, 0, 2, 8, 9), (3, 5, 2, 4, 8, 9)]
    assert (region.height, region.width) == (3, 4)
    assert [part[:2] for part in Region(3, 14, 0, 1, 20, 1).split(4, 1)] == [(3, 6), (6, 10), (10, 14)]
    assert [part[2:4] for part in Region(0, 1, 0, 5, 1, 5).split(1, 1)] == [(i, i + 1) for i in range(5)]


@pytest.mark.parametrize('region, pixels, expected', [
    (Region(9, 14, 17, 20, 31, 40), 2, (4, 16, 12, 24, 31, 40)),    # 7 … 16 and 15 … 22 moved out to multiples of 4
    (Region(0, 8, 24, 40, 31, 40), 0, (0, 8, 24, 40, 31, 40)), (Region(20, 30, 3, 5, 31, 40), 0, (20, 31, 0, 8, 31, 40))])
def test_a_region_grows_to_multiples(region, pixels, expected):
    assert region.grow(pixels, 4) == expected


def test_coordinates_in_a_region_by_hand():
    """Rows 2 … 4 of 8 and columns 0 … 3 of 9: each pixel's centre, and the corners of the region."""
    region = Region(2, 5, 0, 4, 8, 9)
    points = torch.tensor([[2, 0], [5, 4], [2.5, 0.5], [4.5, 3.5]], dtype=torch.float64)  # in pixels of the image
    local = region.local(points / torch.tensor([4, 4.5]) - 1)
    np.testing.assert_allclose(local.numpy(), [[-1, -1], [1, 1], [-2 / 3, -3 / 4], [2 / 3, 3 / 4]], atol=1e-15)
    coord = torch.rand(3, 2)
    assert torch.equal(Region.whole(8, 9).local(coord), coord)


@pytest.mark.parametrize('margin', [0, 1, 3, 11])
@pytest.mark.parametrize('region', [Region.whole(3, 4), Region(1, 3, 0, 2, 3, 4), Region(0, 3, 2, 3, 3, 4)])
def test_wrapped_continues_on_the_other_side(region, margin):
    x = random_image(3, 4)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (12, 12), (12, 12)), mode='wrap')
    expected = padded[:, :, 12 + region.top - margin:12 + region.bottom + margin,
                      12 + region.left - margin:12 + region.right + margin]
    parts = []

    def compute(part: Region) -> torch.Tensor:
        parts.append(part)
        return part.of(x)

    np.testing.assert_array_equal(wrapped_map(compute, region, margin).numpy(), expected)
    assert all(0 <= part.top < part.bottom <= 3 and 0 <= part.left < part.right <= 4 for part in parts)


@pytest.mark.parametrize('n, size', [(4, 4), (4, 5), (6, 9), (6, 15), (7, 11), (3, 40), (1, 5)])
def test_lines_of_share_out_every_output_line(n, size):
    nearest = coords.nearest_index(coords.pixel_centres(size), n)
    for start in range(n):
        for stop in range(start + 1, n + 1):
            expected = [i for i in range(size) if start <= nearest[i] < stop]
            assert list(range(size))[upscale.nearest_in(nearest, start, stop)] == expected


@pytest.mark.parametrize('fem', [FEM(), AuthorsFEM(8), NoFEM()])
@pytest.mark.parametrize('stride', [0, 1, 1.4, 2.6])
def test_fem_of_a_part_is_the_part_of_fem(fem, stride):
    x = torch.randn(1, 8, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if isinstance(fem, FEM):
        fem.stride.data.fill_(stride)
    elif isinstance(fem, AuthorsFEM):
        fem.stride.fill_(stride)
    fem.double()
    with torch.no_grad():
        whole = fem(x)
        for part in (Region.whole(5, 6), Region(0, 2, 3, 6, 5, 6), Region(1, 4, 2, 3, 5, 6)):
            wrapped = wrapped_map(lambda piece: piece.of(x), part, fem.reach)
            assert largest(fem(wrapped, fem.reach), part.of(whole)) < 1e-14
    assert fem.reach == (0 if isinstance(fem, NoFEM) else int(stride) + isinstance(fem, FEM))


@pytest.mark.parametrize('fem', ['paper', 'authors', 'none'])
@pytest.mark.parametrize('sim', [True, False])
def test_msno_of_a_part_is_the_part_of_msno(fem, sim):
    msno = randomised(MSNO(16, convs=4, fem=fem, sim=sim))
    assert msno.reach == (4 if sim else 5)  # 9×9, and the 3×3 convolution in SIM's place
    x = torch.randn(1, 16, 17, 18, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        whole, region = msno(x), Region(6, 9, 7, 11, 17, 18)
        margin, outer = msno.fem.reach, region.grow(msno.reach)
        part = msno(wrapped_map(lambda piece: piece.of(x), outer, margin), margin)
        assert largest(region.of(part, outer), region.of(whole)) < 1e-12


REGIONS = {  # LR height and width, output size, largest part, number of parts
    '2x2': (30, 34, (45, 60), (15, 17), 4),
    '3x3': (40, 43, (57, 71), (14, 15), 9),
    '1xn': (9, 50, (9, 125), (9, 13), 4),  # every part touches both the upper and the lower border
    'nx1': (52, 6, (78, 15), (18, 6), 3),
    'few-pixels-wide': (2, 40, (5, 50), (2, 10), 4),
    'lines': (5, 31, (16, 93), (1, 31), 5),
}


@pytest.mark.parametrize('layout', REGIONS)
@pytest.mark.parametrize('fem, stride', [*(('paper', stride) for stride in (0, 1, 1.4, 2.6)), ('authors', 1), ('none', 1)])
def test_regions_of_msit_equal_the_whole(monkeypatch, layout, fem, stride):
    height, width, size, parts, number = REGIONS[layout]
    lr = random_image(height, width, batch=2)
    assert_regions_equal_whole(msit(fem=fem, stride=stride), monkeypatch, lr, size, parts, number)


@pytest.mark.parametrize('args', [
    {'sim': False}, {'attention': 'conventional', 'radius': 2}, {'radius': 0}, {'radius': 3, 'mssa_projections': 1},
    {'base_dim': 16, 'msc_convs': 16, 'n_resblocks': 0},  # kernels up to 33×33, by spectra
    {'reparam': 'rim', 'reparam_init': 'random'}, {'value_projections': 4, 'n_resblocks': 0}, {'cell_decode': False}])
def test_regions_equal_the_whole_with_other_parts(monkeypatch, args):
    lr = random_image(55, 57)
    assert_regions_equal_whole(msit(**args), monkeypatch, lr, (61, 66), (19, 19), 9)


@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('name', ['edsr-baseline', 'rdn'])
def test_regions_of_fixed_scale_networks_equal_the_whole(monkeypatch, name, scale):
    monkeypatch.setitem(rdn.CONFIGS, 'A', (2, 2, 5))
    for height, width, parts, number in ((20, 22, (10, 11), 4), (32, 29, (11, 10), 9), (5, 40, (5, 14), 3)):
        model, lr = encoder(name, scale=scale), random_image(height, width, batch=2)
        assert_regions_equal_whole(model, monkeypatch, lr, (scale * height, scale * width), parts, number)


def test_regions_of_msit_with_rdn_equal_the_whole(monkeypatch):
    monkeypatch.setitem(rdn.CONFIGS, 'A', (2, 2, 5))
    spec = {'name': 'rdn', 'args': {'G0': 8, 'RDNconfig': 'A', 'no_upsampling': True}}
    assert_regions_equal_whole(msit(encoder_spec=spec), monkeypatch, random_image(45, 47), (90, 99), (15, 16), 9)


def test_the_latent_of_a_region_answers_queries_one_by_one_too():
    """Scattered coordinates whose nearest pixels are rows 6 … 12 and columns 15 … 21."""
    lr, region = random_image(20, 22), Region(6, 13, 15, 22, 20, 22)
    place = torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 7
    coord = (place + torch.tensor([6, 15])) / torch.tensor([10, 11]) - 1
    cell = torch.tensor([[0.05, 0.04]], dtype=torch.float64)
    for model in (msit(), encoder('edsr-baseline', scale=2)):
        with torch.no_grad():
            whole, part = model.encode(lr), model.encode(lr, region)
            assert largest(model.query(part, coord, cell), model.query(whole, coord, cell)) < 1e-10


# reach

def footprint(model: SRModel, height: int, width: int, size: tuple[int, int]) -> torch.Tensor:
    """Largest change of the output at each LR pixel's queries when the middle LR pixel changes: (height, width)."""
    lr = random_image(height, width)
    other = lr.clone()
    other[:, :, height // 2, width // 2] += 0.5
    unclamped(model)
    change = (model.upscale(lr, size) - model.upscale(other, size)).abs().amax((0, 1)) / 0.001
    rows, columns, _ = lines(*size)
    index = coords.nearest_index(rows, height)[:, None] * width + coords.nearest_index(columns, width)
    return torch.zeros(height * width, dtype=torch.float64).scatter_reduce_(
        0, index.flatten(), change.flatten(), 'amax').view(height, width)


def assert_reach(model: SRModel, scale: float, tight: bool = True) -> None:
    """An output pixel depends on LR pixels at distance `reach` in every direction (where `tight`), and on none beyond."""
    side = 2 * (model.reach + 3) + 1
    change = footprint(model, side, side, (math.ceil(scale * side),) * 2)
    middle, reach = side // 2, model.reach
    inside = change[middle - reach:middle + reach + 1, middle - reach:middle + reach + 1]
    for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
        assert edge.max() > 1e-10 or not tight
    inside.zero_()
    assert change.max() < 1e-12


@pytest.mark.parametrize('name', ['edsr-baseline', 'rdn'])
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_reach_of_fixed_scale_networks_is_tight(monkeypatch, name, scale):
    monkeypatch.setitem(rdn.CONFIGS, 'A', (2, 2, 5))
    assert_reach(encoder(name, scale=scale), scale)


@pytest.mark.parametrize('name, reach', [('edsr-baseline', 6), ('rdn', 7)])
def test_reach_of_encoders_is_tight(monkeypatch, name, reach):
    monkeypatch.setitem(rdn.CONFIGS, 'A', (2, 2, 5))
    own = {'n_resblocks': 2, 'n_feats': 8} if name == 'edsr-baseline' else {'G0': 8, 'RDNconfig': 'A'}
    model = randomised(models.ENCODERS.make({'name': name, 'args': {**own, 'no_upsampling': True}}))
    lr = random_image(21, 21)
    assert model.reach == reach  # 3×3 convolutions one after the other: 1 + 2·2 + 1; 2 + 2·2 + 1
    other = lr.clone()
    other[:, :, 10, 10] += 0.5
    with torch.no_grad():
        change = (model.features(lr) - model.features(other)).abs().amax((0, 1))
    inside = change[10 - reach:11 + reach, 10 - reach:11 + reach]
    assert all(edge.max() > 1e-10 for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
    inside.zero_()
    assert change.max() < 1e-12


@pytest.mark.parametrize('args, reach', [
    ({'stride': 1.25}, 4 + 2 + 2 + 3), ({'stride': 2.6}, 4 + 3 + 2 + 3), ({'fem': 'authors'}, 4 + 1 + 2 + 3),
    ({'fem': 'none'}, 4 + 0 + 2 + 3), ({'sim': False}, 4 + 2 + 3 + 3), ({'radius': 0}, 4 + 2 + 2 + 3),
    ({'radius': 3}, 4 + 2 + 2 + 5), ({'value_projections': 4, 'base_dim': 16}, 4 + 2 + 2 + 5),
    ({'attention': 'conventional', 'radius': 2}, 4 + 2 + 2 + 3), ({'reparam': 'rim', 'msc_convs': 4}, 4 + 2 + 4 + 3)])
@pytest.mark.parametrize('scale', [1, 2.3])
def test_reach_of_msit_is_tight(args, reach, scale):
    """Encoder 4, FEM's wider shift, MSC, window (or bilinear sample) and query map, worked out by hand."""
    model = msit(**args)
    assert model.reach == reach
    assert_reach(model, scale, tight=args != {'radius': 0})  # with a single key the query plays no part


# halo

@pytest.mark.parametrize('halo', [0, 2, 3])
def test_a_smaller_halo_changes_the_neighbourhood_of_inner_borders_only(monkeypatch, halo):
    model, lr, size = unclamped(msit(fem='none')), random_image(36, 40), (72, 80)
    exact = model.upscale(lr, size)
    assert largest(model.upscale(lr, size, halo=halo), exact) == 0  # nothing to look around: the image is whole
    in_regions(monkeypatch, 18, 20)
    change = (model.upscale(lr, size, halo=halo) - exact).abs().amax((0, 1)) / 0.001
    depth = 2 * (model.encoder.reach - halo)  # in output pixels, on both sides of the borders at row 36 and column 40
    for outermost in (change[36 - depth:38 - depth], change[34 + depth:36 + depth],
                      change[:, 40 - depth:42 - depth], change[:, 38 + depth:40 + depth]):
        assert outermost.max() > 1e-8
    change[36 - depth:36 + depth] = 0
    change[:, 40 - depth:40 + depth] = 0
    assert change.max() < 1e-10


@pytest.mark.parametrize('halo', [4, 5, 1000])
def test_a_halo_of_all_that_is_seen_is_exact(monkeypatch, halo):
    model, lr = unclamped(msit()), random_image(36, 40)
    assert model.encoder.reach == 4
    exact = model.upscale(lr, (54, 60))
    in_regions(monkeypatch, 18, 20)
    assert largest(model.upscale(lr, (54, 60), halo=halo), exact) < 1e-13
    assert largest(model.upscale(lr, (54, 60), halo=3), exact) > 1e-9


def test_halo_of_a_fixed_scale_network(monkeypatch):
    model, lr = unclamped(encoder('edsr-baseline', scale=2)), random_image(30, 32)
    exact = model.upscale(lr, (60, 64))
    in_regions(monkeypatch, 15, 16)
    change = (model.upscale(lr, (60, 64), halo=model.reach - 2) - exact).abs().amax((0, 1))
    assert change[26:34].max() > 1e-9
    assert max(change[y, x].max() for y in (slice(0, 26), slice(34, 60)) for x in (slice(0, 28), slice(36, 64))) < 1e-13


def test_halo_error_is_the_largest_change_in_the_middle(monkeypatch):
    model, lr, size = msit(fem='none'), random_image(57, 60), (114, 120)
    assert upscale.halo_error(model, lr, size, 1) == 0  # the image is not cut
    exact = model.upscale(lr, size)
    in_regions(monkeypatch, 19, 20)
    change = (model.upscale(lr, size, halo=1) - exact).abs()[:, :, 38:76, 40:80]    # the fifth region of nine
    assert upscale.halo_error(model, lr, size, 1) == pytest.approx(change.max().item(), rel=1e-6)
    assert change.max() > 1e-4
    assert upscale.halo_error(model, lr, size, 4) < 1e-12


def test_halo_error_is_unknown_where_the_exact_result_does_not_fit():
    model, lr, size = msit(n_resblocks=4), random_image(80, 80), (80, 80)
    exact, quick = (memory_for(max((16 + 2 * margin) ** 2 * held for margin, held in stages_of(model, halo=halo)))
                    for halo in (None, 0))
    assert quick < exact
    memory = (exact + quick) // 2 + lr.nbytes
    with pytest.raises(UserError, match=r'or a halo of at most \d pixels, which is not exact') as error:
        model.upscale(lr, size, memory=memory)
    largest_halo = int(re.search(r'halo of at most (\d)', str(error.value))[1])
    assert model.upscale(lr, size, memory=memory, halo=largest_halo).shape == (1, 3, 80, 80)
    with pytest.raises(UserError, match='too few'):
        model.upscale(lr, size, memory=memory, halo=largest_halo + 1)
    assert upscale.halo_error(model, lr, size, 0, memory) is None


def test_progress_goes_from_nothing_to_all(monkeypatch):
    model, shares = msit(n_resblocks=0), []
    model.upscale(random_image(30, 31), (60, 62), progress=shares.append)
    assert shares == [1]
    shares.clear()
    in_regions(monkeypatch, 15, 31)
    model.upscale(random_image(30, 31), (60, 62), memory=50_000, progress=shares.append)  # in bands of one LR row
    assert shares == pytest.approx([(i + 1) / 30 for i in range(30)])


def test_a_negative_halo_is_refused():
    with pytest.raises(UserError, match='expected as halo a whole number of pixels from 0, got -1'):
        msit().upscale(random_image(5, 6), (10, 12), halo=-1)


# plans

class Stub(SRModel):
    """Sees two pixels far; for plans."""
    reach = 2


class StubEncoder(torch.nn.Module):
    reach = 25


class TwoStages(SRModel):
    """Few bytes with a wide margin, then many with a narrow one; for plans."""
    reach = 30

    def __init__(self):
        super().__init__()
        self.encoder = StubEncoder()


@pytest.fixture
def held(monkeypatch):
    """Sets what the stages of an encoding are taken to hold: (margin, bytes per LR pixel of the batch)."""
    def set_stages(*stages: tuple[int, int]) -> None:
        def by_halo(model, lr, halo, side):
            seen = 25 if isinstance(model, TwoStages) else 0
            smaller = 0 if halo is None else max(0, seen - halo)
            first, *rest = ((margin, size * len(lr)) for margin, size in stages)
            return [(first[0] - smaller, first[1]), *rest]
        monkeypatch.setattr(upscale, 'encoding_stages', by_halo)
        monkeypatch.setattr(upscale, 'AMPLE', 2 ** 40)  # measure every image
    return set_stages


def plan(model: SRModel, shape: tuple[int, ...], memory: int, halo: int | None = None) -> list[Region]:
    lr = torch.empty(shape)
    return upscale.plan_regions(model, lr, shape[2:], memory + lr.nbytes, halo)[0]


def memory_for(numbers: int) -> int:
    """The memory in which an encoding that holds so many bytes has its share."""
    return math.ceil(numbers / upscale.ENCODING_SHARE)


def stages_of(model: SRModel, batch: int = 1, halo: int | None = None) -> list[tuple[int, int]]:
    with torch.no_grad():
        return upscale.encoding_stages(model, torch.empty(batch, 3, 1, 1).to(model.inp_sub), halo, 16)


def least_memory(model: SRModel) -> int:
    """The smallest memory in which a large image can be processed: in regions of 16×16 and their margins."""
    return memory_for(max((16 + 2 * margin) ** 2 * size for margin, size in stages_of(model)))


def whole_memory(model: SRModel, pixels: int) -> int:
    """The smallest memory in which an image of so many pixels is encoded as a whole."""
    return memory_for(pixels * max(size for _, size in stages_of(model)))


@pytest.mark.parametrize('height, width, pixels, parts', [
    (100, 100, 10_000, (100, 100)), (100, 100, 9_999, (50, 50)),  # side 99 − 2·2: two parts
    (100, 100, 900, (25, 25)),                                    # side 30 − 2·2: four parts of 25
    (20, 200, 900, (20, 40)), (200, 20, 900, (40, 20)),           # from border to border: 900/20 − 2·2 = 41
    (30, 1000, 901, (30, 26)), (31, 1000, 931, (16, 26)),         # as wide as the square, and one more
    (100, 100, 400, (15, 15))])                                   # the least: 16 = 20 − 2·2; 100 in 7 parts
def test_plans_by_hand(held, height, width, pixels, parts):
    held((2, 40))
    regions = plan(Stub(), (1, 3, height, width), memory_for(40 * pixels))
    assert max(part.height for part in regions) == parts[0]
    assert max(part.width for part in regions) == parts[1]
    assert len(regions) == math.ceil(height / parts[0]) * math.ceil(width / parts[1])
    assert (regions == [Region.whole(height, width)]) == (parts == (height, width))


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('height, width', [(100, 90), (37, 400), (400, 37), (19, 77), (1, 1000), (23, 23)])
def test_plans_cover_the_image_once_and_fit(held, height, width, batch):
    held((2, 40))
    for pixels in (400, 401, 525, 777, 1600, 5000, 8999):
        regions = plan(Stub(), (batch, 3, height, width), memory_for(40 * pixels * batch))
        covered = np.zeros((height, width), int)
        for part in regions:
            covered[part.top:part.bottom, part.left:part.right] += 1
            outer = part.grow(2)
            assert outer.height * outer.width <= pixels
        assert (covered == 1).all()
        assert (len(regions) == 1) == (height * width <= pixels)


@pytest.mark.parametrize('height, width, numbers, parts', [
    (300, 300, 400 * 100 ** 2, (75, 75)),     # side 200 − 2·30 = 140 by the first stage, 100 − 2·5 = 90 by the second
    (300, 300, 100 * 90 ** 2, (30, 30)),      # side 90 − 2·30 by the first, 45 − 2·5 = 35 by the second
    (90, 90, 100 * 90 ** 2, (30, 30)),        # the first stage takes the whole image; 35 by the second
    (90, 90, 400 * 90 ** 2, (90, 90)), (90, 90, 400 * 90 ** 2 - 1, (45, 45)),
    (40, 1000, 400 * 40 * 40, (40, 30))])     # uncut: 400·40·40/400/40 − 2·5 by the second, 160 − 2·30 by the first
def test_plans_of_two_stages_by_hand(held, height, width, numbers, parts):
    held((30, 100), (5, 400))
    regions = plan(TwoStages(), (1, 3, height, width), memory_for(numbers))
    assert max(part.height for part in regions) == parts[0]
    assert max(part.width for part in regions) == parts[1]
    for margin, size in ((30, 100), (5, 400)):
        assert all(part.height * part.width * size <= numbers for part in (part.grow(margin) for part in regions))


@pytest.mark.parametrize('height, width, pixels, parts', [
    (100, 100, 5_000, (100, 100)),                 # 10,000 pixels by the second sample
    (100, 100, 2_116, (34, 34)),                   # side 46 − 2·2: smaller than the second sample, which is not asked
    (300, 300, 4_624, (75, 75)),                   # side 68 − 2·2, then 96 − 2·2
    (63, 300, 4_999, (63, 75))])                   # an image that is narrower: 4,999 // 63 − 2·2
def test_what_must_be_cut_is_measured_on_a_larger_sample(monkeypatch, height, width, pixels, parts):
    monkeypatch.setattr(upscale, 'AMPLE', 2 ** 40)
    monkeypatch.setattr(upscale, 'encoding_stages', lambda model, lr, halo, side: [(2, {16: 40, 64: 20}[side])])
    regions = plan(Stub(), (1, 3, height, width), memory_for(40 * pixels))
    assert (max(part.height for part in regions), max(part.width for part in regions)) == parts


@pytest.mark.parametrize('height', [5, 17, 40, 76, 77, 130, 900])
@pytest.mark.parametrize('width', [16, 60, 76, 150, 1000])
def test_the_memory_that_an_error_names_is_enough_for_every_shape(held, height, width):
    for factor in (1, 3, 300):
        held((30, 400 * factor), (5, 440 * factor), (0, 240 * factor))
        with pytest.raises(UserError, match='allow at least') as error:
            plan(TwoStages(), (1, 3, height, width), 1000)
        enough = int(re.search(r'allow at least (\d+) MiB', str(error.value))[1]) * MIB
        assert plan(TwoStages(), (1, 3, height, width), enough)
        whole = 440 * factor / upscale.ENCODING_SHARE + 12  # bytes per LR pixel
        assert enough <= MIB + height * width * whole


def test_margins_shrink_with_the_halo_by_the_encoders_part_only():
    model = msit()  # reach 4 + 2 + 2 + 3
    for halo, first in ((None, 11), (100, 11), (4, 11), (3, 10), (1, 8), (0, 7)):
        assert [margin for margin, _ in stages_of(model, halo=halo)] == [first, 7]
    for halo, first in ((None, 8), (100, 8), (3, 3), (0, 0)):  # 6, tail 2
        assert [margin for margin, _ in stages_of(encoder('edsr-baseline', scale=2), halo=halo)] == [first, 0]


def test_an_image_that_fits_is_never_cut(monkeypatch):
    model, lr = msit(), random_image(20, 24)
    regions, encode = [], model.encode
    monkeypatch.setattr(model, 'encode', lambda *args: regions.append(args[1:]) or encode(*args))
    model.upscale(lr, (30, 30), memory=whole_memory(model, 480) + lr.nbytes)
    model.upscale(lr, (30, 30))
    assert [region for region, *_ in filter(None, regions)] == [Region.whole(20, 24)] * 2


@pytest.mark.parametrize('height, width, batch', [(60, 60, 1), (60, 61, 3), (24, 300, 1), (300, 24, 2), (45, 40, 1)])
def test_too_little_memory_names_an_amount_that_is_enough(height, width, batch):
    model, lr = msit(base_dim=128, n_resblocks=0), torch.empty(batch, 3, height, width, dtype=torch.float64)
    with pytest.raises(UserError, match=r'\Aupscale: 1 MiB of memory are too few[^\n]*\Z') as error, torch.no_grad():
        upscale.plan_regions(model, lr, (height, width), MIB, None)
    enough = int(re.search(r'allow at least (\d+) MiB', str(error.value))[1]) * MIB
    assert enough > MIB
    assert 'halo' not in str(error.value)  # not even none fits
    with torch.no_grad():
        assert upscale.plan_regions(model, lr, (height, width), enough, None)
        with pytest.raises(UserError, match='MiB'):
            upscale.plan_regions(model, lr, (height, width), enough - MIB, None)
        with pytest.raises(UserError) as error:
            upscale.plan_regions(model, lr, (height, width), MIB, 0)
    assert 'halo' not in str(error.value)


def test_too_little_memory_reaches_the_caller():
    model, lr = msit(), random_image(60, 60)
    for memory in (0, 1, 1000):
        with pytest.raises(UserError, match=r'allow at least \d+ MiB'):
            model.upscale(lr, (70, 70), memory=memory)
    assert model.upscale(lr, (70, 70), memory=2 * MIB).shape == (1, 3, 70, 70)


def test_the_default_memory_does_not_depend_on_what_is_free(held):
    """It grows, four times at most, until regions are as wide as their margins."""
    gib = 2 ** 30
    for size, memory in ((10, 1.5), (50_000, 1.5), (80_000, 1.5), (150_000, 3), (300_000, 6), (301_000, 6)):
        held((30, size), (5, 10))
        regions, left = upscale.plan_regions(TwoStages(), torch.empty(1, 3, 1000, 1000), (1000, 1000), None, None)
        assert left == memory * gib - 12 * 10 ** 6, (size, left / gib)
        assert regions


# memory has no influence on results

@pytest.mark.parametrize('make, scale', [
    (lambda: msit(n_resblocks=0), 1.5), (lambda: encoder('edsr-baseline', n_resblocks=1, scale=3), 3)], ids=['msit', 'edsr'])
def test_results_do_not_depend_on_the_memory(make, scale):
    model, lr, size = unclamped(make()), random_image(60, 56), (round(60 * scale), round(56 * scale))
    whole = model.upscale(lr, size)
    numbers = set()
    for memory in (least_memory(model), *(whole_memory(model, pixels) for pixels in (2000, 3359, 3360, 10 ** 6))):
        assert largest(model.upscale(lr, size, memory=memory + lr.nbytes), whole) < 1e-13
        with torch.no_grad():
            numbers.add(len(upscale.plan_regions(model, lr, size, memory + lr.nbytes, None)[0]))
    assert len(numbers) > 2 and 1 in numbers


@pytest.mark.parametrize('memory', [10 ** 5, 2 * 10 ** 6, None])
@pytest.mark.parametrize('size', [(41, 75), (20, 30), (60, 90), (33, 31)])
def test_bicubic_is_pillows_at_any_memory(size, memory):
    """Of 8 bits to the bit, but in parts to their rounding; of more, Pillow's on floating-point numbers."""
    model, exact = models.load('bicubic'), random_image(20, 30).float()
    pixels = (exact[0].permute(1, 2, 0) * 255).round().byte().numpy()
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
    parts = []
    model.upscale_parts(pixels, size, lambda rows, columns, rgb: parts.append(rgb), memory)
    sr = model.upscale(pixels, size, memory=memory)
    difference = np.abs((sr[0].permute(1, 2, 0) * 255).round().int().numpy() - expected)
    assert (len(parts) > 1) == (memory == 10 ** 5) and difference.max() <= (2 if len(parts) > 1 else 0)
    assert (difference > 0).mean() < 0.01
    planes = [Image.fromarray(plane.contiguous().numpy()).resize(size[::-1], Image.Resampling.BICUBIC) for plane in exact[0]]
    sr = model.upscale(exact, size, memory=memory)
    assert largest(sr[0], torch.from_numpy(np.stack(planes)).clamp(0, 1)) < 2e-6
    sixteen = (exact[0].permute(1, 2, 0) * 65535).round().numpy().astype(np.uint16)
    assert largest(model.upscale(sixteen, size, memory=memory), sr) < 1e-4  # 65535 is 2⁻¹⁶ of 1


SMALL_EDSR = {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 8, 'no_upsampling': True}}


@pytest.mark.parametrize('spec, size', [
    pytest.param({'name': 'srno', 'args': {'encoder_spec': SMALL_EDSR}}, (90, 90), marks=pytest.mark.slow),
    ({'name': 'ciaosr', 'args': {'encoder_spec': SMALL_EDSR}}, (75, 75))])
def test_models_that_cannot_be_cut_refuse_what_does_not_fit(spec, size):
    model, lr = models.make(spec), random_image(70, 70).float()
    with pytest.raises(UserError, match=r'allow at least \d+ MiB\Z') as error:
        model.upscale(lr, size, memory=2 ** 20)
    enough = int(re.search(r'allow at least (\d+) MiB', str(error.value))[1]) * MIB
    assert enough > 12 * math.prod(size)
    assert peak_bytes(model.upscale, lr, size, memory=enough) < enough + 12 * math.prod(size)
    with pytest.raises(UserError, match='too few'):
        model.upscale(lr, size, memory=enough - MIB)


# bytes

def plan_blocks_by_memory_alone(monkeypatch) -> None:
    monkeypatch.setattr(grid, 'CPU_U', 2 ** 60)
    monkeypatch.setattr(grid, 'CPU_HIDDEN', 2 ** 60)


@pytest.mark.parametrize('args, scale', [
    ({}, 1), ({}, 2), pytest.param({'fem': 'none', 'attention': 'conventional'}, 1.5, marks=pytest.mark.slow),
    pytest.param({'radius': 2}, 3, marks=pytest.mark.slow)])
def test_upscale_stays_within_its_memory(monkeypatch, args, scale):
    """All tensors at once, the result aside, from many regions to the whole image."""
    plan_blocks_by_memory_alone(monkeypatch)
    model, lr = msit(n_resblocks=0, base_dim=32, **args).float(), random_image(48, 45).float()
    size, numbers = (round(48 * scale), round(45 * scale)), []
    for memory in (least_memory(model), whole_memory(model, 48 * 45)):
        memory += lr.nbytes
        assert peak_bytes(model.upscale, lr, size, memory=memory) < memory
        with torch.no_grad():
            numbers.append(len(upscale.plan_regions(model, lr, size, memory, None)[0]))
    assert numbers[0] > numbers[1] == 1


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_fixed_scale_networks_stay_within_their_memory(scale):
    model, lr = encoder('edsr-baseline', scale=scale, n_feats=16).float(), random_image(70, 75).float()
    for memory in (least_memory(model) + lr.nbytes, whole_memory(model, 70 * 75) + lr.nbytes):
        assert peak_bytes(model.upscale, lr, (70 * scale, 75 * scale), memory=memory) < memory


@pytest.mark.slow
def test_memory_does_not_grow_with_the_output(monkeypatch):
    plan_blocks_by_memory_alone(monkeypatch)
    model, lr = msit(n_resblocks=0).float(), random_image(4, 4).float()
    for size in ((40, 40), (200, 200), (400, 400)):  # 10,000 queries an LR pixel
        assert peak_bytes(model.upscale, lr, size, memory=4 * MIB) < 4 * MIB


FULL_MSIT = {'name': 'msit', 'args': {
    'fem': 'none', 'encoder_spec': {'name': 'edsr-baseline', 'args': {'no_upsampling': True}},
    'imnet_spec': {'name': 'mlp', 'args': {'hidden_list': [256], 'act': 'gelu'}}}}


@pytest.mark.parametrize('spec, encoder_holds, model_holds', [
    ({'name': 'edsr-baseline', 'args': {'scale': 2}}, (1 + 2 * 4) * 64, None),       # both sides of the last shuffle
    ({'name': 'edsr-baseline', 'args': {'scale': 3}}, (1 + 2 * 9) * 64, None),
    ({'name': 'edsr-baseline', 'args': {'scale': 4}}, (1 + 2 * 16) * 64, None),
    ({'name': 'rdn', 'args': {'RDNconfig': 'A', 'scale': 4}}, (2 * 20 + 3) * 64, None),
    (FULL_MSIT, 4 * 64, 64 + 8 * 256)])              # skip, block's input, convolution, ReLU; SIM: v, two maps of 2C, …
def test_encodings_are_measured_as_counted_by_hand(spec, encoder_holds, model_holds):
    """At full width, numbers per LR pixel, without computing anything."""
    with torch.device('meta'), torch.no_grad():
        model = models.make(spec).eval()
        stages = upscale.encoding_stages(model, torch.empty(1, 3, 1, 1), None, 16)
    measured = [size / 4 for _, size in stages]
    assert measured[0] == pytest.approx(encoder_holds, rel=0.03)
    assert model_holds is None or measured[1] == pytest.approx(model_holds, rel=0.03)


@pytest.mark.parametrize('dtype, error', [(torch.float64, 1e-15), (torch.float32, 1e-6)])
def test_short_softmax(dtype, error):
    """Against numbers of unlimited range: logits of a trained positional bias lie hundreds apart."""
    logits = torch.tensor([[0., 1, 2], [613, -204, 612], [-500, -500, -500], [30, -9, -11]], dtype=dtype)
    e = math.exp
    expected = [[1 / (1 + e(1) + e(2)), e(1) / (1 + e(1) + e(2)), e(2) / (1 + e(1) + e(2))],
                [1 / (1 + e(-1)), 0, e(-1) / (1 + e(-1))], [1 / 3, 1 / 3, 1 / 3],
                [1 / (1 + e(-39) + e(-41)), e(-39) / (1 + e(-39) + e(-41)), e(-41) / (1 + e(-39) + e(-41))]]
    assert largest(grid.short_softmax(logits.clone(), 1), torch.tensor(expected, dtype=dtype)) < error


# half precision

def natural(height: int, width: int) -> torch.Tensor:
    """A drawn image with smooth shades, edges at several angles and some texture: (1, 3, H, W)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing='ij')
    disc = torch.sigmoid(60 * (0.3 - ((y - 0.45) ** 2 + (x - 0.4) ** 2).sqrt()))
    beam = torch.sigmoid(40 * (0.12 - (0.8 * y + 0.6 * x - 0.9).abs()))
    shade, texture = 0.3 + 0.4 * y + 0.1 * (5 * x).sin(), 0.04 * (40 * x).sin() * (30 * y).cos()
    return torch.stack([shade + 0.4 * disc, 0.8 * shade + 0.3 * beam + texture, 0.9 - shade - 0.3 * disc]).clamp(0, 1)[None]


def test_inference_mode(set_threads):
    """It belongs to a thread, as gradients do: the threads that decode have to be in it too."""
    model, lr = models.load('MSIT-S'), torch.rand(1, 3, 16, 20)
    expected = model.upscale(lr, (40, 50))
    set_threads(2)
    with torch.inference_mode():
        sr = model.upscale(lr, (40, 50))
    assert sr.is_inference() and largest(sr.clone(), expected) < 1e-5


@pytest.mark.parametrize('inference', [False, True])
@pytest.mark.parametrize('dtype', [None, torch.bfloat16, torch.float16])
def test_threads_take_over_the_settings_of_their_caller(set_threads, inference, dtype):
    def settings(_):
        return (threading.get_ident(), torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.get_num_threads(),
                torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else None)

    set_threads(2)
    with torch.inference_mode(inference), torch.no_grad(), torch.autocast('cpu', dtype, enabled=dtype is not None):
        found = upscale.for_each(settings, range(5), in_threads=True)
        with torch.inference_mode(False), torch.enable_grad():  # which no thread would record
            alone = upscale.for_each(settings, range(2), in_threads=True)
    assert [values for _, *values in found] == 5 * [[inference, False, 1, dtype]]
    assert threading.get_ident() not in [thread for thread, *_ in found]
    assert alone == 2 * [(threading.get_ident(), False, True, 2, dtype)]


def test_half_precision_in_threads(set_threads):
    model, lr = models.load('MSIT-S'), natural(12, 16)
    model.precision, results = torch.bfloat16, []
    for threads in (1, 2):
        set_threads(threads)
        results.append(model.upscale(lr, (30, 40)))  # of several blocks, as 2.5 is no whole number
    assert largest(*results) < 1 / 255


def assert_bfloat16_is_close(lr: torch.Tensor, size: tuple[int, int]) -> None:
    """Grid path and scattered path under autocast, within 2/255 of float32."""
    model = models.load('MSIT-S')
    exact = model.upscale(lr, size)
    coord, cell = coords.make_grid(*size).view(1, -1, 2), coords.make_cell(*size).view(1, 2)
    with torch.autocast('cpu', torch.bfloat16), torch.no_grad():
        upscaled = model.upscale(lr, size)
        scattered = model(lr, coord, cell).clamp(0, 1).view(1, *size, 3).permute(0, 3, 1, 2)
    for half in (upscaled, scattered):
        assert half.dtype == torch.float32
        assert 0 < largest(half, exact) < 2 / 255


@pytest.mark.parametrize('size', [(24, 24), (48, 60), (79, 36)])
def test_bfloat16_on_a_drawn_image(size):
    assert_bfloat16_is_close(natural(24, 24), size)


@pytest.mark.parametrize('scale', [2, 3.3])
def test_bfloat16_on_a_photograph(shared, scale):
    with Image.open(shared / 'data/benchmark/Set5/LR_bicubic/X2/butterflyx2.png') as image:
        pixels = np.asarray(image.convert('RGB').crop((40, 40, 64, 64)))
    lr = torch.from_numpy(pixels / np.float32(255)).permute(2, 0, 1)[None]
    assert_bfloat16_is_close(lr, (round(24 * scale),) * 2)
