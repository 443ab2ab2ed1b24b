"""One decoded image, as it is upscaled and written again: pixels of their own depth, transparency, metadata."""
from dataclasses import dataclass

import numpy as np

from imaging.transparency import bleed


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a file says about its pixels, beside them.

    Attributes:
        profile: the ICC profile of the pixels; None: sRGB, or unknown.
        exif: EXIF data of an upright image, without a thumbnail, beginning with a TIFF header.
        xmp: an XMP packet.
        dpi: pixels per inch, horizontally and vertically.
    """
    profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Frame:
    """An image, or one of an animation, upright.

    Attributes:
        pixels: (H, W, C) of C = 1 (grey) or 3 (RGB): uint8, uint16, or float32 in [0, 1]; not premultiplied.
        alpha: (H, W) of the same type, the largest value is opaque; None: opaque.
        duration: how long an animation shows it, in milliseconds.
    """
    pixels: np.ndarray
    alpha: np.ndarray | None = None
    metadata: Metadata = Metadata()
    duration: float = 0

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def is_grey(self) -> bool:
        return self.pixels.shape[2] == 1

    @property
    def mode(self) -> str:
        """L grey, RGB, LA and RGBA with transparency."""
        return ('L' if self.is_grey else 'RGB') + ('' if self.alpha is None else 'A')

    @property
    def bits(self) -> int:
        """Per channel: 8, 16, or 32 for floating point."""
        return 8 * self.pixels.itemsize

    @property
    def is_transparent(self) -> bool:
        """Whether any pixel is not opaque."""
        return self.alpha is not None and bool(self.alpha.min() < full_scale(self.alpha.dtype))

    def rgb(self) -> np.ndarray:
        """(H, W, 3) to upscale, of the type of `pixels`. Transparent pixels have the colours of visible ones beside them."""
        pixels = self.pixels if self.alpha is None else bleed(self.pixels, self.alpha > 0)
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3)) if self.is_grey else pixels


def full_scale(dtype: np.dtype) -> int:
    """The value that stands for 1: 255, 65535, or 1 of floating-point numbers."""
    return np.iinfo(dtype).max if dtype.kind == 'u' else 1
