"""The images that the page holds: one for each token, bounded in number and size, deleted when nobody uses them."""
import asyncio
import contextlib
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from engine.windows import WindowedImage, read_for_screen
from imaging import read_header
from models.contract import SRModel
from models.latents import LatentCache
from utils import UserError
from web.limits import Limits, Refused

if TYPE_CHECKING:
    from web.jobs import Job


class HeldImage:
    """An image that somebody looks at.

    Attributes:
        serial: the number of the newest view that was asked for; older ones are stale.
        job: the upscaling that was asked for last.
    """

    def __init__(self, *, image: WindowedImage):
        self.image = image
        self.serial = 0
        self.job: Job | None = None
        self.used = time.monotonic()


class HeldImages:
    """All images, by token: a random text that only the page that uploaded the image knows. Used on the event loop alone."""

    def __init__(self, *, model: SRModel, cache: LatentCache, limits: Limits):
        self.model = model
        self.cache = cache
        self.limits = limits
        self._held: dict[str, HeldImage] = {}
        self._awaited = 0  # pixels of images that are being decoded

    def __len__(self) -> int:
        return len(self._held)

    def get(self, token: str) -> HeldImage:
        """Raises Refused when there is none."""
        if token not in self._held:
            raise Refused(404, f'this image is no longer here: images are deleted after {self.limits.idle / 60:.0f} minutes '
                               'without use; open it again')
        held = self._held[token]
        held.used = time.monotonic()
        return held

    async def add(self, file: Path) -> tuple[str, HeldImage]:
        """Reads an uploaded file. Raises Refused, with one line for the user."""
        try:
            height, width = (await asyncio.to_thread(read_header, file))[:2]
            if height * width > self.limits.pixels:
                raise Refused(413, f'this image has {width}×{height} pixels; at most {self.limits.pixels / 1e6:.0f} million '
                                   'can be opened')
            with self._room(height * width):
                held = HeldImage(image=await asyncio.to_thread(self._read, file))
                token = secrets.token_urlsafe(24)
                self._held[token] = held
        except UserError as error:  # the user knows the file by another name
            raise Refused(400, str(error).replace(f'{file}: ', '')) from error
        return token, held

    def _read(self, file: Path) -> WindowedImage:
        return WindowedImage(model=self.model, rgb=read_for_screen(file), cache=self.cache)

    def delete(self, token: str) -> None:
        """Deletes an image with all that was made of it, if it is still there."""
        held = self._held.pop(token, None)
        if held and held.job:
            held.job.delete()

    def delete_idle(self) -> None:
        """Deletes the images that nobody has used for too long."""
        oldest = time.monotonic() - self.limits.idle
        for token in [token for token, held in self._held.items() if held.used < oldest and not _works(held)]:
            self.delete(token)

    def delete_all(self) -> None:
        for token in list(self._held):
            self.delete(token)

    @contextlib.contextmanager
    def _room(self, pixels: int) -> Iterator[None]:
        """Room for one more image while it is decoded."""
        held = sum(held.image.height * held.image.width for held in self._held.values())
        if len(self._held) >= self.limits.images or held + self._awaited + pixels > self.limits.all_pixels:
            raise Refused(503, 'too many images are open at the moment; try again later')
        self._awaited += pixels
        try:
            yield
        finally:
            self._awaited -= pixels


def _works(held: HeldImage) -> bool:
    return held.job is not None and held.job.active
