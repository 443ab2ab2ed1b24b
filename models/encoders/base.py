"""What every encoder offers: features at LR resolution, or, with its upsampling tail, a fixed-scale network."""
from einops import rearrange
from torch import Tensor, nn

from models import coords
from models.sr_model import SRModel
from utils import UserError


class Encoder(SRModel):
    """Base of the encoders.

    Attributes:
        out_channels: channels of `features`; 3 with the upsampling tail.
        fixed_scale: factor of the upsampling tail; None without one: then it is an encoder only.
    """

    out_channels: int

    def features(self, x: Tensor) -> Tensor:
        """Normalised LR (B, 3, H, W) → (B, out_channels, H, W), or RGB (B, 3, s·H, s·W) with the tail."""
        raise NotImplementedError

    def encode(self, lr: Tensor) -> Tensor:
        if self.fixed_scale is None:
            raise UserError('an encoder without its upsampling tail makes no picture: set no_upsampling to false')
        return self.features(lr)

    def query(self, latent: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """The pixels of the network's own output grid that are nearest to the coordinates; `cell` plays no part."""
        y = coords.nearest_index(coord[..., 0], latent.shape[2])                     # (B, Q)
        x = coords.nearest_index(coord[..., 1], latent.shape[3])
        pixel = (y * latent.shape[3] + x).unsqueeze(1).expand(-1, latent.shape[1], -1)
        return latent.flatten(2).gather(2, pixel).transpose(1, 2)                    # (B, Q, 3)

    def query_grid(self, latent: Tensor, batch: int, height: int, width: int) -> Tensor:
        return rearrange(latent, 'b c h w -> b (h w) c')                             # the grid is the network's own


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
