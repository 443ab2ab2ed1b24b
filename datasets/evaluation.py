"""Evaluation sets: pairs of an LR and an HR image, made by the rules of a protocol."""
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.scales import AnyScale, is_scale, scale_text
from datasets import protocols
from datasets.degraded import make_degradation
from datasets.protocols import OWN_LR
from datasets.registry import WRAPPERS, Scale
from imaging import read_rgb, read_size
from utils import UserError, is_file_name, shortened


class Pair(NamedTuple):
    """One image of an evaluation: its file name, LR (h, w, 3) and HR (H, W, 3) uint8, H = round(h·s)."""
    name: str
    lr: np.ndarray
    hr: np.ndarray


@WRAPPERS.register('sr-evaluation', provided=('dataset', 'data_root'))
class Evaluation:
    """A set of images at a list of scales.

    The protocol decides how the HR image is cut, and whether the LR image is one that comes with the set
    (`lr_path`/X{s}/NAMEx{s}.png) or Pillow's bicubic of the HR image after the cut.

    Args:
        name: of the set, in tables.
        protocol: registered name, 'benchmark' or 'div2k'; see `datasets/protocols/`.
        scales: real factors ≥ 1, one or a list.
        lr_path: folder of the LR images that come with the set; relative to the data root.
        lr: 'own' to use them where the protocol does, or 'pil' for Pillow's at every scale.
        crop: HR side of a fixed centre crop; None for whole images. The LR image is then always Pillow's.
        degrade: what happens to the LR images, such as {jpeg: 75}; see `datasets.degraded.Degradation`. Every measurement
            draws the same. Kernels need lr: 'pil'.
    """

    def __init__(self, *, dataset, data_root, name: str, protocol: str, scales: Scale | list[Scale],
                 lr_path: str | None = None, lr: str = 'own', crop: int | None = None, degrade: dict | None = None):
        self.protocol = protocols.make(protocol)
        if lr not in ('own', 'pil'):
            raise ValueError(f"lr is {lr!r}, expected 'own' or 'pil'")
        scales = scales if isinstance(scales, list) else [scales]
        if not scales or not all(map(is_scale, scales)):
            raise ValueError(f'scales is {scales!r}, expected numbers of at least 1')
        if not is_file_name(name):  # saved images go to a folder of this name
            raise ValueError(f'name is {shortened(name)}, expected a plain name of at most 100 bytes without / \\ and :')
        if crop is not None and crop < 1:
            raise ValueError(f'crop is {crop!r}, expected a side in pixels')
        if not hasattr(dataset, 'files'):
            raise ValueError("needs a dataset of single images, such as 'image-folder'")
        self.dataset, self.name, self.crop = dataset, name, crop
        self.scales: list[AnyScale] = [s if isinstance(s, str) else float(s) for s in scales]
        self.lr_path = Path(data_root) / lr_path if lr_path and lr == 'own' and crop is None else None
        self.degrade, self._degradation = degrade, make_degradation(degrade)
        for scale in self.scales:  # what can be known now must not end an evaluation half-way
            if self.source(scale) == OWN_LR and self._degradation.kernels:
                raise ValueError("degrade.kernels makes LR images: set lr to 'pil'")
            for index in range(len(self)):
                self._check_size(index, scale)

    def __len__(self) -> int:
        return len(self.dataset.files)

    def source(self, scale: AnyScale) -> str:
        """Where LR images of this scale come from: OWN_LR or PIL_LR. Raises: UserError where they are missing."""
        return self.protocol.lr_source(self.lr_path, scale)

    def pairs(self, scale: AnyScale, which: slice = slice(None)) -> Iterator[Pair]:
        """The images at one scale, or `which` of them, read as they are asked for."""
        source = self.source(scale)
        for index in range(len(self))[which]:
            file = self.dataset.files[index]
            hr = self.dataset[index]
            if self.crop is not None:
                top, left = (max(0, (extent - self.crop) // 2) for extent in hr.shape[:2])
                hr = hr[top:top + self.crop, left:left + self.crop]
            lr_size = self.protocol.lr_size(hr.shape[:2], scale)
            height, width = self.protocol.hr_size(hr.shape[:2], scale)
            hr = hr[:height, :width]
            rng = np.random.default_rng(index)
            lr = (self._degradation.of_prepared(self._read_own_lr(file, scale, lr_size), rng) if source == OWN_LR
                  else self._degradation.make_lr(hr, *lr_size, rng))
            yield Pair(file.name, lr, hr)

    def lr_text(self, scale: AnyScale) -> str:
        """Which LR images are measured at this scale, for tables: 'LR_bicubic, jpeg 75'."""
        return ', '.join(filter(None, [self.source(scale), str(self._degradation)]))

    def fingerprint(self, scale: AnyScale) -> str:
        """Equal for equal evaluations: of the protocol, and of every image's name, size in bytes and modification time."""
        files = list(self.dataset.files)
        if self.source(scale) == OWN_LR:
            files += [self._own_lr_file(file, scale) for file in files]
        known = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) if file.is_file() else (file.name,)
                 for file in files]
        described = [self.name, self.protocol.name, scale, self.crop, self.lr_text(scale), known]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def _check_size(self, index: int, scale: AnyScale) -> None:
        """Raises UserError when the protocol leaves nothing of an image at this scale."""
        height, width = (min(side, self.crop or side) for side in self.dataset.size(index))
        try:
            self.protocol.check_size(self.protocol.hr_size((height, width), scale), scale)
        except UserError as error:
            raise UserError(f'{self.dataset.files[index]} ({height}x{width}): {error}') from error

    def _read_own_lr(self, hr_file: Path, scale: AnyScale, size: tuple[int, int]) -> np.ndarray:
        """The set's own LR image of an HR file, which must have the protocol's `size` (height, width)."""
        file = self._own_lr_file(hr_file, scale)
        if file.is_file() and read_size(file) != size:
            raise UserError(f'{file}: is {read_size(file)}, expected {size} (height, width) for its HR image')
        return read_rgb(file)

    def _own_lr_file(self, hr_file: Path, scale: AnyScale) -> Path:
        assert self.lr_path is not None  # where the protocol takes the set's own LR images
        return self.lr_path / f'X{scale_text(scale)}' / f'{hr_file.stem}x{scale_text(scale)}.png'
