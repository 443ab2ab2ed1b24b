"""FEM, the feature exchange of MSNO: circular pixel shifts in eight directions (paper section III-B).

Shapes: B batch, C channels, H×W the LR grid.
"""
import torch
from torch import Tensor, nn

# (dy, dx) of channel mod 8: the output at (y, x) is the input at (y, x) + n·(dy, dx), wrapped around the picture
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (-1, 1), (1, -1), (1, 1), (-1, -1))


def shift(x: Tensor, stride: int) -> Tensor:
    """Channel c of (B, C, H, W) moved by `stride` pixels in direction c mod 8."""
    shifted = torch.empty_like(x)
    for i, (dy, dx) in enumerate(DIRECTIONS):
        shifted[:, i::8] = x[:, i::8].roll((-stride * dy, -stride * dx), (2, 3))
    return shifted


class FEM(nn.Module):
    """Shifts by a learnable, real stride n ≥ 0 (the paper's FEM).

    For n between m and m + 1 the two integer shifts are blended with weight n − m, so that a gradient reaches n and n = 1
    (the start) is exactly the shift by one pixel.
    """

    def __init__(self):
        super().__init__()
        self.stride = nn.Parameter(torch.tensor(1.0))

    def effective_stride(self) -> Tensor:
        """The stride in force: kept at zero when the parameter is below, without cutting its gradient off."""
        return self.stride + (self.stride.clamp(min=0) - self.stride).detach()

    def forward(self, x: Tensor) -> Tensor:
        stride = self.effective_stride()
        value = float(stride.detach())
        shifted = shift(x, int(value))                                               # (B, C, H, W)
        if value.is_integer() and not torch.is_grad_enabled():
            return shifted
        return shifted + (stride - int(value)) * (shift(x, int(value) + 1) - shifted)


class AuthorsFEM(nn.Module):
    """FEM as the authors' program runs it: fixed 3×3 depthwise kernels, dilated by an integer stride, wrapped.

    Their stride is stored but truncated to an integer, so it never learns: here it is a buffer. Their kernels give channels
    4 to 7 (mod 8) a cardinal shift on top of the diagonal one, summed. Both travel in their checkpoints.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer('stride', torch.tensor(1.0))
        kernels = torch.zeros(channels, 1, 3, 3)
        for i, (dy, dx) in enumerate(DIRECTIONS):
            kernels[i::8, 0, 1 + dy, 1 + dx] = 1
        for i, (dy, dx) in enumerate(DIRECTIONS[:4]):
            kernels[4 + i::8, 0, 1 + dy, 1 + dx] = 1
        self.register_buffer('kernels', kernels)

    def forward(self, x: Tensor) -> Tensor:
        stride = int(self.stride)
        out = torch.zeros_like(x)
        for a in range(3):
            for b in range(3):
                tap = self.kernels[:, :, a, b].unsqueeze(-1)                         # (C, 1, 1)
                out += tap * x.roll((-(a - 1) * stride, -(b - 1) * stride), (2, 3))
        return out
