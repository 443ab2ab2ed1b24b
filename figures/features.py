"""Features: the output of each convolution of MSC, and before and after SIM (the layout of the paper's Fig. 7)."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from common.arrays import to_tensor
from datasets.registry import Scale
from engine.analysis.inner import Features, features
from figures import look
from figures.base import Kind, Studio, one_image, pair_of, register
from figures.options import checked_width
from imaging import to_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 7     # panels in a row
DARKEST, BRIGHTEST = 0.01, 0.99  # shares of a map's values between which its colours lie


@register('features')
class FeaturesFigure(Kind):
    """Maps of the LR image: the mean absolute value over the channels, each on its own colour scale."""

    def __init__(self, *, model: list[str], input: list[str] | None = None, scale: Scale = 4.0,
                 names: list[str] | None = None, width: str = 'page'):
        self.model, self.input, self.scale, self.names = model, input, float(scale), names
        self.width = checked_width(width)

    def draw(self, studio: Studio) -> Figure:
        evaluation = studio.images(self.input, [self.scale])
        one_image(evaluation, 'features')
        lr, maps = to_tensor(pair_of(evaluation, 0, self.scale).lr), {}
        networks = studio.models(self.model, self.names)
        with studio.progress(len(networks), 'features') as bar:
            for label, model in networks.items():
                found = features(model, lr.unsqueeze(0).to(studio.device), label)
                maps[label] = {'LR': np.asarray(to_image(lr)), **panels_of(found)}
                bar.update()
        return arrange(maps, self.width)


def panels_of(found: Features) -> dict[str, np.ndarray]:
    """Titles and maps (H, W): the mean absolute value over the channels."""
    named: dict[str, Tensor] = {f'{side}×{side}': output for side, output in found.convs.items()}
    named |= {'before SIM': found.before, 'after SIM': found.after}
    return {title: output.abs().mean(0).numpy() for title, output in named.items()}


def arrange(maps: dict[str, dict[str, np.ndarray]], width: float) -> Figure:
    """The panels of each network in rows, their titles below them."""
    first = next(iter(next(iter(maps.values())).values()))
    columns = min(COLUMNS, max(len(panels) for panels in maps.values()))
    heights = [-(-len(panels) // columns) for panels in maps.values()]
    grid = look.Grid(rows=sum(heights), columns=columns, width=width, left=1.2 * look.LINE,
                     aspect=first.shape[1] / first.shape[0], captions=1)
    row = 0
    for (label, panels), height in zip(maps.items(), heights):
        grid.name(row, label, span=height)
        for number, (title, panel) in enumerate(panels.items()):
            low, high = np.quantile(panel, (DARKEST, BRIGHTEST)) if panel.ndim == 2 else (0, 255)
            axes = grid.panel(row + number // columns, number % columns, title)
            look.show(axes, panel, cmap=look.HEAT, vmin=low, vmax=high)
        row += height
    return grid.figure
