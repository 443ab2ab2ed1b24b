"""Upscaling a whole image, part by part, while views of it and of other images are rendered in between."""
import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from engine.windows import WindowedImage
from imaging import check_size, save_image
from utils import UserError
from web.limits import Refused, explained

T = TypeVar('T')
PART_PIXELS = 2 ** 18  # of a part: others wait for it
FORMATS = {'png': 'PNG', 'jpg': 'JPEG', 'webp': 'WebP'}


class Worker:
    """The one thread in which the model computes: a computation at a time, in the order in which they are asked for."""

    def __init__(self, *, submit: Callable[[Callable[[], Any]], 'asyncio.Future[Any]']):
        self.submit = submit
        self.turn = asyncio.Semaphore(1)  # one job at a time

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self.submit(lambda: function(*arguments))


class Job:
    """An upscaling to (height, width), in the background; the file is deleted with the job.

    Attributes:
        state: waiting, running, writing, done, failed.
        done: fraction of the pixels.
        error: one line for the user, of a job that failed.
        seconds: that it has computed.
    """

    def __init__(self, *, image: WindowedImage, size: tuple[int, int], file: Path, worker: Worker):
        try:
            check_size(file, *size)
        except UserError as error:
            raise Refused(400, str(error).replace(f'{file}: ', '')) from error
        self.image = image
        self.size = size
        self.file = file
        self.state, self.done, self.error, self.seconds = 'waiting', 0.0, '', 0.0
        self._worker = worker
        self._task = asyncio.create_task(self._run())

    @property
    def active(self) -> bool:
        return not self._task.done()

    def delete(self) -> None:
        """Stops the job after the part that is computed at the moment, and deletes its file."""
        self._task.cancel()
        self.file.unlink(missing_ok=True)

    def progress(self) -> dict[str, Any]:
        """As the page shows it: state, done, seconds left (None before it is known) and error."""
        left = self.seconds * (1 - self.done) / self.done if self.done else None
        return {'state': self.state, 'done': self.done, 'seconds_left': left, 'error': self.error}

    async def _run(self) -> None:
        try:
            async with self._worker.turn:
                await self._upscale()
        except Exception as error:
            self.state, self.error = 'failed', explained(error)
            if not self.error:
                raise

    async def _upscale(self) -> None:
        self.state = 'running'
        height, width = self.size
        result = Image.new('RGB', (width, height))
        for part in self.image.parts(self.size, PART_PIXELS):
            start = time.perf_counter()
            await self._worker.run(self.image.encode, part.region)
            rgb = await self._worker.run(self.image.render, part.window, part.size)
            result.paste(Image.fromarray(rgb), (part.columns.start, part.rows.start))
            self.seconds += time.perf_counter() - start
            self.done += part.size[0] * part.size[1] / (height * width)
        self.state = 'writing'
        writing = asyncio.ensure_future(asyncio.to_thread(save_image, result, self.file))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:  # a thread cannot be stopped: its file goes when it is there
            writing.add_done_callback(lambda _: self.file.unlink(missing_ok=True))
            raise
        self.state = 'done'
