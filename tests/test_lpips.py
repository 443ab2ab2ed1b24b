"""LPIPS with random weights against the definition in float64, and what it says where something is missing."""
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import engine.evaluation.metrics.lpips
from datasets import protocols
from engine.evaluation import metrics
from engine.evaluation.metrics.lpips import LPIPS
from utils import UserError

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def backbone(pretrained: bool = False) -> nn.Sequential:
    """Two convolutions with a pooling between them, in the order of AlexNet."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
                         nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True))


def weights_file(path: Path, with_backbone: bool = True) -> tuple[Path, dict]:
    """Random weights in the layout of a weights file, not negative where they weigh channels."""
    torch.manual_seed(5)
    state = {f'lin{number}.model.1.weight': torch.rand(1, count, 1, 1) for number, count in enumerate((4, 6))}
    if with_backbone:
        state |= {f'features.{name}': value for name, value in backbone().state_dict().items()}
    torch.save(state, path)
    return path, {name: value.double().numpy() for name, value in state.items()}


def images(height: int = 41, width: int = 39) -> list[np.ndarray]:
    return list(np.random.default_rng(2).random((2, 3, height, width)).astype(np.float32))


def convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """3×3, zeros around: (C, H, W) → (K, H', W'), one output pixel at a time."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    height, width = ((side - 3) // stride + 1 for side in x.shape[1:])
    out = np.empty((len(weight), height, width))
    for i in range(height):
        for j in range(width):
            patch = x[:, i * stride:i * stride + 3, j * stride:j * stride + 3]
            out[:, i, j] = (weight * patch).sum((1, 2, 3)) + bias
    return out


def features_by_loop(image: np.ndarray, state: dict) -> list[np.ndarray]:
    x = (image.astype(np.float64) - MEAN[:, None, None]) / STD[:, None, None]
    first = np.maximum(convolution(x, state['features.0.weight'], state['features.0.bias'], 2), 0)
    height, width = (side // 2 for side in first.shape[1:])
    pooled = first[:, :2 * height, :2 * width].reshape(4, height, 2, width, 2).max((2, 4))
    return [first, np.maximum(convolution(pooled, state['features.3.weight'], state['features.3.bias'], 1), 0)]


def distance_by_loop(prediction: np.ndarray, target: np.ndarray, state: dict) -> float:
    """Zhang et al., equation 1: Σ over layers of the mean over pixels of ‖w ⊙ (unit(a) − unit(b))‖², w² being learnt."""
    distance = 0
    for number, (a, b) in enumerate(zip(*(features_by_loop(image, state) for image in (prediction, target)))):
        values = []
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                p, t = (x[:, i, j] / (math.sqrt((x[:, i, j] ** 2).sum()) + 1e-10) for x in (a, b))
                values.append((state[f'lin{number}.model.1.weight'].ravel() * (p - t) ** 2).sum())
        distance += sum(values) / len(values)
    return distance


def test_distance_by_loop(tmp_path):
    path, state = weights_file(tmp_path / 'weights.pth')
    metric = LPIPS(weights=str(path), backbone=backbone)
    prediction, target = images()
    expected = distance_by_loop(prediction, target, state)
    assert expected > 0.05
    assert metric.score(torch.from_numpy(prediction), torch.from_numpy(target)) == pytest.approx(expected, rel=1e-5)
    assert metric.score(torch.from_numpy(target), torch.from_numpy(prediction)) == pytest.approx(expected, rel=1e-5)
    assert metric.score(torch.from_numpy(target), torch.from_numpy(target)) == 0


def test_rgb_without_the_border(tmp_path):
    """Of both protocols; luma plays no part."""
    path, state = weights_file(tmp_path / 'weights.pth')
    metric = LPIPS(weights=str(path), backbone=backbone)
    prediction, target = images(60, 58)
    for protocol, border in (('benchmark', 3), ('div2k', 9)):
        inner = [image[:, border:-border, border:-border] for image in (prediction, target)]
        value = metric.measure(torch.from_numpy(prediction), torch.from_numpy(target), protocols.make(protocol), 2.5)
        assert value == pytest.approx(distance_by_loop(*inner, state), rel=1e-5)


def test_too_small_for_the_poolings(tmp_path):
    path, _ = weights_file(tmp_path / 'weights.pth')
    metric = LPIPS(weights=str(path), backbone=backbone)
    assert math.isnan(metric.score(torch.zeros(3, 30, 50), torch.zeros(3, 30, 50)))
    assert metric.score(torch.zeros(3, 31, 31), torch.zeros(3, 31, 31)) == 0


def test_trained_backbone_is_asked_for_where_the_file_has_none(tmp_path):
    asked = []

    def noted(pretrained: bool) -> nn.Sequential:
        asked.append(pretrained)
        return backbone()
    for with_backbone in (True, False):
        LPIPS(weights=str(weights_file(tmp_path / 'weights.pth', with_backbone)[0]), backbone=noted)
    assert asked == [False, True]


def test_what_is_missing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    path, _ = weights_file(tmp_path / 'weights.pth')
    monkeypatch.setenv('LPIPS_WEIGHTS', str(path))
    with pytest.raises(UserError, match=r'^-metrics lpips: missing: torchvision') as error:
        metrics.make(['lpips'])
    assert 'pip install torchvision' in str(error.value) and str(path) not in str(error.value)
    monkeypatch.setenv('LPIPS_WEIGHTS', str(tmp_path / 'nowhere.pth'))
    with pytest.raises(UserError, match=r'missing: torchvision.*; \S*nowhere\.pth.*LPIPS_WEIGHTS') as error:
        metrics.make(['lpips'])
    assert '\n' not in str(error.value)
    with pytest.raises(UserError, match=r'missing: \S*nowhere\.pth'):
        LPIPS(backbone=backbone)
    monkeypatch.delenv('LPIPS_WEIGHTS')
    monkeypatch.setattr(engine.evaluation.metrics.lpips, 'WEIGHTS', tmp_path / 'modelzoo/lpips/alex.pth')
    with pytest.raises(UserError, match=r'modelzoo/lpips/alex\.pth'):
        LPIPS(backbone=backbone)


@pytest.mark.parametrize(('damage', 'part'), [
    (lambda path: path.write_bytes(b'no tensors'), 'not a file of tensors'),
    (lambda path: torch.save([1, 2], path), 'expected a state dict'),
    (lambda path: torch.save({'lin0.model.1.weight': torch.zeros(1, 4, 1, 1)}, path), 'lin1.model.1.weight'),
    (lambda path: torch.save({f'lin{i}.model.1.weight': torch.zeros(1, 5, 1, 1) for i in (0, 1)}, path), r'\[4, 6\]'),
])
def test_a_wrong_weights_file_is_named(tmp_path, damage, part):
    path = tmp_path / 'bad.pth'
    damage(path)
    with pytest.raises(UserError, match=rf'^-metrics lpips: \S*bad\.pth: .*{part}'):
        LPIPS(weights=str(path), backbone=backbone)


@pytest.mark.slow
def test_with_torchvisions_alexnet(tmp_path):
    """Where torchvision is installed: its layers, random weights, the features taken by hand."""
    models = pytest.importorskip('torchvision.models')
    torch.manual_seed(0)
    layers = models.alexnet(weights=None).features
    state = {f'features.{name}': value for name, value in layers.state_dict().items()}
    state |= {f'lin{i}.model.1.weight': torch.rand(1, count, 1, 1) for i, count in enumerate((64, 192, 384, 256, 256))}
    torch.save(state, tmp_path / 'weights.pth')
    metric = LPIPS(weights=str(tmp_path / 'weights.pth'))
    pair, expected = [torch.from_numpy(image) for image in images(67, 71)], 0.0
    layers = layers.double()
    norm = [torch.from_numpy(values).view(3, 1, 1) for values in (MEAN, STD)]
    for number, end in enumerate((2, 5, 8, 10, 12)):
        a, b = (nn.functional.normalize(layers[:end]((image.double() - norm[0]) / norm[1]), dim=0) for image in pair)
        expected += (state[f'lin{number}.model.1.weight'][0] * (a - b).square()).sum(0).mean().item()
    assert metric.score(*pair) == pytest.approx(expected, rel=1e-4)
    assert metric.score(torch.zeros(3, 31, 31), torch.zeros(3, 31, 31)) == 0
