"""Whether a data set's folders are what they should be: number and names of images, sizes, and every one readable."""
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets.parallel import in_parallel
from datasets.prepare.sources import Folder
from imaging import list_images, open_image
from utils import UserError

NAMED = 3  # files that a line names before it says how many more there are


def is_complete(folder: Folder, root: Path) -> bool:
    """Whether a folder has all its images, as far as their names tell."""
    names = image_names(root / folder.path)
    return len(names) >= folder.count and names.issuperset(numbered(folder))


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
    for file, result in decode_all(files, title):
        if isinstance(result, str):
            problems.append(result)
        else:
            sizes[file] = result
    for folder in folders:
        problems += [*check_names(folder, root), *check_sizes(folder, root, sizes)]
    return problems


def decode_all(files: Sequence[Path], title: str) -> Iterator[tuple[Path, tuple[int, int] | str]]:
    """(file, its (height, width) or else what is wrong with it) for every file."""
    yield from zip(files, in_parallel(decode, files, f'checking {title}'))


def decode(file: Path) -> tuple[int, int] | str:
    """(height, width) of an image that can be decoded, otherwise a line that says why not."""
    try:
        return open_image(file).size[::-1]
    except UserError as error:
        return str(error)


def check_names(folder: Folder, root: Path) -> Iterator[str]:
    """A line when a folder holds images, but not the right ones."""
    names = image_names(root / folder.path)
    originals = image_names(root / folder.hr) if folder.hr else set()
    if originals:
        expected = {lr_name(name, folder.scale) for name in originals}
        origin = f'{len(expected)}, one for each in {root / folder.hr}'
    else:
        expected = numbered(folder)
        origin = f'{folder.count}'
    count = len(expected) or folder.count
    if names and (len(names) != count or (expected and names != expected)):
        surplus = names - expected if expected else set()
        yield (f'{root / folder.path}: holds {len(names)} images, expected {origin}'
               f"{listed('missing', expected - names)}{listed('not expected', surplus)}")


def check_sizes(folder: Folder, root: Path, sizes: dict[Path, tuple[int, int]]) -> Iterator[str]:
    """A line for each image of the wrong size. `sizes`: (height, width) of the readable files."""
    originals = {lr_name(file.name, folder.scale): size for file, size in sizes.items()
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


def image_names(folder: Path) -> set[str]:
    """File names of the images in a folder, which may be missing or empty."""
    try:
        return {file.name for file in list_images(folder)}
    except UserError:
        return set()


def numbered(folder: Folder) -> set[str]:
    """The file names that a folder must have; none where they are not numbers."""
    if folder.first is None:
        return set()
    digits, suffix = re.fullmatch(r'(\d+)(\..+)', folder.first).groups()
    return {f'{number:0{len(digits)}d}{suffix}' for number in range(int(digits), int(digits) + folder.count)}


def lr_name(name: str, scale: int) -> str:
    """File name of the LR image of an HR image."""
    return f'{Path(name).stem}x{scale}.png'


def listed(title: str, names: set[str]) -> str:
    """'; title: a.png, b.png, c.png and 7 more', nothing without names."""
    more = f' and {len(names) - NAMED} more' if len(names) > NAMED else ''
    return f"; {title}: {', '.join(sorted(names)[:NAMED])}{more}" if names else ''
