"""MSC: parallel convolutions of growing size, one for each group of channels (paper section III-B).

Shapes: B batch, C channels in t groups, H×W the LR grid.
"""
import torch
from torch import Tensor, nn

from models.msit.rim import make_conv


class MSC(nn.Module):
    """Splits the channels into t groups; group i (1-based) passes a dense (2i + 1)×(2i + 1) convolution C/t → C/t.

    MSNO uses it with t = 16 (3×3 to 33×33), the query branch of MSSA with n = 4. With t = 1 it is a 3×3 convolution.

    Args:
        convs: t; must divide `channels`.
        reparam, reparam_init: 'none', 'rim' or 'refconv', and its initialisation (see `rim.py`).
    """

    def __init__(self, channels: int, convs: int, *, reparam: str = 'none', reparam_init: str = 'identity'):
        super().__init__()
        if convs < 1 or channels % convs:
            raise ValueError(f'{channels} channels cannot be split evenly among {convs} convolutions')
        width = channels // convs
        self.convs = nn.ModuleList(make_conv(width, width, 2 * i + 1, reparam, reparam_init) for i in range(1, convs + 1))

    def forward(self, x: Tensor) -> Tensor:
        groups = list(x.chunk(len(self.convs), 1))                                   # t × (B, C/t, H, W)
        for i, conv in enumerate(self.convs):
            groups[i] = conv(groups[i])
        return torch.cat(groups, 1)
