"""SIM: mixing within and across scales, with an input-dependent modulation (paper section III-B, Eq. 6).

Shapes: B batch, C channels in t groups, H×W the LR grid.
"""
import torch.nn.functional as F
from torch import Tensor, nn


class ScaleMixing(nn.Module):
    """W_ds · GELU(BN(W_ss · x)): W_ss a grouped 1×1 convolution C → 2C (inside one scale), W_ds a 1×1 convolution 2C → C.

    MSSA mixes the projections of its query map with it too.

    Args:
        groups: of W_ss; must divide `channels`.
    """

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.within = nn.Conv2d(channels, 2 * channels, 1, groups=groups)
        self.bn = nn.BatchNorm2d(2 * channels)
        self.across = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.within(x))                                                  # (B, 2C, H, W)
        return self.across(F.gelu(x))                                                # (B, C, H, W)


class SIM(ScaleMixing):
    """Scale mixing multiplied by the modulation v = W_Z(x)."""

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        return super().forward(x) * modulation


class ConvMixing(nn.Module):
    """What stands in for SIM in the ablation without it: a 3×3 convolution, still modulated (our reading)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding='same')

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        return self.conv(x) * modulation
