"""MSSA, multi-scale self-attention around every query (paper section III-C, Eq. 7 to 11).

Shapes: B batch, C base_dim, H×W the LR grid, Q queries, r window radius, K = 2r + 1, h heads of d = C/h channels.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from common.coords import Region, nearest_window, upload
from models.layers import MLP
from models.msit import fused
from models.msit.msc import MSC
from models.msit.rim import init_fan_out, largest_radius, make_conv
from models.msit.sim import SIM
from models.registries import BIASES


class MultiScaleQuery(nn.Module):
    """The query map: 1×1 convolution → n multi-scale projections → mixing; (B, C, H, W) → (B, C, H, W)."""

    def __init__(self, channels: int, projections: int, reparam: str, reparam_init: str):
        super().__init__()
        self.proj = nn.Conv2d(channels, channels, 1)
        self.msc = MSC(channels, projections, reparam=reparam, reparam_init=reparam_init)
        self.mix = SIM(channels, channels // projections)
        init_fan_out(self, reparam_init)

    def forward(self, z: Tensor) -> Tensor:
        return self.mix(self.msc(self.proj(z)))


class Maps(NamedTuple):
    """Inputs of the attention that do not depend on the queries, for a region of H×W pixels of the image.

    queries, keys, values: (B·(H + 2p)·(W + 2p), C), one row per pixel, channels last, with p = max(r, 1) zero vectors beyond
        every border.
    """
    queries: Tensor
    keys: Tensor
    values: Tensor
    region: Region


def make_bias(spec: dict, channels: int, heads: int) -> nn.Module:
    """The positional bias of a `pb_spec`, for C channels in h heads."""
    if heads < 1 or channels % heads:
        raise ValueError(f'{channels} channels cannot be split evenly among {heads} heads')
    return BIASES.make(spec, 'pb_spec', heads=heads)


class LocalAttention(nn.Module):
    """Attention of a query to the K² LR pixels around it, value vectors weighted and concatenated, not summed.

    Keys and values outside the image are zero vectors that stay in the softmax with the bias as their logit.

    Args:
        heads, radius: h, r.
        position_bias: of h heads.
        query_map, key_map, value_map: modules (B, C, H, W) → (B, C, H, W); without a `key_map` the keys are the query map.
    """

    def __init__(self, heads: int, radius: int, *, position_bias: nn.Module, query_map: nn.Module,
                 value_map: nn.Module, key_map: nn.Module | None = None):
        super().__init__()
        if radius < 0:
            raise ValueError(f'the window radius is {radius}, expected 0 or more')
        self.heads, self.radius = heads, radius
        self.fused = True  # use the GPU kernels where they are available
        self.padding = max(radius, 1)  # bilinear samples read one pixel beyond the border
        self.position_bias, self.query_map, self.key_map, self.value_map = position_bias, query_map, key_map, value_map

    @property
    def reach(self) -> int:
        """How far Z'' is read around a query's nearest pixel, in pixels."""
        return self.padding + largest_radius(self)

    def use_kernels(self, on: bool, dtype: torch.dtype) -> None:
        """See `SRModel.use_kernels`."""
        self.fused = on
        if on:
            fused.usable(next(self.parameters()).device, dtype)

    def maps(self, z: Tensor, region: Region | None = None) -> Maps:
        """Z'' (B, C, H, W) of a region, or of the whole image, → the maps that queries read."""
        queries = self.by_pixel(self.query_map(z))
        keys = queries if self.key_map is None else self.by_pixel(self.key_map(z))
        return Maps(queries, keys, self.by_pixel(self.value_map(z)), region or Region.whole(*z.shape[2:]))

    def by_pixel(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B·(H + 2p)·(W + 2p), C): zero-padded, contiguous for fast gathers."""
        return rearrange(F.pad(x, (self.padding,) * 4), 'b c h w -> (b h w) c').contiguous()

    def pixel_index(self, region: Region, image: Tensor | int, y: Tensor, x: Tensor) -> Tensor:
        """Rows of the maps: the pixels (y, x) of an image of the batch, int64, broadcast."""
        height, width = region.bottom - region.top + 2 * self.padding, region.right - region.left + 2 * self.padding
        return (image * height + y - region.top + self.padding) * width + x - region.left + self.padding

    def forward(self, maps: Maps, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        """Weighted value vectors at the queries: maps, (B, Q, 2) → (B, Q, K²·C), in the order (key, head, channel)."""
        index, attention = self.attend(maps, coord, cell)
        values = F.embedding(index, maps.values).unflatten(3, (self.heads, -1))      # (B, Q, K², h, d)
        return (attention.unsqueeze(-1) * values).flatten(2).to(values.dtype)

    def decode(self, imnet: MLP, maps: Maps, coord: Tensor, common: Tensor | None, cell: Tensor | None = None) -> Tensor:
        """The decoder's output for the weighted value vectors at the queries: maps, (B, Q, 2) → (B, Q, 3).

        Args:
            common: (B, S) further inputs of the decoder that are equal for all queries of an image, or None.
            cell: (B, 2), as in `attend`.
        """
        weight, offset = imnet.first_layer((2 * self.radius + 1) ** 2 * maps.values.shape[1], common)
        if self.fused and fused.available(maps.values):
            index, attention = self.attend(maps, coord, cell)                        # (B, Q, K²), (B, Q, K², h)
            hidden = fused.weighted_first_layer(attention, maps.values, index, weight)               # (B, Q, M)
        else:
            hidden = F.linear(self(maps, coord, cell), weight)
        return imnet.layers[1:](hidden + offset)

    def attend(self, maps: Maps, coord: Tensor, cell: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The pixels that queries attend to: maps, (B, Q, 2) → their rows in the maps (B, Q, K²), weights (B, Q, K², h).

        Args:
            cell: (B, 2), of a grid that queries may be points of; it decides between two pixels that are equally near.
        """
        region = maps.region
        cell_y, cell_x = (None, None) if cell is None else (cell[:, :1], cell[:, 1:])                # (B, 1)
        centre_y, delta_y = nearest_window(coord[..., 0], region.image_height, self.radius, cell_y)  # (B, Q), (B, Q, K)
        centre_x, delta_x = nearest_window(coord[..., 1], region.image_width, self.radius, cell_x)
        bias_y, bias_x = self.position_bias(delta_y, delta_x)                        # (B, Q, K, h)
        bias = (bias_y.unsqueeze(3) + bias_x.unsqueeze(2)).flatten(2, 3)             # (B, Q, K², h), y before x

        window = torch.arange(-self.radius, self.radius + 1, device=coord.device)    # (K,)
        image = torch.arange(coord.shape[0], device=coord.device).view(-1, 1, 1, 1)
        y, x = centre_y[..., None, None] + window[:, None], centre_x[..., None, None] + window       # (B, Q, K, 1 or K)
        index = upload(self.pixel_index(region, image, y, x).flatten(2), maps.keys)  # (B, Q, K²)
        if self.fused and fused.available(maps.keys):
            products = fused.query_key_products(self.sample_queries(maps, coord), maps.keys, index, self.heads)
        else:
            keys = F.embedding(index, maps.keys).unflatten(3, (self.heads, -1))      # (B, Q, K², h, d)
            query = self.sample_queries(maps, coord).unflatten(2, (self.heads, -1))  # (B, Q, h, d)
            products = (query.unsqueeze(2) * keys).sum(-1)                           # (B, Q, K², h)
        logits = products / (maps.keys.shape[1] // self.heads) ** 0.5 + bias
        return index, logits.softmax(2)

    def sample_queries(self, maps: Maps, coord: Tensor) -> Tensor:
        """Bilinear samples of the query map, zeros beyond the border: (B, Q, 2) → (B, Q, C)."""
        y = ((coord[..., :1] + 1) * maps.region.image_height - 1) / 2                # (B, Q, 1), in pixels
        x = ((coord[..., 1:] + 1) * maps.region.image_width - 1) / 2
        corner = torch.arange(4, device=coord.device)                                # of the four pixels around (y, x)
        corner_y, corner_x = y.floor() + corner // 2, x.floor() + corner % 2         # (B, Q, 4)
        weight = (1 - (y - corner_y).abs()) * (1 - (x - corner_x).abs())             # (B, Q, 4)
        image = torch.arange(coord.shape[0], device=coord.device).view(-1, 1, 1)
        index = upload(self.pixel_index(maps.region, image, corner_y.long(), corner_x.long()), maps.queries)
        values = F.embedding(index, maps.queries)                                    # (B, Q, 4, C)
        return (upload(weight, values, values.dtype).unsqueeze(-1) * values).sum(2)


class MSSA(LocalAttention):
    """Multi-scale self-attention: queries and keys share one multi-scale map, values come from another convolution.

    Args:
        projections: n, the multi-scale projections of the query map.
        value_projections: of the values. One, a 3×3 convolution, gives the paper's parameter counts; Eq. 9 writes several.
        reparam, reparam_init: of the k×k convolutions (see `rim.py`).
    """

    def __init__(self, channels: int, *, heads: int, radius: int, projections: int, value_projections: int, pb_spec: dict,
                 reparam: str = 'none', reparam_init: str = 'identity'):
        super().__init__(
            heads, radius, position_bias=make_bias(pb_spec, channels, heads),
            query_map=MultiScaleQuery(channels, projections, reparam, reparam_init),
            value_map=MSC(channels, value_projections, reparam=reparam, reparam_init=reparam_init))


class ConventionalAttention(LocalAttention):
    """Local attention with a separate 3×3 convolution each for query, key and value: the ablation "without MSSA"."""

    def __init__(self, channels: int, *, heads: int, radius: int, pb_spec: dict, reparam: str = 'none',
                 reparam_init: str = 'identity'):
        bias = make_bias(pb_spec, channels, heads)
        query, key, value = (make_conv(channels, channels, 3, reparam, reparam_init) for _ in range(3))
        super().__init__(heads, radius, position_bias=bias, query_map=query, key_map=key, value_map=value)
