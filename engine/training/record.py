"""What a run writes about itself while it trains: log.txt and the screen, TensorBoard, and its pace."""
import contextlib
import platform
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from common.arrays import resize_bicubic
from datasets.evaluation import Pair
from imaging import to_image
from utils import ROOT, RunError, format_time

TIME = 20  # characters of the time before a line of log.txt
IMAGE_SIDE = 96  # of the crops that are shown, HR pixels


class Record:
    """The log and the curves of a run.

    Args:
        folder: of the run; must exist.
        active: False makes every method do nothing: of several processes only one writes.
        purge_step: curves that were written into this folder from this step on, before the run was stopped, are dropped.
    """

    def __init__(self, folder: Path, *, active: bool = True, purge_step: int = 0):
        self.folder = folder
        with self.writing('tensorboard'):
            self.writer = SummaryWriter(folder / 'tensorboard', purge_step=purge_step) if active else None

    def log(self, line: str) -> None:
        """One line to the screen and to log.txt."""
        if self.writer:
            with contextlib.suppress(OSError, ValueError):  # a closed terminal or pipe does not end a run
                tqdm.write(line)
            with self.writing('log.txt'), open(self.folder / 'log.txt', 'a', encoding='utf-8') as file:
                file.write(f'{time.strftime("%Y-%m-%d %H:%M:%S")} {line}\n')

    def log_once(self, line: str) -> None:
        """One line to the screen and to log.txt, unless that has a line which begins so: a run was killed before it came."""
        file = self.folder / 'log.txt'
        with self.writing('log.txt'):
            lines = file.read_text(encoding='utf-8', errors='replace').splitlines() if file.is_file() else []
        if not any(other[TIME:].startswith(line) for other in lines):
            self.log(line)

    def text(self, name: str, line: str) -> None:
        """A line for the log and for TensorBoard's texts."""
        self.log(f'{name}: {line}')
        if self.writer:
            with self.writing('tensorboard'):
                self.writer.add_text(f'run/{name}', line)

    def scalars(self, values: dict[str, float], step: int) -> None:
        """A point of each curve."""
        if self.writer:
            with self.writing('tensorboard'):
                for name, value in values.items():
                    self.writer.add_scalar(name, value, step)

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """(H, W, 3) uint8."""
        if self.writer:
            with self.writing('tensorboard'):
                self.writer.add_image(name, pixels, step, dataformats='HWC')

    def chart(self, title: str, tags: list[str]) -> None:
        """A chart that shows several curves together, among TensorBoard's custom scalars."""
        if self.writer:
            with self.writing('tensorboard'):
                self.writer.add_custom_scalars({'validation': {title: ['Multiline', tags]}})

    def flush(self) -> None:
        """Brings everything written so far to its files."""
        if self.writer:
            with self.writing('tensorboard'):
                self.writer.flush()

    def close(self) -> None:
        if self.writer:
            with contextlib.suppress(OSError):  # what is not written by now was missed at the last flush already
                self.writer.close()

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Turns an error of the disk into one that names the file."""
        try:
            yield
        except OSError as error:
            raise RunError(f'{self.folder / name}: could not be written, is the disk full? ({error.strerror or error}); the '
                           'checkpoints are intact, continue with -resume auto') from error


@contextlib.contextmanager
def quiet_writer_thread() -> Iterator[None]:
    """Keeps TensorBoard's writer thread from printing a traceback when it cannot write.

    The same OSError is raised again in `Record`, which reports it. Failures of all other threads, and other failures of this
    one, go to the hook that was there before.
    """
    previous = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        writer = type(failure.thread).__module__ == event_file_writer.__name__
        if not (writer and issubclass(failure.exc_type, OSError)):
            previous(failure)
    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = previous


class Pace:
    """How long iterations take, and how much of it is waiting for their data."""

    def __init__(self):
        self.start = self.lap_start = time.monotonic()
        self.iterations = self.lap_iterations = 0
        self.waited = 0.0  # seconds, in this lap

    def timed(self, batches: Iterable) -> Iterator:
        """The same batches, one for each iteration."""
        iterator = iter(batches)
        while True:
            asked = time.monotonic()
            batch = next(iterator, None)
            if batch is None:
                return
            self.waited += time.monotonic() - asked
            self.iterations += 1
            self.lap_iterations += 1
            yield batch

    def lap(self) -> dict[str, float]:
        """Mean seconds of an iteration since the last call: of waiting for data, and in all."""
        now = time.monotonic()
        seconds = {'time/data': self.waited / self.lap_iterations, 'time/step': (now - self.lap_start) / self.lap_iterations}
        self.lap_start, self.lap_iterations, self.waited = now, 0, 0.0
        return seconds

    def time_left(self, iterations: int) -> str:
        """How long so many more iterations take, at the mean pace so far."""
        return format_time((time.monotonic() - self.start) / self.iterations * iterations)


def triptych(pair: Pair, prediction: torch.Tensor, side: int = IMAGE_SIDE) -> np.ndarray:
    """An image's centre three times: LR by bicubic, the prediction (3, H, W) in [0, 1], HR → (h, w, 3) uint8."""
    height, width = pair.hr.shape[:2]
    crop = tuple(slice(max(0, (extent - side) // 2), (extent + side) // 2) for extent in (height, width))
    images = (resize_bicubic(pair.lr, height, width), np.asarray(to_image(prediction)), pair.hr)
    return np.concatenate([image[crop] for image in images], 1)


def versions(device: torch.device) -> str:
    """Of Python, torch, CUDA and the program itself, and the GPU's name, in one line."""
    parts = [f'python {platform.python_version()}', f'torch {torch.__version__}']
    if device.type == 'cuda':
        parts += [f'CUDA {torch.version.cuda}', torch.cuda.get_device_name(device)]
    return ', '.join([*parts, f'revision {git_revision()}'])


def git_revision() -> str:
    """The commit of this program, with '-dirty' when files differ from it; 'unknown' outside a clone."""
    command = ['git', '-C', str(ROOT), 'describe', '--always', '--dirty', '--abbrev=12', '--exclude=*']
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
