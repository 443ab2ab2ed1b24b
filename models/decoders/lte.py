"""LTE: "Local Texture Estimator for Implicit Representation Function" (arXiv 2111.08918), and LTE+, its variant on grids.

Shapes: B batch, H×W the LR grid, F encoder channels, D hidden_dim, Q queries.

    LR (B, 3, H, W) → encoder (B, F, H, W) → amplitudes and frequencies (B, D, H, W)
       → for each of four LR pixels: amplitudes · [cos, sin](π · (frequencies · offset + phase(cell))) (B, Q, D)
       → MLP (B, Q, 3), blended by area (B, Q, 3) + bilinear LR
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.decoders.ensemble import map_rows, neighbours
from models.encoders.base import conv3x3, make_encoder
from models.layers import sample_bilinear
from models.regions import Region
from models.registry import MODELS, register
from models.sr_model import SRModel


class Latent(NamedTuple):
    """Of a region of H×W LR pixels. lr: (B, 3, H, W), normalised; amplitudes: (B·H·W, D), of D/2 cosines, then of D/2 sines;
    frequencies: (B·H·W, D), along y, then along x."""
    lr: Tensor
    amplitudes: Tensor
    frequencies: Tensor
    region: Region


class TextureEstimator(SRModel):
    """What LTE and LTE+ share. Parameter names are those of released checkpoints.

    Args:
        encoder_spec: features of the LR picture, e.g. {name: edsr-baseline, args: {no_upsampling: true}}.
        hidden_dim: D, even.
        scale_max: largest factor of the training: beyond it the phase is that of this factor, as in the released test
            programs. None: that of the factor itself.
    """

    def __init__(self, encoder_spec: dict, hidden_dim: int, scale_max: float | None):
        super().__init__()
        if hidden_dim < 2 or hidden_dim % 2:
            raise ValueError(f'hidden_dim is {hidden_dim}, expected an even number of 2 or more')
        if scale_max is not None and scale_max < 1:
            raise ValueError(f'scale_max is {scale_max}, expected at least 1')
        self.hidden_dim, self.scale_max = hidden_dim, scale_max
        self.encoder = make_encoder(encoder_spec)
        self.coef = conv3x3(self.encoder.out_channels, hidden_dim)
        self.freq = conv3x3(self.encoder.out_channels, hidden_dim)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)
        self.encode_floats = max(self.encoder.encode_floats, self.encoder.out_channels + 4 * hidden_dim)
        self.reach = self.encoder.reach + 2  # the 3×3 convolutions, and the four neighbours

    def by_axis(self, frequencies: Tensor) -> Tensor:
        """(B, D, H, W) in the order in which the convolution gives them → those along y, then those along x."""
        raise NotImplementedError

    def decode(self, x: Tensor) -> Tensor:
        """(B, Q, D) → (B, Q, 3)."""
        raise NotImplementedError

    def encode(self, lr: Tensor, region: Region | None = None) -> Latent:
        features = self.encoder.features(lr)
        amplitudes = self.coef(features)                                             # (B, D, H, W)
        with torch.autocast(lr.device.type, enabled=False):  # half precision would turn the waves
            frequencies = self.by_axis(self.freq(features.to(self.freq.weight)))
        return Latent(lr, map_rows(amplitudes), map_rows(frequencies), region or Region.whole(*lr.shape[2:]))

    def query(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        phase = self.phase_of(latent.region, cell)                                   # (B, 1, D/2)
        rgb = sample_bilinear(latent.lr, latent.region.local(coord), 'border')       # (B, Q, 3)
        for (rows, rel), weight in neighbours(latent.region, coord):
            along_y, along_x = F.embedding(rows, latent.frequencies).chunk(2, -1)    # (B, Q, D/2) each
            rel_y, rel_x = rel.to(phase).split(1, -1)                                # (B, Q, 1) each
            angle = torch.pi * (along_y * rel_y + along_x * rel_x + phase)
            waves = torch.cat([angle.cos(), angle.sin()], -1)                        # (B, Q, D)
            rgb = rgb + weight.to(rgb) * self.decode(F.embedding(rows, latent.amplitudes) * waves)
        return rgb

    def phase_of(self, region: Region, cell: Tensor) -> Tensor:
        """The phases of a cell (B, 2): (B, 1, D/2), in units of π."""
        relative = cell * cell.new_tensor([region.height, region.width])             # (B, 2): 2/s of each axis
        if self.scale_max is not None:
            relative = relative.clamp(min=2 / self.scale_max)
        with torch.autocast(cell.device.type, enabled=False):
            return self.phase(relative.to(self.phase.weight)).unsqueeze(1)

    def query_floats(self) -> int:
        return 7 * self.hidden_dim  # frequencies, amplitudes, their product with the waves, and what makes these


@register('lte')
class LTE(TextureEstimator):
    """LTE with an MLP; the frequencies of a wave along y and x are neighbouring channels.

    Args:
        encoder_spec, hidden_dim, scale_max: see `TextureEstimator`.
        imnet_spec: the decoder MLP.
    """

    def __init__(self, *, encoder_spec: dict, imnet_spec: dict, hidden_dim: int = 256, scale_max: float | None = 4):
        super().__init__(encoder_spec, hidden_dim, scale_max)
        self.imnet = MODELS.make(imnet_spec, 'imnet_spec', in_dim=hidden_dim)

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

    def __init__(self, *, encoder_spec: dict, num_layer: int = 3, hidden_dim: int = 256, out_dim: int = 3,
                 scale_max: float | None = 4):
        super().__init__(encoder_spec, hidden_dim, scale_max)
        hidden = [layer for _ in range(num_layer) for layer in (nn.Conv2d(hidden_dim, hidden_dim, 1), nn.ReLU())]
        self.layers = nn.Sequential(*hidden, nn.Conv2d(hidden_dim, out_dim, 1))

    def by_axis(self, frequencies: Tensor) -> Tensor:
        return frequencies

    def decode(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2).unsqueeze(2)                                           # (B, D, 1, Q)
        return self.layers(x).squeeze(2).transpose(1, 2)
