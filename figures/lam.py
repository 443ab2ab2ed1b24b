"""Local attribution maps: which LR pixels a detail of the result depends on (the layout of the paper's Fig. 8)."""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.arrays import to_tensor
from common.scales import scale_text
from datasets.registry import Scale
from engine.analysis.attribution import attribute, blur_path, box_detail, diffusion_index
from engine.analysis.boxes import Box, checked_box
from figures import look
from figures.base import Kind, Studio, one_image, pair_of, register, stems
from figures.options import Boxes, checked_width
from imaging import to_image
from utils import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAMMA = 0.4       # of the colours: most attributions are small


class Result(NamedTuple):
    """crop: (h, w, 3) uint8 of the result; strength: (H, W), absolute attributions; diffusion: its index."""
    crop: np.ndarray
    strength: np.ndarray
    diffusion: float


@register('lam')
class LAM(Kind):
    """The attributions of the detail in a box, and the diffusion index: the larger, the more LR pixels take part.

    Args:
        steps: of the path from the blurred to the sharp LR image.
    """

    def __init__(self, *, model: list[str], box: Boxes, input: list[str] | None = None, scale: Scale = 4.0, steps: int = 16,
                 names: list[str] | None = None, width: str = 'page'):
        self.model, self.box, self.input, self.scale, self.names = model, box, input, float(scale), names
        self.steps, self.width = steps, checked_width(width)
        if not 1 <= steps <= 1000:
            raise UserError(f'figure.args.steps: expected a number from 1 to 1000, got {steps}')

    def draw(self, studio: Studio) -> Figure:
        evaluation = studio.images(self.input, [self.scale])
        one_image(evaluation, 'lam')
        pair, name = pair_of(evaluation, 0, self.scale), stems(evaluation)[0]
        if len(self.box) != 1:
            raise UserError(f'-box: lam explains one box, got {len(self.box)}')
        size = pair.hr.shape[:2]
        box = checked_box(self.box[0], size, f'{name} at ×{scale_text(self.scale)}')
        if min(box.height, box.width) < 2:
            raise UserError('-box: lam needs a box of at least 2x2 pixels')
        lr, results = to_tensor(pair.lr), {}
        networks = studio.models(self.model, self.names)
        with studio.progress(len(networks) * self.steps, 'lam') as bar:
            for label, model in networks.items():
                function = box_detail(model.requires_grad_(False), box, size)
                path = blur_path(lr.unsqueeze(0).to(studio.device), self.steps)
                found = attribute(function, path, label, bar.update).cpu()
                crop = box.of(studio.upscale(model, lr, size))
                results[label] = Result(np.asarray(to_image(crop)), found.abs().sum(0).numpy(), diffusion_index(found))
        return arrange(pair.hr, pair.lr, box, box.resized(size, pair.lr.shape[:2]), results, self.width)


def arrange(hr: np.ndarray, lr: np.ndarray, box: Box, small: Box, results: dict[str, Result], width: float) -> Figure:
    """HR with the box at the left; for each network its crop, and below it the attributions over the LR image."""
    from matplotlib.colors import PowerNorm
    aspect = hr.shape[1] / hr.shape[0]
    grid = look.Grid(rows=2, columns=1 + len(results), width=width, top=1.2 * look.LINE, captions=1, aspect=aspect,
                     right=look.BAR)
    for row, (title, image, part) in enumerate((('HR', hr, box), ('LR', lr, small))):
        axes = grid.panel(row, 0, title)
        look.show(axes, image)
        look.frame(axes, part)
    for column, (label, result) in enumerate(results.items(), 1):
        grid.title(column, label)
        look.show(grid.panel(0, column, 'result in the box'), result.crop)
        axes = grid.panel(1, column, f'diffusion index {result.diffusion:.1f}')
        shown = look.show(axes, result.strength / (result.strength.max() or 1), cmap=look.HEAT, norm=PowerNorm(GAMMA, 0, 1))
        look.frame(axes, small, width=0.7)
    left, top = width - look.BAR + look.GAP, grid.place(1, 0)[1]
    grid.sheet.colour_bar(shown, left, top, 0.09, grid.panel_height, '|attribution| / largest')
    return grid.figure
