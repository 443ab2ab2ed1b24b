"""Checks of the arguments of `SRModel.forward`: a UserError says what was expected.

Shapes: B batch, H×W the LR grid, Q queries.
"""
from typing import Any

import torch
from torch import Tensor

from utils import UserError

EDGE = 1e-6  # how far coordinates may lie outside [−1, 1]: rounding
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of images and queries


def check_queries(lr: Any, coord: Any, cell: Any, weights: Tensor, values: bool) -> None:
    """Raises UserError unless these are the arguments of `SRModel.forward`.

    Args:
        weights: a tensor of the model, for its type.
        values: look at the numbers, too; that waits for the device.
    """
    for name, tensor in (('lr', lr), ('coord', coord), ('cell', cell)):
        if not (isinstance(tensor, Tensor) and tensor.dtype in DTYPES and not tensor.is_nested
                and tensor.layout == torch.strided):
            raise UserError(f'forward: expected {name} to be a dense tensor of floating-point numbers, got '
                            f'{kind_of(tensor)}')
    if lr.dtype != weights.dtype:
        raise UserError(f'forward: expected lr of {weights.dtype}, as the weights are, got {lr.dtype}')
    shapes = tuple(lr.shape), tuple(coord.shape), tuple(cell.shape)
    if not (lr.ndim == 4 and lr.shape[1] == 3 and coord.ndim == 3 and coord.shape[2] == 2
            and coord.shape[0] == lr.shape[0] and shapes[2] == (lr.shape[0], 2)):
        raise UserError(f'forward: expected lr (B, 3, H, W), coord (B, Q, 2) and cell (B, 2), got {shapes[0]}, {shapes[1]} '
                        f'and {shapes[2]}')
    if not values or len(lr) == 0:  # one of several processes may have no image of a batch
        return
    if 0 in (*lr.shape, coord.shape[1]):
        raise UserError(f'forward: expected images and queries, got {shapes[0]} and {shapes[1]}, which are empty')
    if not coord.abs().max() <= 1 + EDGE:
        raise UserError('forward: expected coordinates (y, x) in [-1, 1], got values from {:g} to {:g}'.format(
            *map(float, coord.aminmax())))
    if not (cell.isfinite() & (cell > 0)).all():
        raise UserError('forward: expected cells (height, width) above 0 and finite, got values from {:g} to {:g}'.format(
            *map(float, cell.aminmax())))


def kind_of(value: object) -> str:
    """What a value is, for messages about tensors."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f'a tensor of {value.dtype}' + ('' if value.layout == torch.strided else f', {value.layout}') + (
        ', nested' if value.is_nested else ', without values' if value.device.type == 'meta' else '')
