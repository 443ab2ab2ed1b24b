"""SwinIR: "SwinIR: Image Restoration Using Swin Transformer" (arXiv 2108.10257), as an encoder.

Shapes: B batch, H×W the LR grid, E embed_dim, w window_size.

    LR (B, 3, H, W) → 3×3 convolution (B, E, H, W) → LayerNorm → RSTB … RSTB → LayerNorm → 3×3 convolution, + the first one's
       output → 3×3 convolution to 64, LeakyReLU (B, 64, H, W)

Parameter names are those of released checkpoints.
"""
from typing import Annotated

from torch import Tensor, nn

from common.ranges import AtMost
from models.contract import Encoder
from models.encoders.base import conv3x3
from models.registries import ENCODERS

FEATURES = 64  # channels of the output
Window = Annotated[int, AtMost(64)]
Depths = Annotated[list[int], AtMost(32, length=16)]
Heads = Annotated[list[int], AtMost(64, length=16)]


class PatchEmbed(nn.Module):
    """LayerNorm over the channels; a patch is a pixel. (B, H, W, E) → (B, H, W, E)."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@ENCODERS.register('swinir')
class SwinIR(Encoder):
    """SwinIR without its upsampling tail; needs timm.

    Args:
        embed_dim: E.
        depths, num_heads: Swin blocks, and heads of their attention, of each RSTB; six times 6 by default.
        window_size: w. Upscaling continues an image by mirroring, so that its sides are multiples of w.
        mlp_ratio: hidden width of the MLPs, in units of E.
        drop_path_rate: the probability with which the last block is left out in training; it rises linearly from 0.
        no_upsampling: must be true; released configs contain it.
    """

    def __init__(self, *, embed_dim: int = 180, depths: Depths | None = None, num_heads: Heads | None = None,
                 window_size: Window = 8, mlp_ratio: float = 2.0, drop_path_rate: float = 0.1, no_upsampling: bool = True):
        super().__init__()
        depths, num_heads = depths or [6] * 6, num_heads or [6] * 6
        if not no_upsampling:
            raise ValueError('no_upsampling must be true: the encoder has no upsampling tail')
        if len(depths) != len(num_heads) or min(depths) < 1 or min(num_heads) < 1:
            raise ValueError(f'expected as many depths as num_heads, each at least 1, got {depths} and {num_heads}')
        if embed_dim < 1 or any(embed_dim % heads for heads in num_heads):
            raise ValueError(f'embed_dim is {embed_dim}, expected a multiple of all num_heads, {num_heads}')
        if window_size < 2 or embed_dim * mlp_ratio < 1 or not 0 <= drop_path_rate < 1:
            raise ValueError('expected window_size >= 2, an mlp_ratio of at least one channel and 0 <= drop_path_rate < 1')
        from models.swin.blocks import RSTB, init_linear_layers  # timm takes seconds to import
        self.out_channels, self.reach = FEATURES, _reach(depths, window_size)
        self.multiple = self.mirrored = window_size
        blocks = sum(depths)
        drop_paths = [drop_path_rate * number / max(1, blocks - 1) for number in range(blocks)]
        self.conv_first = conv3x3(3, embed_dim)
        self.patch_embed = PatchEmbed(embed_dim)
        self.layers = nn.Sequential(*(
            RSTB(embed_dim, heads, window_size, mlp_ratio, [drop_paths.pop(0) for _ in range(depth)])
            for depth, heads in zip(depths, num_heads)))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = conv3x3(embed_dim, embed_dim)
        self.conv_before_upsample = nn.Sequential(conv3x3(embed_dim, FEATURES), nn.LeakyReLU())
        init_linear_layers(self.layers)

    def features(self, x: Tensor) -> Tensor:
        x = self.conv_first(x)                                                       # (B, E, H, W)
        tokens = self.norm(self.layers(self.patch_embed(x.permute(0, 2, 3, 1))))     # (B, H, W, E)
        return self.conv_before_upsample(self.conv_after_body(tokens.permute(0, 3, 1, 2)) + x)


def _reach(depths: list[int], window: int) -> int:
    """How many pixels around it a feature depends on: the farthest that the windows of all blocks carry something."""
    farthest = 0
    for pixel in range(window):
        first, last = pixel - 2, pixel + 2  # read by the two convolutions at the end
        for depth in reversed(depths):
            first, last = first - 1, last + 1
            for block in reversed(range(depth)):
                shift = block % 2 * (window // 2)
                first = (first - shift) // window * window + shift
                last = ((last - shift) // window + 1) * window + shift - 1
        farthest = max(farthest, pixel - first + 1, last + 1 - pixel)
    return farthest
