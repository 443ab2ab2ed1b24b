"""Fixed-scale networks: an encoder with its upsampling tail.

Shapes: B batch, H×W the LR grid, s the factor, Q queries.
"""
from typing import NamedTuple

from einops import rearrange
from torch import Tensor

from common import coords
from common.coords import Region, upload
from models.contract import SRModel
from models.registries import ENCODERS, register


class Upsampled(NamedTuple):
    """rgb: (B, 3, s·H, s·W), normalised, of a region of H×W LR pixels."""
    rgb: Tensor
    region: Region


class FixedScale(SRModel):
    """A network that upscales by one factor: a query reads the nearest pixel of its output.

    Args:
        encoder_spec: an encoder with its upsampling tail.
    """

    def __init__(self, *, encoder_spec: dict):
        super().__init__()
        self.encoder = ENCODERS.make(encoder_spec, 'encoder_spec')
        if self.encoder.scale == 1:
            raise ValueError(f"'{encoder_spec['name']}' without its upsampling tail makes no image: "
                             'set no_upsampling to false')
        self.fixed_scale, self.reach = self.encoder.scale, self.encoder.reach

    def encode(self, lr: Tensor, region: Region | None = None, halo: int | None = None) -> Upsampled:
        region = region or Region.whole(*lr.shape[2:])
        return Upsampled(self.encoder(lr, region, halo), region)

    def query(self, latent: Upsampled, coord: Tensor, cell: Tensor) -> Tensor:
        """The pixels of the network's output that are nearest to the coordinates; `cell` has no effect."""
        y, x = self.pixels(latent, coord[..., 0], coord[..., 1])                     # (B, Q)
        index = (y * latent.rgb.shape[3] + x).unsqueeze(1).expand(-1, 3, -1)
        return latent.rgb.flatten(2).gather(2, index).transpose(1, 2)                # (B, Q, 3)

    def query_grid(self, latent: Upsampled, rows: Tensor, columns: Tensor, cell: Tensor, memory: int) -> Tensor:
        y, x = self.pixels(latent, rows, columns)
        return rearrange(latent.rgb[:, :, y[:, None], x], 'b c h w -> b h w c')

    def pixels(self, latent: Upsampled, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Indices in the output of a region: the pixels nearest to the coordinates."""
        scale, region = self.encoder.scale, latent.region
        return (upload(coords.nearest_index(y, scale * region.image_height) - scale * region.top, latent.rgb),
                upload(coords.nearest_index(x, scale * region.image_width) - scale * region.left, latent.rgb))


@register('edsr-baseline')
def edsr_baseline(*, n_resblocks: int = 16, n_feats: int = 64, res_scale: float = 1.0, scale: int = 2,
                  no_upsampling: bool = False, rgb_range: float = 1) -> FixedScale:
    """EDSR-baseline with its tail; see `models/encoders/edsr.py`."""
    return FixedScale(encoder_spec={'name': 'edsr-baseline', 'args': {
        'n_resblocks': n_resblocks, 'n_feats': n_feats, 'res_scale': res_scale, 'scale': scale,
        'no_upsampling': no_upsampling, 'rgb_range': rgb_range}})


@register('rdn')
def rdn(*, G0: int = 64, RDNkSize: int = 3, RDNconfig: str = 'B', scale: int = 2, no_upsampling: bool = False) -> FixedScale:
    """RDN with its tail; see `models/encoders/rdn.py`."""
    return FixedScale(encoder_spec={'name': 'rdn', 'args': {
        'G0': G0, 'RDNkSize': RDNkSize, 'RDNconfig': RDNconfig, 'scale': scale, 'no_upsampling': no_upsampling}})
