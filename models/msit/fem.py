"""FEM, the feature exchange of MSNO: circular pixel shifts in eight directions (paper section III-B).

Shapes: B batch, C channels, H×W the LR grid, m the margin of pixels around it that shifts read (`reach`).
"""
import torch
from torch import Tensor, nn

# (dy, dx) of channel mod 8: the output at (y, x) is the input at (y, x) + n·(dy, dx), wrapped around the image
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (-1, 1), (1, -1), (1, 1), (-1, -1))


def wrap(x: Tensor, margin: int) -> Tensor:
    """An image continued periodically: (B, C, H, W) → (B, C, H + 2m, W + 2m)."""
    for dim in (2, 3) if margin else ():
        lines = torch.arange(-margin, x.shape[dim] + margin, device=x.device) % x.shape[dim]
        x = x.index_select(dim, lines)
    return x


def window(x: Tensor, margin: int, dy: int, dx: int) -> Tensor:
    """The inner part of (B, C, H + 2m, W + 2m), moved by (dy, dx): (B, C, H, W)."""
    height, width = x.shape[2] - 2 * margin, x.shape[3] - 2 * margin
    return x[:, :, margin + dy:margin + dy + height, margin + dx:margin + dx + width]


def shift(x: Tensor, margin: int, stride: int) -> Tensor:
    """Channel c moved by `stride` pixels in direction c mod 8: (B, C, H + 2m, W + 2m) → (B, C, H, W)."""
    shifted = torch.empty_like(window(x, margin, 0, 0))
    for i, (dy, dx) in enumerate(DIRECTIONS):
        shifted[:, i::8] = window(x[:, i::8], margin, stride * dy, stride * dx)
    return shifted


class CircularShift(nn.Module):
    """Base of both kinds of FEM.

    Attributes:
        reach: m, how far a shift reads.
    """

    reach: int

    def forward(self, x: Tensor, wrapped: bool = False) -> Tensor:
        """An image (B, C, H, W), or, `wrapped`, a part of one with its margin (B, C, H + 2m, W + 2m), → (B, C, H, W)."""
        return self.move(x if wrapped else wrap(x, self.reach))

    def move(self, x: Tensor) -> Tensor:
        """(B, C, H + 2m, W + 2m) → (B, C, H, W)."""
        raise NotImplementedError


class FEM(CircularShift):
    """Shifts by a learnable, real stride n ≥ 0 (the paper's FEM).

    For n between m and m + 1 the two integer shifts are blended with weight n − m, so that a gradient reaches n and n = 1
    (the start) is exactly the shift by one pixel.
    """

    def __init__(self):
        super().__init__()
        self.stride = nn.Parameter(torch.tensor(1.0))

    @property
    def reach(self) -> int:
        return int(self.effective_stride()) + 1

    def effective_stride(self) -> Tensor:
        """The stride in force: kept at zero when the parameter is below, without cutting its gradient off."""
        return self.stride + (self.stride.clamp(min=0) - self.stride).detach()

    def training_values(self) -> dict[str, Tensor]:
        return {'stride': self.effective_stride().detach()}

    def move(self, x: Tensor) -> Tensor:
        stride, margin = self.effective_stride(), self.reach
        low = margin - 1
        shifted = shift(x, margin, low)
        if not torch.is_grad_enabled() and stride == low:
            return shifted
        return shifted + (stride - low) * (shift(x, margin, margin) - shifted)


class AuthorsFEM(CircularShift):
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

    @property
    def reach(self) -> int:
        return abs(int(self.stride))

    def move(self, x: Tensor) -> Tensor:
        stride, margin = int(self.stride), self.reach
        out = torch.zeros_like(window(x, margin, 0, 0))
        for a in range(3):
            for b in range(3):
                tap = self.kernels[:, :, a, b].unsqueeze(-1)                         # (C, 1, 1)
                out += tap * window(x, margin, (a - 1) * stride, (b - 1) * stride)
        return out


class NoFEM(CircularShift):
    """Stands in for FEM in the ablation without it: moves nothing."""

    reach = 0

    def move(self, x: Tensor) -> Tensor:
        return x
