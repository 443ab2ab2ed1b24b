"""Positional bias of local attention: one number per head for each offset between a query and a key.

Shapes: K keys along an axis (2r + 1), F frequencies, h heads.
"""
import torch
from torch import Tensor, nn

from common.registry import register


@register('posenc', provided=('heads',))
class PositionalBias(nn.Module):
    """Linear map of [sin(ω·δy), sin(ω·δx), cos(ω·δy), cos(ω·δx)], ω = 2^l − 1, l linearly spaced from 0 to posenc_scale.

    Every feature depends on one axis, so the bias is a function of δy plus a function of δx: with K² keys around a query
    only 2K of them are evaluated. The sum is exact.

    Args:
        heads: h.
        enc_dims: 4·F, the features.
        posenc_scale: upper end of l.
        posenc_type, hidden_dims, gamma: released configs carry them; only 'sinusoid' exists, the others play no part.
    """

    def __init__(self, *, heads: int, posenc_type: str = 'sinusoid', posenc_scale: float = 10, enc_dims: int = 64,
                 hidden_dims: int | None = None, gamma: float | None = None):
        super().__init__()
        if posenc_type != 'sinusoid':
            raise ValueError(f"posenc_type is '{posenc_type}', expected 'sinusoid'")
        if enc_dims < 4 or enc_dims % 4:
            raise ValueError(f'enc_dims is {enc_dims}, expected a multiple of 4')
        self.register_buffer('frequencies', 2 ** torch.linspace(0, posenc_scale, enc_dims // 4) - 1, persistent=False)
        self.proj = nn.Linear(enc_dims, heads)

    def forward(self, delta_y: Tensor, delta_x: Tensor) -> Tensor:
        """Offsets (B, Q, K) of both axes, in units of half an LR pixel, float64 → bias (B, Q, K, K, h), y before x."""
        bias_y, bias_x = self.axes(delta_y, delta_x)                                 # (B, Q, K, h)
        return bias_y.unsqueeze(3) + bias_x.unsqueeze(2)

    def axes(self, delta_y: Tensor, delta_x: Tensor) -> tuple[Tensor, Tensor]:
        """The two functions whose sum is the bias: offsets (…, K) of each axis, float64 → (…, K, h) each."""
        with torch.autocast(delta_y.device.type, enabled=False):  # half precision would lose the high frequencies
            sin_y, sin_x, cos_y, cos_x = self.proj.weight.chunk(4, 1)                # (h, F) each
            bias_y = self.axis_features(delta_y) @ torch.cat([sin_y, cos_y], 1).T
            return bias_y, self.axis_features(delta_x) @ torch.cat([sin_x, cos_x], 1).T + self.proj.bias

    def axis_features(self, delta: Tensor) -> Tensor:
        """(…, K) float64 → (…, K, 2F): sin and cos of ω·δ."""
        angle = delta.to(self.frequencies.dtype).unsqueeze(-1) * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], -1)
