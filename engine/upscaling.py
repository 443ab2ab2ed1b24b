"""Upscaling image files: which files become which, to which size, and the work itself."""
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from imaging import (
    DEFAULTS,
    INPUT_SUFFIXES,
    MAX_PIXELS,
    OUTPUT_SUFFIXES,
    Animation,
    Canvas,
    Frame,
    WriteOptions,
    check_file,
    check_target,
    find_format,
    list_images,
    read_frames,
    read_header,
    read_image,
    suited,
)
from models.contract import SRModel
from models.upscale import halo_error
from utils import RunError, UserError, check_folder, check_output, distinct_stems, file_status, is_out_of_memory, printable

OUTPUT = Path('output')  # the folder for images without a given name


class Job(NamedTuple):
    """An image file and the file to write; without a `target` it goes to OUTPUT as NAME_HxW.

    Attributes:
        free: whether the format follows from the input, where the options name none.
    """
    file: Path
    target: Path | None
    name: str
    free: bool = False


class FileOptions(NamedTuple):
    """How files are read and written.

    Attributes:
        value_range: the values of black and white in files of more than 8 bits.
        first_frame: leave all frames of an animation but the first out.
    """
    write: WriteOptions = DEFAULTS
    value_range: tuple[float, float] | None = None
    first_frame: bool = False


FILE_DEFAULTS = FileOptions()


class Size(NamedTuple):
    """The size to upscale to: factors of height and width, or (`resolution`) exactly (height, width) in pixels."""
    scale: tuple[float, float] = (4.0, 4.0)
    resolution: tuple[int, int] | None = None

    def of(self, job: Job, height: int, width: int) -> tuple[int, int]:
        """(height, width) for an image of height × width. Raises UserError when that has more than MAX_PIXELS."""
        size = self.resolution or (round(height * self.scale[0]), round(width * self.scale[1]))
        if math.prod(size) > MAX_PIXELS:
            option = '-resolution' if self.resolution else '-scale'
            raise UserError(f'{option}: {job.file} would become {size[0]}x{size[1]}, more than {MAX_PIXELS:,} pixels')
        return size


def plan(source: Path, output: Path | None, options: WriteOptions = DEFAULTS) -> list[Job]:
    """The jobs for one image, or for every image of a folder.

    Args:
        output: a file, or a folder; None for OUTPUT.
    Raises: UserError when the source does not exist, or the output cannot be written or is an input.
    """
    if file_status(source) is None:
        raise UserError(f'{source}: no such image or folder')
    if source.is_dir():
        jobs = _plan_folder(source, output, options)
    else:
        check_file(source)
        into = output is not None and file_status(output) and output.is_dir()
        jobs = [Job(source, output / f'{source.stem}{_suffix(options)}' if into and output else output, source.stem,
                    free=output is None or bool(into))]
    if output is None:
        check_folder(OUTPUT)
        find_format(OUTPUT / f'a{_suffix(options)}', options)
    inputs = {_identity(job.file): job.file for job in jobs}
    for target in (job.target for job in jobs if job.target is not None):
        find_format(target, options)
        check_output(target, _suffixes(target, options))
        if _identity(target) and (file := inputs.get(_identity(target))):
            raise UserError(f'{target}: is the input {file} itself; give another name for the output')
    return jobs


def _plan_folder(source: Path, output: Path | None, options: WriteOptions) -> list[Job]:
    """The jobs for every image of a folder, under names that no two of them share."""
    folder = output or OUTPUT
    if folder.exists() and not folder.is_dir():
        raise UserError(f'{folder}: is a file, but the input is a folder; give the name of a folder for the output')
    if folder.resolve() == source.resolve():
        raise UserError(f'{folder}: is the input folder itself; give another one for the output')
    files = list_images(source, INPUT_SUFFIXES)
    return [Job(file, output / f'{name}{_suffix(options)}' if output else None, name, free=True)
            for file, name in zip(files, distinct_stems(files))]


def _suffix(options: WriteOptions, pages: bool = False) -> str:
    """That of a file without a given name: PNG, and TIFF for several pages, unless the options name a format."""
    return f'.{options.format.lower()}' if options.format else '.tif' if pages else '.png'


def _suffixes(target: Path, options: WriteOptions) -> tuple[str, ...]:
    """Those that a target may have: any, where the options name the format."""
    return (target.suffix.lower(),) if options.format else tuple(sorted(OUTPUT_SUFFIXES))


def _identity(file: Path) -> tuple[int, int] | None:
    """Equal for two paths of one file, through links or another spelling; None for a link that leads nowhere."""
    try:
        status = file_status(file)
    except UserError:
        return None
    return (status.st_dev, status.st_ino) if status else None


def upscale_file(model: SRModel, job: Job, size: Size, memory: int | None = None, halo: int | None = None,
                 options: FileOptions = FILE_DEFAULTS) -> None:
    """Upscales one image file, all its frames, and its transparency by bicubic; prints a line about it.

    Args:
        memory, halo: of `SRModel.upscale`. With a halo the error that it causes is measured and printed.
    Raises: UserError when the file cannot be read, when it would become too large for its format or for MAX_PIXELS,
        or smaller in height or width; RunError when the memory does not suffice.
    """
    try:
        _upscale_file(model, job, size, memory, halo, options)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(f'{job.file}: out of memory; give -memory a smaller size, or upscale it less') from error


def _upscale_file(model: SRModel, job: Job, size: Size, memory: int | None, halo: int | None, options: FileOptions) -> None:
    start = time.perf_counter()
    header = read_header(job.file)
    frames = 1 if options.first_frame else header.frames
    new = size.of(job, header.height, header.width)
    target = _target(job, new, options.write, header.pages and frames > 1)
    form = check_target(target, *new, frames, options.write)
    check_output(target, _suffixes(target, options.write))
    if _identity(target) == _identity(job.file):
        raise UserError(f'{target}: is the input itself; give another name for the output')
    if frames == 1:
        frame = suited(read_image(job.file, options.value_range), form)
        canvas = Canvas(target, *new, like=frame, options=options.write)
        lr = _upscale(model, frame, canvas, memory, halo, job.name)
        canvas.save()
    else:
        with Animation(target, frames=frames, plays=header.plays, options=options.write) as animation:
            for number, frame in enumerate(read_frames(job.file, options.value_range), 1):
                frame = suited(frame, form)
                canvas = animation.canvas(*size.of(job, frame.height, frame.width), like=frame)
                lr = _upscale(model, frame, canvas, memory, halo, f'{job.name}, frame {number} of {frames}')
                animation.append(canvas)
    seconds = time.perf_counter() - start
    name = printable(job.file)
    what = f'{new[0]}x{new[1]}, {frames} frames' if frames > 1 else f'{new[0]}x{new[1]}'
    tqdm.write(f'{name} ({header.height}x{header.width}) -> {printable(target)} ({what}) in {seconds:.1f} s')
    for note in canvas.notes:
        tqdm.write(f'{printable(target)}: {note}')
    if halo is not None:
        error = halo_error(model, lr, (canvas.height, canvas.width), halo, memory)
        tqdm.write(f'{name}: what a halo of {halo} pixels changes is unknown: too little memory' if error is None else
                   f'{name}: a halo of {halo} pixels changes the part in the middle by {255 * error:.3g} of 255 at most')


def _target(job: Job, size: tuple[int, int], options: WriteOptions, pages: bool) -> Path:
    """The file to write."""
    suffix = _suffix(options, pages)
    if job.target is None:
        return OUTPUT / f'{job.name}_{size[0]}x{size[1]}{suffix}'
    return job.target.with_suffix(suffix) if job.free else job.target


def _upscale(model: SRModel, frame: Frame, canvas: Canvas, memory: int | None, halo: int | None, title: str) -> np.ndarray:
    """Upscales a frame into its canvas, with a progress bar. Returns the LR image, (H, W, 3)."""
    lr, size = frame.rgb(), (canvas.height, canvas.width)
    with tqdm(total=math.prod(size), desc=printable(title), unit='pixel', unit_scale=True, disable=None, leave=False) as bar:
        def write(rows: slice, columns: slice, rgb: Tensor) -> None:
            canvas.put(rows, columns, rgb[0])
            bar.update(math.prod(rgb.shape[2:]))
        model.upscale_parts(lr, size, write, memory, halo)
    return lr
