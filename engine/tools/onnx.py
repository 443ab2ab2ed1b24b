"""Networks as ONNX files, for programs without PyTorch: `python -m engine.export -model X -format onnx -output X.onnx`.

One graph encodes an LR image of any size and answers queries at any coordinates in it. RIM is folded, FEM's stride fixed.
Needs three packages: pip install onnx onnxscript onnxruntime.
"""
import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.coords import make_cell, make_grid
from models.contract import SRModel
from utils import UserError, atomic_path

PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')
METHODS = ('liif', 'lte', 'msit')
ENCODERS = ('edsr', 'edsr-baseline', 'rdn', 'rcan')  # SwinIR's windows depend on the size of the image
OPSET = 18
_TRACED, _BATCH = ((9, 11), (23, 40)), 5  # LR and output sizes, images; the graph holds for all others


class Queries(nn.Module):
    """The function of an exported file: LR (B, 3, H, W) in [0, 1], coordinates (B, Q, 2), cell (B, 2) → RGB (B, Q, 3)."""

    def __init__(self, model: SRModel):
        super().__init__()
        self.model = model

    def forward(self, lr: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        latent = self.model.encode(self.model.normalise_lr(lr))
        return self.model.denormalise_rgb(self.model.query(latent, coord, cell))


def exported_program(model: SRModel, spec: dict) -> torch.export.ExportedProgram:
    """The function of `Queries` as one graph for images of any size, any number of them and of queries.

    Args:
        model: folded.
        spec: {'name', 'args'} of the model, under our names.
    Raises: UserError for a network that is no single graph.
    """
    encoder = ((spec.get('args') or {}).get('encoder_spec') or {}).get('name')
    if spec['name'] not in METHODS or encoder not in ENCODERS or model.fixed_scale:
        raise UserError(f"'{spec['name']}'{f' with encoder {encoder!r}' if encoder else ''} cannot be exported as a graph; "
                        f"expected one of {', '.join(METHODS)} with one of {', '.join(ENCODERS)}")
    lr, size = torch.rand(_BATCH, 3, *_TRACED[0]), _TRACED[1]
    coord = make_grid(*size).view(1, -1, 2).repeat(_BATCH, 1, 1)
    cell = make_cell(*size).repeat(_BATCH, 1)
    free = torch.export.Dim.DYNAMIC
    return torch.export.export(Queries(model.eval()), (lr, coord, cell), strict=False,
                               dynamic_shapes=({0: free, 2: free, 3: free}, {0: free, 1: free}, {0: free}))


def write_onnx(model: SRModel, spec: dict, target: str | Path) -> None:
    """Writes a folded model as an ONNX file, atomically; its metadata say what goes in and what comes out.

    Raises: UserError for a network that cannot be exported, or without the packages.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"-format onnx: needs more packages: pip install {' '.join(missing)}")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the exporter, about its own parts
        logging.getLogger('onnxscript').setLevel(logging.ERROR)
        program = torch.onnx.export(exported_program(model, spec), dynamo=True, opset_version=OPSET, verbose=False,
                                    input_names=['lr', 'coord', 'cell'], output_names=['rgb'],
                                    custom_translation_table={torch.ops.aten.remainder.Scalar: _remainder})
    assert program is not None
    program.model.metadata_props.update({key: value if isinstance(value, str) else json.dumps(value)
                                         for key, value in _metadata(model, spec).items()})
    with atomic_path(target) as temporary:
        program.save(temporary)


def _remainder(values: Any, divisor: Any) -> Any:
    """Indices modulo a side of the image, which the exporter does not translate where that side is free."""
    from onnxscript import opset18
    return opset18.Mod(values, opset18.CastLike(divisor, values))


def _metadata(model: SRModel, spec: dict) -> dict:
    """What a user of the file must know."""
    return {
        'method': spec['name'], 'model': {'name': spec['name'], 'args': spec.get('args')}, 'data_norm': model.data_norm,
        'normalisation': 'part of the graph: lr and rgb are RGB, 0 to 1; rgb is not clamped',
        'lr': 'float32 (B, 3, H, W), any size', 'rgb': 'float32 (B, Q, 3)',
        'coord': 'float64 (B, Q, 2), (y, x) in [-1, 1]; the centre of pixel i of n lies at -1 + (2 i + 1) / n',
        'cell': 'float64 (B, 2), the size of an output pixel: (2 / height, 2 / width) of the output'}
