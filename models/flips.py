"""The average over the eight flips and rotations of an image: geometric self-ensemble (EDSR, arXiv 1707.02921).

It is a model of its own around another one. Every query is asked for in all eight images, so it works region by region, in
windows, and for a factor per axis, within the same memory.

Shapes: B batch, H×W the LR grid, h×w the output grid, Q queries.
"""
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.coords import Region
from models.contract import SRModel
from utils import UserError


class Turn(NamedTuple):
    """Flips rows, columns or both, then swaps height and width: the eight turns are all combinations."""
    rows: bool
    columns: bool
    swap: bool

    def of_map(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W), or (B, C, W, H) if swapped."""
        flipped = x.flip([dim for dim, flip in ((2, self.rows), (3, self.columns)) if flip])
        return flipped.transpose(2, 3).contiguous() if self.swap else flipped

    def of_region(self, region: Region) -> Region:
        """The same pixels in the turned image."""
        top, bottom, left, right, height, width = region
        if self.rows:
            top, bottom = height - bottom, height - top
        if self.columns:
            left, right = width - right, width - left
        if self.swap:
            return Region(left, right, top, bottom, width, height)
        return Region(top, bottom, left, right, height, width)

    def of_coord(self, coord: Tensor) -> Tensor:
        """The same points (…, 2), (y, x), in the turned image."""
        turned = coord * coord.new_tensor([-1 if self.rows else 1, -1 if self.columns else 1])
        return turned.flip(-1) if self.swap else turned

    def of_grid(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The ascending coordinates (h,) and (w,) of a grid in the turned image."""
        y, x = (-line.flip(0) if flip else line for line, flip in ((rows, self.rows), (columns, self.columns)))
        return (x, y) if self.swap else (y, x)

    def grid_back(self, rgb: Tensor) -> Tensor:
        """Undoes the turn of a grid's RGB: → (B, h, w, 3)."""
        upright = rgb.transpose(1, 2) if self.swap else rgb
        return upright.flip([dim for dim, flip in ((1, self.rows), (2, self.columns)) if flip])

    def of_cell(self, cell: Tensor) -> Tensor:
        """(B, 2)."""
        return cell.flip(-1) if self.swap else cell


TURNS = tuple(Turn(*flips) for flips in product((False, True), repeat=3))


class SelfEnsemble(SRModel):
    """The mean of a model's outputs for the eight turns of its input, each turned back.

    Raises: UserError for a model that computes whole grids alone (bicubic), whose turns differ by rounding only.
    """

    def __init__(self, model: SRModel):
        super().__init__()
        if model.whole_grid:
            raise UserError('-ensemble: this model makes its whole output at once, and gains nothing by flips')
        self.model = model
        self.to(model.inp_sub)
        self.data_norm = model.data_norm
        self.fixed_scale, self.has_windows, self.may_idle = model.fixed_scale, model.has_windows, model.may_idle
        self.precision, self.reimplementation = model.precision, model.reimplementation
        self.reach = None if model.reach is None else model.reach + 1  # see `encode`

    def encode(self, lr: Tensor, region: Region | None = None, halo: int | None = None) -> list[Any]:
        """The latents of all turns.

        A query exactly between two pixels is nearest to the other one after a flip, so regions are one pixel larger.
        """
        around = None if region is None else region.grow(1)
        return [self.model.encode(turn.of_map(lr), around and turn.of_region(around), halo) for turn in TURNS]

    def query(self, latent: list[Any], coord: Tensor, cell: Tensor) -> Tensor:
        results = (self.model.query(part, turn.of_coord(coord), turn.of_cell(cell)) for turn, part in zip(TURNS, latent))
        return _mean(results)

    def query_grid(self, latent: list[Any], rows: Tensor, columns: Tensor, cell: Tensor, memory: int) -> Tensor:
        memory -= 2 * 4 * 3 * len(cell) * len(rows) * len(columns)  # the sum, and the result of a turn
        return _mean(turn.grid_back(self.model.query_grid(part, *turn.of_grid(rows, columns), turn.of_cell(cell),
                                                          max(1, memory))) for turn, part in zip(TURNS, latent))


def _mean(results: Any) -> Tensor:
    """The mean of the results of all turns, in float32 at least."""
    total = None
    for result in results:
        exact = result.to(torch.promote_types(result.dtype, torch.float32))
        total = exact.clone() if total is None else total.add_(exact)
    assert total is not None
    return total.div_(len(TURNS))
