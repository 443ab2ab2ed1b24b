"""RCAN: "Image Super-Resolution Using Very Deep Residual Channel Attention Networks" (arXiv 1807.02758), as an encoder.

Shapes: B batch, H×W the LR grid, F = n_feats.
Parameter names are those of released checkpoints. As in the LIIF family, the mean shift is left out.
"""
from torch import Tensor, nn

from models.contract import Encoder
from models.encoders.base import conv3x3
from models.registries import ENCODERS, Depth

MOST_BLOCKS = 512  # of all groups together


class ChannelAttention(nn.Module):
    """Channels weighted by a function of their means over the image."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        self.conv_du = nn.Sequential(nn.Conv2d(channels, channels // reduction, 1), nn.ReLU(),
                                     nn.Conv2d(channels // reduction, channels, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(x.mean((2, 3), keepdim=True))                        # weights (B, F, 1, 1)


class Residual(nn.Module):
    """x + layers(x): a block, or a group of blocks."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


@ENCODERS.register('rcan')
class RCAN(Encoder):
    """RCAN without its upsampling tail. Its attention takes means over the image, which is therefore encoded as a whole.

    Args:
        n_resgroups, n_resblocks: groups, and blocks of each.
        n_feats: F.
        reduction: of the channels, inside the attention.
        no_upsampling: must be true; released configs contain it.
        scale, rgb_range: of the tail and of the mean shift, in released configs; no effect.
    """

    def __init__(self, *, n_resgroups: Depth = 10, n_resblocks: Depth = 20, n_feats: int = 64, reduction: int = 16,
                 no_upsampling: bool = True, scale: int = 2, rgb_range: float = 1):
        super().__init__()
        if not no_upsampling:
            raise ValueError('no_upsampling must be true: the encoder has no upsampling tail')
        if n_resgroups < 0 or n_resblocks < 0 or not 1 <= reduction <= n_feats or n_resgroups * n_resblocks > MOST_BLOCKS:
            raise ValueError(f'expected 1 <= reduction <= n_feats, and n_resgroups · n_resblocks from 0 to {MOST_BLOCKS}, '
                             f'got {reduction}, {n_feats}, and {n_resgroups} · {n_resblocks}')

        def block() -> nn.Module:
            return Residual(conv3x3(n_feats, n_feats), nn.ReLU(), conv3x3(n_feats, n_feats),
                            ChannelAttention(n_feats, reduction))
        groups = [Residual(*(block() for _ in range(n_resblocks)), conv3x3(n_feats, n_feats)) for _ in range(n_resgroups)]
        self.out_channels = n_feats
        self.head = nn.Sequential(conv3x3(3, n_feats))
        self.body = nn.Sequential(*groups, conv3x3(n_feats, n_feats))

    def features(self, x: Tensor) -> Tensor:
        x = self.head(x)                                                             # (B, F, H, W)
        return x + self.body(x)
