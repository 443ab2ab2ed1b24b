"""What a kind of figure is, and what it works with: models, images, a device."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

import models
from common.arrays import to_tensor
from common.registry import Registry
from common.scales import AnyScale
from datasets.evaluation import Evaluation, Pair
from datasets.image_folder import Images
from engine.evaluation.candidates import model_names
from imaging import check_file, list_images
from models.contract import SRModel
from utils import UserError, as_file_name, distinct_stems, nearest_name, printable, short_path, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = Registry('figure')
register = FIGURES.register
LARGEST_SIDE = 10 ** 6  # of a box, in pixels


class Kind(ABC):
    """A kind of figure. The arguments of its constructor are keys of configs, and the options of the same names.

    Those that several kinds have mean the same in all of them:
        model: checkpoints, names of weights in modelzoo/, or of models without weights.
        names: of the models, in the figure; default: those of the files.
        input: files and folders of HR images; with a test config the names of images of its set, all by default.
        scale, scales: factors of at least 1.
        box: [top, left, height, width] in pixels of the HR image: one for all images, or one for each;
            zoom shows several of a single image.
        at: points [y, x] of the image, from 0, 0 at the top left to 1, 1.
        width: 'column' or 'page'.
    """

    @abstractmethod
    def draw(self, studio: Studio) -> Figure:
        """Computes and draws. Raises: UserError when models or images do not suit."""


class Studio:
    """What figures are made from.

    Args:
        data: root of relative paths.
        evaluation: the set of a test config, or None.
        memory: see `SRModel.upscale`.
        output: the file that will be written, which must be none of the images.
        quiet: no progress bars.
    """

    def __init__(self, *, device: torch.device, data: Path, evaluation: Evaluation | None = None, memory: int | None = None,
                 output: Path | None = None, quiet: bool | None = None):
        self.device, self.data, self.evaluation, self.memory, self.quiet = device, data, evaluation, memory, quiet
        self.output = output

    def progress(self, total: int, label: str) -> tqdm:
        """A progress bar on stderr, where that is a terminal."""
        return tqdm(total=total, desc=label, leave=False, disable=self.quiet)

    def models(self, files: Sequence[str], names: Sequence[str] | None = None) -> dict[str, SRModel]:
        """Models by their names in the figure, ready to use. Raises: UserError."""
        return {name: models.load(file, self.device) for name, file in labels(files, names).items()}

    def upscale(self, model: SRModel, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """(3, H, W) in [0, 1] → (3, h, w) in [0, 1], on the CPU."""
        return model.upscale(lr.unsqueeze(0).to(self.device), size, self.memory)[0].cpu()

    def images(self, inputs: Sequence[str] | None, scales: Sequence[AnyScale]) -> Evaluation:
        """The images of -input at some scales: files and folders, or of the test config's set those of these names.

        Raises: UserError that names what is missing, or the output where it is one of the images.
        """
        known = self.evaluation
        if known is None:
            if not inputs:
                raise UserError('-input: expected files or folders of HR images, or -config with a test config')
            files, name = [file for text in inputs for file in self._files(text)], Path(inputs[0]).resolve().name
            rules: dict = {'name': as_file_name(name), 'protocol': 'benchmark', 'lr': 'pil'}
        else:
            files = known.dataset.files if not inputs else [_of_set(known, text) for text in inputs]
            rules = {'name': known.name, 'protocol': known.protocol.name, 'crop': known.crop, 'degrade': known.degrade,
                     'lr_path': str(known.lr_path) if known.lr_path else None}
        if self.output and self.output.exists() and any(file.samefile(self.output) for file in files):
            raise UserError(f'{self.output}: is one of the images of -input; choose another -output')
        return Evaluation(dataset=Images(list(files), data_root='.'), data_root='.',
                          scales=list(scales), **rules)  # type: ignore[arg-type]

    def _files(self, text: str) -> list[Path]:
        """The image file that a word of -input names, or the files of a folder: as it is, or below the data root."""
        path = next((path for path in (Path(text), self.data / text) if path.exists()), None)
        if path is None:
            raise UserError(f'-input {short_path(text)}: no such image or folder, nor below {self.data}')
        if path.is_dir():
            return list_images(path)
        check_file(path)
        return [path]


def _of_set(evaluation: Evaluation, text: str) -> Path:
    """The image of a set that has this name, with suffix or without."""
    names = {name: file for file in evaluation.dataset.files for name in (file.stem, file.name)}
    if text not in names:
        raise UserError(f'-input {shortened(text, quotes=False)}: {evaluation.name} has no such image; '
                        f'{nearest_name(text, [file.stem for file in evaluation.dataset.files])}')
    return names[text]


def labels(files: Sequence[str], names: Sequence[str] | None = None) -> dict[str, str]:
    """Files of models by the names that a figure shows, on one line each.

    Raises: UserError unless there is one different name for each.
    """
    if not files:
        raise UserError('-model: expected at least one model')
    if names is None:
        if len(set(files)) < len(files):
            raise UserError(f'-model: {next(file for file in files if files.count(file) > 1)} is given twice')
        return {printable(name): file for file, name in model_names(list(files)).items()}
    if len(names) != len(files) or len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise UserError(f'-names: expected {len(files)} different names, one for each model, got {shortened(list(names))}')
    return dict(zip(map(printable, names), files))


def stems(evaluation: Evaluation) -> list[str]:
    """A name for each image of a set."""
    return [printable(name) for name in distinct_stems(evaluation.dataset.files)]


def pair_of(evaluation: Evaluation, index: int, scale: AnyScale) -> Pair:
    """An image of a set at a scale."""
    return next(evaluation.pairs(scale, slice(index, index + 1)))


def lr_of(pair: Pair) -> Tensor:
    """(3, h, w) in [0, 1]."""
    return to_tensor(pair.lr)


def one_image(evaluation: Evaluation, kind: str) -> None:
    """Raises UserError unless there is one image."""
    if len(evaluation) != 1:
        raise UserError(f'-input: {kind} shows one image, got {len(evaluation)}')
