"""The numbers behind the figures, against values worked out by hand or by plain loops."""
import math

import numpy as np
import pytest
import torch
from helpers import message

import models
from common import coords
from datasets import protocols
from engine.analysis.attribution import SIGMA, attribute, blur_path, blurred, box_detail, detail, diffusion_index
from engine.analysis.boxes import Box, box_scores, checked_box
from engine.analysis.errors import error_map, mean_error_map
from engine.analysis.inner import attention, compared_kernels, features, kernels
from engine.evaluation import metrics
from figures.attention import nearest_centres, window_of


@pytest.fixture
def network(tiny_msit):
    torch.manual_seed(0)
    return models.make(tiny_msit).eval()


# boxes

def test_scores_of_a_box_are_the_metrics(tmp_path):
    """A difference of 0.1 in every channel inside the box, and of 0.5 outside, which must not count."""
    target = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0)) * 0.4
    prediction = target + 0.5
    box = Box(5, 7, 20, 24)
    prediction[:, 5:25, 7:31] = target[:, 5:25, 7:31] + 0.1
    scores = box_scores(prediction, target, box, protocols.make('benchmark'), metrics.make())
    luma = 0.1 * (65.738 + 129.057 + 25.064) / 256
    assert scores['psnr'] == pytest.approx(-20 * math.log10(luma), abs=1e-4)
    inside = [image[:, 5:25, 7:31].double() for image in (prediction, target)]
    ssim = metrics.METRICS.entries['ssim']().score(*map(protocols.luma, inside))
    assert scores == {'psnr': pytest.approx(scores['psnr']), 'ssim': pytest.approx(ssim)}
    assert box_scores(prediction, target, box, protocols.make('div2k'), metrics.make(['psnr']))['psnr'] == pytest.approx(
        20, abs=1e-4)


@pytest.mark.parametrize(('values', 'part'), [
    ((0, 0, 10, 12), None), ((9, 11, 1, 1), None), ((0, 0, 11, 1), 'lies outside of x, which has 10x12'),
    ((-1, 0, 2, 2), 'lies outside'), ((0, 5, 1, 8), 'lies outside'), ((0, 0, 0, 1), 'at least 1'),
    ((1, 2, 3), 'expected TOP')])
def test_boxes_lie_inside(values, part):
    if part is None:
        assert checked_box(values, (10, 12), 'x') == Box(*values)
    else:
        assert part in message(checked_box, values, (10, 12), 'x')


def test_a_box_at_another_size():
    assert Box(8, 12, 16, 24).resized((48, 60), (12, 15)) == Box(2, 3, 4, 6)
    assert Box(47, 59, 1, 1).resized((48, 60), (12, 15)) == Box(11, 14, 1, 1)      # never empty, never outside


# errors

def test_error_maps_by_hand():
    target = torch.zeros(3, 2, 2)
    prediction = torch.tensor([[[0.3, 0], [0, 1]], [[-0.3, 0], [0, 1]], [[0.6, 0.3], [0, 1]]])
    expected = torch.tensor([[0.4, 0.1], [0, 1]])
    assert torch.allclose(error_map(prediction, target), expected)
    larger = expected.repeat_interleave(3, 0).repeat_interleave(2, 1)              # (6, 4): the same at another size
    assert torch.allclose(mean_error_map([expected, larger, 3 * expected], 2), 5 / 3 * expected)
    assert torch.allclose(mean_error_map([larger], 1), torch.tensor([[0.375]]))


# inner values

def test_features_are_what_the_modules_compute(network):
    lr = torch.rand(1, 3, 7, 9)
    found = features(network, lr, 'x')
    with torch.no_grad():
        z = network.widen(network.encoder(network.normalise_lr(lr)))
        groups = network.msno.fem(network.msno.embed(z)).chunk(2, 1)
        outputs = [conv(group)[0] for conv, group in zip(network.msno.msc.convs, groups)]
        after = network.msno.sim(torch.cat(outputs)[None], network.msno.modulation(z))[0]
    assert list(found.convs) == [3, 5] and all(map(torch.allclose, found.convs.values(), outputs))
    assert torch.allclose(found.before, torch.cat(outputs)) and torch.allclose(found.after, after)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_attention_by_plain_loops(network):
    """Softmax over the keys of each head, from the maps; zero vectors outside. Its values give the module's output."""
    lr = torch.rand(1, 3, 6, 5)
    coord = torch.tensor([[-0.95, -0.9], [0.1, 0.33], [0.97, 0.2]], dtype=torch.float64)
    found = attention(network, lr, coord, 'x')
    assert found.weights.shape == (3, 4, 3, 3)
    assert torch.allclose(found.weights.sum((2, 3)), torch.ones(3, 4))
    mssa = network.mssa
    with torch.no_grad():
        z = network.msno(network.widen(network.encoder(network.normalise_lr(lr))))
        query_map, values = mssa.query_map(z)[0], mssa.value_map(z)[0]
        sampled = torch.nn.functional.grid_sample(query_map[None], coord.float().flip(1)[None, None], align_corners=False)
        whole = mssa(mssa.maps(z), coord[None])[0].unflatten(1, (9, 4, 4))           # (Q, K², h, d)
        for q, (y, x) in enumerate(coord.tolist()):
            row, column = (round(((at + 1) * n - 1) / 2) for at, n in ((y, 6), (x, 5)))
            assert found.centres[q].tolist() == [row, column]
            for head in range(4):
                part = slice(4 * head, 4 * head + 4)
                logits = torch.zeros(3, 3)
                for i, j in np.ndindex(3, 3):
                    key_y, key_x = row + i - 1, column + j - 1
                    inside = 0 <= key_y < 6 and 0 <= key_x < 5
                    key = query_map[part, key_y, key_x] if inside else torch.zeros(4)
                    delta = [(at + 1) * n - (2 * key + 1) for at, n, key in ((y, 6, key_y), (x, 5, key_x))]
                    bias = sum(part.squeeze() for part in mssa.position_bias(*(torch.tensor([value]) for value in delta)))
                    logits[i, j] = sampled[0, part, 0, q] @ key / 2 + bias[head]
                weights = logits.flatten().softmax(0)
                assert torch.allclose(found.weights[q, head].flatten(), weights, atol=1e-5)
                for k, (i, j) in enumerate(np.ndindex(3, 3)):
                    key_y, key_x = row + i - 1, column + j - 1
                    value = values[part, key_y, key_x] if 0 <= key_y < 6 and 0 <= key_x < 5 else torch.zeros(4)
                    assert torch.allclose(whole[q, k, head], weights[k] * value, atol=1e-5)


def test_the_window_that_a_point_shows():
    lr = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    window = window_of(lr, torch.tensor([0, 4]), 3)
    assert np.array_equal(window[1:, :2], lr[:2, 3:]) and (window[0] == 128).all() and (window[:, 2] == 128).all()
    assert torch.equal(nearest_centres([[0, 0], [0.5, 1]], (4, 8)), coords.make_grid(4, 8)[[0, 2], [0, 7]])


def test_kernels_of_stage_2(tiny_msit, network):
    spec = {'name': 'msit', 'args': {**tiny_msit['args'], 'reparam': 'rim', 'reparam_init': 'random'}}
    second = models.make(spec)
    second.load_state_dict(network.state_dict(), strict=False)
    found = kernels(second, 'x')
    assert [kernel.name for kernel in found] == ['msno.msc.convs.0', 'msno.msc.convs.1', 'mssa.query_map.msc.convs.0',
                                                 'mssa.query_map.msc.convs.1', 'mssa.value_map.convs.0']
    layer = second.msno.msc.convs[1]                                                 # 8 → 8 channels, 5×5
    w, maps, factors = layer.weight.flatten(0, 1), layer.convmap.weight, layer.linear.weight.flatten()
    o, i = 3, 2
    mapped = torch.nn.functional.conv2d(w[8 * o + i][None, None], maps[8 * o + i][None], padding=1)[0, 0]
    expected = w[8 * o + i] + mapped * factors[8 * o + i] * w[8 * o + i]
    assert torch.allclose(found[1].after[o, i], expected, atol=1e-6) and torch.equal(found[1].before[o, i], w[8 * o + i])
    folded = compared_kernels(network, second.fold(), ('a', 'b'))
    assert [kernel.name for kernel in folded] == [kernel.name for kernel in found]
    assert all(torch.allclose(a.after, b.after) and torch.equal(a.before, b.before) for a, b in zip(folded, found))


# attributions

def test_blur_keeps_what_a_gaussian_keeps():
    """The mean of a constant, the sum and the variance of a point: sigma², and 1/12 for each of two pixels' widths."""
    assert torch.allclose(blurred(torch.full((1, 3, 5, 6), 0.3), SIGMA), torch.full((1, 3, 5, 6), 0.3), atol=1e-6)
    point = torch.zeros(1, 3, 41, 41)
    point[..., 20, 20] = 1
    for sigma in (0.7, SIGMA):
        row = blurred(point, sigma)[0, 0].sum(0)
        offset = torch.arange(41) - 20.0
        assert row.sum() == pytest.approx(1, abs=1e-5)
        assert (row * offset ** 2).sum() == pytest.approx(sigma ** 2 + 1 / 12, rel=1e-3)
    assert torch.equal(blurred(point, 0), point) and torch.allclose(blurred(point, 1e-3), point)
    path = list(blur_path(point, 4))
    assert len(path) == 5 and torch.equal(path[-1], point) and torch.equal(path[0], blurred(point, SIGMA))


def test_attributions_of_a_linear_function_are_exact():
    weight, image = torch.randn(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    path = list(blur_path(image, 3))
    found = attribute(lambda x: (weight * x).sum(), path)
    assert torch.allclose(found, (weight * (path[-1] - path[0]))[0], atol=1e-5)


@pytest.mark.slow
def test_attributions_sum_to_the_change_along_the_path(network):
    """To 1 %, for a network, with the steps that the figure takes."""
    image = torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(1))
    function = box_detail(network.requires_grad_(False), Box(6, 4, 12, 14), (24, 20))
    path = list(blur_path(image, 16))
    total = attribute(function, path).sum().item()
    change = (function(path[-1]) - function(path[0])).item()
    assert abs(change) > 1e-3 and total == pytest.approx(change, rel=0.01)


def test_the_function_sees_the_box_alone(network):
    """It is the detail of the box of `upscale`'s result."""
    image, box = torch.rand(1, 3, 6, 5), Box(3, 2, 7, 6)
    function = box_detail(network.requires_grad_(False), box, (15, 12))
    with torch.no_grad():
        coord = coords.make_grid(15, 12).flatten(0, 1)[None]
        rgb = network(image, coord, coords.make_cell(15, 12)[None])[0].T.unflatten(1, (15, 12))
    assert function(image) == pytest.approx(detail(rgb[:, 3:10, 2:8]).item(), rel=1e-5)
    ramp = torch.linspace(0, 0.5, 6).expand(3, 4, 6)                                # 0.1 a pixel, to the right
    assert detail(ramp).item() == pytest.approx(math.hypot(0.1 * (65.738 + 129.057 + 25.064) / 256, 1e-3), rel=1e-5)


@pytest.mark.parametrize(('values', 'expected'), [
    ([1, 1, 1, 1], 100), ([0, 0, 0, 5], 25), ([1, 3], 75), ([-1, 3], 75), ([0, 0], 0)])
def test_diffusion_index_by_hand(values, expected):
    """Gini of [1, 3]: the mean absolute difference of all pairs, 1, divided by twice the mean, 4."""
    attribution = torch.tensor(values, dtype=torch.float).view(1, 1, -1)
    assert diffusion_index(torch.cat([attribution, 0 * attribution, 0 * attribution])) == pytest.approx(expected)
