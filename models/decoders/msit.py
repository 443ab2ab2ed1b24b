"""MSIT: "Multi-Scale Implicit Transformer with Re-parameterize for Arbitrary-Scale Super-Resolution" (arXiv 2403.06536).

Shapes: B batch, H×W the LR grid, C base_dim, Q queries, K² = (2r + 1)² keys of a query, h heads,
M width of the decoder's first layer.

    LR (B, 3, H, W) → encoder → 1×1 convolution to C → MSNO → Z'' (B, C, H, W)
       → MSSA at Q coordinates (B, Q, K²·C), relative cell (B, Q, 2) → MLP (B, Q, 3) + bilinear LR
"""
from typing import NamedTuple

from torch import Tensor, nn

from common.coords import relative_cell
from common.registry import MODELS, register
from models.encoders.base import make_encoder
from models.layers import bilinear_grid, sample_bilinear
from models.msit.grid import decode_grid
from models.msit.msno import MSNO
from models.msit.mssa import MSSA, ConventionalAttention, Maps
from models.regions import Region, wrapped
from models.sr_model import SRModel

POSENC = {'name': 'posenc', 'args': {'posenc_scale': 10, 'enc_dims': 64}}


class Latent(NamedTuple):
    """Of a region of H×W LR pixels. lr: (B, 3, H, W), normalised; maps: what MSSA reads, with the region."""
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
        sim: False puts a 3×3 convolution in SIM's place.
        attention: 'mssa', or 'conventional' for separate 3×3 convolutions for query, key and value.
        mssa_projections: n, multi-scale projections of the query map.
        value_projections: multi-scale projections of the values.
        cell_decode: append the relative cell (2/s_h, 2/s_w) to the decoder's input.
        reparam: 'none' (stage 1), 'rim' (stage 2) or 'refconv'; of all dense k×k convolutions of MSC, of the query
            branch and of the values.
        reparam_init: 'identity' starts stage 2 as the stage-1 function, 'random' as the authors' program does.
    """

    def __init__(self, *, encoder_spec: dict, imnet_spec: dict, pb_spec: dict = POSENC, base_dim: int = 256,
                 heads: int = 8, radius: int = 3, fem: str = 'paper', msc_convs: int = 16, sim: bool = True,
                 attention: str = 'mssa', mssa_projections: int = 4, value_projections: int = 1,
                 cell_decode: bool = True, reparam: str = 'none', reparam_init: str = 'identity'):
        super().__init__()
        stage = {'reparam': reparam, 'reparam_init': reparam_init}
        self.encoder = make_encoder(encoder_spec)
        if base_dim < 1:
            raise ValueError(f'base_dim is {base_dim}, expected at least 1')
        self.widen = nn.Conv2d(self.encoder.out_channels, base_dim, 1)
        self.msno = MSNO(base_dim, convs=msc_convs, fem=fem, sim=sim, **stage)
        if attention == 'mssa':
            self.mssa = MSSA(base_dim, heads=heads, radius=radius, projections=mssa_projections,
                             value_projections=value_projections, pb_spec=pb_spec, **stage)
        elif attention == 'conventional':
            self.mssa = ConventionalAttention(base_dim, heads=heads, radius=radius, pb_spec=pb_spec, **stage)
        else:
            raise ValueError(f"attention is '{attention}', expected 'mssa' or 'conventional'")
        self.cell_decode = cell_decode
        self.attended = (2 * radius + 1) ** 2 * base_dim                             # K²·C
        self.imnet = MODELS.make(imnet_spec, 'imnet_spec', in_dim=self.attended + 2 * cell_decode)
        self.encode_floats = self.encoder.out_channels + 9 * base_dim

    @property
    def reach(self) -> int:
        return self.margin()

    def margin(self, halo: int | None = None) -> int:
        return self.encoder.margin(halo) + self.msno.fem.reach + self.msno.reach + self.mssa.reach

    def encode_stages(self, halo: int | None = None) -> list[tuple[int, int]]:
        own = self.msno.reach + self.mssa.reach
        return [(self.margin(halo), self.encoder.encode_floats), (own, self.encode_floats)]

    def encode(self, lr: Tensor, region: Region | None = None) -> Latent:
        if region and not region.is_whole:
            raise ValueError('FEM wraps around the whole image: encode a part of it with encode_region')
        return self.decode_features(lr, self.encoder.features(lr), 0, Region.whole(*lr.shape[2:]))

    def encode_region(self, lr: Tensor, region: Region, halo: int | None = None) -> Latent:
        """FEM wraps around the image, so a region at its border reads features of the opposite side too."""
        outer = region.grow(self.mssa.reach + self.msno.reach)
        margin = self.msno.fem.reach
        features = wrapped(lambda part: self.encoder.features_of(lr, part, halo), outer, margin)
        return self.decode_features(outer.of(lr), features, margin, outer)

    def decode_features(self, lr: Tensor, features: Tensor, margin: int, region: Region) -> Latent:
        """Features (B, F, H, W) of the encoder, with FEM's margin around them, → the latent of a region of H×W pixels."""
        z = self.msno(self.widen(features), margin)                                  # (B, C, H, W)
        return Latent(lr, self.mssa.maps(z, region))

    def query(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        region = latent.maps.region
        x = self.mssa.decode(self.imnet, latent.maps, coord, self.relative_cell(region, cell))       # (B, Q, 3)
        return x + sample_bilinear(latent.lr, region.local(coord), 'border')

    def query_grid(self, latent: Latent, rows: Tensor, columns: Tensor, cell: Tensor, memory: int) -> Tensor:
        region = latent.maps.region
        x = decode_grid(self.mssa, self.imnet, latent.maps, rows, columns, self.relative_cell(region, cell), memory)
        return x + bilinear_grid(latent.lr, region, rows, columns)                   # (B, h, w, 3)

    def relative_cell(self, region: Region, cell: Tensor) -> Tensor | None:
        """(B, 2) → (B, 2): see `coords.relative_cell`; None when it is not decoded."""
        if not self.cell_decode:
            return None
        return relative_cell(cell, region.height, region.width).to(self.inp_sub)

    def query_floats(self) -> int:
        return 3 * self.attended  # gathered keys, gathered values, weighted values
