"""Images continued by mirroring at the bottom and the right, for encoders whose windows want sides of certain lengths.

Shapes: B batch, H×W the LR image, Q queries.
"""
import torch
from torch import Tensor


def mirror(x: Tensor, multiple: int, least: int = 0) -> Tensor:
    """(B, C, H, W) extended at the bottom and the right by mirroring, edge pixels repeated, to multiples of a number.

    Args:
        least: pixels by which each side grows at least.
    """
    for dim in (2, 3):
        n = x.shape[dim]
        length = -(-(n + least) // multiple) * multiple
        if length > n:
            position = torch.arange(length, device=x.device) % (2 * n)
            x = x.index_select(dim, torch.minimum(position, 2 * n - 1 - position))
    return x


def continued(lr: Tensor, multiple: int, coord: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An image of which every side grows by 1 to `multiple` mirrored pixels, and the queries in its coordinates.

    Args: (B, 3, H, W), (B, Q, 2), (B, 2).
    """
    larger = mirror(lr, multiple, 1)
    share = torch.tensor([side / longer for side, longer in zip(lr.shape[2:], larger.shape[2:])], device=coord.device,
                         dtype=torch.float64)                                        # (2,)
    return larger, (coord + 1) * share - 1, cell * share
