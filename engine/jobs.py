"""What is to be upscaled, and into which files: all of it is decided and checked before anything is computed."""
import argparse
import math
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from common.cli import Parser
from engine.files import FileOptions
from engine.inputs import Found, Inputs, find_inputs
from engine.sizes import Size
from imaging import MAX_PIXELS, OUTPUT_SUFFIXES, Format, Header, WriteOptions, check_target, find_format, read_header
from utils import ROOT, UserError, check_folder, check_output, distinct_stems, file_status, printable

OUTPUT = Path('output')  # the folder for images without a given name


class Job(NamedTuple):
    """An image file and the file to write.

    Attributes:
        header: what the image file holds.
        size: (height, width) of the result.
        form: the format of the target.
        comparison: a second file to write, with bicubic beside the result; None for none.
    """
    file: Path
    target: Path
    header: Header
    size: tuple[int, int]
    form: Format
    comparison: Path | None = None

    @property
    def writes(self) -> list[Path]:
        """The files to write."""
        return [self.target] if self.comparison is None else [self.target, self.comparison]


class Plan(NamedTuple):
    """What a command is to do.

    Attributes:
        failed: images that cannot be upscaled, by file: why.
        finished: how many are upscaled already.
        title: of all inputs, for messages; None where the input is a single image, whose error is the command's.
        notes: lines for the user.
    """
    jobs: list[Job]
    failed: dict[Path, UserError]
    finished: int
    title: str | None
    notes: list[str]


class JobOptions(NamedTuple):
    """Which images are upscaled.

    Attributes:
        words: files, folders and patterns.
        output: a file, or a folder; None for OUTPUT.
        recursive: look into folders of folders.
        resume: leave out what is finished.
        compare: write NAME_compare.png too.
    """
    words: Sequence[str]
    output: Path | None = None
    recursive: bool = False
    resume: bool = False
    compare: bool = False


def add_job_options(parser: Parser) -> None:
    """The options of inputs and outputs."""
    parser.option('input', nargs='+', default=[str(ROOT / 'assets/harbour.png')], metavar='PATH',
                  help="images, folders of images, and patterns such as 'x/*.png' (default: the bundled sample)")
    parser.option('recursive', action='store_true', help='also the folders in folders; the tree is mirrored below -output')
    parser.option('output', type=Path, metavar='PATH',
                  help='image to write, or folder when the input is one or there are several (default: output/)')
    parser.option('resume', action='store_true',
                  help='leave out images whose output is newer and of the right size; other settings are not compared')
    parser.option('compare', action='store_true', help='write NAME_compare.png too: bicubic and the result, side by side')


def chosen_jobs(options: argparse.Namespace) -> JobOptions:
    """What the options of `add_job_options` say."""
    return JobOptions(options.input, options.output, options.recursive, options.resume, options.compare)


def plan(options: JobOptions, size: Size, files: FileOptions) -> Plan:
    """The jobs of a command. Writes nothing.

    Raises: UserError when an input does not exist, when an output cannot be written or is an input, when two images would
        become one file, and when the only image cannot be upscaled.
    """
    folder = OUTPUT if options.output is None else options.output
    inputs = find_inputs(options.words, options.recursive, left_out={Path(os.path.realpath(folder))})
    if not inputs.single:
        _check_output_folder(folder, options, len(inputs.images))
    if options.output is None:
        check_folder(OUTPUT)
    find_format(_example(options, inputs, files.write), files.write)
    jobs: list[Job] = []
    failed: dict[Path, UserError] = {}
    for item, name in _named(inputs.images):
        try:
            jobs.append(_job(item, name, inputs.single, options, size, files))
        except UserError as error:
            if inputs.single:
                raise
            failed[item.file] = error
    for target in (target for job in jobs for target in job.writes):
        check_output(target, (target.suffix.lower(),) if files.write.format else tuple(sorted(OUTPUT_SUFFIXES)))
    _check_distinct(jobs, [item.file for item in inputs.images])
    unfinished = [job for job in jobs if not (options.resume and _is_finished(job))]
    finished, notes = len(jobs) - len(unfinished), inputs.notes()
    if finished:
        notes.append(f'{finished} of {len(inputs.images)} images are finished already')
    notes += [f'{printable(job.file)}: -resolution changes the ratio of its sides, {job.header.height}x{job.header.width} '
              f'to {job.size[0]}x{job.size[1]}' for job in unfinished if size.changes_ratio(*job.header[:2])]
    title = None if inputs.single else options.words[0] if len(options.words) == 1 else '-input'
    return Plan(unfinished, failed, finished, title, notes)


def _check_output_folder(folder: Path, options: JobOptions, count: int) -> None:
    """Raises UserError where the output of several images is no folder, or one of the inputs."""
    status = file_status(folder)
    if status is not None and not folder.is_dir():
        raise UserError(f'{folder}: is a file, but the input is a folder, or several; give the name of a folder')
    if status is None and folder.suffix.lower() in OUTPUT_SUFFIXES:
        raise UserError(f'{folder}: is the name of one image, but the input is a folder, or several; give that of a folder')
    for word in options.words:
        if status is not None and os.path.isdir(word) and os.path.samefile(word, folder):
            raise UserError(f'{folder}: is the input folder itself; give another one for the output')


def _example(options: JobOptions, inputs: Inputs, write: WriteOptions) -> Path:
    """An output, for its format."""
    if inputs.single and options.output is not None and not options.output.is_dir():
        return options.output
    return (OUTPUT if options.output is None else options.output) / f'a{_suffix(write)}'


def _suffix(write: WriteOptions, pages: bool = False) -> str:
    """That of a file without a given name: PNG, and TIFF for several pages, unless the options name a format."""
    return f'.{write.format.lower()}' if write.format else '.tif' if pages else '.png'


def _named(images: list[Found]) -> Iterator[tuple[Found, str]]:
    """The images, each with a name for its result that no other image for the same folder has."""
    together: dict[Path, list[Found]] = {}
    for item in images:
        together.setdefault(item.folder, []).append(item)
    for group in together.values():
        yield from zip(group, distinct_stems([item.file for item in group]))


def _job(item: Found, name: str, single: bool, options: JobOptions, size: Size, files: FileOptions) -> Job:
    """Raises: UserError when the image cannot be read, or becomes too large or smaller, or its format cannot hold it."""
    header = read_header(item.file)
    frames = 1 if files.first_frame else header.frames
    new = size.of(item.file, header.height, header.width)
    if single and options.output is not None and not options.output.is_dir():
        target = options.output
    else:
        suffix = _suffix(files.write, header.pages and frames > 1)
        folder = OUTPUT if options.output is None else options.output
        target = folder / item.folder / f'{name}{f"_{new[0]}x{new[1]}" if options.output is None else ""}{suffix}'
    comparison = target.with_name(f'{target.stem}_compare.png') if options.compare else None
    if comparison and 2 * math.prod(new) > MAX_PIXELS:
        raise UserError(f'{item.file}: a comparison would have more than {MAX_PIXELS:,} pixels; leave -compare out')
    return Job(item.file, target, header._replace(frames=frames), new, check_target(target, *new, frames, files.write),
               comparison)


def _check_distinct(jobs: list[Job], inputs: list[Path]) -> None:
    """Raises UserError when a file to write is an input, or that of another job: by whatever path, links followed."""
    known = {identity: file for file in inputs if (identity := _identity(file))}
    ignoring: dict[Path, bool] = {}  # folders: whether their file system ignores case
    taken: dict[Path, Job] = {}
    for job in jobs:
        for target in job.writes:
            identity = _identity(target)
            if identity and (file := known.get(identity)):
                which = '' if target == file else f' {file}'
                raise UserError(f'{target}: is the input{which} itself; give another name for the output')
            key = Path(os.path.realpath(target))
            if key.parent not in ignoring:
                ignoring[key.parent] = ignores_case(key.parent)
            if ignoring[key.parent]:
                key = Path(unicodedata.normalize('NFC', str(key)).casefold())
            if key in taken:
                raise UserError(f'{taken[key].file} and {job.file} would both become {target}; upscale them one after the '
                                'other, into different folders')
            taken[key] = job


def _identity(file: Path) -> tuple[int, int] | None:
    """Equal for two paths of one file, through links or another spelling; None for a link that leads nowhere."""
    try:
        status = file_status(file)
    except UserError:
        return None
    return (status.st_dev, status.st_ino) if status else None


def ignores_case(folder: Path) -> bool:
    """Whether names that differ in case alone name one file: found out by the nearest folder that exists and has letters."""
    for place in (folder, *folder.parents):
        other = place.with_name(place.name.swapcase()) if place.name else place
        if other.name != place.name and place.exists():
            return other.exists() and other.samefile(place)
    return False


def _is_finished(job: Job) -> bool:
    """Whether everything that a job writes is there, made after its image file, and of its size."""
    try:
        return (all(is_made_after(target, job.file) for target in job.writes)
                and read_header(job.target)[:2] == job.size)
    except UserError:
        return False


def is_made_after(target: Path, source: Path) -> bool:
    """Whether a file is there, and was made after another one.

    Files are written whole or not at all, so one that is there is complete. The time of the last change of an input (ctime)
    counts too: a file that replaces it may carry an older time.
    """
    old, new = file_status(source), file_status(target)
    return (old is not None and new is not None
            and new.st_mtime_ns >= old.st_mtime_ns and new.st_ctime_ns >= old.st_ctime_ns)
