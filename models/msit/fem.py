"""FEM, the feature exchange of MSNO: circular pixel shifts in eight directions (paper section III-B).

Shapes: B batch, C channels, H×W the LR grid, m a margin of pixels around it that shifts read.
"""
import torch
from torch import Tensor, nn

# (dy, dx) of channel mod 8: the output at (y, x) is the input at (y, x) + n·(dy, dx), wrapped around the image
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (-1, 1), (1, -1), (1, 1), (-1, -1))


class FEM(nn.Module):
    """Shifts by a learnable, real stride n ≥ 0 (the paper's FEM).

    For n between k and k + 1 the two integer shifts are blended with weight n − k, so that a gradient reaches n and n = 1
    (the start) is exactly the shift by one pixel. The stride stays on its device: the CPU does not wait for its value.
    """

    directions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stride = nn.Parameter(torch.tensor(1.0))
        self.register_buffer('directions', torch.tensor(DIRECTIONS), persistent=False)

    @property
    def reach(self) -> int:
        """m, the largest distance of a shift, in pixels."""
        return int(self.stride.clamp(min=0)) + 1

    def training_values(self) -> dict[str, Tensor]:
        return {'stride': self.stride.detach().clamp(min=0)}

    def forward(self, x: Tensor, margin: int = 0) -> Tensor:
        """Shifted features: (B, C, H, W) → the same shape.

        Without a margin the image wraps around. A part of an image comes with its margin: (B, C, H + 2m, W + 2m) →
        (B, C, H, W).
        """
        # a negative stride counts as zero, but still receives its gradient
        stride = self.stride + (self.stride.clamp(min=0) - self.stride).detach()
        low = stride.detach().floor()
        directions = self.directions.repeat(-(-x.shape[1] // 8), 1)[:x.shape[1]]     # (C, 2)
        shifted = []  # by the integers below and above the stride
        for pixels in (low.long(), low.long() + 1):
            y = x
            for dim, direction in ((2, directions[:, :1]), (3, directions[:, 1:])):
                position = torch.arange(margin, y.shape[dim] - margin, device=y.device) + pixels * direction   # (C, H or W)
                index = (position % y.shape[dim]).unsqueeze(4 - dim).unsqueeze(0)
                y = y.gather(dim, index.expand(*y.shape[:dim], position.shape[1], *y.shape[dim + 1:]))
            shifted.append(y)                                                        # (B, C, H, W)
        return shifted[0].lerp(shifted[1], stride - low)


class AuthorsFEM(nn.Module):
    """FEM as the authors' program runs it: fixed 3×3 depthwise kernels, dilated by an integer stride, wrapped.

    Their stride is stored but truncated to an integer, so it never learns: here it is a buffer. Their kernels give channels
    4 to 7 (mod 8) a cardinal shift on top of the diagonal one, summed. Both travel in their checkpoints.

    Args:
        channels: C.
    """

    stride: Tensor
    kernels: Tensor

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
        """m, the largest distance of a shift, in pixels."""
        return abs(int(self.stride))

    def forward(self, x: Tensor, margin: int = 0) -> Tensor:
        """As `FEM.forward`."""
        stride = self.stride.long()
        positions = [torch.arange(margin, side - margin, device=x.device) for side in x.shape[2:]]
        out: Tensor | None = None
        for a in range(3):
            rows = x.index_select(2, (positions[0] + (a - 1) * stride) % x.shape[2])
            for b in range(3):
                tap = self.kernels[:, :, a, b].unsqueeze(-1)                         # (C, 1, 1)
                moved = tap * rows.index_select(3, (positions[1] + (b - 1) * stride) % x.shape[3])
                out = moved if out is None else out + moved
        assert out is not None
        return out


class NoFEM(nn.Module):
    """Replaces FEM in the ablation without it: no shift."""

    reach = 0

    def forward(self, x: Tensor, margin: int = 0) -> Tensor:
        """As `FEM.forward`."""
        return x[:, :, margin:x.shape[2] - margin, margin:x.shape[3] - margin]
