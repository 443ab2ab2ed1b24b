"""EDSR-baseline: "Enhanced Deep Residual Networks for Single Image Super-Resolution" (Lim et al., CVPRW 2017).

Shapes: B batch, H×W the LR grid, F = n_feats, s the scale of the tail.
As in the LIIF family, the mean shift is left out (the model's normalisation replaces it). Parameter names are those of
released checkpoints.
"""
import re

import torch
from torch import Tensor, nn

from models.contract import Encoder
from models.encoders.base import TAIL_REACH, conv3x3, upsampling
from models.registries import ENCODERS, Depth
from utils import UserError

_BLOCK = re.compile(r'^body\.\d+\.body\.')              # tensors of a residual block
_AFTER_BLOCKS = re.compile(r'^body\.\d+\.(weight|bias)')  # the convolution after them


class ResidualBlock(nn.Module):
    """x + res_scale · conv(ReLU(conv(x)))."""

    def __init__(self, channels: int, res_scale: float):
        super().__init__()
        self.body = nn.Sequential(conv3x3(channels, channels), nn.ReLU(), conv3x3(channels, channels))
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res_scale * self.body(x)


@ENCODERS.register('edsr-baseline')
class EDSR(Encoder):
    """EDSR; by default 16 blocks of 64 features.

    Args:
        n_resblocks, n_feats, res_scale: of the body.
        scale: 2, 3 or 4, of the upsampling tail.
        no_upsampling: leave the tail out, for an encoder with n_feats channels.
        rgb_range: of the mean shift, in released configs; no effect.
    """

    def __init__(self, *, n_resblocks: Depth = 16, n_feats: int = 64, res_scale: float = 1.0, scale: int = 2,
                 no_upsampling: bool = False, rgb_range: float = 1):
        super().__init__()
        if n_resblocks < 0 or n_feats < 1:
            raise ValueError(f'expected n_resblocks >= 0 and n_feats >= 1, got {n_resblocks} and {n_feats}')
        self.head = nn.Sequential(conv3x3(3, n_feats))
        blocks = [ResidualBlock(n_feats, res_scale) for _ in range(n_resblocks)]
        self.body = nn.Sequential(*blocks, conv3x3(n_feats, n_feats))
        self.tail: nn.Module = nn.Identity()
        self.out_channels = n_feats
        if not no_upsampling:
            self.tail = nn.Sequential(nn.Sequential(*upsampling(n_feats, n_feats, scale)), conv3x3(n_feats, 3))
            self.out_channels, self.scale = 3, scale
        self.reach = 2 * n_resblocks + 2 + TAIL_REACH * (not no_upsampling)

    def features(self, x: Tensor) -> Tensor:
        x = self.head(x)                                                             # (B, F, H, W)
        x = x + self.body(x)
        return self.tail(x)                                       # (B, F, H, W), or (B, 3, s·H, s·W) with the tail

    def deepened_state(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
        """As `Encoder.deepened_state`. An added block is the identity: its second convolution is zero."""
        blocks = len(self.body) - 1
        known = len({match[0] for match in map(_BLOCK.match, state) if match})
        if known > blocks:
            raise UserError(f'has {known} residual blocks, the deeper encoder {blocks}; expected no more in the file')
        deepened = {_AFTER_BLOCKS.sub(rf'body.{blocks}.\1', key): value for key, value in state.items()}
        for number in range(known, blocks):
            for key, value in self.body[number].state_dict().items():
                deepened[f'body.{number}.{key}'] = torch.zeros_like(value) if key.startswith('body.2.') else value.clone()
        return deepened, blocks - known


@ENCODERS.register('edsr')
def edsr(*, n_resblocks: Depth = 32, n_feats: int = 256, res_scale: float = 0.1, scale: int = 2, no_upsampling: bool = False,
         rgb_range: float = 1) -> EDSR:
    """The large EDSR: `EDSR` with 32 blocks of 256 features, whose residuals are scaled by 0.1."""
    return EDSR(n_resblocks=n_resblocks, n_feats=n_feats, res_scale=res_scale, scale=scale, no_upsampling=no_upsampling,
                rgb_range=rgb_range)
