"""LIIF: "Learning Continuous Image Representation with Local Implicit Image Function" (arXiv 2012.09161).

Shapes: B batch, F encoder channels, H×W the LR grid, Q queries, N neighbours of a query.

    LR (B, 3, H, W) → encoder (B, F, H, W) → unfolded 3×3 (B, 9F, H, W)
       → at each of N neighbours: features, offset (2), relative cell (2) → MLP (B, Q, N, 3) → blended by areas (B, Q, 3)
"""
from typing import Any

from torch import Tensor

from common.registry import MODELS, register
from models.decoders.implicit import LocalImplicitFunction
from models.encoders.base import Encoder
from models.regions import Region
from models.sr_model import SRModel


class LIIF(LocalImplicitFunction):
    """The decoder is told the offset itself. Parameter names are those of released checkpoints.

    Args:
        imnet_spec: the decoder MLP.
        The others as in `LocalImplicitFunction`; the ablations of the paper's Table 4 are `cell_decode`, `feat_unfold` or
        `local_ensemble` switched off (-c, -u, -e), and hidden layers [256, 256] (-d).
    """

    def __init__(self, *, encoder_spec: dict, imnet_spec: dict, local_ensemble: bool, feat_unfold: bool, cell_decode: bool):
        super().__init__(encoder_spec, local_ensemble=local_ensemble, feat_unfold=feat_unfold, cell_decode=cell_decode)
        self.imnet = MODELS.make(imnet_spec, 'imnet_spec', in_dim=self.unfolded + 2 + 2 * cell_decode)

    def position(self, offset: Tensor, cell: Tensor) -> Tensor:
        return offset


class FixedScale(SRModel):
    """A fixed-scale network under the name and parameter names that released checkpoints give it: encoder and tail."""

    def __init__(self, *, encoder_spec: dict):
        super().__init__()
        self.encoder = MODELS.make(encoder_spec, 'encoder_spec')
        if not isinstance(self.encoder, Encoder) or self.encoder.fixed_scale is None:
            raise ValueError(f"encoder_spec: without an imnet_spec, '{encoder_spec['name']}' must make images: "
                             'set its no_upsampling to false')
        self.fixed_scale, self.reach = self.encoder.fixed_scale, self.encoder.reach
        self.encode_floats = self.encoder.encode_floats

    def encode(self, lr: Tensor, region: Region | None = None) -> Any:
        return self.encoder.encode(lr, region)

    def query(self, latent: Any, coord: Tensor, cell: Tensor) -> Tensor:
        return self.encoder.query(latent, coord, cell)

    def query_grid(self, latent: Any, rows: Tensor, columns: Tensor, cell: Tensor, memory: int) -> Tensor:
        return self.encoder.query_grid(latent, rows, columns, cell, memory)


@register('liif')
def liif(*, encoder_spec: dict, imnet_spec: dict | None = None, local_ensemble: bool = True, feat_unfold: bool = True,
         cell_decode: bool = True) -> SRModel:
    """`LIIF`; without an `imnet_spec` a `FixedScale` network, for which the flags play no part."""
    if imnet_spec is None:
        return FixedScale(encoder_spec=encoder_spec)
    return LIIF(encoder_spec=encoder_spec, imnet_spec=imnet_spec, local_ensemble=local_ensemble, feat_unfold=feat_unfold,
                cell_decode=cell_decode)
