"""IPE-LIIF: "Enhancing Multi-Scale Implicit Learning in Image Super-Resolution with Integrated Positional Encoding"
(arXiv 2112.05756).

Shapes: B batch, F encoder channels, H×W the LR grid, Q queries, N neighbours of a query, L frequencies.

    As LIIF, but offset and cell are encoded as the means of sin(ω·u) and cos(ω·u) over the area of the HR pixel: with half
    the pixel's size r, sin(ω·u) · sin(ω·r)/(ω·r), and the same for cos.
"""
import math

import torch
from torch import Tensor

from models.decoders.implicit import LocalImplicitFunction
from models.registries import MLPS, EncoderSpec, MLPSpec, register


@register('ipe')
class IPE(LocalImplicitFunction):
    """LIIF with integrated positional encoding. No program was released: what the abstract leaves open is an argument.

    Args:
        imnet_spec: the decoder MLP.
        octaves: L, frequencies ω = 2^l, l = 0 … L − 1, for offsets in units of half an LR pixel.
        times_pi: multiply the frequencies by π.
        keep_offset: append the offset itself.
        cell_decode: append the relative cell itself.
        The others as in `LocalImplicitFunction`.
    """

    frequencies: Tensor
    reimplementation = 'from the abstract of the paper'

    def __init__(self, *, encoder_spec: EncoderSpec, imnet_spec: MLPSpec, octaves: int = 10, times_pi: bool = False,
                 keep_offset: bool = False, local_ensemble: bool = True, feat_unfold: bool = True,
                 cell_decode: bool = False):
        super().__init__(encoder_spec, local_ensemble=local_ensemble, feat_unfold=feat_unfold, cell_decode=cell_decode)
        if octaves < 1:
            raise ValueError(f'octaves is {octaves}, expected at least 1')
        frequencies = 2.0 ** torch.arange(octaves) * (math.pi if times_pi else 1)
        self.register_buffer('frequencies', frequencies, persistent=False)
        self.keep_offset = keep_offset
        self.imnet = MLPS.make(imnet_spec, 'imnet_spec',
                                 in_dim=self.unfolded + 4 * octaves + 2 * keep_offset + 2 * cell_decode)

    def position(self, offset: Tensor, cell: Tensor) -> Tensor:
        offset = offset.to(self.frequencies)
        angle = (offset.unsqueeze(-1) * self.frequencies).flatten(3)                 # (B, Q, N, 2L), y before x
        half = (cell / 2).unsqueeze(-1) * self.frequencies                           # (B, 2, L), ω·r
        mean = torch.sinc(half / math.pi).flatten(1)[:, None, None]                  # (B, 1, 1, 2L), sin(ω·r)/(ω·r)
        kept = [offset] if self.keep_offset else []
        return torch.cat([*kept, angle.sin() * mean, angle.cos() * mean], -1)        # (B, Q, N, 4L), + 2 with the offset
