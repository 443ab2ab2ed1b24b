"""CLIT: "Cascaded Local Implicit Transformer for Arbitrary-Scale Super-Resolution" (arXiv 2303.16513).

Shapes: B batch, H×W the LR grid, C base_dim, Q queries, K² = (2r + 1)² keys of a query.

    LR (B, 3, H, W) → encoder → 3×3 convolution to C: features (B, C, H, W)
       → cascade 1: attention to the LR pixels around each query (B, Q, K²·C), relative cell (B, Q, 2) → MLP (B, Q, 3)
       → cascade i: the same on the features resampled to a grid between the LR grid and the output, + 0.75 · the output of
         cascade i − 1
       → + bilinear LR
"""
import math
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from common.coords import Region, nearest_index, pixel_centres, relative_cell, upload
from models.decoders.base import FeatureDecoder
from models.encoders.base import conv3x3
from models.layers import MLP, bilinear_grid, sample_bilinear
from models.memory import peak_bytes
from models.msit.grid import decode_grid
from models.msit.mssa import LocalAttention, Maps, make_bias
from models.registries import MLPS, BiasSpec, EncoderSpec, MLPSpec, Radius, register
from utils import UserError

POSENC = {'name': 'posenc', 'args': {'posenc_scale': 10, 'enc_dims': 64}}
KEPT = 0.75  # of the output of the cascade before


class Latent(NamedTuple):
    """Of a region of H×W LR pixels. lr: (B, 3, H, W), normalised; features: (B, C, H, W); maps: of the attention of the
    first cascade, with the region."""
    lr: Tensor
    features: Tensor
    maps: Maps


@register('clit')
class CLIT(FeatureDecoder):
    """Names of arguments and parameters are those of released configs and checkpoints.

    The number of cascades in use depends on the scale alone. Up to scale_base it is one. Beyond, each cascade but the last
    makes a step of scale_base, and the last one makes the rest.

    Args:
        encoder_spec: features of the LR image, e.g. {name: edsr-baseline, args: {no_upsampling: true}}.
        imnet_spec: the decoder MLP, one for each cascade.
        pb_spec: positional bias, shared by the cascades.
        base_dim: C.
        head, r: heads and window radius of the attention.
        imnet_num, conv_num: number of cascades; both must be equal.
        is_cell: append the relative cell to the decoder's input.
        local_attn: must be true; released configs contain it.
        scale_base: factor of a step.
        verbose: in released configs; no effect.
    """

    def __init__(self, *, encoder_spec: EncoderSpec, imnet_spec: MLPSpec, pb_spec: BiasSpec = POSENC,
                 base_dim: int = 256, head: int = 8, r: Radius = 3, imnet_num: int = 1, conv_num: int = 1,
                 is_cell: bool = True, local_attn: bool = True, scale_base: float = 4, verbose: bool = False):
        if imnet_num != conv_num or imnet_num < 1 or not local_attn:
            raise ValueError('imnet_num and conv_num must be the same number, at least 1, and local_attn true')
        if base_dim < 1 or r < 0:
            raise ValueError(f'expected base_dim >= 1 and r >= 0, got {base_dim} and {r}')
        if not 1 < scale_base < math.inf:
            raise ValueError(f'scale_base is {scale_base}, expected more than 1')
        super().__init__(encoder_spec)
        # the 3×3 convolutions before and in the attention, its window, and the resampling between these
        self.decoder_reach = max(r, 1) + 2 + (imnet_num > 1)
        self.heads, self.radius, self.cell_decode, self.scale_base = head, r, is_cell, scale_base
        self.may_idle = imnet_num > 1
        self.attended = (2 * r + 1) ** 2 * base_dim                                  # K²·C
        self.conv_ch = conv3x3(self.encoder.out_channels, base_dim)
        self.conv_vs, self.conv_qs, self.conv_ks = (
            nn.ModuleList(conv3x3(base_dim, base_dim) for _ in range(conv_num)) for _ in range(3))
        self.pb_encoder = make_bias(pb_spec, base_dim, head)
        self.imnets = nn.ModuleList(
            MLPS.make(imnet_spec, 'imnet_spec', in_dim=self.attended + 2 * is_cell) for _ in range(imnet_num))

    def attention(self, cascade: int) -> LocalAttention:
        """The attention of a cascade, made of parts of this model."""
        return LocalAttention(self.heads, self.radius, position_bias=self.pb_encoder, query_map=self.conv_qs[cascade],
                              key_map=self.conv_ks[cascade], value_map=self.conv_vs[cascade])

    def decoder(self, cascade: int) -> MLP:
        """The MLP of a cascade."""
        return cast(MLP, self.imnets[cascade])

    def fresh_tensors(self, state: dict[str, Tensor]) -> list[str]:
        """Those of the cascades after the last one of `state`: cumulative training adds them one by one."""
        cascades = 0
        while f'imnets.{cascades}.layers.0.weight' in state:
            cascades += 1
        parts = [self.conv_vs, self.conv_qs, self.conv_ks, self.imnets]
        later = {id(tensor) for part in parts for module in part[cascades:] for tensor in module.parameters()}
        return [name for name, parameter in self.named_parameters() if id(parameter) in later]

    def decode_features(self, lr: Tensor, features: Tensor, region: Region) -> Latent:
        features = self.conv_ch(features)                                            # (B, C, H, W)
        return Latent(lr, features, self.attention(0).maps(features, region))

    def grids(self, region: Region, cell: Tensor) -> list[tuple[int, int]]:
        """(height, width) of the grids between the LR grid and the output, whose cell is (B, 2): none for one cascade, or
        for a process that gets no sample of a batch."""
        if len(self.imnets) == 1 or len(cell) == 0:
            return []
        size = (2 / cell.double()).round().long()                                    # (B, 2)
        if (size != size[0]).any():
            raise UserError('clit: the images of a batch must be upscaled by one factor: set scale_per to batch')
        lr_size = region.image_height, region.image_width
        scales = [side / lr_side for side, lr_side in zip(size[0].tolist(), lr_size)]
        steps = min(len(self.imnets), math.ceil(math.log(max(scales)) / math.log(self.scale_base) - 1e-9))
        return [tuple(round(min(scale, self.scale_base ** step) * lr_side) for scale, lr_side in zip(scales, lr_size))
                for step in range(1, steps)]

    def finer_maps(self, latent: Latent, cascade: int, size: tuple[int, int], y: Tensor, x: Tensor, cell: Tensor) -> Maps:
        """The maps of a later cascade's attention: the part of a grid of `size` around the coordinates y and x.

        `cell` is (2,), or (2, B, 1) for coordinates (B, Q).
        """
        attention = self.attention(cascade)
        (top, bottom), (left, right) = (nearest_index(coord, n, each).aminmax()
                                         for coord, n, each in zip((y, x), size, cell))
        region = Region(int(top), int(bottom) + 1, int(left), int(right) + 1, *size).grow(attention.reach)
        rows, columns = (pixel_centres(n, y.device) for n in size)
        features = bilinear_grid(latent.features, latent.maps.region, rows[region.top:region.bottom],
                                 columns[region.left:region.right], 'zeros')         # (B, h, w, C)
        return attention.maps(rearrange(features, 'b h w c -> b c h w'), region)

    def query(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        region = latent.maps.region
        rgb = self.decode(0, latent.maps, coord, cell)                               # (B, Q, 3)
        for cascade, size in enumerate(self.grids(region, cell), 1):
            y, x = coord.unbind(-1)
            maps = self.finer_maps(latent, cascade, size, y, x, cell.T.unsqueeze(2))
            rgb = self.decode(cascade, maps, coord, cell) + KEPT * rgb
        return rgb + sample_bilinear(latent.lr, region.local(coord), 'border')

    def decode(self, cascade: int, maps: Maps, coord: Tensor, cell: Tensor) -> Tensor:
        """The output of a cascade at (B, Q, 2) coordinates: (B, Q, 3)."""
        return self.attention(cascade).decode(self.decoder(cascade), maps, coord, self.relative_cell(maps.region, cell),
                                              cell)

    def query_grid(self, latent: Latent, rows: Tensor, columns: Tensor, cell: Tensor, memory: int) -> Tensor:
        region = latent.maps.region
        rgb = decode_grid(self.attention(0), self.decoder(0), latent.maps, rows, columns, self.relative_cell(region, cell),
                          memory, cell)                                              # (B, h, w, 3)
        for cascade, size in enumerate(self.grids(region, cell), 1):
            rgb *= KEPT
            for y, x in self.blocks(latent, cascade, size, rows, columns, cell[0], memory // 2):
                maps = self.finer_maps(latent, cascade, size, rows[y], columns[x], cell[0])
                rgb[:, y, x] += decode_grid(self.attention(cascade), self.decoder(cascade), maps, rows[y], columns[x],
                                            self.relative_cell(maps.region, cell), memory // 2, cell)
        return rgb + bilinear_grid(latent.lr, region, rows, columns)

    def blocks(self, latent: Latent, cascade: int, size: tuple[int, int], rows: Tensor, columns: Tensor, cell: Tensor,
               memory: int) -> list[tuple[slice, slice]]:
        """Rows and columns of blocks of the output. The part of a grid of `size` that a block reads fits into `memory`."""
        reach = self.attention(cascade).reach
        middle = rows[len(rows) // 2].view(1), columns[len(columns) // 2].view(1)
        held = peak_bytes(self.finer_maps, latent, cascade, size, *middle, cell) / (2 * reach + 1) ** 2
        side = max(math.isqrt(int(memory / held)) - 2 * reach, reach)
        cuts = []
        for lines, n, each in zip((rows, columns), size, cell):
            nearest = nearest_index(lines, n, each)
            starts = torch.arange(int(nearest[0]), int(nearest[-1]) + 1, side, device=lines.device)
            edges = [*torch.searchsorted(nearest, starts).tolist(), len(lines)]
            cuts.append([slice(a, b) for a, b in pairwise(edges)])
        return [(y, x) for y in cuts[0] for x in cuts[1]]

    def relative_cell(self, region: Region, cell: Tensor) -> Tensor | None:
        """(B, 2) → (B, 2): see `coords.relative_cell`, on the grid of `region`; None without `is_cell`."""
        relative = relative_cell(cell, region.image_height, region.image_width)
        return upload(relative, self.inp_sub, self.inp_sub.dtype) if self.cell_decode else None
