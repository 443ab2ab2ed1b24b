"""SIM: mixing within and across scales, with an input-dependent modulation (paper section III-B, Eq. 6).

Shapes: B batch, C channels in t groups, H×W the LR grid.
"""
import torch.nn.functional as F
from torch import Tensor, nn


class SIM(nn.Module):
    """W_ds · GELU(BN(W_ss · x)) · v: W_ss a grouped 1×1 convolution C → 2C (within a scale), W_ds a 1×1 convolution 2C → C
    (across scales), v = W_Z(z) the modulation that MSNO computes.

    MSSA mixes the projections of its query map in the same way, without a modulation.

    Args:
        groups: of W_ss; must divide `channels`.
    """

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.within = nn.Conv2d(channels, 2 * channels, 1, groups=groups)
        self.bn = nn.BatchNorm2d(2 * channels)
        self.across = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """(B, C, H, W), and the modulation of the same shape or None → (B, C, H, W)."""
        x = self.bn(self.within(x))                                                  # (B, 2C, H, W)
        x = self.across(F.gelu(x))                                                   # (B, C, H, W)
        return x if modulation is None else x * modulation


class ConvMixing(nn.Module):
    """Replaces SIM in the ablation without it: a 3×3 convolution, still modulated (our reading)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding='same')

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        return self.conv(x) * modulation
