"""RDN: "Residual Dense Network for Image Super-Resolution" (Zhang et al., CVPR 2018).

Shapes: B batch, H×W the LR grid, F = G0 features, G growth of the dense blocks, s the scale of the tail.
Parameter names are those of released checkpoints.
"""
import torch
from torch import Tensor, nn

from models.contract import Encoder
from models.encoders.base import TAIL_REACH, conv3x3, upsampling
from models.registries import ENCODERS

CONFIGS = {'A': (20, 6, 32), 'B': (16, 8, 64)}  # dense blocks, convolutions in each, growth


class DenseLayer(nn.Module):
    """Appends `growth` new channels to its input."""

    def __init__(self, in_channels: int, growth: int):
        super().__init__()
        self.conv = nn.Sequential(conv3x3(in_channels, growth), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(x)], 1)


class ResidualDenseBlock(nn.Module):
    """Dense layers, 1×1 local feature fusion (LFF), local residual."""

    def __init__(self, channels: int, growth: int, n_convs: int):
        super().__init__()
        self.convs = nn.Sequential(*(DenseLayer(channels + i * growth, growth) for i in range(n_convs)))
        self.LFF = nn.Conv2d(channels + n_convs * growth, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.LFF(self.convs(x))


@ENCODERS.register('rdn')
class RDN(Encoder):
    """Residual dense network.

    Args:
        G0: features.
        RDNconfig: 'A' (20 blocks of 6, growth 32) or 'B' (16 blocks of 8, growth 64; the usual one).
        scale: 2, 3 or 4, of the upsampling tail.
        no_upsampling: leave the tail out, for an encoder with G0 channels.
        RDNkSize: side of the kernels; must be 3, as in all released configs.
    """

    def __init__(self, *, G0: int = 64, RDNkSize: int = 3, RDNconfig: str = 'B', scale: int = 2,
                 no_upsampling: bool = False):
        super().__init__()
        if RDNkSize != 3:
            raise ValueError(f'RDNkSize is {RDNkSize}, expected 3')
        if RDNconfig not in CONFIGS:
            raise ValueError(f"RDNconfig is {RDNconfig!r}, expected one of {', '.join(CONFIGS)}")
        if G0 < 1:
            raise ValueError(f'G0 is {G0}, expected at least 1')
        n_blocks, n_convs, growth = CONFIGS[RDNconfig]
        self.SFENet1 = conv3x3(3, G0)                                                # shallow features
        self.SFENet2 = conv3x3(G0, G0)
        self.RDBs = nn.ModuleList(ResidualDenseBlock(G0, growth, n_convs) for _ in range(n_blocks))
        self.GFF = nn.Sequential(nn.Conv2d(n_blocks * G0, G0, 1), conv3x3(G0, G0))   # global feature fusion
        self.UPNet: nn.Module = nn.Identity()
        self.out_channels = G0
        if not no_upsampling:
            self.UPNet = nn.Sequential(*upsampling(G0, growth, scale), conv3x3(growth, 3))
            self.out_channels, self.scale = 3, scale
        self.reach = n_blocks * n_convs + 3 + TAIL_REACH * (not no_upsampling)

    def features(self, x: Tensor) -> Tensor:
        shallow = self.SFENet1(x)                                                    # (B, F, H, W)
        x = self.SFENet2(shallow)
        blocks = []
        for block in self.RDBs:
            x = block(x)
            blocks.append(x)
        x = self.GFF(torch.cat(blocks, 1)) + shallow
        del blocks  # before the tail, which is wide
        return self.UPNet(x)                                      # (B, F, H, W), or (B, 3, s·H, s·W) with the tail
