"""Error: where results differ from HR, averaged over a set and for single images (the layout of the paper's Fig. 1)."""
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.arrays import to_tensor
from common.scales import scale_text
from engine.analysis.errors import error_map, mean_error_map
from figures import look
from figures.base import Kind, Studio, register, stems
from figures.options import Scales, checked_scales, checked_width
from utils import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 96         # cells of a side of a mean map
LEVELS = 255      # errors are shown in levels of 8 bits
SHARE = 0.99      # of all shown values that the colour scale spans


@register('error')
class Error(Kind):
    """|difference| to HR, averaged over the channels: the mean over the set, and rows of single images.

    Args:
        scales: columns, each with all models.
        images: how many images of the set have a row of their own.
    """

    def __init__(self, *, model: list[str], input: list[str] | None = None, scales: Scales = [2.0, 4.0, 8.0],  # noqa: B006
                 images: int = 2, names: list[str] | None = None, width: str = 'page'):
        self.model, self.input, self.names, self.images = model, input, names, images
        self.scales, self.width = checked_scales(scales), checked_width(width)
        if images < 0:
            raise UserError(f'figure.args.images: expected 0 or more, got {images}')

    def draw(self, studio: Studio) -> Figure:
        evaluation = studio.images(self.input, self.scales)
        networks, shown = studio.models(self.model, self.names), min(self.images, len(evaluation))
        columns: list[list[Tensor]] = []  # of the figure, from above: the mean, and the single images
        with studio.progress(len(self.scales) * len(networks) * len(evaluation), 'error') as bar:
            for scale in self.scales:
                maps: dict[str, list[Tensor]] = {label: [] for label in networks}
                for pair in evaluation.pairs(scale):
                    target = to_tensor(pair.hr)
                    for label, model in networks.items():
                        result = studio.upscale(model, to_tensor(pair.lr), pair.hr.shape[:2])
                        maps[label].append(LEVELS * error_map(result, target))
                        bar.update()
                columns += [[mean_error_map(found, SIDE), *found[:shown]] for found in maps.values()]
        rows = [f'mean of {len(evaluation)}' if len(evaluation) > 1 else stems(evaluation)[0], *stems(evaluation)[:shown]]
        if len(evaluation) == 1:
            columns, rows = [column[:1] if not shown else column[1:] for column in columns], rows[:1]
        return arrange(columns, rows, list(networks), self.scales, self.width)


def arrange(columns: list[list[Tensor]], rows: list[str], models: list[str], scales: list[float], width: float) -> Figure:
    """All maps on one colour scale, the mean of each below it."""
    grid = look.Grid(rows=len(rows), columns=len(columns), width=width, left=look.LINE * 1.2, right=look.BAR,
                     top=2.2 * look.LINE, captions=1)
    values = torch.cat([error.flatten() for column in columns for error in column])
    highest = values.sort().values[int(SHARE * (len(values) - 1))].item()
    for row, name in enumerate(rows):
        grid.name(row, name)
        for column, maps in enumerate(columns):
            shown = look.show(grid.panel(row, column, f'{maps[row].mean():.2f}'), maps[row].numpy(), cmap=look.HEAT, vmin=0,
                              vmax=highest)
    for column in range(len(columns)):
        grid.title(column, models[column % len(models)])
    for number, scale in enumerate(scales):
        grid.title(number * len(models), f'×{scale_text(scale)}', span=len(models), line=1)
    grid.colour_bar(shown, '|error|, 8-bit levels', len(rows))
    return grid.figure
