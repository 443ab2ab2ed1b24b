"""Upscaling films: python demo.py -input a.mp4 -scale 2 -output b.mp4

Frames go through a pipeline: one thread decodes, this one upscales, another one encodes. Each holds a few frames at a time.
"""
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from engine.files import FileOptions
from engine.jobs import OUTPUT, JobOptions, is_made_after
from engine.pipeline import ahead, behind
from engine.sizes import Size
from engine.upscaling import halo_note
from imaging import Frame
from imaging.film_formats import FILM_FORMATS, INPUT_FILM_SUFFIXES, OUTPUT_FILM_SUFFIXES, Shape, check_film_target
from imaging.film_reading import Film, FilmFrame, FilmHeader
from imaging.film_writing import FilmWriter
from models.contract import SRModel
from utils import RunError, UserError, check_output, file_status, is_out_of_memory, nearest_name, printable, shortened

if TYPE_CHECKING:
    from av import Packet


class FilmJob(NamedTuple):
    """A film and the one to write.

    Attributes:
        shape: of the new frames.
        background: RGB of 0 to 255, under transparent pixels where the new film has no transparency.
        notes: lines for the user.
        finished: whether there is nothing to do.
    """
    source: Path
    target: Path
    header: FilmHeader
    shape: Shape
    quality: int
    background: tuple[int, int, int]
    notes: list[str]
    finished: bool = False


def plan_film(options: JobOptions, size: Size, files: FileOptions) -> FilmJob | None:
    """The work on a film; None when no input is one, by its suffix. Writes nothing.

    Raises: UserError when the film cannot be read, or the new one cannot be written; for several inputs.
    """
    films = films_among(options.words)
    if not films:
        return None
    if len(options.words) > 1:
        raise UserError(f'-input: {films[0]} is a film; give it alone, because films are upscaled one at a time')
    source, write = films[0], files.write
    _check_options(files)
    with Film(source) as film:
        header = film.read_header()
    old, notes = header.shape, []
    height, width = size.of(source, old.height, old.width)
    form = FILM_FORMATS.get(_target(source, options.output, write.format, (height, width)).suffix.lower())
    if form and form.codec.even and size.option != 'resolution' and (height % 2 or width % 2):
        notes.append(f'frames are {height + height % 2}x{width + width % 2} instead of {height}x{width}, because '
                     f'{form.codec.title} has even sides')
        height, width = height + height % 2, width + width % 2
    target = _target(source, options.output, write.format, (height, width))
    check_output(target, OUTPUT_FILM_SUFFIXES)
    check_film_target(target, height, width)
    if file_status(target) and source.samefile(target):
        raise UserError(f'{target}: is the input itself; give another name for the output')
    codec = FILM_FORMATS[target.suffix.lower()].codec
    if old.alpha and not codec.alpha:
        notes.append(f'{codec.title} holds no transparency: transparent pixels are blended onto '
                     f'{",".join(map(str, write.background))}')
    if header.interlaced:
        notes.append('the film is interlaced; its frames are upscaled as they are, both half images together')
    if size.changes_ratio(old.height, old.width):
        notes.append(f'-resolution changes the ratio of the sides, {old.height}x{old.width} to {height}x{width}')
    shape = old._replace(height=height, width=width, alpha=old.alpha and codec.alpha,
                         bits=8 if old.alpha else write.bits or old.bits)
    finished = options.resume and _is_finished(source, target, (height, width))
    return FilmJob(source, target, header, shape, write.quality, write.background, notes, finished)


def films_among(words: Sequence[str]) -> list[Path]:
    """The films among inputs, by their suffixes."""
    return [path for path in map(Path, words) if path.suffix.lower() in INPUT_FILM_SUFFIXES and not path.is_dir()]


def _is_finished(source: Path, target: Path, size: tuple[int, int]) -> bool:
    """Whether the new film is there, made after the old one, and of its size."""
    if not is_made_after(target, source):
        return False
    try:
        with Film(target) as film:
            return film.read_header().shape[:2] == size
    except UserError:
        return False


def _check_options(files: FileOptions) -> None:
    """Raises UserError for values of options that no film has."""
    if files.write.bits == 16:
        raise UserError('-bits 16: films have 8 or 10 bits; leave it out to keep those of the input')
    names = [suffix[1:] for suffix in OUTPUT_FILM_SUFFIXES]
    if files.write.format is not None and files.write.format.lower() not in names:
        raise UserError(f'-format {shortened(files.write.format, quotes=False)}: no format of a film, '
                        f'{nearest_name(files.write.format, names)}')


def _target(source: Path, output: Path | None, form: str | None, size: tuple[int, int]) -> Path:
    """The file to write: in the format of the input, or mp4, where none is named."""
    if output is not None and not output.is_dir():
        return output
    suffix = f'.{form.lower()}' if form else source.suffix.lower()
    suffix = suffix if suffix in OUTPUT_FILM_SUFFIXES else '.mp4'
    if output is not None:
        return output / f'{source.stem}{suffix}'
    return OUTPUT / f'{source.stem}_{size[0]}x{size[1]}{suffix}'


def upscale_film(model: SRModel, job: FilmJob, memory: int | None = None, halo: int | None = None) -> None:
    """Upscales every frame of a film, and its transparency by bicubic; prints a line about it.

    Args:
        memory, halo: of `SRModel.upscale`. With a halo the error that it causes in the last frame is measured and printed.
    Raises: UserError when the film is damaged, or the model cannot make this size; RunError when the memory does not
        suffice; WriteError when the file cannot be written. No file is left then.
    """
    if job.finished:
        return tqdm.write(f'{printable(job.target)}: is finished already')
    try:
        _upscale_film(model, job, memory, halo)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(f'{job.source}: out of memory; give -memory a smaller size, or upscale it less') from error


def _upscale_film(model: SRModel, job: FilmJob, memory: int | None, halo: int | None) -> None:
    start, old = time.perf_counter(), job.header.shape
    with (Film(job.source) as film, FilmWriter(job.target, job.shape, quality=job.quality, source=film) as writer,
          closing(ahead(film.items(job.header.turn, job.shape.bits, old.alpha))) as items,
          tqdm(total=job.header.frames, desc=printable(job.source.stem), unit='frame', disable=None, leave=False) as bar):
        last: np.ndarray | None = None
        count = 0

        def upscaled() -> Iterator['FilmFrame | Packet']:
            nonlocal last, count
            for item in items:
                if isinstance(item, FilmFrame):
                    last = item.frame.rgb()
                    item = item._replace(frame=_upscale(model, item.frame, last, job, memory, halo))
                    count += bar.update() or 1
                yield item
        behind(writer.write, upscaled())
    name, target, (height, width) = printable(job.source), printable(job.target), job.shape[:2]
    tqdm.write(f'{name} ({old.height}x{old.width}) -> {target} ({height}x{width}, {count} frames) in '
               f'{time.perf_counter() - start:.1f} s on {model.inp_sub.device}')
    for note in job.notes + writer.notes:
        tqdm.write(f'{target}: {note}')
    if halo is not None and last is not None:
        tqdm.write(f'{name}: {halo_note(model, last, (height, width), halo, memory)}')


def _upscale(model: SRModel, frame: Frame, lr: np.ndarray, job: FilmJob, memory: int | None, halo: int | None) -> Frame:
    """An upscaled frame, of the type of its pixels.

    Args:
        lr: (H, W, 3), its colours.
    """
    size = job.shape.height, job.shape.width
    full = np.float32(np.iinfo(lr.dtype).max)
    pixels = np.empty((*size, 3), lr.dtype)

    def write(rows: slice, columns: slice, rgb: Tensor) -> None:
        values = rgb[0].detach().to('cpu', torch.float32).movedim(0, -1).numpy()
        pixels[rows, columns] = np.rint(values * full)
    model.upscale_parts(lr, size, write, memory, halo)
    if frame.alpha is None:
        return Frame(pixels=pixels)
    alpha = np.asarray(Image.fromarray(frame.alpha).resize(size[::-1], Image.Resampling.BICUBIC))
    if job.shape.alpha:
        return Frame(pixels=pixels, alpha=alpha)
    share, background = alpha[..., None] / np.float32(255), np.array(job.background, np.float32)
    return Frame(pixels=np.rint(background + share * (pixels - background)).astype(np.uint8))
