"""Parts of the encoders: making one from its spec, 3×3 convolutions, and the upsampling tail."""
from torch import nn

from models.contract import Encoder
from models.registries import ENCODERS

TAIL_REACH = 2  # LR pixels around it that an output of the tail depends on: one by the first convolution, one by all others


def make_encoder(spec: dict) -> Encoder:
    """The encoder of an `encoder_spec`. Raises: ValueError when it has an upsampling tail."""
    encoder = ENCODERS.make(spec, 'encoder_spec')
    if encoder.scale > 1:
        raise ValueError(f"encoder_spec: '{spec['name']}' has its upsampling tail: set no_upsampling to true")
    return encoder


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3×3 convolution with bias that keeps the size."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def upsampling(in_channels: int, channels: int, scale: int) -> list[nn.Module]:
    """Sub-pixel upsampling by 2, 3 or 4 (4 is twice 2), ending with `channels` channels."""
    if scale not in (2, 3, 4):
        raise ValueError(f'scale is {scale!r}, expected 2, 3 or 4')
    layers: list[nn.Module] = []
    for factor in ([2, 2] if scale == 4 else [scale]):
        layers += [conv3x3(in_channels, channels * factor ** 2), nn.PixelShuffle(factor)]
        in_channels = channels
    return layers
