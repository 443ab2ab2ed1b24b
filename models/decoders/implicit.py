"""Local implicit functions, introduced by LIIF: an MLP predicts RGB from each LR pixel around a query.

Its inputs are the 3×3 features around the pixel (*unfolded*), the position of the query relative to the pixel, and the cell.
Its first layer is linear in all of them. The features' part is therefore a 3×3 convolution, computed once per LR pixel, not
once per query and neighbour. The cell's part is computed once per image.

Shapes: B batch, F encoder channels, H×W the LR grid, Q queries, N neighbours of a query (4, or 1 without the ensemble), P
numbers that encode the position, M width of the first layer.
"""
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.coords import Region, relative_cell
from models.decoders.base import FeatureDecoder
from models.decoders.ensemble import neighbours, pixel_rows
from models.registries import EncoderSpec


class Latent(NamedTuple):
    """Of a region of H×W LR pixels. rows: (B·H·W, M), the features' part of the first layer, one row per pixel."""
    rows: Tensor
    region: Region


class LocalImplicitFunction(FeatureDecoder):
    """Base of LIIF, UltraSR and IPE: the predictions of an MLP `imnet` at each neighbour, blended.

    Subclasses make `imnet`, whose `layers[0]` is a linear layer of `unfolded` + P inputs, and of 2 more with `cell_decode`,
    in this order. They implement `position` and may override `decode`.

    Args:
        encoder_spec: features of the LR image, e.g. {name: edsr-baseline, args: {no_upsampling: true}}.
        local_ensemble: blend four predictions instead of taking that of the nearest pixel.
        feat_unfold: read the 3×3 features around a pixel instead of that of the pixel alone.
        cell_decode: read the relative cell (2/s_h, 2/s_w).
    """

    imnet: Any  # its `layers[0]` is a linear layer

    def __init__(self, encoder_spec: EncoderSpec, *, local_ensemble: bool, feat_unfold: bool, cell_decode: bool):
        super().__init__(encoder_spec)
        self.decoder_reach = feat_unfold + local_ensemble
        self.local_ensemble, self.cell_decode = local_ensemble, cell_decode
        self.window = 3 if feat_unfold else 1                                        # side of what is unfolded
        self.unfolded = self.window ** 2 * self.encoder.out_channels

    @property
    def width(self) -> int:
        """M."""
        return self.imnet.layers[0].out_features

    @property
    def position_dim(self) -> int:
        """P."""
        return self.imnet.layers[0].in_features - self.unfolded - 2 * self.cell_decode

    def position(self, offset: Tensor, cell: Tensor) -> Tensor:
        """The encoded position of the queries: offsets (B, Q, N, 2) float64, relative cell (B, 2) → (B, Q, N, P)."""
        raise NotImplementedError

    def decode(self, x: Tensor, position: Tensor) -> Tensor:
        """The decoder after its first layer, (B, Q, N, M) and the position (B, Q, N, P) → (B, Q, N, 3)."""
        return self.imnet.layers[1:](x)

    def decode_features(self, lr: Tensor, features: Tensor, region: Region) -> Latent:
        weight = self.imnet.layers[0].weight[:, :self.unfolded]                      # (M, F·3²), channels before pixels
        kernel = weight.unflatten(1, (-1, self.window, self.window))
        x = F.conv2d(features, kernel, padding=self.window // 2)                     # (B, M, H, W)
        return Latent(pixel_rows(x), region)

    def query(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        region, first = latent.region, self.imnet.layers[0]
        near = neighbours(coord, region, self.local_ensemble, cell=cell)
        cell = relative_cell(cell, region.image_height, region.image_width).to(first.weight)         # (B, 2)
        position = self.position(near.offset, cell).to(first.weight)                 # (B, Q, N, P)
        with torch.autocast(position.device.type, enabled=False):  # half precision would blur positions
            _, of_position, of_cell = first.weight.split([self.unfolded, self.position_dim, 2 * self.cell_decode], 1)
            common = F.linear(cell, of_cell, first.bias) if self.cell_decode else first.bias.unsqueeze(0)
            x = F.linear(position, of_position) + common[:, None, None]              # (B, Q, N, M)
        x = x + near.of(latent.rows)
        return near.blend(self.decode(x, position))                                  # (B, Q, 3)
