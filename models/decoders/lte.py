"""LTE: "Local Texture Estimator for Implicit Representation Function" (arXiv 2111.08918), and LTE+, its variant on grids.

Shapes: B batch, H×W the LR grid, F encoder channels, D hidden_dim, Q queries, N = 4 neighbours of a query.

    LR (B, 3, H, W) → encoder (B, F, H, W) → amplitudes and frequencies (B, D, H, W)
       → at each of N neighbours: amplitudes · [cos, sin](π · (frequencies · offset + phase(cell))) (B, Q, N, D)
       → MLP (B, Q, N, 3) → blended by area (B, Q, 3) + bilinear LR
"""
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.coords import Region, relative_cell
from models.decoders.base import FeatureDecoder
from models.decoders.ensemble import neighbours, pixel_rows
from models.encoders.base import conv3x3
from models.layers import sample_bilinear
from models.registries import MLPS, Depth, EncoderSpec, MLPSpec, register


class Latent(NamedTuple):
    """Of a region of H×W LR pixels. lr: (B, 3, H, W), normalised; amplitudes: (B·H·W, D), of D/2 cosines, then of D/2 sines;
    frequencies: (B·H·W, D), along y, then along x."""
    lr: Tensor
    amplitudes: Tensor
    frequencies: Tensor
    region: Region


class TextureEstimator(FeatureDecoder):
    """Base of LTE and LTE+. Parameter names are those of released checkpoints.

    Args:
        encoder_spec: features of the LR image, e.g. {name: edsr-baseline, args: {no_upsampling: true}}.
        hidden_dim: D, even.
        scale_max: largest factor of the training: beyond it the phase is that of this factor, as in the released test
            programs. None: that of the factor itself.
    """

    decoder_reach = 2  # 3×3 convolutions, and the four neighbours

    def __init__(self, encoder_spec: EncoderSpec, hidden_dim: int, scale_max: float | None):
        super().__init__(encoder_spec)
        if hidden_dim < 2 or hidden_dim % 2:
            raise ValueError(f'hidden_dim is {hidden_dim}, expected an even number of 2 or more')
        if scale_max is not None and scale_max < 1:
            raise ValueError(f'scale_max is {scale_max}, expected at least 1')
        self.hidden_dim, self.scale_max = hidden_dim, scale_max
        self.coef = conv3x3(self.encoder.out_channels, hidden_dim)
        self.freq = conv3x3(self.encoder.out_channels, hidden_dim)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)

    def by_axis(self, frequencies: Tensor) -> Tensor:
        """Frequencies (B, D, H, W) in the order of the convolution's outputs → those along y, then those along x."""
        raise NotImplementedError

    def decode(self, x: Tensor) -> Tensor:
        """(B, Q, N, D) → (B, Q, N, 3)."""
        raise NotImplementedError

    def decode_features(self, lr: Tensor, features: Tensor, region: Region) -> Latent:
        amplitudes = self.coef(features)                                             # (B, D, H, W)
        with torch.autocast(lr.device.type, enabled=False):  # half precision would shift the waves
            frequencies = self.by_axis(self.freq(features.to(self.freq.weight)))
        return Latent(lr, pixel_rows(amplitudes), pixel_rows(frequencies), region)

    def query(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        near = neighbours(coord, latent.region, local_ensemble=True)                 # N = 4
        phase = self.phase_of(latent.region, cell)                                   # (B, 1, 1, D/2)
        along_y, along_x = near.of(latent.frequencies).chunk(2, -1)                  # (B, Q, N, D/2) each
        y, x = near.offset.to(phase).split(1, -1)                                    # (B, Q, N, 1) each
        angle = torch.pi * (along_y * y + along_x * x + phase)
        waves = torch.cat([angle.cos(), angle.sin()], -1)                            # (B, Q, N, D)
        rgb = self.decode(near.of(latent.amplitudes) * waves)                        # (B, Q, N, 3)
        return near.blend(rgb) + sample_bilinear(latent.lr, latent.region.local(coord), 'border')

    def phase_of(self, region: Region, cell: Tensor) -> Tensor:
        """The phases of a cell (B, 2): (B, 1, 1, D/2), in units of π."""
        relative = relative_cell(cell, region.image_height, region.image_width)      # (B, 2): 2/s of each axis
        if self.scale_max is not None:
            relative = relative.clamp(min=2 / self.scale_max)
        relative = relative.to(self.phase.weight)
        with torch.autocast(relative.device.type, enabled=False):
            return self.phase(relative)[:, None, None]


@register('lte')
class LTE(TextureEstimator):
    """LTE with an MLP; the frequencies of a wave along y and x are neighbouring channels.

    Args:
        encoder_spec, hidden_dim, scale_max: see `TextureEstimator`.
        imnet_spec: the decoder MLP.
    """

    def __init__(self, *, encoder_spec: EncoderSpec, imnet_spec: MLPSpec, hidden_dim: int = 256,
                 scale_max: float | None = 4):
        super().__init__(encoder_spec, hidden_dim, scale_max)
        self.imnet = MLPS.make(imnet_spec, 'imnet_spec', in_dim=hidden_dim)

    def by_axis(self, frequencies: Tensor) -> Tensor:
        return torch.cat([frequencies[:, 0::2], frequencies[:, 1::2]], 1)

    def decode(self, x: Tensor) -> Tensor:
        return self.imnet(x)


@register('lte-fast')
class LTEPlus(TextureEstimator):
    """LTE+: the decoder is made of 1×1 convolutions, and the frequencies along y are the first half of the channels.

    So its weights are not interchangeable with LTE's.

    Args:
        encoder_spec, hidden_dim, scale_max: see `TextureEstimator`.
        num_layer: hidden layers of the decoder, of D channels each.
        out_dim: 3 for RGB.
    """

    def __init__(self, *, encoder_spec: EncoderSpec, num_layer: Depth = 3, hidden_dim: int = 256, out_dim: int = 3,
                 scale_max: float | None = 4):
        super().__init__(encoder_spec, hidden_dim, scale_max)
        hidden = [layer for _ in range(num_layer) for layer in (nn.Conv2d(hidden_dim, hidden_dim, 1), nn.ReLU())]
        self.layers = nn.Sequential(*hidden, nn.Conv2d(hidden_dim, out_dim, 1))

    def by_axis(self, frequencies: Tensor) -> Tensor:
        return frequencies

    def decode(self, x: Tensor) -> Tensor:
        return self.layers(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)                # (B, D, Q, N) → (B, Q, N, 3)
