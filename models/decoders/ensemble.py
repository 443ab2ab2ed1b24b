"""The local ensemble, and the decoders that LIIF started: an MLP answers from each LR pixel around a query, and the answers
are blended.

The MLP reads the features of a pixel and its 3×3 surroundings (*unfolded*), where the query lies relative to the pixel, and
the cell. Its first layer is linear in all of them. The features' part is therefore a 3×3 convolution, done once per LR pixel
in `encode` instead of once per query and neighbour; the cell's part is done once per picture.

Shapes: B batch, F encoder channels, H×W the LR grid, Q queries, N neighbours of a query (4, or 1 without the ensemble), P
numbers that tell the position, M width of the first layer.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.coords import nearest_index, relative_cell
from models.encoders.base import make_encoder
from models.regions import Region
from models.sr_model import SRModel

SHIFT = 1e-6      # of all neighbours: a query between two pixels goes to the second one
SMALLEST = 1e-9   # distance


class Neighbours(NamedTuple):
    """The pixels that answer a query: top left, top right, bottom left, bottom right, or the nearest alone.

    row: (B, Q, N) int64, where the pixel is in a map of the region that has one row per pixel (`pixel_rows`).
    offset: (B, Q, N, 2) float64, query − centre of the pixel; one LR pixel is 2.0 units.
    weight: (B, Q, N) float64, sums to 1.
    """
    row: Tensor
    offset: Tensor
    weight: Tensor

    def blend(self, x: Tensor) -> Tensor:
        """The weighted sum over the neighbours, (B, Q, N, C) → (B, Q, C)."""
        return (self.weight.to(x.dtype).unsqueeze(-1) * x).sum(2)


def pixel_rows(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B·H·W, C): one row per pixel."""
    return rearrange(x, 'b c h w -> (b h w) c')


def neighbours(coord: Tensor, region: Region, local_ensemble: bool) -> Neighbours:
    """What (B, Q, 2) coordinates, in the whole picture, are answered from.

    An answer has the weight of the rectangle between the query and the *diagonally opposite* neighbour, a product of two
    lengths. At the picture's border two neighbours may be the same pixel.

    Args:
        region: part of the picture that the maps show; it must hold the neighbours.
    """
    y, offset_y, weight_y = neighbour_lines(coord[..., 0], region.height, local_ensemble)            # (B, Q, 2 or 1)
    x, offset_x, weight_x = neighbour_lines(coord[..., 1], region.width, local_ensemble)
    height, width = region.bottom - region.top, region.right - region.left
    picture = torch.arange(len(coord), device=coord.device).view(-1, 1, 1, 1)
    row = (picture * height + y.unsqueeze(3) - region.top) * width + x.unsqueeze(2) - region.left    # (B, Q, 2, 2)
    offset = torch.stack(torch.broadcast_tensors(offset_y.unsqueeze(3), offset_x.unsqueeze(2)), -1)  # (B, Q, 2, 2, 2)
    weight = weight_y.unsqueeze(3) * weight_x.unsqueeze(2)                           # (B, Q, 2, 2)
    return Neighbours(row.flatten(2), offset.flatten(2, 3), weight.flatten(2))


def neighbour_lines(coord: Tensor, n: int, local_ensemble: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The two pixels of an n-pixel axis on both sides of each coordinate, or the nearest one.

    Args:
        coord: (…) in [−1, 1].
    Returns: index (…, 2 or 1) int64; offset (…, 2 or 1) float64, (coordinate − pixel centre) · n; weight (…, 2 or 1)
        float64, the share of the distance to the other pixel.
    """
    coord = coord.double().unsqueeze(-1)
    sides = coord.new_tensor([-1 / n, 1 / n]) + SHIFT if local_ensemble else coord.new_zeros(1)
    index = nearest_index((coord + sides).clamp(-1 + SHIFT, 1 - SHIFT), n)
    offset = (coord + 1) * n - (2 * index + 1)
    distance = offset.abs() + SMALLEST  # of each axis: a query on the centre of a border pixel is at 0 from both neighbours
    return index, offset, distance.flip(-1) / distance.sum(-1, keepdim=True)


class Latent(NamedTuple):
    """Of a region of H×W LR pixels. rows: (B·H·W, M), the features' part of the first layer, one row per pixel."""
    rows: Tensor
    region: Region


class LocalImplicitFunction(SRModel):
    """Base of LIIF, UltraSR and IPE: what an MLP `imnet` predicts at each neighbour, blended.

    Subclasses make `imnet`, whose `layers[0]` is a linear layer of `unfolded` + P inputs, and of 2 more with `cell_decode`,
    in this order; they say how a position is told, and may decode in another way.

    Args:
        encoder_spec: features of the LR picture, e.g. {name: edsr-baseline, args: {no_upsampling: true}}.
        local_ensemble: blend four predictions instead of taking that of the nearest pixel.
        feat_unfold: read the 3×3 features around a pixel instead of its own.
        cell_decode: read the relative cell (2/s_h, 2/s_w).
    """

    imnet: nn.Module

    def __init__(self, encoder_spec: dict, *, local_ensemble: bool, feat_unfold: bool, cell_decode: bool):
        super().__init__()
        self.encoder = make_encoder(encoder_spec)
        self.local_ensemble, self.cell_decode = local_ensemble, cell_decode
        self.window = 3 if feat_unfold else 1                                        # side of what is unfolded
        self.unfolded = self.window ** 2 * self.encoder.out_channels
        self.reach = self.encoder.reach + self.window // 2 + local_ensemble

    @property
    def encode_floats(self) -> int:
        return max(self.encoder.encode_floats, self.encoder.out_channels + 3 * self.width)

    @property
    def width(self) -> int:
        """M."""
        return self.imnet.layers[0].out_features

    def position(self, offset: Tensor, cell: Tensor) -> Tensor:
        """How the decoder is told where a query lies: offsets (B, Q, N, 2) float64, relative cell (B, 2) → (B, Q, N, P)."""
        raise NotImplementedError

    def decode(self, x: Tensor, position: Tensor) -> Tensor:
        """The decoder after its first layer, (B, Q, N, M) and the position (B, Q, N, P) → (B, Q, N, 3)."""
        return self.imnet.layers[1:](x)

    def encode(self, lr: Tensor, region: Region | None = None) -> Latent:
        weight = self.imnet.layers[0].weight[:, :self.unfolded]                      # (M, F·3²), channels before pixels
        kernel = weight.unflatten(1, (-1, self.window, self.window))
        x = F.conv2d(self.encoder.features(lr), kernel, padding=self.window // 2)    # (B, M, H, W)
        return Latent(pixel_rows(x), region or Region.whole(*lr.shape[2:]))

    def query(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        region, first = latent.region, self.imnet.layers[0]
        cell = relative_cell(cell, region.height, region.width).to(first.weight)     # (B, 2)
        near = neighbours(coord, region, self.local_ensemble)
        position = self.position(near.offset, cell).to(first.weight)                 # (B, Q, N, P)
        with torch.autocast(coord.device.type, enabled=False):  # half precision would blur positions
            _, own, common = first.weight.split([self.unfolded, position.shape[-1], 2 * self.cell_decode], 1)
            shared = F.linear(cell, common, first.bias) if self.cell_decode else first.bias.unsqueeze(0)
            x = F.linear(position, own) + shared[:, None, None]                      # (B, Q, N, M)
        x = x + F.embedding(near.row, latent.rows)
        return near.blend(self.decode(x, position))                                  # (B, Q, 3)

    def query_floats(self) -> int:
        return (4 if self.local_ensemble else 1) * 3 * self.width
