"""Weights made from their names alone: reference outputs of the peer methods' programs exist for networks filled this way.

Every number follows from the official key of its tensor and its place in it, so no file of weights is needed.
"""
import json
import math
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

GAIN = 1.4  # of the RDN rows: 0.6


def fill_values(key: str, shape: tuple[int, ...], gain: float = GAIN) -> Tensor:
    """The values of the tensor with an official key, float32."""
    path = key if '.' in key else f'x.{key}'
    parent, name = path.split('.')[-2:]
    count = math.prod(shape)
    z = np.arange(count, dtype=np.uint64) * 2654435761 + crc32(path.encode()) & 0xFFFFFFFF
    z ^= z >> 15
    z = z * 2246822519 & 0xFFFFFFFF
    z ^= z >> 13
    r = 2 * z.astype(np.float64) / 2 ** 32 - 1
    if parent in ('kln', 'vln'):
        r = 0.2 * r + (name == 'weight')
    elif count == 1:
        r = 0.25 + 0.1 * r
    elif len(shape) >= 2:
        r = gain * r * math.sqrt(3 / math.prod(shape[1:]))
    else:
        r = 0.2 * r
    return torch.from_numpy(r.reshape(shape)).float()


def fill(model: nn.Module, gain: float = GAIN, official: Callable[[str], str] = lambda key: key) -> nn.Module:
    """Fills every floating tensor of a model's state; in eval mode.

    Args:
        official: a key of the model → the key that the official program gives the same tensor.
    """
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not key.endswith('escape_NaN'):
                tensor.copy_(fill_values(official(key), tuple(tensor.shape), gain))
    return model.eval()


def lr_image() -> Tensor:
    """The LR input of every row, normalised: x[0, c, y, w] = sin(0.9c + 0.7y + 0.3w), (1, 3, 5, 7)."""
    c, y, x = np.ogrid[:3, :5, :7]
    return torch.from_numpy(np.sin(0.9 * c + 0.7 * y + 0.3 * x)).float()[None]


def hr_grid(height: int = 9, width: int = 16) -> tuple[Tensor, Tensor]:
    """All pixel centres of a query grid, row by row, and its cell: (1, h·w, 2) and (1, 2), float32."""
    points = [(-1 + (2 * y + 1) / height, -1 + (2 * x + 1) / width) for y in range(height) for x in range(width)]
    return torch.tensor(points)[None], torch.tensor([[2 / height, 2 / width]])


def assert_row(out: Tensor, name: str, shared: Path, tolerance: float = 1e-4) -> None:
    """An output, in normalised units, against the reference output of a row: all of it where that was kept.

    Args:
        shared: the folder of reference data.
        tolerance: of the largest deviation, in units of the largest reference value (of 1 where that is smaller).
    """
    row = json.loads((shared / 'golden/peers_golden.json').read_text())[name]
    assert list(out.shape) == row['shape']
    flat = out.detach().double().flatten()
    indices, expected = (row['idx'], row['vals']) if row['all'] is None else (list(range(len(flat))), row['all'])
    expected = torch.tensor(expected, dtype=torch.float64)
    allowed = tolerance * max(1.0, expected.abs().max().item())
    assert (flat[indices] - expected).abs().max() < allowed
    assert abs(flat.sum().item() - row['sum']) < allowed * len(flat) ** 0.5
    assert abs(flat.abs().sum().item() - row['abssum']) < allowed * len(flat) ** 0.5
