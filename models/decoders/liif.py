"""LIIF: "Learning Continuous Image Representation with Local Implicit Image Function" (arXiv 2012.09161).

Shapes: B batch, F encoder channels, H×W the LR grid, Q queries, N neighbours of a query.

    LR (B, 3, H, W) → encoder (B, F, H, W) → unfolded 3×3 (B, 9F, H, W)
       → at each of N neighbours: features, offset (2), relative cell (2) → MLP (B, Q, N, 3) → blended by areas (B, Q, 3)
"""
from torch import Tensor

from models.contract import SRModel
from models.decoders.fixed_scale import FixedScale
from models.decoders.implicit import LocalImplicitFunction
from models.registries import MLPS, EncoderSpec, MLPSpec, register


class LIIF(LocalImplicitFunction):
    """The position is the offset itself. Parameter names are those of released checkpoints.

    Args:
        imnet_spec: the decoder MLP.
        The others as in `LocalImplicitFunction`; the ablations of the paper's Table 4 are `cell_decode`, `feat_unfold` or
        `local_ensemble` switched off (-c, -u, -e), and hidden layers [256, 256] (-d).
    """

    def __init__(self, *, encoder_spec: EncoderSpec, imnet_spec: MLPSpec, local_ensemble: bool, feat_unfold: bool,
                 cell_decode: bool):
        super().__init__(encoder_spec, local_ensemble=local_ensemble, feat_unfold=feat_unfold, cell_decode=cell_decode)
        self.imnet = MLPS.make(imnet_spec, 'imnet_spec', in_dim=self.unfolded + 2 + 2 * cell_decode)

    def position(self, offset: Tensor, cell: Tensor) -> Tensor:
        return offset


@register('liif')
def liif(*, encoder_spec: EncoderSpec, imnet_spec: MLPSpec | None = None, local_ensemble: bool = True,
         feat_unfold: bool = True, cell_decode: bool = True) -> SRModel:
    """`LIIF`; without an `imnet_spec` a `FixedScale` network, on which the flags have no effect."""
    if imnet_spec is None:
        return FixedScale(encoder_spec=encoder_spec)
    return LIIF(encoder_spec=encoder_spec, imnet_spec=imnet_spec, local_ensemble=local_ensemble, feat_unfold=feat_unfold,
                cell_decode=cell_decode)
