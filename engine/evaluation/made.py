"""Measures images that another program made, beside the HR images of the same names."""
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from common.arrays import to_tensor
from common.scales import scale_text
from datasets.evaluation import Evaluation, Pair
from datasets.folders import scale_folder
from datasets.pairs import match
from engine.distributed import ALONE
from engine.evaluation.candidates import Candidate
from engine.evaluation.evaluate import measure
from engine.evaluation.metrics import Metric
from engine.evaluation.results import Results
from engine.evaluation.suite import EvaluationSet
from imaging import list_images, read_rgb, read_size
from utils import UserError, as_file_name


def measure_folder(images: Path, sets: list[EvaluationSet], metrics: Sequence[Metric], name: str | None, *, code: str,
                   root: Path = Path('test')) -> list[dict]:
    """The rows of a folder of images; they are also kept in ROOT/NAME, like those of a model without parameters.

    Args:
        images: folder of the images, or of a folder X{scale} for each scale. Their names match those of the HR images
            (`datasets.pairs.match`), and they have the size to which the protocol cuts these.
        sets: of one scale each.
        name: in tables; None for that of the folder.
        code: digest of the program's code.
    Raises: UserError that names a missing image or one of another size, before anything is measured.
    """
    label = name or as_file_name(images.resolve().name)
    jobs = [(found.dataset, _partners(images, found.dataset, len(sets))) for found in sets if found.dataset is not None]
    device = torch.device('cpu')
    rows = []
    results = Results(root / label, Candidate(str(images), label, _digest(jobs), 0, None, None, None), device, code=code,
                      fresh=True)
    with results.writing():
        for dataset, partners in jobs:
            scale = dataset.scales[0]

            def predict(pair: Pair, size: tuple[int, int], partners: dict[str, Path] = partners) -> torch.Tensor:
                return to_tensor(read_rgb(partners[pair.name]))
            row = measure(predict, dataset, scale, device, label, None, ALONE, lambda: None, metrics)
            rows.append({**row, 'peak_memory': None, 'measured_on': dataset.fingerprint(scale)})
            results.add(rows[-1])
    return rows


def _partners(images: Path, dataset: Evaluation, count: int) -> dict[str, Path]:
    """The image for each name of an HR image, sizes checked."""
    scale, files = dataset.scales[0], dataset.dataset.files
    partners = {hr.name: made for made, hr in match(list_images(scale_folder(images, scale, count)), files)}
    for index, file in enumerate(files):
        expected = dataset.protocol.hr_size(dataset.dataset.size(index), scale)
        if (found := read_size(partners[file.name])) != expected:
            raise UserError(f'{partners[file.name]}: is {found[0]}x{found[1]}, expected {expected[0]}x{expected[1]} for '
                            f'{file} at ×{scale_text(scale)}')
    return partners


def _digest(jobs: list[tuple[Evaluation, dict[str, Path]]]) -> str:
    """SHA-256 of the content of all files."""
    digest = hashlib.sha256()
    for _, partners in jobs:
        for file in partners.values():
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
