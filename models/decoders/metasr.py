"""Meta-SR: "Meta-SR: A Magnification-Arbitrary Network for Super-Resolution" (arXiv 1903.00875), as LIIF's authors rebuilt
it for their comparison: on any encoder, trained by LIIF's recipe.

Shapes: B batch, F encoder channels, H×W the LR grid, Q queries, M hidden width.

    LR (B, 3, H, W) → encoder (B, F, H, W) → unfolded 3×3, at the pixel that holds the query's top left corner (B, Q, 9F)
    offset in that pixel (2), 1/scale (1) → MLP → filters (B, Q, 9F, 3); their product with the features is RGB

The MLP's last layer is linear in its M hidden numbers, and so is RGB. The product of the features with that layer,
(M + 1)·3 numbers with its bias, is therefore a 3×3 convolution, computed once per LR pixel; no filter is ever formed.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from common.coords import Region, nearest_index, upload
from models.decoders.base import FeatureDecoder
from models.decoders.ensemble import SHIFT, pixel_rows
from models.layers import MLP
from models.registries import EncoderSpec, register

HIDDEN = 256  # M


class Latent(NamedTuple):
    """Of a region of H×W LR pixels. rows: (B·H·W, (M + 1)·3), the factors of the M hidden numbers and the bias, for RGB."""
    rows: Tensor
    region: Region


@register('metasr')
class MetaSR(FeatureDecoder):
    """Filters predicted for each query. Parameter names are those of released checkpoints.

    Args:
        encoder_spec: features of the LR image, e.g. {name: edsr-baseline, args: {no_upsampling: true}}.
    """

    decoder_reach = 2  # 3×3 features at the nearest pixel or the one before it

    def __init__(self, *, encoder_spec: EncoderSpec):
        super().__init__(encoder_spec)
        self.imnet = MLP(in_dim=3, out_dim=9 * self.encoder.out_channels * 3, hidden_list=[HIDDEN])

    def decode_features(self, lr: Tensor, features: Tensor, region: Region) -> Latent:
        last = self.imnet.layers[-1]
        assert isinstance(last, nn.Linear)
        filters = torch.cat([last.weight, last.bias.unsqueeze(1)], 1)                # (9F·3, M + 1)
        kernel = rearrange(filters, '(f y x c) m -> (m c) f y x', y=3, x=3, c=3)
        x = F.conv2d(features, kernel, padding=1)                                    # (B, (M + 1)·3, H, W)
        return Latent(pixel_rows(x), region)

    def query(self, latent: Latent, coord: Tensor, cell: Tensor) -> Tensor:
        region = latent.region
        corner = coord.double() - cell.double().unsqueeze(1) / 2                     # (B, Q, 2), top left of the HR pixel
        y, offset_y = holding_line(corner[..., 0], region.image_height)              # (B, Q)
        x, offset_x = holding_line(corner[..., 1], region.image_width)
        size = (cell[:, :1] * region.image_height / 2).expand_as(y)                  # 1/scale, of the height
        height, width = region.bottom - region.top, region.right - region.left
        image = torch.arange(len(coord), device=coord.device).unsqueeze(1)
        rows = upload((image * height + y - region.top) * width + x - region.left, latent.rows)      # (B, Q)
        place = torch.stack([offset_y, offset_x, size], -1).to(self.inp_sub)         # (B, Q, 3)
        with torch.autocast(place.device.type, enabled=False):  # half precision would blur positions
            hidden = self.imnet.layers[:-1](place)                                   # (B, Q, M)
        products = F.embedding(rows, latent.rows).unflatten(2, (-1, 3))              # (B, Q, M + 1, 3)
        return (hidden.unsqueeze(2).to(products) @ products[:, :, :-1]).squeeze(2) + products[:, :, -1]


def holding_line(corner: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The pixel of an n-pixel axis that contains each corner (…): its index, and the offset in it, in LR pixels, float64."""
    index = nearest_index((corner + SHIFT).clamp(-1 + SHIFT, 1 - SHIFT), n)
    return index, ((corner + 1) * n - 2 * index) / 2
