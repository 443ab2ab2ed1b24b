"""MSIT: "Multi-Scale Implicit Transformer with Re-parameterize for Arbitrary-Scale Super-Resolution" (arXiv 2403.06536).

Shapes: B batch, H×W the LR grid, C base_dim, Q queries, K² = (2r + 1)² keys of a query.

    LR (B, 3, H, W) → encoder → 1×1 convolution to C → MSNO → Z'' (B, C, H, W)
       → MSSA at Q coordinates (B, Q, K²·C), relative cell (B, Q, 2) → MLP (B, Q, 3) + bilinear LR
"""
from typing import NamedTuple

from torch import Tensor, nn

from models.encoders.base import Encoder
from models.layers import sample_bilinear
from models.msit.msno import MSNO
from models.msit.mssa import MSSA, ConventionalAttention, Maps
from models.registry import MODELS, register
from models.sr_model import SRModel

POSENC = {'name': 'posenc', 'args': {'posenc_scale': 10, 'enc_dims': 64}}


class Latent(NamedTuple):
    """lr: (B, 3, H, W), normalised; maps: what MSSA reads."""
    lr: Tensor
    maps: Maps


@register('msit')
class MSIT(SRModel):
    """The network of the paper; both stages and every ablation are arguments.

    Args:
        encoder_spec: features of the LR picture, e.g. {name: edsr-baseline, args: {no_upsampling: true}}.
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
        self.encoder = MODELS.make(encoder_spec, 'encoder_spec')
        if not isinstance(self.encoder, Encoder) or self.encoder.fixed_scale:
            raise ValueError(f"encoder_spec: '{encoder_spec['name']}' is no encoder, or has no_upsampling unset")
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

    def encode(self, lr: Tensor) -> Latent:
        features = self.encoder.features(lr)                                         # (B, F, H, W)
        z = self.msno(self.widen(features))                                          # (B, C, H, W)
        return Latent(lr, self.mssa.maps(z))

    def query(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        x = self.mssa(latent.maps, coord)                                            # (B, Q, K²·C)
        relative_cell = None
        if self.cell_decode:
            relative_cell = (cell * cell.new_tensor(latent.lr.shape[2:])).to(x)      # (B, 2), 2/s of each axis
        return self.imnet(x, relative_cell) + sample_bilinear(latent.lr, coord, 'border')   # (B, Q, 3)

    def query_floats(self) -> int:
        return 3 * self.attended  # gathered keys, gathered values, weighted values
