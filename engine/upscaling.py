"""Upscaling image files: which files become which, to which size, and the work itself."""
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from imaging import MAX_PIXELS, SUFFIXES, check_file, check_size, list_images, open_image, save_image, to_image, to_rgb
from models.contract import SRModel
from models.upscale import halo_error
from utils import RunError, UserError, check_folder, check_output, distinct_stems, file_status, is_out_of_memory, printable

OUTPUT = Path('output')  # the folder for images without a given name
_WITH_ALPHA = ('.png', '.webp', '.tif', '.tiff')


class Job(NamedTuple):
    """An image file and the file to write; without a `target` it goes to OUTPUT as NAME_HxW.png."""
    file: Path
    target: Path | None
    name: str


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


def plan(source: Path, output: Path | None) -> list[Job]:
    """The jobs for one image, or for every image of a folder.

    Args:
        output: a file, or a folder; None for OUTPUT.
    Raises: UserError when the source does not exist, or the output cannot be written or is an input.
    """
    if file_status(source) is None:
        raise UserError(f'{source}: no such image or folder')
    if source.is_dir():
        jobs = _plan_folder(source, output)
    else:
        check_file(source)
        if output is not None and file_status(output) and output.is_dir():
            output = output / f'{source.stem}.png'
        jobs = [Job(source, output, source.stem)]
    if output is None:
        check_folder(OUTPUT)
    inputs = {_identity(job.file): job.file for job in jobs}
    for target in (job.target for job in jobs if job.target is not None):
        check_output(target, tuple(sorted(SUFFIXES)))
        if _identity(target) and (file := inputs.get(_identity(target))):
            raise UserError(f'{target}: is the input {file} itself; give another name for the output')
    return jobs


def _plan_folder(source: Path, output: Path | None) -> list[Job]:
    """The jobs for every image of a folder, under names that no two of them share."""
    folder = output or OUTPUT
    if folder.exists() and not folder.is_dir():
        raise UserError(f'{folder}: is a file, but the input is a folder; give the name of a folder for the output')
    if folder.resolve() == source.resolve():
        raise UserError(f'{folder}: is the input folder itself; give another one for the output')
    files = list_images(source)
    return [Job(file, output / f'{name}.png' if output else None, name) for file, name in zip(files, distinct_stems(files))]


def _identity(file: Path) -> tuple[int, int] | None:
    """Equal for two paths of one file, through links or another spelling; None for a link that leads nowhere."""
    try:
        status = file_status(file)
    except UserError:
        return None
    return (status.st_dev, status.st_ino) if status else None


def upscale_file(model: SRModel, job: Job, size: Size, memory: int | None = None, halo: int | None = None) -> None:
    """Upscales one image file, its transparency by bicubic, and prints a line about it.

    Args:
        memory, halo: of `SRModel.upscale`. With a halo the error that it causes is measured and printed.
    Raises: UserError when the file cannot be read, when it would become too large for its format or for MAX_PIXELS,
        or smaller in height or width; RunError when the memory does not suffice.
    """
    try:
        _upscale_file(model, job, size, memory, halo)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(f'{job.file}: out of memory; give -memory a smaller size, or upscale it less') from error


def _upscale_file(model: SRModel, job: Job, size: Size, memory: int | None, halo: int | None) -> None:
    image = open_image(job.file)
    lr, alpha = to_rgb(image), image.convert('RGBA').getchannel('A') if image.has_transparency_data else None
    del image  # not needed amid the work
    height, width = lr.shape[:2]
    new = size.of(job, height, width)
    target = job.target or OUTPUT / f'{job.name}_{new[0]}x{new[1]}.png'
    check_size(target, new[0], new[1])
    check_output(target, tuple(sorted(SUFFIXES)))
    start = time.perf_counter()
    upscaled = _upscale(model, lr, new, memory, halo, printable(job.name))
    if alpha is not None and target.suffix.lower() in _WITH_ALPHA:
        upscaled.putalpha(alpha.resize(upscaled.size, Image.Resampling.BICUBIC))
    save_image(upscaled, target)
    seconds = time.perf_counter() - start
    name = printable(job.file)
    tqdm.write(f'{name} ({height}x{width}) -> {printable(target)} ({new[0]}x{new[1]}) in {seconds:.1f} s')
    if halo is not None:
        error = halo_error(model, lr, new, halo, memory)
        tqdm.write(f'{name}: what a halo of {halo} pixels changes is unknown: too little memory' if error is None else
                   f'{name}: a halo of {halo} pixels changes the part in the middle by {255 * error:.3g} of 255 at most')


def _upscale(model: SRModel, lr: np.ndarray, size: tuple[int, int], memory: int | None, halo: int | None,
             title: str) -> Image.Image:
    """(H, W, 3) uint8 → the 8-bit image, with a progress bar. Filled part by part: floats would take four times as much."""
    upscaled = Image.new('RGB', size[::-1])
    with tqdm(total=math.prod(size), desc=title, unit='pixel', unit_scale=True, disable=None, leave=False) as bar:
        def write(rows: slice, columns: slice, rgb: Tensor) -> None:
            part = to_image(rgb[0])
            upscaled.paste(part, (columns.start, rows.start))
            bar.update(math.prod(part.size))
        model.upscale_parts(lr, size, write, memory, halo)
    return upscaled
