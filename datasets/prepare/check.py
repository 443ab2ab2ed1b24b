"""Checks the folders of a data set: number and names of the images, their sizes, and that every image can be decoded."""
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets.parallel import in_parallel
from datasets.prepare.sources import Folder
from imaging import list_images, open_image
from utils import UserError

_NAMED = 3  # files named in a message, which then gives the number of the others


def is_complete(folder: Folder, root: Path) -> bool:
    """Whether a folder has all its images, as far as their names tell."""
    names = _image_names(root / folder.path)
    return len(names) >= folder.count and names.issuperset(_numbered(folder))


def check(folders: Sequence[Folder], root: Path, title: str) -> list[str]:
    """The problems of a data set, one line each; decodes every image.

    Args:
        root: the data root.
        title: of the progress bar.
    """
    problems = []
    files = []
    for folder in folders:
        try:
            files += list_images(root / folder.path)
        except UserError as error:
            problems.append(f'{error}; expected {folder.count} images')
    sizes = {}
    for file, result in _decode_all(files, title):
        if isinstance(result, str):
            problems.append(result)
        else:
            sizes[file] = result
    for folder in folders:
        problems += [*_check_names(folder, root), *_check_sizes(folder, root, sizes)]
    return problems


def _decode_all(files: Sequence[Path], title: str) -> Iterator[tuple[Path, tuple[int, int] | str]]:
    """(file, its (height, width) or a line that says what is wrong with it) for every file."""
    yield from zip(files, in_parallel(_decode, files, f'checking {title}'))


def _decode(file: Path) -> tuple[int, int] | str:
    """(height, width) of an image that can be decoded, otherwise a line that says why not."""
    try:
        return open_image(file).size[::-1]
    except UserError as error:
        return str(error)


def _check_names(folder: Folder, root: Path) -> Iterator[str]:
    """A line when a folder holds images, but not the right ones."""
    names = _image_names(root / folder.path)
    hr = root / folder.hr if folder.hr else None
    originals = _image_names(hr) if hr else set()
    if originals:
        expected = {_lr_name(name, folder.scale) for name in originals}
        origin = f'{len(expected)}, one for each in {hr}'
    else:
        expected = _numbered(folder)
        origin = f'{folder.count}'
    count = len(expected) or folder.count
    if names and (len(names) != count or (expected and names != expected)):
        surplus = names - expected if expected else set()
        yield (f'{root / folder.path}: holds {len(names)} images, expected {origin}'
               f"{_listed('missing', expected - names)}{_listed('not expected', surplus)}")


def _check_sizes(folder: Folder, root: Path, sizes: dict[Path, tuple[int, int]]) -> Iterator[str]:
    """A line for each image of the wrong size. `sizes`: (height, width) of the readable files."""
    originals = {_lr_name(file.name, folder.scale): size for file, size in sizes.items()
                 if folder.hr and file.parent == root / folder.hr}
    for file, (height, width) in sizes.items():
        if file.parent != root / folder.path:
            continue
        size = f'{file}: is {height}x{width} (height x width), expected'
        if max(height, width) < folder.long_side:
            yield f'{size} a longer side of at least {folder.long_side} pixels'
        if file.name in originals:
            expected = tuple(side // folder.scale for side in originals[file.name])
            if (height, width) != expected:
                yield f'{size} {expected[0]}x{expected[1]}: its HR image divided by {folder.scale}'


def _image_names(folder: Path) -> set[str]:
    """File names of the images in a folder, which may be missing or empty."""
    try:
        return {file.name for file in list_images(folder)}
    except UserError:
        return set()


def _numbered(folder: Folder) -> set[str]:
    """The file names that a folder must have; none where they are not numbers."""
    if folder.first is None:
        return set()
    first = Path(folder.first)
    start, digits = int(first.stem), len(first.stem)
    return {f'{number:0{digits}d}{first.suffix}' for number in range(start, start + folder.count)}


def _lr_name(name: str, scale: int) -> str:
    """File name of the LR image of an HR image."""
    return f'{Path(name).stem}x{scale}.png'


def _listed(title: str, names: set[str]) -> str:
    """'; title: a.png, b.png, c.png and 7 more', nothing without names."""
    more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
    return f"; {title}: {', '.join(sorted(names)[:_NAMED])}{more}" if names else ''
