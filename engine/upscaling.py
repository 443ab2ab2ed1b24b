"""Upscaling image files: the work that `engine/jobs.py` plans, one image after another."""
import errno
import math
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from common.allocator import release_unused
from engine.comparing import write_comparison
from engine.files import FileOptions
from engine.jobs import Job, Plan
from engine.sizes import Size
from imaging import Animation, Canvas, Frame, read_frames, read_image, suited
from models.contract import SRModel
from models.upscale import default_memory, halo_error
from utils import RunError, UserError, WriteError, is_out_of_memory, printable

LEAST_MEMORY = 2 ** 26  # bytes down to which the memory is lowered where an allocation failed
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


class Work(NamedTuple):
    """How images are upscaled.

    Attributes:
        memory, halo: of `SRModel.upscale`. With a halo the error that it causes is measured and printed.
        label: of the model, in comparisons.
    """
    size: Size = Size()
    files: FileOptions = FileOptions()
    memory: int | None = None
    halo: int | None = None
    label: str = 'model'


def upscale_files(model: SRModel, plan: Plan, work: Work) -> None:
    """Does what was planned, with progress. Each image that cannot be upscaled is a line on stderr, and the others go on.

    Raises: UserError or RunError when there was such an image; WriteError when the disk is full.
    """
    for note in plan.notes:
        tqdm.write(note)
    failed: list[Exception] = []

    def skip(error: Exception) -> None:
        failed.append(error)
        tqdm.write(f'skipped: {printable(str(error))}', file=sys.stderr)
    for error in plan.failed.values():
        skip(error)
    for job in tqdm(plan.jobs, 'upscaling', disable=None if len(plan.jobs) > 1 else True, leave=False):
        try:
            upscale_file(model, job, work)
        except (UserError, RunError, WriteError) as error:
            if plan.title is None or getattr(error, 'errno', None) in DISK_IS_FULL:
                raise
            skip(error)
    if failed:
        kind = UserError if all(isinstance(error, UserError) for error in failed) else RunError
        raise kind(f'{plan.title}: {len(failed)} of {len(plan.failed) + len(plan.jobs)} images could not be upscaled, see '
                   'above; the others are done')


def upscale_file(model: SRModel, job: Job, work: Work) -> None:
    """Upscales one image file, all its frames, and its transparency by bicubic; prints a line about it.

    Where an allocation fails, the image is tried again with half the memory, down to LEAST_MEMORY.

    Raises: UserError when the file cannot be read or the model cannot make this size; RunError when the memory does not
        suffice; WriteError when a file cannot be written.
    """
    given = default_memory(model.inp_sub.device)[0] if work.memory is None else work.memory
    lowered = [given >> halvings for halvings in range(1, given.bit_length()) if given >> halvings >= LEAST_MEMORY]
    for memory in (work.memory, *lowered):
        try:
            _upscale_file(model, job, work, memory)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            if memory != work.memory:
                tqdm.write(f'{printable(job.file)}: an allocation failed; done with -memory {(memory or 0) >> 20}M')
            return
        release_unused(0)  # after the block, which holds the tensors of the failed attempt
    raise RunError(f'{job.file}: out of memory' + (f', also with -memory {lowered[-1] >> 20}M' if lowered else '')
                   + '; upscale it less, or give -memory a smaller size')


def _upscale_file(model: SRModel, job: Job, work: Work, memory: int | None) -> None:
    start = time.perf_counter()
    frames, values = job.header.frames, work.files.value_range
    if frames == 1:
        frame = suited(read_image(job.file, values), job.form)
        canvas = Canvas(job.target, *job.size, like=frame, options=work.files.write)
        lr = _upscale(model, job, frame, canvas, work.halo, memory, job.file.stem)
        canvas.save()
    else:
        animation = Animation(job.target, frames=frames, plays=job.header.plays, options=work.files.write,
                              modes={frame.mode for frame in read_frames(job.file, values)})

        def finished() -> Iterator[Canvas]:
            nonlocal lr, canvas
            for number, frame in enumerate(read_frames(job.file, values), 1):
                frame = suited(frame, job.form)
                canvas = animation.canvas(*work.size.of(job.file, frame.height, frame.width), like=frame)
                lr = _upscale(model, job, frame, canvas, work.halo, memory, f'{job.file.stem}, frame {number} of {frames}')
                yield canvas
        animation.write(finished())
    if job.comparison:
        write_comparison(job, work.label, values)
    seconds = time.perf_counter() - start
    what = f'{job.size[0]}x{job.size[1]}, {frames} frames' if frames > 1 else f'{job.size[0]}x{job.size[1]}'
    tqdm.write(f'{printable(job.file)} ({job.header.height}x{job.header.width}) -> {printable(job.target)} ({what}) in '
               f'{seconds:.1f} s on {model.inp_sub.device}')
    for note in canvas.notes:
        tqdm.write(f'{printable(job.target)}: {note}')
    if work.halo is not None:
        note = halo_note(model, lr, (canvas.height, canvas.width), work.halo, memory)
        tqdm.write(f'{printable(job.file)}: {note}')


def halo_note(model: SRModel, lr: np.ndarray, size: tuple[int, int], halo: int, memory: int | None) -> str:
    """What a halo changes, measured, for the user: (H, W, 3) and the arguments of `SRModel.upscale`."""
    error = halo_error(model, lr, size, halo, memory)
    return (f'what a halo of {halo} pixels changes is unknown: too little memory' if error is None else
            f'a halo of {halo} pixels changes the part in the middle by {255 * error:.3g} of 255 at most')


def _upscale(model: SRModel, job: Job, frame: Frame, canvas: Canvas, halo: int | None, memory: int | None,
             title: str) -> np.ndarray:
    """Upscales a frame into its canvas, with a progress bar. Returns the LR image, (H, W, 3)."""
    lr, size = frame.rgb(), (canvas.height, canvas.width)
    with tqdm(total=math.prod(size), desc=printable(title), unit='pixel', unit_scale=True, disable=None, leave=False) as bar:
        def write(rows: slice, columns: slice, rgb: Tensor) -> None:
            canvas.put(rows, columns, rgb[0])
            bar.update(math.prod(rgb.shape[2:]))
        try:
            model.upscale_parts(lr, size, write, memory, halo)
        except (UserError, RunError) as error:
            raise type(error)(f'{job.file}: {error}') from error
    return lr
