"""Scales: one input at several factors, methods as rows (the layout of the paper's Fig. 6)."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from common.arrays import to_tensor
from common.scales import scale_text
from engine.analysis.boxes import checked_box
from figures import look
from figures.base import Kind, Studio, one_image, pair_of, register, stems
from figures.options import Boxes, Scales, checked_scales, checked_width
from imaging import to_image
from utils import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = [1.7, 2.6, 3.5, 4.4]  # of the paper


@register('scales')
class ScalesFigure(Kind):
    """The same LR image, the HR image reduced by the largest factor, upscaled by every factor; the box at each."""

    def __init__(self, *, model: list[str], box: Boxes, input: list[str] | None = None, scales: Scales = SCALES,
                 names: list[str] | None = None, width: str = 'page'):
        self.model, self.box, self.input, self.names = model, box, input, names
        self.scales, self.width = checked_scales(scales), checked_width(width)

    def draw(self, studio: Studio) -> Figure:
        largest = max(self.scales)
        evaluation = studio.images(self.input, [largest])
        one_image(evaluation, 'scales')
        pair, name = pair_of(evaluation, 0, largest), stems(evaluation)[0]
        if len(self.box) != 1:
            raise UserError(f'-box: scales shows one box, got {len(self.box)}')
        size = pair.hr.shape[:2]
        box = checked_box(self.box[0], size, f'{name} at ×{scale_text(largest)}')
        networks, lr = studio.models(self.model, self.names), to_tensor(pair.lr)

        grid = look.Grid(rows=len(networks), columns=1 + len(self.scales), width=self.width, left=look.LINE,
                         top=1.2 * look.LINE, aspect=box.width / box.height)
        small = box.resized(size, pair.lr.shape[:2])
        grid.title(0, f'LR, {small.height}×{small.width}')
        with studio.progress(len(networks) * len(self.scales), 'scales') as bar:
            for row, (label, model) in enumerate(networks.items()):
                grid.name(row, label)
                look.show(grid.panel(row, 0), np.asarray(to_image(small.of(lr))), aspect='auto')
                for column, scale in enumerate(self.scales, 1):
                    height, width = (round(side * scale) for side in pair.lr.shape[:2])
                    part = box.resized(size, (height, width))
                    grid.title(column, f'×{scale_text(scale)}, {part.height}×{part.width}') if row == 0 else None
                    result = studio.upscale(model, lr, (height, width))
                    look.show(grid.panel(row, column), np.asarray(to_image(part.of(result))), aspect='auto')
                    bar.update()
        return grid.figure
