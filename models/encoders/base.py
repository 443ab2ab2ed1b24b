"""What every encoder offers: features at LR resolution, or, with its upsampling tail, a fixed-scale network."""
from typing import NamedTuple

from einops import rearrange
from torch import Tensor, nn

from common import coords
from common.registry import MODELS
from models.regions import Region
from models.sr_model import SRModel
from utils import UserError

TAIL_REACH = 2  # LR pixels that an upsampling tail sees beyond its own: one by its first convolution, one by all others


class Upsampled(NamedTuple):
    """rgb: (B, 3, s·H, s·W), normalised, of a region of H×W LR pixels; scale: s."""
    rgb: Tensor
    region: Region
    scale: int


class Encoder(SRModel):
    """Base of the encoders.

    Attributes:
        out_channels: channels of `features`; 3 with the upsampling tail.
        fixed_scale: factor of the upsampling tail; None without one: then it is an encoder only.
        reach: how far a feature sees, in LR pixels.
        encode_floats: numbers per LR pixel that `features` holds at its widest point.
    """

    out_channels: int
    reach: int
    encode_floats: int

    def features(self, x: Tensor) -> Tensor:
        """Normalised LR (B, 3, H, W) → (B, out_channels, H, W), or RGB (B, 3, s·H, s·W) with the tail."""
        raise NotImplementedError

    def features_of(self, lr: Tensor, region: Region, halo: int | None = None) -> Tensor:
        """Features (B, out_channels, h, w) of a region of the whole image (B, 3, H, W).

        Args:
            halo: pixels around the region that are looked at, at most `reach`, which is exact and the default.
        """
        outer = region.grow(self.margin(halo))
        return region.of(self.features(outer.of(lr)), outer)

    def deepened_state(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
        """The tensors of a shallower encoder of this kind, with identity blocks added (Net2Net, arXiv 1511.05641).

        Returns: what this encoder loads to compute what the shallower one did, and the number of blocks added.
        Raises: UserError when encoders of this kind cannot be deepened, or when `state` has more blocks than this one.
        """
        raise UserError(f'encoders of kind {type(self).__name__} cannot be deepened')

    def encode(self, lr: Tensor, region: Region | None = None) -> Upsampled:
        if self.fixed_scale is None:
            raise UserError('an encoder without its upsampling tail makes no image: set no_upsampling to false')
        return Upsampled(self.features(lr), region or Region.whole(*lr.shape[2:]), self.fixed_scale)

    def query(self, latent: Upsampled, coord: Tensor, cell: Tensor) -> Tensor:
        """The pixels of the network's own output grid that are nearest to the coordinates; `cell` plays no part."""
        scale, region = latent.scale, latent.region
        y = coords.nearest_index(coord[..., 0], scale * region.height) - scale * region.top          # (B, Q)
        x = coords.nearest_index(coord[..., 1], scale * region.width) - scale * region.left
        pixel = (y * latent.rgb.shape[3] + x).unsqueeze(1).expand(-1, 3, -1)
        return latent.rgb.flatten(2).gather(2, pixel).transpose(1, 2)                # (B, Q, 3)

    def query_grid(self, latent: Upsampled, rows: Tensor, columns: Tensor, cell: Tensor, memory: int) -> Tensor:
        scale, region = latent.scale, latent.region                                  # the grid is the network's own
        y = coords.nearest_index(rows, scale * region.height) - scale * region.top
        x = coords.nearest_index(columns, scale * region.width) - scale * region.left
        return rearrange(latent.rgb[:, :, y[:, None], x], 'b c h w -> b h w c')


def make_encoder(spec: dict) -> Encoder:
    """The encoder of an `encoder_spec`, without an upsampling tail. Raises: ValueError when it is another thing."""
    encoder = MODELS.make(spec, 'encoder_spec')
    if not isinstance(encoder, Encoder) or encoder.fixed_scale:
        raise ValueError(f"encoder_spec: '{spec['name']}' is no encoder, or has no_upsampling unset")
    return encoder


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3×3 convolution with bias that keeps the size."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def upsampling(in_channels: int, channels: int, scale: int) -> list[nn.Module]:
    """Sub-pixel upsampling by 2, 3 or 4 (4 is twice 2), ending with `channels` channels."""
    if scale not in (2, 3, 4):
        raise ValueError(f'scale is {scale!r}, expected 2, 3 or 4')
    layers = []
    for factor in ([2, 2] if scale == 4 else [scale]):
        layers += [conv3x3(in_channels, channels * factor ** 2), nn.PixelShuffle(factor)]
        in_channels = channels
    return layers


def upsampling_floats(channels: int, scale: int) -> int:
    """Numbers per LR pixel that such a tail holds at its widest point, which is its last shuffle."""
    return (5 * scale ** 2 // 2 + 1) * channels
