"""The modules of MSIT and the coordinates against values worked out by hand or by plain float64 loops.

The reference functions below follow the method's description, with arrays of NumPy and one explicit loop per index that the
description names; none of them calls the project's code. Maps of one image are (C, H, W).
"""
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_ties import released_centres

from common import coords
from models.layers import PositionalBias, sample_bilinear
from models.msit import conv, rim
from models.msit.conv import Conv2d
from models.msit.fem import FEM, AuthorsFEM
from models.msit.msc import MSC
from models.msit.msno import MSNO
from models.msit.mssa import MSSA, ConventionalAttention, MultiScaleQuery
from models.msit.sim import SIM, ConvMixing

# channel mod 8 → (dy, dx): the output at (y, x) is the input at (y, x) + n·(dy, dx)
SHIFTS = [(0, 1), (0, -1), (1, 0), (-1, 0), (-1, 1), (1, -1), (1, 1), (-1, -1)]
# frequencies 2^l − 1 of l = 0, 1, …, 10, which are whole numbers and therefore exact in every precision
WHOLE_FREQUENCIES = [2 ** octave - 1 for octave in range(11)]
WHOLE_SPEC = {'name': 'posenc', 'args': {'enc_dims': 44, 'posenc_scale': 10}}


# helpers

def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Fills every parameter and statistic with seeded float64 noise (variances between 0.5 and 2); returns the module."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith('running_var'):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 1.5 + 0.5)
            elif tensor.is_floating_point() and not name.endswith(('fem.stride', 'fem.kernels')):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
    return module


def arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy().copy() for name, tensor in module.state_dict().items()}


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shifted(x: np.ndarray, stride: int) -> np.ndarray:
    out = np.empty_like(x)
    channels, height, width = x.shape
    for c in range(channels):
        dy, dx = SHIFTS[c % 8]
        for row in range(height):
            for column in range(width):
                out[c, row, column] = x[c, (row + stride * dy) % height, (column + stride * dx) % width]
    return out


def convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, groups: int = 1) -> np.ndarray:
    """Zeros around the image, its size kept: out[o, y, x] = Σ weight[o, i, a, b] · in[i, y + a − k/2, x + b − k/2]."""
    outputs, inputs, size, _ = weight.shape
    _, height, width = x.shape
    out = np.zeros((outputs, height, width))
    for o in range(outputs):
        first = o // (outputs // groups) * inputs
        for a in range(size):
            for b in range(size):
                for row in range(height):
                    for column in range(width):
                        y, z = row + a - size // 2, column + b - size // 2
                        if 0 <= y < height and 0 <= z < width:
                            out[o, row, column] += weight[o, :, a, b] @ x[first:first + inputs, y, z]
        if bias is not None:
            out[o] += bias[o]
    return out


def multi_scale(x: np.ndarray, w: dict, prefix: str, groups: int) -> np.ndarray:
    """MSC: group i (from 1) of the channels passes the kernel of 2i + 1."""
    width = len(x) // groups
    out = []
    for i in range(1, groups + 1):
        weight, bias = w[f'{prefix}convs.{i - 1}.weight'], w[f'{prefix}convs.{i - 1}.bias']
        assert weight.shape == (width, width, 2 * i + 1, 2 * i + 1)
        out.append(convolved(x[(i - 1) * width:i * width], weight, bias))
    return np.concatenate(out)


def gelu(x: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda value: value * 0.5 * (1 + math.erf(value / math.sqrt(2))))(x)


def mixed(batch: np.ndarray, w: dict, prefix: str, groups: int, training: bool = False) -> np.ndarray:
    """(B, C, H, W): grouped 1×1 C → 2C, batch norm, GELU, 1×1 2C → C."""
    wide = np.stack([convolved(x, w[prefix + 'within.weight'], w[prefix + 'within.bias'], groups) for x in batch])
    assert wide.shape[1] == 2 * batch.shape[1]
    for c in range(wide.shape[1]):
        mean, variance = w[prefix + 'bn.running_mean'][c], w[prefix + 'bn.running_var'][c]
        if training:
            mean, variance = wide[:, c].mean(), wide[:, c].var()
        wide[:, c] = (wide[:, c] - mean) / math.sqrt(variance + 1e-5) * w[prefix + 'bn.weight'][c] + w[prefix + 'bn.bias'][c]
    return np.stack([convolved(x, w[prefix + 'across.weight'], w[prefix + 'across.bias']) for x in gelu(wide)])


def nearest(coordinate: float, n: int) -> int:
    """Half to even in LR pixel units, every step in float32."""
    pixels = ((np.float32(coordinate) + np.float32(1)) * np.float32(n) - np.float32(1)) / np.float32(2)
    return min(max(int(np.rint(pixels)), 0), n - 1)


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """(C,) at a coordinate of [−1, 1]²; zero beyond the image."""
    channels, height, width = image.shape
    row, column = ((y + 1) * height - 1) / 2, ((x + 1) * width - 1) / 2
    out = np.zeros(channels)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                out += (1 - abs(row - i)) * (1 - abs(column - j)) * image[:, i, j]
    return out


def bias_of_key(delta_y: float, delta_x: float, w: dict, frequencies: list) -> np.ndarray:
    """(heads,): the linear map of the four blocks of features, literally."""
    features = ([math.sin(f * delta_y) for f in frequencies] + [math.sin(f * delta_x) for f in frequencies]
                + [math.cos(f * delta_y) for f in frequencies] + [math.cos(f * delta_x) for f in frequencies])
    return w['position_bias.proj.weight'] @ np.array(features) + w['position_bias.proj.bias']


def attended(query, keys, values, coord, w: dict, frequencies: list, heads: int, radius: int) -> np.ndarray:
    """One image's maps (C, H, W), coordinates (Q, 2) → (Q, K²·C), in the order (key, head, channel)."""
    channels, height, width = query.shape
    d = channels // heads
    out = []
    for y, x in coord:
        q = bilinear(query, y, x)
        logits, vectors = [], []
        for row in range(nearest(y, height) - radius, nearest(y, height) + radius + 1):
            for column in range(nearest(x, width) - radius, nearest(x, width) + radius + 1):
                inside = 0 <= row < height and 0 <= column < width
                key = keys[:, row, column] if inside else np.zeros(channels)
                vectors.append(values[:, row, column] if inside else np.zeros(channels))
                delta_y = (y - (-1 + (2 * row + 1) / height)) * height
                delta_x = (x - (-1 + (2 * column + 1) / width)) * width
                bias = bias_of_key(delta_y, delta_x, w, frequencies)
                logits.append([q[h * d:(h + 1) * d] @ key[h * d:(h + 1) * d] / math.sqrt(d) + bias[h] for h in range(heads)])
        weights = np.exp(np.array(logits) - np.max(logits, 0))
        weights /= weights.sum(0)                                                    # (K², heads)
        numbers = []
        for key, vector in enumerate(vectors):
            for h in range(heads):
                numbers += [weights[key, h] * value for value in vector[h * d:(h + 1) * d]]
        out.append(numbers)
    return np.array(out)


def query_points(height: int, width: int) -> torch.Tensor:
    """Coordinates that are hard to get right: corners, borders, pixel centres, exact ties, and some at random; (Q, 2)."""
    points = [(-1, -1), (-1, 1), (1, -1), (1, 1), (-1, 0.1), (0.3, 1), (0, 0), (1 / height - 1, 1 / width - 1)]
    points += [(2 * i / height - 1, 2 * i / width - 1) for i in range(1, min(height, width))]    # between two pixels
    points += [(1 - 1 / (3 * height), (2 * i + 1) / (3 * width) - 1) for i in range(0, 3 * width, 2)]
    return torch.cat([torch.tensor(points, dtype=torch.float64), noise(8, 2, seed=5).tanh()])


def assert_equals(actual: torch.Tensor, expected: np.ndarray, tolerance: float = 1e-10) -> None:
    assert tuple(actual.shape) == expected.shape
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=tolerance, atol=tolerance)


# FEM

SMALL = torch.arange(12.).view(3, 4)
SMALL_SHIFTED = [
    [[1, 2, 3, 0], [5, 6, 7, 4], [9, 10, 11, 8]],    # (0, 1)
    [[3, 0, 1, 2], [7, 4, 5, 6], [11, 8, 9, 10]],    # (0, −1)
    [[4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]],    # (1, 0)
    [[8, 9, 10, 11], [0, 1, 2, 3], [4, 5, 6, 7]],    # (−1, 0)
    [[9, 10, 11, 8], [1, 2, 3, 0], [5, 6, 7, 4]],    # (−1, 1)
    [[7, 4, 5, 6], [11, 8, 9, 10], [3, 0, 1, 2]],    # (1, −1)
    [[5, 6, 7, 4], [9, 10, 11, 8], [1, 2, 3, 0]],    # (1, 1)
    [[11, 8, 9, 10], [3, 0, 1, 2], [7, 4, 5, 6]],    # (−1, −1)
]


def fem(stride: float) -> FEM:
    module = FEM().double()
    module.stride.data.fill_(stride)
    return module


@pytest.mark.parametrize('channel', range(8))
@pytest.mark.parametrize('grad', [True, False])
def test_fem_moves_each_channel_one_pixel_in_its_direction(channel, grad):
    x = SMALL.expand(1, 19, 3, 4)
    with torch.set_grad_enabled(grad):
        out = FEM()(x)
    for c in range(channel, 19, 8):  # the directions are dealt in turn
        assert out[0, c].tolist() == SMALL_SHIFTED[channel], f'channel {c}'


@pytest.mark.parametrize('stride', [0, 1, 2, 4, 11])
def test_fem_integer_strides_wrap_around_the_image(stride):
    x = noise(2, 18, 4, 5)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            out = fem(stride)(x)
        for b in range(2):
            assert_equals(out[b], shifted(x[b].numpy(), stride), 1e-15)


def test_fem_starts_at_exactly_one_pixel():
    assert [(name, p.item()) for name, p in FEM().named_parameters()] == [('stride', 1.0)]
    x = noise(1, 8, 3, 4).float()
    assert np.array_equal(FEM()(x)[0].detach().numpy(), shifted(x[0].numpy(), 1))


@pytest.mark.parametrize('stride, lower, weight', [(1.3, 1, 0.3), (0.25, 0, 0.25), (6.75, 6, 0.75)])
def test_fem_real_stride_blends_two_shifts(stride, lower, weight):
    x = noise(1, 10, 4, 5)
    expected = (1 - weight) * shifted(x[0].numpy(), lower) + weight * shifted(x[0].numpy(), lower + 1)
    assert_equals(fem(stride)(x)[0], expected, 1e-12)


@pytest.mark.parametrize('stride', [0.0, 1.0, 1.4, 2.0, 5.5])
def test_fem_gradient_of_the_stride_is_its_finite_difference(stride):
    x, weight = noise(1, 9, 4, 5), noise(1, 9, 4, 5, seed=2)
    module = fem(stride)
    (module(x) * weight).sum().backward()
    with torch.no_grad():  # from the right: at a whole number the blend's other shift is the next one
        step = 2 ** -10
        difference = ((fem(stride + step)(x) - fem(stride)(x)) * weight).sum().item() / step
    by_hand = ((shifted(x[0].numpy(), int(stride) + 1) - shifted(x[0].numpy(), int(stride))) * weight[0].numpy()).sum()
    assert difference == pytest.approx(by_hand, rel=1e-9)
    assert abs(by_hand) > 0.1
    assert module.stride.grad.item() == pytest.approx(by_hand, rel=1e-9)


def test_fem_passes_the_gradient_of_its_input():
    x, weight = noise(1, 8, 3, 4).requires_grad_(), noise(1, 8, 3, 4, seed=2)
    (fem(2)(x) * weight).sum().backward()
    back = np.zeros((8, 3, 4))
    for c, (dy, dx) in enumerate(SHIFTS):
        for row in range(3):
            for column in range(4):
                back[c, (row + 2 * dy) % 3, (column + 2 * dx) % 4] += weight[0, c, row, column]
    assert_equals(x.grad[0], back, 1e-15)


def test_fem_negative_parameter_acts_as_zero_and_still_learns():
    x, weight = noise(1, 8, 3, 4), noise(1, 8, 3, 4, seed=2)
    module = fem(-0.7)
    out = module(x)
    assert torch.equal(out, x)
    (out * weight).sum().backward()
    expected = ((shifted(x[0].numpy(), 1) - x[0].numpy()) * weight[0].numpy()).sum()
    assert module.stride.grad.item() == pytest.approx(expected, rel=1e-9)


def authors_expected(x: np.ndarray, stride: int) -> np.ndarray:
    """Channels 0 to 3 (mod 8) one shift; 4 to 7 the diagonal one plus, in order, right, left, down, up."""
    out = np.zeros_like(x)
    channels, height, width = x.shape
    for c in range(channels):
        for dy, dx in [SHIFTS[c % 8]] + ([SHIFTS[c % 8 - 4]] if c % 8 >= 4 else []):
            for row in range(height):
                for column in range(width):
                    out[c, row, column] += x[c, (row + stride * dy) % height, (column + stride * dx) % width]
    return out


@pytest.mark.parametrize('stride, truncated', [(1.0, 1), (1.9, 1), (2.0, 2), (0.99, 0), (7.3, 7)])
def test_authors_fem_sums_two_shifts_and_truncates_its_stride(stride, truncated):
    x = noise(2, 19, 4, 5)
    module = AuthorsFEM(19).double()
    module.stride.fill_(stride)
    out = module(x)
    for b in range(2):
        assert_equals(out[b], authors_expected(x[b].numpy(), truncated), 1e-12)


def test_authors_fem_by_hand():
    out = AuthorsFEM(8)(SMALL.expand(1, 8, 3, 4))[0]
    assert out[2].tolist() == SMALL_SHIFTED[2]
    assert out[4].tolist() == [[10, 12, 14, 8], [6, 8, 10, 4], [14, 16, 18, 12]]      # (−1, 1) and (0, 1)
    assert out[7].tolist() == [[19, 17, 19, 21], [3, 1, 3, 5], [11, 9, 11, 13]]       # (−1, −1) and (−1, 0)


def test_authors_fem_kernels_are_those_of_a_released_file(shared):
    state = torch.load(shared / 'golden/msit_edsr.pth', weights_only=True)['model']['sd']
    mask = state['amsno.lem.mask']
    assert torch.equal(AuthorsFEM(len(mask)).kernels, mask)


def test_authors_fem_learns_nothing_and_uses_the_kernels_it_is_given():
    module = AuthorsFEM(2).double()
    assert not list(module.parameters())
    kernels = noise(2, 1, 3, 3)
    module.load_state_dict({'stride': torch.tensor(2.), 'kernels': kernels})
    x = noise(1, 2, 4, 5, seed=2)
    expected = np.zeros((2, 4, 5))
    for c in range(2):
        for row in range(4):
            for column in range(5):
                for a in range(3):
                    for b in range(3):
                        expected[c, row, column] += (kernels[c, 0, a, b]
                                                     * x[0, c, (row + 2 * (a - 1)) % 4, (column + 2 * (b - 1)) % 5])
    assert_equals(module(x)[0], expected, 1e-12)


# MSC and SIM

@pytest.mark.parametrize('convs', [1, 2, 4])
def test_msc_kernels_grow_from_group_to_group(convs):
    module = randomise(MSC(8, convs))
    assert [tuple(conv.weight.shape[1:]) for conv in module.convs] == [
        (8 // convs, size, size) for size in (3, 5, 7, 9)[:convs]]
    x = noise(2, 8, 4, 5)
    out = module(x)
    for b in range(2):
        assert_equals(out[b], multi_scale(x[b].numpy(), arrays(module), '', convs))


def test_msc_of_one_is_a_single_3x3_convolution():
    module = randomise(MSC(6, 1))
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {
        'convs.0.weight': (6, 6, 3, 3), 'convs.0.bias': (6,)}
    x = noise(1, 6, 3, 5)
    w = arrays(module)
    assert_equals(module(x)[0], convolved(x[0].numpy(), w['convs.0.weight'], w['convs.0.bias']))


def test_msc_of_sixteen_has_kernels_3_to_33():
    assert [conv.kernel_size for conv in MSC(16, 16).convs] == [(k, k) for k in range(3, 35, 2)]


@pytest.mark.parametrize('convs', [0, -1, 3])
def test_msc_refuses_groups_that_do_not_divide(convs):
    with pytest.raises(ValueError, match=f'8 channels cannot be split evenly among {convs}'):
        MSC(8, convs)


@pytest.mark.parametrize('training', [False, True])
def test_scale_mixing_and_sim(training):
    x, v = noise(2, 6, 3, 4), noise(2, 6, 3, 4, seed=2)
    module = randomise(SIM(6, 3)).train(training)
    expected = mixed(x.numpy(), arrays(module), '', 3, training)
    assert_equals(module(x), expected)
    module = randomise(SIM(6, 3)).train(training)
    assert_equals(module(x, v), mixed(x.numpy(), arrays(module), '', 3, training) * v.numpy())


def test_convolution_in_the_place_of_sim():
    x, v = noise(1, 4, 3, 5), noise(1, 4, 3, 5, seed=2)
    module = randomise(ConvMixing(4))
    w = arrays(module)
    assert_equals(module(x, v)[0], convolved(x[0].numpy(), w['conv.weight'], w['conv.bias']) * v[0].numpy())


# MSNO

def operated(batch: np.ndarray, w: dict, convs: int, fem: str, sim: bool, training: bool) -> np.ndarray:
    move = {'paper': lambda x: 0.75 * shifted(x, 1) + 0.25 * shifted(x, 2), 'authors': lambda x: authors_expected(x, 1),
            'none': lambda x: x}[fem]
    v = np.stack([convolved(x, w['modulation.weight']) for x in batch])
    s = np.stack([multi_scale(move(convolved(x, w['embed.weight'])), w, 'msc.', convs) for x in batch])
    if sim:
        s = mixed(s, w, 'sim.', convs, training)
    else:
        s = np.stack([convolved(x, w['sim.conv.weight'], w['sim.conv.bias']) for x in s])
    return np.stack([convolved(x, w['proj.weight'], w['proj.bias']) for x in s * v])


@pytest.mark.parametrize('fem, sim, training', [
    ('paper', True, False), ('paper', True, True), ('authors', True, False), ('none', True, False), ('paper', False, False)])
def test_msno(fem, sim, training):
    module = randomise(MSNO(12, convs=3, fem=fem, sim=sim)).train(training)
    if fem == 'paper':
        module.fem.stride.data.fill_(1.25)
    x = noise(2, 12, 4, 5)
    expected = operated(x.numpy(), arrays(module), 3, fem, sim, training)
    assert_equals(module(x), expected)


def test_msno_without_biases_where_the_paper_has_none():
    module = MSNO(8, convs=2)
    assert module.modulation.bias is None
    assert module.embed.bias is None


# coordinates

def test_pixel_centres_grid_and_cell():
    assert coords.pixel_centres(4).tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert coords.pixel_centres(1).tolist() == [0]
    assert coords.pixel_centres(5).dtype == torch.float64
    assert coords.make_grid(2, 4).tolist() == [[[y, x] for x in (-0.75, -0.25, 0.25, 0.75)] for y in (-0.5, 0.5)]
    assert coords.make_cell(4, 16).tolist() == [0.5, 0.125]


@pytest.mark.parametrize('n, size, expected', [
    (4, 6, [0, 0, 1, 2, 2, 3]),                       # ties at 0.5 and 2.5
    (2, 5, [0, 0, 0, 1, 1]),                          # tie at 0.5
    (4, 10, [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]),          # ties at 0.5 and 2.5
    (4, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
    (3, 3, [0, 1, 2]),
])
def test_nearest_pixel_by_hand(n, size, expected):
    assert coords.nearest_index(coords.pixel_centres(size), n).tolist() == expected


def test_nearest_breaks_ties_to_even_and_stays_in_the_image():
    between = torch.tensor([-0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75])                 # 0.5, 1.5, …, 6.5 of eight pixels
    assert coords.nearest_index(between, 8).tolist() == [0, 2, 2, 4, 4, 6, 6]
    assert coords.nearest_index(torch.tensor([[-1., 1.]]), 8).tolist() == [[0, 7]]   # −0.5 and 7.5


@pytest.mark.parametrize('scale', [1, 1.25, 1.5, 2, 2.5, 3, 3.5, 3.7, 4, 8])
def test_nearest_is_that_of_grid_sample(scale):
    for n in [*range(1, 34), 48, 80, 97, 100, 128, 321, 481]:
        centres = coords.pixel_centres(round(n * scale))
        points = released_centres(len(centres))
        grid = torch.stack([torch.zeros(len(centres)), torch.from_numpy(points)], -1)[None, None]    # (1, 1, N, 2), (x, y)
        ramp = torch.arange(n, dtype=torch.float32).view(1, 1, n, 1)
        sampled = F.grid_sample(ramp, grid, mode='nearest', padding_mode='border', align_corners=False)
        index = coords.nearest_index(centres, n)
        assert index.tolist() == sampled.flatten().tolist(), f'{n} to {len(centres)} pixels'
        assert index.tolist() == [nearest(c, n) for c in points.tolist()]


def test_window_offsets_by_hand():
    index, delta = coords.nearest_window(coords.pixel_centres(6), 4, 1)
    assert index.tolist() == [0, 0, 1, 2, 2, 3]
    expected = [[5 / 3, -1 / 3, -7 / 3], [3, 1, -1], [7 / 3, 1 / 3, -5 / 3],
                [5 / 3, -1 / 3, -7 / 3], [3, 1, -1], [7 / 3, 1 / 3, -5 / 3]]
    np.testing.assert_allclose(delta.numpy(), expected, atol=1e-14)


def test_window_offsets_are_exact_far_into_a_large_image():
    n, size = 1999, 4799
    index, delta = coords.nearest_window(coords.pixel_centres(size), n, 2)
    assert delta.dtype == torch.float64
    for i in (0, 1, 1234, size - 2, size - 1):
        for k in range(5):  # (coordinate − pixel centre) · n, as a fraction
            exact = Fraction(2 * i + 1, size) * n - (2 * (index[i].item() + k - 2) + 1)
            assert delta[i, k].item() == pytest.approx(float(exact), abs=1e-11)


# positional bias

def test_positional_bias_is_the_literal_formula_for_every_key():
    module = randomise(PositionalBias(heads=3, enc_dims=44, posenc_scale=10))
    w = {f'position_bias.{name}': array for name, array in arrays(module).items()}
    delta_y, delta_x = noise(2, 3, 5) * 4, noise(2, 3, 5, seed=2) * 4
    bias_y, bias_x = module(delta_y, delta_x)
    out = bias_y.unsqueeze(3) + bias_x.unsqueeze(2)
    assert out.shape == (2, 3, 5, 5, 3)
    for b in range(2):
        for q in range(3):
            for i in range(5):
                for j in range(5):
                    expected = bias_of_key(delta_y[b, q, i].item(), delta_x[b, q, j].item(), w, WHOLE_FREQUENCIES)
                    assert_equals(out[b, q, i, j], expected)


def test_positional_bias_has_16_frequencies_up_to_1023_by_default():
    module = PositionalBias(heads=8)
    assert module.proj.weight.shape == (8, 64)
    expected = [2 ** (10 * i / 15) - 1 for i in range(16)]
    np.testing.assert_allclose(module.frequencies.numpy(), expected, rtol=2e-6)
    assert module.frequencies[-1] == 1023
    assert set(module.state_dict()) == {'proj.weight', 'proj.bias'}  # the frequencies are not stored


# attention

@pytest.mark.parametrize('padding', ['zeros', 'border'])
def test_bilinear_samples(padding):
    image = noise(2, 3, 4, 5)
    points = query_points(4, 5)
    out = sample_bilinear(image, points.expand(2, -1, 2), padding)
    for b in range(2):
        for q, (y, x) in enumerate(points.tolist()):
            if padding == 'border':  # beyond the centres of the edge pixels the image goes on as it is there
                y, x = min(max(y, -0.75), 0.75), min(max(x, -0.8), 0.8)
            assert_equals(out[b, q], bilinear(image[b].numpy(), y, x), 1e-12)


def mapped(z: np.ndarray, w: dict, projections: int) -> np.ndarray:
    """The query map: 1×1, multi-scale convolutions, mixing with C/n groups (in eval mode)."""
    z = convolved(z, w['query_map.proj.weight'], w['query_map.proj.bias'])
    z = multi_scale(z, w, 'query_map.msc.', projections)
    return mixed(z[None], w, 'query_map.mix.', len(z) // projections)[0]


@pytest.mark.parametrize('channels, heads, radius, projections, values', [
    (8, 4, 3, 2, 1), (8, 2, 1, 4, 1), (8, 4, 0, 2, 1), (8, 2, 1, 2, 2), (32, 1, 1, 1, 1)])
def test_mssa(channels, heads, radius, projections, values):
    module = randomise(MSSA(channels, heads=heads, radius=radius, projections=projections, value_projections=values,
                            pb_spec=WHOLE_SPEC)).eval()
    w = arrays(module)
    z = noise(2, channels, 4, 5)
    points = query_points(4, 5)
    coord = torch.stack([points, points.flip(0)])
    out = module(module.maps(z), coord)
    assert out.shape == (2, len(points), (2 * radius + 1) ** 2 * channels)
    for b in range(2):
        query = mapped(z[b].numpy(), w, projections)
        value = multi_scale(z[b].numpy(), w, 'value_map.', values)
        expected = attended(query, query, value, coord[b].tolist(), w, WHOLE_FREQUENCIES, heads, radius)
        assert_equals(out[b], expected, 1e-9)


@pytest.mark.parametrize('radius', [0, 1, 3])
def test_conventional_attention(radius):
    module = randomise(ConventionalAttention(8, heads=4, radius=radius, pb_spec=WHOLE_SPEC)).eval()
    w = arrays(module)
    assert all(w[f'{name}_map.weight'].shape == (8, 8, 3, 3) for name in ('query', 'key', 'value'))
    z = noise(2, 8, 5, 4)
    points = query_points(5, 4)
    out = module(module.maps(z), points.expand(2, -1, 2))
    for b in range(2):
        query, key, value = (convolved(z[b].numpy(), w[f'{name}_map.weight'], w[f'{name}_map.bias'])
                             for name in ('query', 'key', 'value'))
        expected = attended(query, key, value, points.tolist(), w, WHOLE_FREQUENCIES, 4, radius)
        assert_equals(out[b], expected, 1e-9)


def test_keys_outside_the_image_take_part_in_the_softmax():
    module = MSSA(2, heads=1, radius=1, projections=1, value_projections=1, pb_spec=WHOLE_SPEC).double().eval()
    with torch.no_grad():  # logits all zero, values all (3, 5): a pixel of a 1×1 image gets a ninth
        for p in module.parameters():
            p.zero_()
        module.value_map.convs[0].bias.copy_(torch.tensor([3., 5.]))
    out = module(module.maps(noise(1, 2, 1, 1)), torch.zeros(1, 1, 2, dtype=torch.float64))
    assert_equals(out.view(9, 2), np.array([[0, 0]] * 4 + [[3 / 9, 5 / 9]] + [[0, 0]] * 4), 1e-15)


def test_attention_refuses_what_cannot_be():
    with pytest.raises(ValueError, match='8 channels cannot be split evenly among 3 heads'):
        MSSA(8, heads=3, radius=1, projections=1, value_projections=1, pb_spec=WHOLE_SPEC)
    with pytest.raises(ValueError, match='radius is -1'):
        MSSA(8, heads=2, radius=-1, projections=1, value_projections=1, pb_spec=WHOLE_SPEC)


# RIM and RefConv

def new_kernel(w: dict, scalars: bool) -> np.ndarray:
    """W + DWConv3×3(W) ⊙ Linear(W), slice by slice; without `scalars`, W + DWConv3×3(W)."""
    weight = w['weight']
    outputs, inputs, size, _ = weight.shape
    kernel = weight.copy()
    for o in range(outputs):
        for i in range(inputs):
            n = o * inputs + i
            for a in range(size):
                for b in range(size):
                    change = 0.
                    for c in range(3):
                        for d in range(3):
                            if 0 <= a + c - 1 < size and 0 <= b + d - 1 < size:
                                change += w['convmap.weight'][n, 0, c, d] * weight[o, i, a + c - 1, b + d - 1]
                    if scalars:
                        change *= w['linear.weight'][n, 0, 0, 0] * weight[o, i, a, b]
                    kernel[o, i, a, b] += change
    return kernel


BOTH = pytest.mark.parametrize('kind', [rim.RIMConv2d, rim.RefConv2d])


@BOTH
@pytest.mark.parametrize('size', [3, 5, 9])
def test_reparameterised_kernel_and_output(kind, size):
    module = randomise(kind(2, 3, size))
    w = arrays(module)
    expected = new_kernel(w, kind is rim.RIMConv2d)
    assert_equals(module.kernel(), expected)
    x = noise(1, 2, 4, 5)
    assert_equals(module(x)[0], convolved(x[0].numpy(), expected, w['bias']))


@BOTH
def test_reparameterised_tensors_are_those_of_released_files(kind):
    shapes = {'weight': (3, 2, 5, 5), 'convmap.weight': (6, 1, 3, 3), 'bias': (3,)}
    if kind is rim.RIMConv2d:
        shapes['linear.weight'] = (6, 1, 1, 1)
    module = kind(2, 3, 5)
    assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == shapes
    assert set(dict(module.named_parameters())) == set(shapes) - {'weight'}


@BOTH
def test_reparameterised_starts_as_the_plain_convolution_exactly(kind):
    module = kind(2, 3, 5)
    x = noise(2, 2, 4, 5).float()
    assert torch.equal(module.kernel(), module.weight)
    assert torch.equal(module(x), F.conv2d(x, module.weight, module.bias, padding=2))
    assert not module.convmap.weight.any()
    if kind is rim.RIMConv2d:
        assert (module.linear.weight == 1).all()


@BOTH
def test_reparameterised_random_start_differs(kind):
    module = kind(2, 3, 5, init='random')
    assert module.convmap.weight.std() > 0.01
    assert (module.kernel() - module.weight).abs().max() > 1e-5


@BOTH
def test_reparameterised_maps_learn_and_the_frozen_kernel_does_not(kind):
    module = randomise(kind(2, 3, 5))
    (module(noise(1, 2, 6, 6)) * noise(1, 3, 6, 6, seed=2)).sum().backward()
    assert module.weight.grad is None
    assert not module.weight.requires_grad
    for name, p in module.named_parameters():
        assert (p.grad != 0).all(), name


def test_rim_learns_from_its_identity_start():
    module = rim.RIMConv2d(2, 3, 5)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(2):  # the scalars follow once the map has left zero
        optimizer.zero_grad()
        module(noise(1, 2, 6, 6).float()).square().mean().backward()
        optimizer.step()
    assert module.convmap.weight.abs().min() > 0
    assert (module.linear.weight != 1).any()


@BOTH
@pytest.mark.parametrize('size', range(3, 35, 2))
def test_folded_equals_unfolded(kind, size):
    module = randomise(kind(2, 3, size)).eval()
    folded = module.folded()
    assert type(folded) is Conv2d
    assert folded.weight.dtype == torch.float64
    x = noise(1, 2, 6, 7)
    difference = (folded(x) - module(x)).abs().max().item()
    assert difference < 1e-12 * max(1, module(x).abs().max().item())
    assert (module(x) - F.conv2d(x, module.weight, module.bias, padding='same')).abs().max() > 1e-3


@pytest.mark.parametrize('size', [1, 2, 4])
def test_reparameterised_kernel_must_be_odd_and_at_least_three(size):
    with pytest.raises(ValueError, match=f'odd kernel of 3 or more, got {size}'):
        rim.RIMConv2d(2, 2, size)


def test_reparam_values_are_checked():
    with pytest.raises(ValueError, match="reparam is 'rimm', expected one of none, rim, refconv"):
        MSC(4, 1, reparam='rimm')
    with pytest.raises(ValueError, match="reparam_init is 'zero'"):
        MSC(4, 1, reparam='rim', reparam_init='zero')


@pytest.mark.parametrize('reparam, kind', [('none', Conv2d), ('rim', rim.RIMConv2d), ('refconv', rim.RefConv2d)])
def test_reparam_reaches_msc_query_branch_and_values(reparam, kind):
    options = {'reparam': reparam, 'reparam_init': 'identity'}
    mssa = MSSA(4, heads=2, radius=1, projections=2, value_projections=1, pb_spec=WHOLE_SPEC, **options)
    convs = [*MSNO(4, convs=2, **options).msc.convs, *mssa.query_map.msc.convs, *mssa.value_map.convs]
    assert [type(layer) for layer in convs] == [kind] * 5
    conventional = ConventionalAttention(4, heads=2, radius=1, pb_spec=WHOLE_SPEC, **options)
    assert [type(getattr(conventional, f'{name}_map')) for name in ('query', 'key', 'value')] == [kind] * 3


# initialisation

def check_fan_out(module: torch.nn.Module, expected: dict[str, float]) -> None:
    """Standard deviation of each weight, mean zero, biases zero."""
    state = module.state_dict()
    for name, std in expected.items():
        weight = state[f'{name}.weight']
        error = 5 / math.sqrt(2 * weight.numel())  # five standard errors of a normal sample's deviation
        assert weight.std().item() == pytest.approx(std, rel=error), name
        assert abs(weight.mean().item()) < 5 * std / math.sqrt(weight.numel()), name
        if f'{name}.bias' in state:
            assert not state[f'{name}.bias'].any(), name


@pytest.mark.parametrize('reparam', ['none', 'rim'])
def test_msno_convolutions_start_by_fan_out(reparam):
    torch.manual_seed(0)
    module = MSNO(64, convs=2, reparam=reparam)
    check_fan_out(module, {
        'modulation': math.sqrt(2 / 64), 'embed': math.sqrt(2 / 64), 'proj': math.sqrt(2 / 64),
        'msc.convs.0': math.sqrt(2 / (9 * 32)), 'msc.convs.1': math.sqrt(2 / (25 * 32)),
        'sim.within': math.sqrt(2 / (128 / 2)), 'sim.across': math.sqrt(2 / 64)})
    if reparam == 'rim':
        assert not module.msc.convs[0].convmap.weight.any()
        assert (module.msc.convs[1].linear.weight == 1).all()


def test_query_branch_starts_by_fan_out():
    torch.manual_seed(1)
    check_fan_out(MultiScaleQuery(64, 4, 'none', 'identity'), {
        'proj': math.sqrt(2 / 64), 'mix.within': math.sqrt(2 / (128 / 16)), 'mix.across': math.sqrt(2 / 64),
        **{f'msc.convs.{i}': math.sqrt(2 / ((2 * i + 3) ** 2 * 16)) for i in range(4)}})


def test_value_convolution_starts_as_pytorch_starts_it():
    torch.manual_seed(2)
    module = MSSA(32, heads=4, radius=1, projections=2, value_projections=1, pb_spec=WHOLE_SPEC)
    conv = module.value_map.convs[0]
    bound = 1 / math.sqrt(9 * 32)  # uniform in ±1/sqrt(fan in)
    assert 0.99 * bound < conv.weight.abs().max().item() <= bound
    assert conv.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert 0.5 * bound < conv.bias.abs().max().item() <= bound


# convolutions by spectra


@pytest.mark.parametrize('height, width', [(1, 1), (5, 40), (48, 48), (49, 130)])  # one block, and several, of either axis
@pytest.mark.parametrize('size', [3, 15, 33])
def test_spectra_give_the_direct_convolution(size, height, width):
    x, weight, bias = noise(2, 3, height, width), noise(4, 3, size, size, seed=1), noise(4, seed=2)
    upstream = noise(2, 4, height, width, seed=3)
    results = []
    for convolve in (conv.fft_conv2d, lambda *args: torch.nn.functional.conv2d(*args, padding='same')):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        out = convolve(*inputs)
        results.append((out, *torch.autograd.grad((out * upstream).sum(), inputs)))
    for fast, direct in zip(*results):
        assert fast.shape == direct.shape
        torch.testing.assert_close(fast, direct, rtol=0, atol=1e-12 * direct.abs().max().item())


def test_large_kernels_on_cpus_use_spectra(monkeypatch):
    layers = [conv.Conv2d(1, 1, size) for size in (conv.FFT_KERNEL - 2, conv.FFT_KERNEL)]
    monkeypatch.setattr(conv, 'fft_conv2d', lambda x, weight, bias: torch.tensor(7.0))
    assert isinstance(layers[0](torch.zeros(1, 1, 4, 4)), torch.Tensor)
    assert layers[1](torch.zeros(1, 1, 4, 4)) == 7


@pytest.mark.parametrize('length, fast', [(1, 2), (11, 12), (17, 18), (21, 24), (80, 80), (97, 100)])
def test_transform_lengths_have_small_factors(length, fast):
    assert conv.NEXT_FAST[length] == fast
