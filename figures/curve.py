"""Curve: PSNR against the scale, models as lines; and against time and parameters, models as points."""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.scales import scale_text
from datasets.registry import Scale
from engine.evaluation.evaluate import evaluate_scale
from engine.evaluation.metrics import make
from figures import look
from figures.base import Kind, Studio, register
from figures.options import Scales, checked_scales, checked_width
from utils import UserError, count_parameters, nearest_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCALES = [1.1, 2.0, 3.0, 4.0, 8.0, 16.0, 30.0]
TICKS = (1, 2, 4, 8, 16, 30)
PANELS = ('scale', 'time', 'parameters')


class Line(NamedTuple):
    """A model: its score at each scale; seconds per image at the scale of the points; number of parameters."""
    scores: list[float]
    seconds: float
    params: int


@register('curve')
class Curve(Kind):
    """The mean of a metric over a set.

    Args:
        scales: of the line.
        scale: at which the points are measured.
        metric: registered name.
        panels: of 'scale', 'time' and 'parameters'.
    """

    def __init__(self, *, model: list[str], input: list[str] | None = None, scales: Scales = SCALES, scale: Scale = 4.0,
                 metric: str = 'psnr', panels: list[str] = list(PANELS), names: list[str] | None = None,  # noqa: B006
                 width: str = 'page'):
        self.model, self.input, self.names, self.scale = model, input, names, float(scale)
        self.scales, self.width = sorted(checked_scales(scales)), checked_width(width)
        self.metric, = make([metric])
        for panel in panels:
            if panel not in PANELS:
                raise UserError(f"figure.args.panels: unknown panel '{panel}'; {nearest_name(panel, PANELS)}")
        self.panels = list(dict.fromkeys(panels)) or list(PANELS)

    def draw(self, studio: Studio) -> Figure:
        points = self.panels != ['scale']
        scales = sorted({*(self.scales if 'scale' in self.panels else ()), *([self.scale] if points else ())})
        evaluation = studio.images(self.input, scales)
        lines = {}
        networks = studio.models(self.model, self.names)
        with studio.progress(len(networks) * len(scales) * len(evaluation), 'curve') as bar:
            for label, model in networks.items():
                rows = {scale: evaluate_scale(model, evaluation, scale, studio.device, label, memory=studio.memory,
                                              done=bar.update, metrics=[self.metric]) for scale in scales}
                lines[label] = Line([rows[scale][self.metric.name] for scale in scales],
                                    rows[self.scale]['seconds_per_image'] if points else 0.0, count_parameters(model))
        return self.arrange(scales, lines, evaluation.name)

    def arrange(self, scales: list[float], lines: dict[str, Line], name: str) -> Figure:
        """The panels beside each other, or on a column below each other; one legend."""
        count, beside = len(self.panels), self.width > look.WIDTHS['column']
        room = self.width / count if beside else self.width
        figure, found = look.new_plots(self.width, 2.3 if beside else 2.1 * count, *((1, count) if beside else (count, 1)))
        with look.style():
            for axes, panel in zip(found, self.panels):
                axes.set_ylabel(self.metric.heading)
                title = name if panel == 'scale' else f'{name}, ×{scale_text(self.scale)}'
                axes.set_title(look.fitted(title, 0.9 * room)[0], parse_math=False)
                if panel == 'scale':
                    draw_lines(axes, scales, lines)
                else:
                    at = scales.index(self.scale)
                    draw_points(axes, {label: (line.seconds if panel == 'time' else line.params, line.scores[at])
                                       for label, line in lines.items()})
                    axes.set_xlabel('seconds per image' if panel == 'time' else 'parameters')
            names = [look.fitted(label, 0.6 * room)[0] for label in lines]
            for text in found[0].legend(found[0].get_lines(), names).get_texts():  # on its own it would leave out '_a'
                text.set_parse_math(False)
        return figure


def draw_lines(axes: Axes, scales: list[float], lines: dict[str, Line]) -> None:
    """The score of each model against the scale, whose axis is logarithmic."""
    for (label, line), (colour, marker) in zip(lines.items(), look.line_styles()):
        axes.plot(scales, line.scores, color=colour, marker=marker, label=label)
    axes.set_xscale('log')
    ticks = [tick for tick in TICKS if scales[0] <= tick <= scales[-1]] or scales
    axes.set_xticks(ticks, [f'×{tick:g}' for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel('scale')


def draw_points(axes: Axes, points: dict[str, tuple[float, float]]) -> None:
    """A point (cost, score) for each model, on a logarithmic axis of costs; a dashed line for a model without any cost."""
    for (label, (cost, score)), (colour, marker) in zip(points.items(), look.line_styles()):
        if cost > 0:
            axes.plot([cost], [score], color=colour, marker=marker, markersize=6, linestyle='none', label=label)
        else:
            axes.axhline(score, color=colour, linestyle='--', label=label)
    axes.set_xscale('log')
    axes.margins(x=0.25, y=0.15)
