"""Zoom: methods side by side at the same crop of each image (the layout of the paper's Figs. 5 and 9)."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.arrays import to_tensor
from common.scales import scale_text
from datasets.evaluation import Evaluation
from datasets.registry import Scale
from engine.analysis.boxes import Box, box_scores, checked_box
from engine.evaluation import metrics
from figures import look
from figures.base import Kind, Studio, pair_of, register, stems
from figures.options import Boxes, boxes_for, checked_width
from imaging import to_image
from models.contract import SRModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ONE_ROW = 4  # crops that stand in one row; more make two


class Crop(NamedTuple):
    """pixels: (h, w, 3) uint8; scores: by metric, None for the HR image."""
    label: str
    pixels: np.ndarray
    scores: dict[str, float] | None

    @property
    def score_line(self) -> str:
        """'28.43 / 0.8101', or the names of the metrics."""
        known = [metrics.METRICS.entries[name] for name in metrics.DEFAULT]
        if self.scores is None:
            return ' / '.join(metric.name.upper() for metric in known)
        return ' / '.join('—' if math.isnan(self.scores[metric.name]) else metric.text(self.scores[metric.name])
                          for metric in known)


class Shot(NamedTuple):
    """One image: hr (H, W, 3) uint8, the box, and what is in it, HR first."""
    name: str
    hr: np.ndarray
    box: Box
    crops: list[Crop]


@register('zoom')
class Zoom(Kind):
    """Each image with a box, and what is in the box: HR, and the result of every model with PSNR and SSIM of the crop.

    A single image may have several boxes.
    """

    def __init__(self, *, model: list[str], box: Boxes, input: list[str] | None = None, scale: Scale = 4.0,
                 names: list[str] | None = None, width: str = 'page'):
        self.model, self.box, self.input, self.scale, self.names = model, box, input, float(scale), names
        self.width = checked_width(width)

    def draw(self, studio: Studio) -> Figure:
        evaluation = studio.images(self.input, [self.scale])
        boxes = [self.box] if len(evaluation) == 1 else [[box] for box in boxes_for(self.box, len(evaluation))]
        networks = studio.models(self.model, self.names)
        with studio.progress(len(evaluation) * len(networks), 'zoom') as bar:
            shots = [shot for index, inside in enumerate(boxes)
                     for shot in self.shoot(studio, evaluation, index, inside, networks, bar.update)]
        return arrange(shots, self.scale, self.width)

    def shoot(self, studio: Studio, evaluation: Evaluation, index: int, boxes: list[list[int]],
              networks: dict[str, SRModel], done: Callable[[], object]) -> list[Shot]:
        """One image by every model, with each of its boxes."""
        pair, name = pair_of(evaluation, index, self.scale), stems(evaluation)[index]
        checked = [checked_box(box, pair.hr.shape[:2], f'{name} at ×{scale_text(self.scale)}') for box in boxes]
        target, lr = to_tensor(pair.hr), to_tensor(pair.lr)
        shots = [Shot(name, pair.hr, box, [Crop('HR', np.asarray(to_image(box.of(target))), None)]) for box in checked]
        for label, model in networks.items():
            result = studio.upscale(model, lr, pair.hr.shape[:2])
            for shot in shots:
                scores = box_scores(result, target, shot.box, evaluation.protocol, metrics.make())
                shot.crops.append(Crop(label, np.asarray(to_image(shot.box.of(result))), scores))
            done()
        return shots


def arrange(shots: list[Shot], scale: float, width: float) -> Figure:
    """The images below each other: the whole one at the left, its crops at the right, under each its name and scores."""
    count = len(shots[0].crops)
    rows = 1 if count <= ONE_ROW else 2
    columns, text = -(-count // rows), 2 * look.LINE
    layouts = []  # width and height of a crop, and the width of the whole image
    for shot in shots:
        whole, part = shot.hr.shape[1] / shot.hr.shape[0], shot.box.width / shot.box.height
        side = (width - columns * look.GAP - whole * (rows - 1) * (text + look.GAP)) / (whole * rows / part + columns)
        layouts.append((side, side / part, width - columns * (side + look.GAP)))
    heights = [rows * (high + text) + (rows - 1) * look.GAP for _, high, _ in layouts]
    sheet = look.Sheet(width, sum(heights) + (len(shots) - 1) * look.GAP)
    top = 0.0
    for shot, (wide, high, whole), height in zip(shots, layouts, heights):
        axes = sheet.panel(0, top, whole, height - text)
        look.show(axes, shot.hr)
        look.frame(axes, shot.box)
        for line, words in enumerate((shot.name, f'×{scale_text(scale)}')):
            sheet.text(whole / 2, top + height - text + (line + 0.55) * look.LINE, words, whole - look.GAP)
        for number, crop in enumerate(shot.crops):
            left = whole + look.GAP + number % columns * (wide + look.GAP)
            above = top + number // columns * (high + text + look.GAP)
            look.show(sheet.panel(left, above, wide, high), crop.pixels)
            for line, words in enumerate((crop.label, crop.score_line)):
                sheet.text(left + wide / 2, above + high + (line + 0.55) * look.LINE, words, wide - look.GAP)
        top += height + look.GAP
    return sheet.figure
