"""Evaluation of one's own folders of images, at one scale."""
from pathlib import Path

from common.scales import AnyScale, scale_text
from datasets import protocols
from datasets.evaluation import Evaluation
from datasets.image_folder import Images
from datasets.pairs import match
from datasets.protocols import OWN_LR, PIL_LR
from imaging import list_images, read_size
from utils import UserError


class FolderEvaluation(Evaluation):
    """The images of a folder at one scale.

    Images of which the protocol leaves nothing at this scale are left out; `skipped` counts them.

    Args:
        hr: folder of HR images; its name is that of the set.
        scale: a number, or '2x3' for the factors of height and width.
        protocol: registered name.
        lr: folder of LR images, matched by name (`datasets.pairs.match`), of floor(HR / scale) pixels; None for Pillow's
            bicubic.
    Raises: UserError that names a missing partner, an image of another size, or the folder when no image is left.
    """

    def __init__(self, *, hr: Path, scale: AnyScale, protocol: str, lr: Path | None = None):
        files, rules = list_images(hr), protocols.make(protocol)
        self._partners = {hr_file: lr_file for lr_file, hr_file in match(list_images(lr), files)} if lr else {}
        kept = []
        for file in files:
            size = read_size(file)
            try:
                rules.check_size(rules.hr_size(size, scale), scale)
            except UserError:
                continue
            lr_size = rules.lr_size(size, scale)
            if lr and (found := read_size(self._partners[file])) != lr_size:
                raise UserError(f'{self._partners[file]}: is {found[0]}x{found[1]}, expected {lr_size[0]}x{lr_size[1]} '
                                f'for {file} ({size[0]}x{size[1]}) at ×{scale_text(scale)}')
            kept.append(file)
        if not kept:
            raise UserError(f"{hr}: all images are too small for protocol '{protocol}' at ×{scale_text(scale)}")
        self.skipped = len(files) - len(kept)
        super().__init__(dataset=Images(kept, data_root='.'), data_root='.', name=hr.resolve().name, protocol=protocol,
                         scales=[scale])  # type: ignore[list-item]  # texts are for this class alone, and not for configs

    def source(self, scale: AnyScale) -> str:
        return OWN_LR if self._partners else PIL_LR

    def _own_lr_file(self, hr_file: Path, scale: AnyScale) -> Path:
        return self._partners[hr_file]


def scale_folder(folder: Path, scale: AnyScale, count: int) -> Path:
    """The folder with the images of a scale: FOLDER/X2 or FOLDER/X2x3; for a single scale FOLDER itself will do."""
    found = folder / f'X{scale_text(scale)}'
    if found.is_dir():
        return found
    if count > 1:
        raise UserError(f'{found}: no such folder; several scales need one folder for each, such as {found.name}')
    return folder
