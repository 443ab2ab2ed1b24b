"""UltraSR: "UltraSR: Spatial Encoding is a Missing Key for Implicit Image Function-based Arbitrary-Scale Super-Resolution"
(arXiv 2103.12716).

Shapes: B batch, F encoder channels, H×W the LR grid, Q queries, N neighbours of a query, D encoded numbers, n = D/4
frequencies.

    As LIIF, but the position is encoded as e = [offset (2), sin, cos (D)], and is an input of *each* linear layer.
"""
import torch
from torch import Tensor, nn

from models.decoders.implicit import LocalImplicitFunction
from models.registries import Depth, EncoderSpec, register


class SpatialMLP(nn.Module):
    """Linear layers with ReLU between them; each but the first reads the position too.

    Args:
        in_dim: inputs of the first layer, the position included.
        position_dim: numbers that encode the position.
        width, depth: of the hidden layers.
        residual: each hidden layer after the first adds its input.
    """

    def __init__(self, *, in_dim: int, position_dim: int, width: int, depth: Depth, residual: bool):
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f'expected width and depth of at least 1, got {width} and {depth}')
        inner = [nn.Linear(width + position_dim, width) for _ in range(depth - 1)]
        self.layers = nn.ModuleList([nn.Linear(in_dim, width), *inner, nn.Linear(width + position_dim, 3)])
        self.residual = residual

    def after_first(self, x: Tensor, position: Tensor) -> Tensor:
        """The layers after the first one, whose output is x (…, width), with the position (…, position_dim) → (…, 3)."""
        x = x.relu()
        for layer in self.layers[1:-1]:
            y = layer(torch.cat([x, position], -1)).relu()
            x = x + y if self.residual else y
        return self.layers[-1](torch.cat([x, position], -1))


@register('ultrasr')
class UltraSR(LocalImplicitFunction):
    """LIIF with spatial encoding. No program was released: what the paper's figure leaves open is an argument.

    The frequencies are 2^l, l linearly spaced from 0 to `sigma`, without π, for offsets in units of half an LR pixel.

    Args:
        enc_dims: D, a multiple of 4.
        sigma: of the highest frequency.
        width, depth: of the decoder's hidden layers.
        residual: see `SpatialMLP`.
        The others as in `LocalImplicitFunction`.
    """

    imnet: SpatialMLP
    frequencies: Tensor
    reimplementation = 'from the figure of the paper'

    def __init__(self, *, encoder_spec: EncoderSpec, enc_dims: int = 48, sigma: float = 6, width: int = 256,
                 depth: Depth = 4, residual: bool = False, local_ensemble: bool = True, feat_unfold: bool = True,
                 cell_decode: bool = False):
        super().__init__(encoder_spec, local_ensemble=local_ensemble, feat_unfold=feat_unfold, cell_decode=cell_decode)
        if enc_dims < 4 or enc_dims % 4:
            raise ValueError(f'enc_dims is {enc_dims}, expected a multiple of 4')
        self.register_buffer('frequencies', 2 ** torch.linspace(0, sigma, enc_dims // 4), persistent=False)
        position_dim = 2 + enc_dims
        self.imnet = SpatialMLP(in_dim=self.unfolded + position_dim + 2 * cell_decode, position_dim=position_dim,
                                width=width, depth=depth, residual=residual)

    def position(self, offset: Tensor, cell: Tensor) -> Tensor:
        offset = offset.to(self.frequencies)
        angle = (offset.unsqueeze(-1) * self.frequencies).flatten(3)                 # (B, Q, N, 2n), y before x
        return torch.cat([offset, angle.sin(), angle.cos()], -1)                     # (B, Q, N, 2 + D)

    def decode(self, x: Tensor, position: Tensor) -> Tensor:
        return self.imnet.after_first(x, position)
