"""Output pixels half-way between two LR pixels: all paths decide as the released programs do on a CPU."""
import json

import numpy as np
import pytest
import torch
from lab import slow_except
from test_models import grid

import models
from common import coords


def released_centres(size: int) -> np.ndarray:
    """The centres of an axis of output pixels as the released programs compute them, in float32."""
    return np.float32(2 / size) * np.arange(size, dtype=np.float32) + np.float32(1 / size - 1)


def test_lines_and_scattered_coordinates(shared):
    """With the cell, or as a whole line; float32 coordinates, which bring their rounding, are taken as they are."""
    table = json.loads((shared / 'golden/ties.json').read_text())
    for key, expected in table.items():
        n, size = int(key.split('x')[0]), len(expected)
        centres, cell = coords.pixel_centres(size), coords.make_cell(size, size)
        assert coords.nearest_index(centres, n).tolist() == expected, key
        assert coords.nearest_index(centres[None], n, cell[:1, None]).tolist() == [expected]
        assert coords.nearest_index(centres.flip(0).view(-1, 1), n, cell[0]).flatten().tolist() == expected[::-1]
        assert coords.nearest_index(torch.from_numpy(released_centres(size)), n, cell[0]).tolist() == expected
    assert sum(map(len, table.values())) == 6175


def test_points_between_the_centres_of_a_grid_go_to_the_nearest_pixel():
    """A millionth beside a tie, with the cell of the grid on whose centre the tie lies."""
    cell = torch.tensor(2 / 21, dtype=torch.float64)
    tie = coords.pixel_centres(21)[1]                                                # at 0.5 of 14 pixels
    assert [coords.nearest_index(tie[None] + side, 14, cell).item() for side in (-1e-6, 1e-6)] == [0, 1]


@pytest.mark.parametrize('name, scale', slow_except([], [
    ('msit_edsr', 1.5), ('msit_edsr', 2.5), ('msit_edsr', 3.5), ('clit2', 5), ('clit2', 6)]))
def test_whole_grids(shared, name, scale):
    """As a grid, in regions of 7×7 LR pixels, and query by query; CLIT makes ×5 and ×6 of ×4 and a rest."""
    arrays = {key: torch.from_numpy(value) for key, value in np.load(shared / f'golden/{name}_ties.npz').items()}
    model, lr, expected = models.load(shared / f'golden/{name}.pth'), arrays['inp'] * 0.5 + 0.5, arrays[f'out_x{scale}']
    size, (height, width) = expected.shape[1:3], lr.shape[2:]
    with torch.no_grad():
        scattered = model(lr, *grid(*size)).view(1, *size, 3) * 2 - 1
    assert (scattered - expected).abs().max() < 1e-4
    regions = model.render(model.encode_image(lr, side=7), (0, 0, height, width), size)
    for rgb in (model.upscale(lr, size), regions):
        assert (rgb.permute(0, 2, 3, 1) * 2 - 1 - expected.clamp(-1, 1)).abs().max() < 1e-4
