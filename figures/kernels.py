"""Kernels: W, W' and their difference in re-parameterised convolutions: what RIM learnt."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import models
from engine.analysis.inner import Kernel, compared_kernels, kernels
from figures import look
from figures.base import Kind, Studio, labels, register
from figures.options import checked_width
from models.checkpoint import build, read_checkpoint
from models.registries import MODELS
from utils import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 16  # most layers that are shown


@register('kernels')
class Kernels(Kind):
    """The slice of each layer that changed most, in columns; W, W' and W' − W in rows.

    W and W' of a layer share one colour scale, and the difference has its own.

    Args:
        model: a checkpoint of stage 2 from save/, which is not folded; or a network of stage 1 and one of stage 2.
        layers: how many, evenly chosen from the first to the last.
    """

    def __init__(self, *, model: list[str], layers: int = 8, width: str = 'page'):
        self.model, self.width, self.layers = model, checked_width(width), layers
        if not 1 <= layers <= COLUMNS:
            raise UserError(f'figure.args.layers: expected a number from 1 to {COLUMNS}, got {layers}')
        if len(model) > 2:
            raise UserError(f'-model: kernels compares at most two networks, got {len(model)}')

    def draw(self, studio: Studio) -> Figure:
        known = labels(self.model)
        if len(known) == 2:
            first, second = (models.load(file, 'cpu') for file in known.values())
            found = compared_kernels(first, second, (*known,))  # type: ignore[arg-type]
        else:
            (label, file), = known.items()
            unfolded = MODELS.entries.get(file) is None or Path(file).exists()
            found = kernels(build(read_checkpoint(file), file) if unfolded else models.load(file), label)
        count = min(self.layers, len(found))
        chosen = [found[round(number * (len(found) - 1) / max(1, count - 1))] for number in range(count)]
        return arrange(chosen, self.width)


def arrange(found: list[Kernel], width: float) -> Figure:
    """A column for each layer, with the side of its kernel as title and the largest values below."""
    grid = look.Grid(rows=3, columns=len(found), width=width, left=1.4 * look.LINE, top=2.2 * look.LINE, captions=1)
    for row, name in enumerate(('W', "W′", "W′ − W")):
        grid.name(row, name)
    for column, kernel in enumerate(found):
        change = kernel.after - kernel.before
        number = int(change.flatten(0, 1).flatten(1).norm(dim=1).argmax())
        slices = [tensor.flatten(0, 1)[number].cpu() for tensor in (kernel.before, kernel.after, change)]
        shared = max(piece.abs().max().item() for piece in slices[:2])
        side = kernel.before.shape[-1]
        grid.title(column, short_name(kernel.name), line=1)
        grid.title(column, f'{side}×{side}')
        for row, piece in enumerate(slices):
            limit = shared if row < 2 else piece.abs().max().item()
            look.show(grid.panel(row, column, f'±{limit:.2g}'), piece.numpy(), cmap=look.SIGNED, vmin=-limit or -1,
                      vmax=limit or 1)
    return grid.figure


def short_name(name: str) -> str:
    """'msno.msc.convs.3' → 'MSC 4', 'mssa.query_map.msc.convs.0' → 'query 1'."""
    for part, short in (('query_map', 'query'), ('key_map', 'key'), ('value_map', 'value'), ('msc', 'MSC')):
        if part in name.split('.'):
            number = name.rsplit('.', 1)[-1]
            return f'{short} {int(number) + 1}' if number.isdigit() else short
    return name
