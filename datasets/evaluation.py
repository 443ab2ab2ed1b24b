"""Evaluation pairs by the published protocols: where the LR image comes from, and how HR is cut to it."""
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.arrays import resize_bicubic
from datasets.registry import WRAPPERS
from imaging.reading import read_rgb, read_size
from utils import UserError

PREPARED_SCALES = (2, 3, 4)  # the factors for which the sets come with LR images
BORDERS = {'benchmark': 0, 'div2k': 6}  # pixels that a protocol removes at each side besides ceil(s)
OWN_LR, PIL_LR = 'LR_bicubic', 'pil_bicubic'  # names of the two sources, as results.json writes them


class Pair(NamedTuple):
    """One image of an evaluation: its file name, LR (h, w, 3) and HR (H, W, 3) uint8, H = round(h·s)."""
    name: str
    lr: np.ndarray
    hr: np.ndarray


def lr_side(side: int, scale: float) -> int:
    """floor(side / scale), safe from rounding where the division is exact."""
    return math.floor(side / scale + 1e-9)


def border(protocol: str, scale: float) -> int:
    """Pixels that a protocol removes at each side before it compares."""
    return math.ceil(scale) + BORDERS[protocol]


@WRAPPERS.register('sr-evaluation', provided=('dataset', 'data_root'))
class Evaluation:
    """A set of images at a list of scales.

    The LR image is the set's own (`lr_path`/X{s}/NAMEx{s}.png) at ×2, ×3 and ×4, and otherwise Pillow's bicubic of the HR
    image cut to round(floor(HR / s)·s) from the top left.

    Args:
        name: of the set, in tables.
        protocol: 'benchmark' (Y, border ceil(s)) or 'div2k' (RGB, border ceil(s) + 6).
        scales: real factors ≥ 1, one or a list.
        lr_path: folder of the set's own LR images; relative to the data root.
        lr: 'own' as above ('div2k' falls back on Pillow where a factor's folder is absent), or 'pil' at every scale.
        crop: HR side of a fixed centre crop; None for whole images. The LR image is then always Pillow's.
    """

    def __init__(self, *, dataset, data_root, name: str, protocol: str, scales: float | list[float],
                 lr_path: str | None = None, lr: str = 'own', crop: int | None = None):
        if protocol not in BORDERS:
            raise ValueError(f"protocol is {protocol!r}, expected one of {', '.join(BORDERS)}")
        if lr not in ('own', 'pil'):
            raise ValueError(f"lr is {lr!r}, expected 'own' or 'pil'")
        scales = scales if isinstance(scales, list) else [scales]
        if not scales or not all(1 <= s < math.inf for s in scales):
            raise ValueError(f'scales is {scales!r}, expected numbers of at least 1')
        if crop is not None and crop < 1:
            raise ValueError(f'crop is {crop!r}, expected a side in pixels')
        if not hasattr(dataset, 'files'):
            raise ValueError("needs a dataset of single images, such as 'image-folder'")
        self.dataset, self.name, self.protocol, self.crop = dataset, name, protocol, crop
        self.scales = [float(s) for s in scales]
        self.lr_path = Path(data_root) / lr_path if lr_path and lr == 'own' and crop is None else None
        for scale in self.scales:  # what can be known now must not end an evaluation half-way
            self.source(scale)
            for index in range(len(self)):
                self.check_size(index, scale)

    def __len__(self) -> int:
        return len(self.dataset.files)

    def source(self, scale: float) -> str:
        """Where LR images of this scale come from: OWN_LR or PIL_LR."""
        if self.lr_path is None or scale not in PREPARED_SCALES:
            return PIL_LR
        folder = self.lr_path / f'X{int(scale)}'
        if folder.is_dir():
            return OWN_LR
        if self.protocol == 'div2k':
            return PIL_LR
        raise UserError(f"{folder}: no such folder of LR images; set 'lr: pil' to make them by Pillow's bicubic")

    def pairs(self, scale: float, which: slice = slice(None)) -> Iterator[Pair]:
        """The images at one scale, or `which` of them, read as they are asked for."""
        source = self.source(scale)
        for index in range(len(self))[which]:
            file = self.dataset.files[index]
            hr = self.dataset[index]
            if self.crop is not None:
                top, left = (max(0, (extent - self.crop) // 2) for extent in hr.shape[:2])
                hr = hr[top:top + self.crop, left:left + self.crop]
            height, width = (lr_side(extent, scale) for extent in hr.shape[:2])
            hr = hr[:round(height * scale), :round(width * scale)]
            lr = self.read_own(file, scale, (height, width)) if source == OWN_LR else resize_bicubic(hr, height, width)
            yield Pair(file.name, lr, hr)

    def fingerprint(self, scale: float) -> str:
        """Equal for equal evaluations: of the protocol, and of every image's name, size in bytes and modification time."""
        files = list(self.dataset.files)
        if self.source(scale) == OWN_LR:
            files += [self.own_file(file, scale) for file in files]
        known = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) if file.is_file() else (file.name,)
                 for file in files]
        described = [self.name, self.protocol, scale, self.crop, self.source(scale), known]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def check_size(self, index: int, scale: float) -> None:
        """Raises UserError when the protocol leaves nothing of an image at this scale."""
        height, width = (min(side, self.crop or side) for side in self.dataset.size(index))
        left = min(round(lr_side(side, scale) * scale) for side in (height, width)) - 2 * border(self.protocol, scale)
        if left < 1:
            raise UserError(f"{self.dataset.files[index]}: {height}x{width} is too small for protocol '{self.protocol}' at "
                            f'scale {scale:g}, which removes {border(self.protocol, scale)} pixels at each side')

    def read_own(self, hr_file: Path, scale: float, size: tuple[int, int]) -> np.ndarray:
        """The set's own LR image of an HR file, which must have `size` = floor(HR / s)."""
        file = self.own_file(hr_file, scale)
        if file.is_file() and read_size(file) != size:
            raise UserError(f'{file}: is {read_size(file)}, expected {size} (height, width) for its HR image')
        return read_rgb(file)

    def own_file(self, hr_file: Path, scale: float) -> Path:
        return self.lr_path / f'X{int(scale)}' / f'{hr_file.stem}x{int(scale)}.png'
