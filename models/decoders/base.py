"""Base of the decoders that read an encoder's features of the LR image.

Shapes: B batch, F encoder channels, H×W the LR grid.
"""
from typing import Any

from torch import Tensor

from common.coords import Region
from models.contract import SRModel
from models.encoders.base import make_encoder


class FeatureDecoder(SRModel):
    """An encoder and a decoder of its features. Subclasses implement `decode_features` and `query`.

    Attributes:
        decoder_reach: how many LR pixels around a query's nearest one the decoder reads features from. None is always
            correct: features of the whole image, which is then encoded as a whole, however large it is.

    Args:
        encoder_spec: features of the LR image, e.g. {name: edsr-baseline, args: {no_upsampling: true}}.
    """

    decoder_reach: int | None = None

    def __init__(self, encoder_spec: dict):
        super().__init__()
        self.encoder = make_encoder(encoder_spec)

    def decode_features(self, lr: Tensor, features: Tensor, region: Region) -> Any:
        """Normalised LR (B, 3, H, W) of a region of the image and its features (B, F, H, W) → latent."""
        raise NotImplementedError

    @property
    def reach(self) -> int | None:  # type: ignore[override]
        return None if self.decoder_reach is None or self.encoder.reach is None else self.encoder.reach + self.decoder_reach

    def encode(self, lr: Tensor, region: Region | None = None, halo: int | None = None) -> Any:
        whole = Region.whole(*lr.shape[2:])
        region = whole if region is None or self.decoder_reach is None else region.grow(self.decoder_reach)
        return self.decode_features(region.of(lr), self.encoder(lr, region, halo), region)
