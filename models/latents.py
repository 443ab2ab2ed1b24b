"""Latents of the regions of an image: each is encoded when it is first needed, and kept while the memory lasts."""
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from common.coords import Region
from models.memory import PeakMeter


class LatentCache:
    """Latents, the least recently used of which are dropped beyond a number of bytes. Images may share a cache.

    Args:
        memory: bytes of latents that are kept; the one that was used last always is.
    """

    def __init__(self, *, memory: int):
        self.memory = memory
        self.held = 0  # bytes
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.RLock()  # also taken when an image is collected, amid any of the lines below

    def get(self, key: Hashable, encode: Callable[[], Any]) -> Any:
        """The latent of this key, encoded when it is not there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        with PeakMeter() as meter:
            latent = encode()
        with self._lock:
            self._drop(key)
            self._kept[key] = latent, meter.held
            self.held += meter.held
            while self.held > self.memory and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))
        return latent

    def drop_image(self, number: int) -> None:
        """Drops all latents of an image."""
        with self._lock:
            for key in [key for key in self._kept if isinstance(key, tuple) and key[0] == number]:
                self._drop(key)

    def _drop(self, key: Hashable) -> None:
        _, size = self._kept.pop(key, (None, 0))
        self.held -= size


class LazyLatents:
    """The latents of one image, by region. They leave the cache when this object does."""

    def __init__(self, *, encode: Callable[[Region], Any], cache: LatentCache):
        self.encode = encode
        self.cache = cache
        weakref.finalize(self, cache.drop_image, id(self))

    def __call__(self, region: Region) -> Any:
        return self.cache.get((id(self), region), lambda: self.encode(region))
