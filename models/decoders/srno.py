"""SRNO: "Super-Resolution Neural Operator" (arXiv 2303.02584).

Shapes: B batch, H×W the LR grid, F encoder channels, C width, h heads of d = C/h channels, Q queries, N = 4 neighbours of a
query.

    LR (B, 3, H, W) → encoder (B, F, H, W)
       → at each query: offsets to N neighbours (2N), their features times their areas (N·F), relative cell (2) → C
       → two blocks of Galerkin attention over all queries (B, C, 1, Q) → MLP (B, Q, 3) + bilinear LR
"""
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from common.coords import Region, relative_cell
from models.contract import SRModel
from models.decoders.ensemble import neighbours, pixel_rows
from models.encoders.base import make_encoder
from models.layers import sample_bilinear
from models.registries import Depth, EncoderSpec, register
from models.upscale import grid_queries, queries_at_once


class Latent(NamedTuple):
    """lr: (B, 3, H, W), normalised, the whole image; rows: (B·H·W, F), the features, one row per pixel."""
    lr: Tensor
    rows: Tensor


class HeadNorm(nn.Module):
    """Layer norm over the channels of each head, with the unbiased deviation: (B, h, Q, d) → (B, h, Q, d)."""

    def __init__(self, heads: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, 1, channels))
        self.bias = nn.Parameter(torch.zeros(heads, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5) + self.bias


class GalerkinBlock(nn.Module):
    """Attention without a softmax, q · (kᵀv / Q), and a pointwise MLP: (B, C, 1, Q) → (B, C, 1, Q).

    A query depends on the other queries through kᵀv alone: d×d numbers for each head.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv_proj = nn.Conv2d(channels, 3 * channels, 1)
        self.o_proj1, self.o_proj2 = (nn.Conv2d(channels, channels, 1) for _ in range(2))
        self.kln, self.vln = (HeadNorm(heads, channels // heads) for _ in range(2))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, 1, Q) → queries (B, h, Q, d), and kᵀv summed over them (B, h, d, d)."""
        q, k, v = rearrange(self.qkv_proj(x), 'b (h d) 1 n -> b h n d', h=self.heads).chunk(3, -1)
        with torch.autocast(x.device.type, enabled=False):  # sums over so many queries are beyond half precision
            k, v = self.kln(k.to(self.kln.weight)), self.vln(v.to(self.vln.weight))
            return q, k.transpose(2, 3) @ v

    def forward(self, x: Tensor, mean: Tensor | None = None) -> Tensor:
        """`mean` is kᵀv / Q of all queries, for an x that holds a part of them; None: x holds all."""
        q, products = self.project(x)
        mean = products / x.shape[3] if mean is None else mean                       # (B, h, d, d)
        attended = rearrange(q @ mean.to(q), 'b h n d -> b (h d) 1 n') + x
        return self.o_proj2(F.gelu(self.o_proj1(attended))) + x


@register('srno')
@register('sronet')
class SRNO(SRModel):
    """Every query attends to all the others: a part of the output cannot be made alone, nor from a part of the image.

    Names of arguments and parameters are those of released configs and checkpoints, which use the name 'sronet'.

    Args:
        encoder_spec: features of the LR image, e.g. {name: edsr-baseline, args: {no_upsampling: true}}.
        width: C.
        blocks: h, the heads of each of the two blocks.
        scale_max: largest factor of the training: beyond it the relative cell is that of this factor, as in the released
            test program. None: that of the factor itself.
    """

    whole_grid, has_windows = True, False

    def __init__(self, *, encoder_spec: EncoderSpec, width: int = 256, blocks: Depth = 16, scale_max: float | None = 4):
        super().__init__()
        if blocks < 1 or width % blocks or width // blocks < 2:
            raise ValueError(f'{width} channels cannot be split among {blocks} heads of two or more each')
        if scale_max is not None and scale_max < 1:
            raise ValueError(f'scale_max is {scale_max}, expected at least 1')
        self.encoder = make_encoder(encoder_spec)
        self.width, self.scale_max = width, scale_max
        self.conv00 = nn.Conv2d(4 * (2 + self.encoder.out_channels) + 2, width, 1)
        self.conv0, self.conv1 = (GalerkinBlock(width, blocks) for _ in range(2))
        self.fc1, self.fc2 = nn.Conv2d(width, 256, 1), nn.Conv2d(256, 3, 1)

    def encode(self, lr: Tensor, region: Region | None = None, halo: int | None = None) -> Latent:
        return Latent(lr, pixel_rows(self.encoder(lr, Region.whole(*lr.shape[2:]))))

    def query(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        """The queries of an image attend to each other: pass all queries of a grid together."""
        return self.decode(latent, self.conv1(self.conv0(self.embed(latent, coord, cell))), coord)

    def query_grid(self, latent: Latent, rows: Tensor, columns: Tensor, cell: Tensor, memory: int) -> Tensor:
        """A block needs of all queries only a sum, so chunks are exact: one pass over the grid for each block's sum, and one
        for the output."""
        queries = len(rows) * len(columns)
        grid, cell = grid_queries(rows, columns, cell, latent.rows)                  # (B, h·w, 2)
        parts = grid.split(queries_at_once(lambda coord: self.query(latent, coord, cell), grid, memory), 1)
        if len(parts) == 1:
            return self.query(latent, grid, cell).unflatten(1, (-1, len(columns)))
        means: list[Tensor] = []
        for block in (self.conv0, self.conv1):
            sums = (block.project(self.attend(latent, part, cell, means))[1] for part in parts)
            means.append(reduce(add, sums) / queries)
        rgb = [self.decode(latent, self.attend(latent, part, cell, means), part) for part in parts]
        return torch.cat(rgb, 1).unflatten(1, (-1, len(columns)))

    def attend(self, latent: Latent, coord: Tensor, cell: Tensor, means: list[Tensor]) -> Tensor:
        """The first blocks, as many as there are means, on a part of the queries: (B, C, 1, Q)."""
        x = self.embed(latent, coord, cell)
        for block, mean in zip((self.conv0, self.conv1), means):
            x = block(x, mean)
        return x

    def embed(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        """The input of the blocks, for each query alone: (B, Q, 2), (B, 2) → (B, C, 1, Q)."""
        region = Region.whole(*latent.lr.shape[2:])
        near = neighbours(coord, region, local_ensemble=True)
        features = near.weight.to(latent.rows).unsqueeze(-1) * near.of(latent.rows)  # (B, Q, N, F)
        cell = relative_cell(cell, region.image_height, region.image_width)          # (B, 2)
        if self.scale_max is not None:
            cell = cell.clamp(min=2 / self.scale_max)
        cell = cell.unsqueeze(1).expand(-1, coord.shape[1], -1)
        x = torch.cat([near.offset.flatten(2).to(features), features.flatten(2), cell.to(features)], 2)
        return self.conv00(rearrange(x, 'b n c -> b c 1 n'))

    def decode(self, latent: Latent, x: Tensor, coord: Tensor) -> Tensor:
        """(B, C, 1, Q) → (B, Q, 3)."""
        rgb = self.fc2(F.gelu(self.fc1(x))).squeeze(2).transpose(1, 2)
        return rgb + sample_bilinear(latent.lr, coord, 'border')
