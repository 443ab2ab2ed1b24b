"""The models of a comparison: their names, and what tables say about them besides results."""
import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from common import coords
from models.checkpoint import find
from models.contract import SRModel
from utils import UserError, as_file_name, count_parameters

MACS_SIDE, MACS_SCALE = 24, 4  # LR side and factor at which multiply-adds are counted


class Candidate(NamedTuple):
    """A model as it was found.

    Attributes:
        file: checkpoint, or name of a model without weights.
        name: of its folder of results.
        weights: SHA-256 of the file, and whether flips and rotations are averaged.
        params: number of parameters.
        fixed_scale: the only factor that it upscales by, if so.
        reimplementation: what it was written from, where no program of its authors is known.
        macs: multiply-adds per output megapixel; None where they were not counted.
    """
    file: str
    name: str
    weights: str
    params: int
    fixed_scale: int | None
    reimplementation: str | None
    macs: float | None


def open_model(file: str, device: str | torch.device, ensemble: bool) -> SRModel:
    """A model, or with `ensemble` the mean of its outputs over eight flips and rotations. Raises: UserError."""
    model = models.load(file, device)
    return models.SelfEnsemble(model) if ensemble else model


def inspect(file: str, name: str, count_macs: bool, ensemble: bool = False) -> Candidate:
    """Opens a model to see what it is. Raises: UserError when it cannot be used."""
    model = open_model(file, 'cpu', ensemble)
    path = find(file)
    weights = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else file
    weights += ' ensemble' if ensemble else ''
    return Candidate(file, name, weights, count_parameters(model), model.fixed_scale, model.reimplementation,
                     macs_per_megapixel(model) if count_macs else None)


@torch.no_grad()
def macs_per_megapixel(model: SRModel) -> float:
    """Multiply-adds of matrix products and convolutions for 10⁶ output pixels, by the plain `forward`.

    Counted on 24×24 LR pixels at ×4 (or the model's fixed factor), encoder and all queries together.
    """
    side = MACS_SIDE * (model.fixed_scale or MACS_SCALE)
    coord = coords.make_grid(side, side).flatten(0, 1).unsqueeze(0)                  # (1, side², 2)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, MACS_SIDE, MACS_SIDE), coord, coords.make_cell(side, side).unsqueeze(0))
    return counter.get_total_flops() / 2 / side ** 2 * 1e6


def model_names(files: list[str]) -> dict[str, str]:
    """Names of models: that of the file, with its folder's before it where two files have the same."""
    names = {file: as_file_name(Path(file).stem) for file in files}
    for file, name in list(names.items()):
        if [as_file_name(Path(other).stem) for other in files].count(name) > 1:
            names[file] = as_file_name(f'{Path(file).resolve().parent.name}_{name}')
    if len(set(names.values())) < len(names):
        raise UserError(f"-model: two of {', '.join(files)} would have the same name; rename one, "
                        'or measure it alone with -name')
    return names
