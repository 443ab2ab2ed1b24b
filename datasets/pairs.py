"""LR images and their HR images, matched by name."""
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from utils import UserError, shortened

SHOWN = 3  # most names of a kind in a message
_FACTOR = r'\d+(?:\.\d+)?'
_SCALES = [re.compile(rf'(.+?)[_.-]?x{factors}', re.IGNORECASE)  # NAMEx4, NAME_x2.5; also NAMEx2x3
           for factors in (_FACTOR, f'{_FACTOR}(?:x{_FACTOR})?')]
# Text that all names of a folder begin or end with. Digits could be part of an image's number; only those of a factor may
# stand there (`LR4`).
_START = re.compile(r'(?:[^\d]|(?<=lr)\d)*[_.\- ]', re.IGNORECASE)
_END = re.compile(r'[_.\- ](?:[^\d]|(?<=lr)\d)*', re.IGNORECASE)


def match(lr: Sequence[Path], hr: Sequence[Path], first: int | None = None) -> list[tuple[Path, Path]]:
    """(LR, HR) for every image of two folders, or for the first LR images, in the order of `lr`.

    Names are compared without their suffix. They match where they are equal, without a factor at the end (`NAMEx4` and
    `NAME`), or without what all names of a folder begin or end with, set off by `_`, `-`, `.` or a space (`NAME_LR` and
    `NAME_HR`). One rule must match all images of both folders.

    Raises: UserError that names images without a partner, or two images of one name.
    """
    for files in (lr, hr):
        _check_once(files)
    wanted = set(lr[:first])
    best: list[tuple[Path, Path]] = []
    for lr_keys in _readings([file.stem for file in lr]):
        for hr_keys in _readings([file.stem for file in hr]):
            partners = dict(zip(hr_keys, hr))
            pairs = [(file, partners[key]) for key, file in zip(lr_keys, lr) if key in partners and file in wanted]
            if len(pairs) == len(wanted) and (len(pairs) == len(hr) or len(wanted) == first):
                return pairs
            best = max(best, pairs, key=len)
    raise UserError(f'{_place(lr)} and {_place(hr)}: LR and HR images must come in pairs of one name; '
                    + ', and '.join(_unmatched(best, lr[:first], hr)))


def _readings(stems: list[str]) -> Iterator[list[str]]:
    """What identifies each of a folder's images, by one rule after another; only where no two are then the same."""
    plain = [[matched[1] if (matched := scale.fullmatch(stem)) else stem for stem in stems] for scale in _SCALES]
    for keys in (stems, *plain, *map(_without_common, (stems, *plain))):
        if len(set(keys)) == len(keys) and all(keys):
            yield keys


def _without_common(stems: list[str]) -> list[str]:
    """The names without what all of them begin and end with; a single name stays as it is."""
    if len(stems) < 2:
        return stems
    start = _START.match(_common_start(stems))
    stems = [stem[start.end() if start else 0:] for stem in stems]
    common = _common_start([stem[::-1] for stem in stems])[::-1]
    ends = [len(common) - place for place in range(len(common)) if _END.fullmatch(common, place)]
    return [stem[:len(stem) - max(ends, default=0)] for stem in stems]


def _common_start(texts: list[str]) -> str:
    return ''.join(letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*texts)))


def _check_once(files: Sequence[Path]) -> None:
    """Raises UserError where two images differ in their suffix alone."""
    known: dict[str, Path] = {}
    for file in files:
        if (other := known.setdefault(file.stem, file)) is not file:
            raise UserError(f'{other} and {file.name}: two images of one name have no single partner; remove one')


def _unmatched(pairs: list[tuple[Path, Path]], lr: Sequence[Path], hr: Sequence[Path]) -> Iterator[str]:
    for kind, files, found in (('LR', lr, {pair[0] for pair in pairs}), ('HR', hr, {pair[1] for pair in pairs})):
        alone = [shortened(file.name) for file in files if file not in found]
        if alone:
            more = ', …' if len(alone) > SHOWN else ''
            yield f"{len(alone)} of {len(files)} {kind} images have no partner ({', '.join(alone[:SHOWN])}{more})"


def _place(files: Sequence[Path]) -> str:
    return str(files[0].parent)
