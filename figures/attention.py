"""Attention: what the heads of MSSA attend to, around chosen points of the result."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from common.arrays import to_tensor
from datasets.registry import Scale
from engine.analysis.inner import Attention, attention
from figures import look
from figures.base import Kind, Studio, one_image, pair_of, register
from figures.options import Points, checked_points, checked_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 8   # heads in a row


@register('attention')
class AttentionFigure(Kind):
    """Around each point the LR pixels that are attended to, and their weights for each head, on one colour scale.

    Pixels of a window that lie outside the image are grey; they take part in the attention as zero vectors.
    """

    def __init__(self, *, model: list[str], at: Points = [[0.5, 0.5]], input: list[str] | None = None,  # noqa: B006
                 scale: Scale = 4.0, names: list[str] | None = None, width: str = 'page'):
        self.model, self.at, self.input, self.scale, self.names = model, checked_points(at), input, float(scale), names
        self.width = checked_width(width)

    def draw(self, studio: Studio) -> Figure:
        evaluation = studio.images(self.input, [self.scale])
        one_image(evaluation, 'attention')
        pair, found = pair_of(evaluation, 0, self.scale), {}
        networks = studio.models(self.model, self.names)
        coord = nearest_centres(self.at, pair.hr.shape[:2])
        with studio.progress(len(networks), 'attention') as bar:
            for label, model in networks.items():
                found[label] = attention(model, to_tensor(pair.lr).unsqueeze(0).to(studio.device), coord, label)
                bar.update()
        return arrange(pair.lr, coord, found, self.width)


def nearest_centres(points: list[list[float]], size: tuple[int, int]) -> torch.Tensor:
    """The centres of the output pixels at points from 0 to 1, as coordinates: (Q, 2) float64."""
    sides = torch.tensor(size, dtype=torch.float64)
    pixels = torch.tensor(points, dtype=torch.float64).mul(sides).floor().minimum(sides - 1)
    return (2 * pixels + 1) / sides - 1


def arrange(lr: np.ndarray, coord: torch.Tensor, found: dict[str, Attention], width: float) -> Figure:
    """For each network and point: the window in the LR image with the point, then the heads."""
    heads = max(shown.weights.shape[1] for shown in found.values())
    across = min(ACROSS, heads)
    blocks = [(label, shown, point, -(-shown.weights.shape[1] // across))
              for label, shown in found.items() for point in range(len(coord))]
    grid = look.Grid(rows=sum(block[-1] for block in blocks), columns=1 + across, width=width,
                     left=1.2 * look.LINE, right=look.BAR, top=look.LINE / 2, captions=1)
    highest = max(shown.weights.max().item() for shown in found.values())
    row = 0
    for label, shown, point, height in blocks:
        window, place = window_of(lr, shown.centres[point], shown.weights.shape[-1]), (coord[point] + 1) / 2
        grid.name(row, label if len(coord) == 1 else f'{label}, {point + 1}', span=height)
        axes = grid.panel(row, 0, f'LR at {place[0]:.2f}, {place[1]:.2f}')
        look.show(axes, window)
        corner = shown.centres[point] - shown.weights.shape[-1] // 2
        y, x = (place * torch.tensor(lr.shape[:2]) - 0.5 - corner).tolist()
        look.mark(axes, y, x)
        for head, weights in enumerate(shown.weights[point]):
            axes = grid.panel(row + head // across, 1 + head % across, f'head {head + 1}')
            bar = look.show(axes, weights.numpy(), cmap=look.HEAT, vmin=0, vmax=highest)
        row += height
    grid.colour_bar(bar, 'attention', row)
    return grid.figure


def window_of(lr: np.ndarray, centre: torch.Tensor, side: int) -> np.ndarray:
    """The side × side pixels of an LR image around one of them, grey outside the image: (side, side, 3) uint8."""
    radius = side // 2
    padded = np.pad(lr, ((radius, radius), (radius, radius), (0, 0)), constant_values=128)
    top, left = centre.tolist()
    return padded[top:top + side, left:left + side]
