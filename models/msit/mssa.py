"""MSSA, multi-scale self-attention around every query (paper section III-C, Eq. 7 to 11).

Shapes: B batch, C base_dim, H×W the LR grid, Q queries, r window radius, K = 2r + 1, h heads of d = C/h channels.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.coords import nearest_window
from models.layers import sample_bilinear
from models.msit.msc import MSC
from models.msit.rim import init_fan_out, make_conv
from models.msit.sim import ScaleMixing
from models.registry import MODELS


class MultiScaleQuery(nn.Module):
    """The query map: 1×1 convolution → n multi-scale projections → mixing; (B, C, H, W) → (B, C, H, W)."""

    def __init__(self, channels: int, projections: int, reparam: str, reparam_init: str):
        super().__init__()
        self.proj = nn.Conv2d(channels, channels, 1)
        self.msc = MSC(channels, projections, reparam=reparam, reparam_init=reparam_init)
        self.mix = ScaleMixing(channels, channels // projections)
        init_fan_out(self, reparam_init)

    def forward(self, z: Tensor) -> Tensor:
        return self.mix(self.msc(self.proj(z)))


class Maps(NamedTuple):
    """What attention reads: all that does not depend on the queries.

    query: (B, C, H, W), sampled bilinearly.
    keys, values: (B·(H + 2r)·(W + 2r), C), channels last, with the r zero vectors beyond every border.
    """
    query: Tensor
    keys: Tensor
    values: Tensor


class LocalAttention(nn.Module):
    """Attention of a query to the K² LR pixels around it, value vectors weighted and concatenated, not summed.

    Keys and values outside the picture are zero vectors that stay in the softmax with the bias as their logit.
    Subclasses give `query_map`, `key_map` and `value_map`, modules (B, C, H, W) → (B, C, H, W); without a `key_map` the
    keys are the query map.

    Args:
        channels, heads, radius: C, h, r.
        pb_spec: spec of the positional bias.
    """

    query_map: nn.Module
    key_map: nn.Module | None
    value_map: nn.Module

    def __init__(self, channels: int, heads: int, radius: int, pb_spec: dict):
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f'{channels} channels cannot be split evenly among {heads} heads')
        if radius < 0:
            raise ValueError(f'the window radius is {radius}, expected 0 or more')
        self.heads, self.radius = heads, radius
        self.key_map = None
        self.position_bias = MODELS.make(pb_spec, 'pb_spec', heads=heads)

    def maps(self, z: Tensor) -> Maps:
        """Z'' (B, C, H, W) → the maps that queries read."""
        query = self.query_map(z)
        key = query if self.key_map is None else self.key_map(z)
        return Maps(query, self.rows(key), self.rows(self.value_map(z)))

    def rows(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B·(H + 2r)·(W + 2r), C): zero-padded, one row per pixel."""
        return rearrange(F.pad(x, (self.radius,) * 4), 'b c h w -> (b h w) c')

    def forward(self, maps: Maps, coord: Tensor) -> Tensor:
        """Weighted value vectors at the queries: maps, (B, Q, 2) → (B, Q, K²·C), in the order (key, head, channel)."""
        channels, height, width = maps.query.shape[1:]
        index_y, delta_y = nearest_window(coord[..., 0], height, self.radius)        # (B, Q), (B, Q, K)
        index_x, delta_x = nearest_window(coord[..., 1], width, self.radius)
        bias = self.position_bias(delta_y, delta_x).flatten(2, 3)                    # (B, Q, K², h)

        rows = self.window_rows(index_y, index_x, height, width)                     # (B, Q, K²)
        split = (self.heads, channels // self.heads)
        keys = F.embedding(rows, maps.keys).unflatten(3, split)                      # (B, Q, K², h, d)
        values = F.embedding(rows, maps.values).unflatten(3, split)
        query = sample_bilinear(maps.query, coord, 'zeros').unflatten(2, split)      # (B, Q, h, d)

        logits = (query.unsqueeze(2) * keys).sum(-1) / split[1] ** 0.5 + bias        # (B, Q, K², h)
        attention = logits.softmax(2)
        return (attention.unsqueeze(-1) * values).flatten(2)                         # (B, Q, K²·C)

    def window_rows(self, index_y: Tensor, index_x: Tensor, height: int, width: int) -> Tensor:
        """Rows of the padded maps in the window around each centre pixel: (B, Q) twice → (B, Q, K²), row-major."""
        padded_height, padded_width = height + 2 * self.radius, width + 2 * self.radius
        offset = torch.arange(2 * self.radius + 1, device=index_y.device)
        batch = torch.arange(len(index_y), device=index_y.device).view(-1, 1, 1, 1)
        y = index_y[:, :, None, None] + offset[:, None]                              # (B, Q, K, 1), padded by r
        x = index_x[:, :, None, None] + offset                                       # (B, Q, 1, K)
        return ((batch * padded_height + y) * padded_width + x).flatten(2)


class MSSA(LocalAttention):
    """Multi-scale self-attention: queries and keys share one multi-scale map, values come from another convolution.

    Args:
        projections: n, the multi-scale projections of the query map.
        value_projections: of the values. One, a 3×3 convolution, gives the paper's parameter counts; Eq. 9 writes several.
        reparam, reparam_init: of the k×k convolutions.
    """

    def __init__(self, channels: int, *, heads: int, radius: int, projections: int, value_projections: int, pb_spec: dict,
                 reparam: str = 'none', reparam_init: str = 'identity'):
        super().__init__(channels, heads, radius, pb_spec)
        self.query_map = MultiScaleQuery(channels, projections, reparam, reparam_init)
        self.value_map = MSC(channels, value_projections, reparam=reparam, reparam_init=reparam_init)


class ConventionalAttention(LocalAttention):
    """Local attention with a separate 3×3 convolution each for query, key and value: the ablation "without MSSA"."""

    def __init__(self, channels: int, *, heads: int, radius: int, pb_spec: dict, reparam: str = 'none',
                 reparam_init: str = 'identity'):
        super().__init__(channels, heads, radius, pb_spec)
        self.query_map, self.key_map, self.value_map = (
            make_conv(channels, channels, 3, reparam, reparam_init) for _ in range(3))
