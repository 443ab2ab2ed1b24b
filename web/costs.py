"""The time and memory that an upscaling will take, from what a small one took on this machine."""
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from engine.windows import LATENT_MEMORY, Window, WindowedImage
from models.contract import SRModel
from models.latents import LatentCache
from models.memory import PeakMeter

_SIDE, _FACTOR = 64, 4  # of the small image


class Costs(NamedTuple):
    """What a model takes.

    Attributes:
        encoding: seconds for an LR pixel that the encoder reads.
        near, far: seconds for an LR pixel, and for an output pixel, of the queries.
        latent: bytes that are kept for an LR pixel.
        working: bytes that are held for an LR pixel while it is encoded.
    """
    encoding: float
    near: float
    far: float
    latent: float
    working: float

    def of(self, image: WindowedImage, size: tuple[int, int]) -> tuple[float, int]:
        """(seconds, bytes) for a whole image at `size`; the bytes are those beside the model and the image itself."""
        margin = image.model.reach or 0
        read = [region.grow(margin) for region in image.all_regions]
        lr, output = image.height * image.width, size[0] * size[1]
        seconds = (self.encoding * sum(region.height * region.width for region in read) + self.near * lr + self.far * output)
        largest = max(region.height * region.width for region in read)
        return seconds, int(3 * output + min(LATENT_MEMORY, self.latent * lr) + self.working * largest)


def measure(model: SRModel) -> Costs:
    """Encodes a small image of noise, and renders it at ×1 and at ×4; takes about a second."""
    cache = LatentCache(memory=LATENT_MEMORY)
    noise = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    whole, pixels = Window(0, 0, _SIDE, _SIDE), _SIDE ** 2
    _seconds(lambda: WindowedImage(model=model, rgb=noise, cache=cache).render(whole, (_SIDE + 1, _SIDE)))  # a first time
    image = WindowedImage(model=model, rgb=noise, cache=cache)
    region, = image.all_regions
    with PeakMeter() as meter:
        encoding = _seconds(lambda: image.encode(region))
    once = _seconds(lambda: image.render(whole, (_SIDE + 1, _SIDE)))
    often = _seconds(lambda: image.render(whole, (_FACTOR * _SIDE, _FACTOR * _SIDE)))
    far = max(0.0, often - once) / (_FACTOR ** 2 - 1) / pixels
    return Costs(encoding / pixels, max(0.0, once / pixels - far), far, cache.held / 2 / pixels, meter.peak / pixels)


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
