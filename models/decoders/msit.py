"""MSIT: "Multi-Scale Implicit Transformer with Re-parameterize for Arbitrary-Scale Super-Resolution" (arXiv 2403.06536).

Shapes: B batch, H×W the LR grid, C base_dim, Q queries, K² = (2r + 1)² keys of a query, h heads,
M width of the decoder's first layer.

    LR (B, 3, H, W) → encoder → 1×1 convolution to C → MSNO → Z'' (B, C, H, W)
       → MSSA at Q coordinates (B, Q, K²·C), relative cell (B, Q, 2) → MLP (B, Q, 3) + bilinear LR
"""
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.coords import Region, relative_cell, upload
from models.contract import SRModel
from models.encoders.base import make_encoder
from models.layers import bilinear_grid, sample_bilinear
from models.msit.grid import decode_grid
from models.msit.msno import MSNO
from models.msit.mssa import MSSA, ConventionalAttention, LocalAttention, Maps
from models.registries import MLPS, BiasSpec, Depth, EncoderSpec, MLPSpec, Radius, register

POSENC = {'name': 'posenc', 'args': {'posenc_scale': 10, 'enc_dims': 64}}


class Latent(NamedTuple):
    """Of a region of H×W LR pixels. lr: (B, 3, H, W), normalised; maps: the input of MSSA, with the region."""
    lr: Tensor
    maps: Maps


@register('msit')
class MSIT(SRModel):
    """The network of the paper; both stages and every ablation are arguments.

    Args:
        encoder_spec: features of the LR image, e.g. {name: edsr-baseline, args: {no_upsampling: true}}.
        imnet_spec: the decoder MLP.
        pb_spec: positional bias of MSSA.
        base_dim: C.
        heads, radius: heads and window radius r of MSSA.
        fem: 'paper' (shifts by a learnable stride), 'authors' (fixed kernels of their program) or 'none'.
        msc_convs: t, parallel convolutions of MSC.
        sim: False replaces SIM by a 3×3 convolution.
        attention: 'mssa', or 'conventional' for separate 3×3 convolutions for query, key and value.
        mssa_projections: n, multi-scale projections of the query map.
        value_projections: multi-scale projections of the values.
        cell_decode: append the relative cell (2/s_h, 2/s_w) to the decoder's input.
        reparam: 'none' (stage 1), 'rim' (stage 2) or 'refconv'; of all dense k×k convolutions of MSC, of the query
            branch and of the values.
        reparam_init: 'identity' starts stage 2 as the function of stage 1, 'random' as the authors' program does.
    """

    def __init__(self, *, encoder_spec: EncoderSpec, imnet_spec: MLPSpec, pb_spec: BiasSpec = POSENC, base_dim: int = 256,
                 heads: int = 8, radius: Radius = 3, fem: str = 'paper', msc_convs: Depth = 16, sim: bool = True,
                 attention: str = 'mssa', mssa_projections: int = 4, value_projections: int = 1,
                 cell_decode: bool = True, reparam: str = 'none', reparam_init: str = 'identity'):
        super().__init__()
        stage = {'reparam': reparam, 'reparam_init': reparam_init}
        self.encoder = make_encoder(encoder_spec)
        if base_dim < 1:
            raise ValueError(f'base_dim is {base_dim}, expected at least 1')
        self.widen = nn.Conv2d(self.encoder.out_channels, base_dim, 1)
        self.msno = MSNO(base_dim, convs=msc_convs, fem=fem, sim=sim, **stage)
        self.mssa: LocalAttention
        if attention == 'mssa':
            self.mssa = MSSA(base_dim, heads=heads, radius=radius, projections=mssa_projections,
                             value_projections=value_projections, pb_spec=pb_spec, **stage)
        elif attention == 'conventional':
            self.mssa = ConventionalAttention(base_dim, heads=heads, radius=radius, pb_spec=pb_spec, **stage)
        else:
            raise ValueError(f"attention is '{attention}', expected 'mssa' or 'conventional'")
        self.cell_decode = cell_decode
        self.attended = (2 * radius + 1) ** 2 * base_dim                             # K²·C
        self.imnet = MLPS.make(imnet_spec, 'imnet_spec', in_dim=self.attended + 2 * cell_decode)

    @property
    def reach(self) -> int | None:  # type: ignore[override]
        """Depends on FEM's stride: on a GPU this waits for its value."""
        if self.encoder.reach is None:
            return None
        return self.encoder.reach + self.msno.fem.reach + self.msno.reach + self.mssa.reach

    def encode(self, lr: Tensor, region: Region | None = None, halo: int | None = None) -> Latent:
        whole = Region.whole(*lr.shape[2:])
        if region is None or region == whole:
            z = self.msno(self.widen(self.encoder(lr)))                              # (B, C, H, W)
            return Latent(lr, self.mssa.maps(z, whole))
        # FEM wraps around the image, so a region at its border reads features of the opposite side too
        region, margin = region.grow(self.msno.reach + self.mssa.reach), self.msno.fem.reach
        features = wrapped(lambda part: self.encoder(lr, part, halo), region, margin)
        return Latent(region.of(lr), self.mssa.maps(self.msno(self.widen(features), margin), region))

    def query(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        region = latent.maps.region
        relative = upload(relative_cell(cell, region.image_height, region.image_width), self.inp_sub, self.inp_sub.dtype)
        x = self.mssa.decode(self.imnet, latent.maps, coord, relative if self.cell_decode else None,
                             cell)                                                   # (B, Q, 3)
        return x + sample_bilinear(latent.lr, region.local(coord), 'border')

    def query_grid(self, latent: Latent, rows: Tensor, columns: Tensor, cell: Tensor, memory: int) -> Tensor:
        region = latent.maps.region
        relative = upload(relative_cell(cell, region.image_height, region.image_width), self.inp_sub, self.inp_sub.dtype)
        x = decode_grid(self.mssa, self.imnet, latent.maps, rows, columns, relative if self.cell_decode else None, memory,
                        cell)
        return x + bilinear_grid(latent.lr, region, rows, columns)                   # (B, h, w, 3)


def wrapped(compute: Callable[[Region], Tensor], region: Region, margin: int) -> Tensor:
    """A map of a region with `margin` pixels around it. Beyond the image's border they continue on the opposite side.

    Args:
        compute: the map (B, C, h, w) of a region inside the image.
    Returns: (B, C, h + 2·margin, w + 2·margin).
    """
    rows = _wrapped_intervals(region.top - margin, region.bottom + margin, region.image_height)
    columns = _wrapped_intervals(region.left - margin, region.right + margin, region.image_width)
    return torch.cat([torch.cat([compute(region._replace(top=top, bottom=bottom, left=left, right=right))
                                 for left, right in columns], 3) for top, bottom in rows], 2)


def _wrapped_intervals(start: int, stop: int, length: int) -> list[tuple[int, int]]:
    """The positions start … stop − 1, taken modulo `length`, as intervals of [0, length)."""
    intervals = []
    while start < stop:
        first = start % length
        size = min(stop - start, length - first)
        intervals.append((first, first + size))
        start += size
    return intervals
