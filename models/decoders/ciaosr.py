"""CiaoSR: "CiaoSR: Continuous Implicit Attention-in-Attention Network for Arbitrary-Scale Image Super-Resolution"
(arXiv 2212.04362).

Shapes: B batch, F encoder channels, H×W the LR grid, Q queries, N = 4 neighbours of a query; L = ⌈H/2⌉·⌈W/2⌉ patches.

    LR (B, 3, H, W) → encoder (B, F, H, W) → unfolded 3×3: keys (B, 9F, H, W); + non-local features: values (B, 10F, H, W)
       → at each of N neighbours: key and value, each multiplied by an MLP's output for itself, the offset and the cell
       → attention of the nearest key to the N keys: (B, Q, 10F) → MLP (B, Q, 3) + bilinear LR
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.coords import Region, relative_cell
from models.decoders.base import FeatureDecoder
from models.decoders.ensemble import neighbours, pixel_rows
from models.layers import MLP, sample_bilinear
from models.registries import EncoderSpec, Widths, register

SHARPNESS = 10.0  # of the non-local softmax
QUERIES = 256     # of that softmax at once: its memory grows with the image, not with its square


class CrossScaleAttention(nn.Module):
    """Every 3×3 patch of features attends to the 3×3 patches of the map at half size, and receives the 6×6 patches that
    these were made from: (B, F, H, W) → (B, F, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv_match_1, self.conv_match_2, self.conv_assembly = (
            nn.Sequential(nn.Conv2d(channels, width, 1), nn.PReLU()) for width in (channels // 2, channels // 2, channels))
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = F.pad(x, (0, width % 2, 0, height % 2), 'reflect' if min(height, width) > 1 else 'replicate')
        size = x.shape[2:]
        halved = F.interpolate(x, scale_factor=0.5, mode='bilinear', align_corners=False)
        queries = F.unfold(self.conv_match_1(x), 3, padding=1)                       # (B, 9·F/2, H·W)
        keys = F.unfold(self.conv_match_2(halved), 3, padding=1)                     # (B, 9·F/2, L)
        keys = keys / torch.linalg.vector_norm(keys, dim=1, keepdim=True).clamp(min=1e-4)
        values = F.unfold(self.conv_assembly(x), 6, padding=2, stride=2)             # (B, 36·F, L)
        queries, keys, values = (t.transpose(1, 2) for t in (queries, keys, values))
        patches = torch.cat([F.scaled_dot_product_attention(part, keys, values, scale=SHARPNESS)
                             for part in queries.split(QUERIES, 1)], 1)               # (B, H·W, 36·F)
        doubled = F.fold(patches.transpose(1, 2), (2 * size[0], 2 * size[1]), 6, padding=2, stride=2)
        return self.down(doubled)[:, :, :height, :width] / 6


class Latent(NamedTuple):
    """Of a region of H×W LR pixels. lr: (B, 3, H, W), normalised; keys: (B·H·W, 9F), values: (B·H·W, 9F or 10F)."""
    lr: Tensor
    keys: Tensor
    values: Tensor
    region: Region


@register('ciaosr')
class CiaoSR(FeatureDecoder):
    """Attention in attention; parameter names follow the authors' program.

    With non-local features every output pixel depends on the whole image, which then cannot be processed in regions.

    Args:
        encoder_spec: features of the LR image, e.g. {name: edsr-baseline, args: {no_upsampling: true}}.
        hidden_list: widths of the hidden layers of each of the three MLPs.
        non_local_attn: append non-local features, from a map of half the size, to the values.
    """

    def __init__(self, *, encoder_spec: EncoderSpec, hidden_list: Widths | None = None, non_local_attn: bool = True):
        super().__init__(encoder_spec)
        self.decoder_reach = None if non_local_attn else 2  # 3×3 features of the neighbours
        channels = self.encoder.out_channels
        keys, values = 9 * channels, 9 * channels + non_local_attn * channels
        hidden_list = [256] * 4 if hidden_list is None else hidden_list
        self.imnet_q = MLP(in_dim=values, out_dim=3, hidden_list=hidden_list)
        self.imnet_k = MLP(in_dim=keys + 4, out_dim=keys, hidden_list=hidden_list)
        self.imnet_v = MLP(in_dim=values + 4, out_dim=values, hidden_list=hidden_list)
        self.cs_attn = CrossScaleAttention(channels) if non_local_attn else None

    def decode_features(self, lr: Tensor, features: Tensor, region: Region) -> Latent:
        keys = values = F.unfold(features, 3, padding=1).unflatten(2, features.shape[2:])            # (B, 9F, H, W)
        if self.cs_attn is not None:
            values = torch.cat([keys, self.cs_attn(features)], 1)                    # (B, 10F, H, W)
        return Latent(lr, pixel_rows(keys), pixel_rows(values), region)

    def query(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        region = latent.region
        size = cell.new_tensor([region.image_height, region.image_width])
        near = neighbours(coord, region, True, (1 - cell) / (size - 1).clamp(min=1))
        nearest = neighbours(coord, region, False, cell=cell)                        # N = 1
        relative = relative_cell(cell, region.image_height, region.image_width)[:, None, None].expand_as(near.offset)
        place = torch.cat([near.offset, relative], -1).to(latent.keys)               # (B, Q, N, 4)
        keys, values = near.of(latent.keys), near.of(latent.values)
        keys = keys * self.imnet_k(torch.cat([keys, place], -1))                     # (B, Q, N, 9F)
        values = values * self.imnet_v(torch.cat([values, place], -1))               # (B, Q, N, 10F)
        logits = (nearest.of(latent.keys) * keys).sum(-1, keepdim=True)              # (B, Q, N, 1)
        attended = (logits.softmax(2) * values).sum(2)                               # (B, Q, 10F)
        return self.imnet_q(attended) + sample_bilinear(latent.lr, region.local(coord), 'border')
