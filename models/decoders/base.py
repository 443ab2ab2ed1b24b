"""What the decoders have in common that read nothing but an encoder's features around a query."""
from typing import Any

from torch import Tensor

from models.encoders.base import make_encoder
from models.regions import Region
from models.sr_model import SRModel


class FeatureDecoder(SRModel):
    """Base of such decoders. Subclasses implement `decode_features` and `query`.

    Args:
        encoder_spec: features of the LR image, e.g. {name: edsr-baseline, args: {no_upsampling: true}}.
        own_reach: how far the decoder reads features around the nearest LR pixel of a query, in LR pixels.
        own_floats: numbers per LR pixel that `decode_features` holds at its widest point, the features themselves aside.
    """

    def __init__(self, encoder_spec: dict, own_reach: int, own_floats: int = 0):
        super().__init__()
        self.encoder = make_encoder(encoder_spec)
        self.own_reach, self.own_floats = own_reach, own_floats

    def decode_features(self, lr: Tensor, features: Tensor, region: Region) -> Any:
        """Normalised LR (B, 3, H, W) of a region of the image and its features (B, F, H, W) → latent."""
        raise NotImplementedError

    @property
    def encode_floats(self) -> int:
        return self.encoder.out_channels + self.own_floats

    @property
    def reach(self) -> int:
        return self.margin()

    def margin(self, halo: int | None = None) -> int:
        return self.encoder.margin(halo) + self.own_reach

    def encode_stages(self, halo: int | None = None) -> list[tuple[int, int]]:
        return [(self.margin(halo), self.encoder.encode_floats), (self.own_reach, self.encode_floats)]

    def encode(self, lr: Tensor, region: Region | None = None) -> Any:
        return self.decode_features(lr, self.encoder.features(lr), region or Region.whole(*lr.shape[2:]))

    def encode_region(self, lr: Tensor, region: Region, halo: int | None = None) -> Any:
        outer = region.grow(self.own_reach)
        return self.decode_features(outer.of(lr), self.encoder.features_of(lr, outer, halo), outer)
