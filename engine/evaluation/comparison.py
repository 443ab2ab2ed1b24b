"""Measures a suite: models × sets × scales, one after another; finished results are kept."""
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from common.scales import AnyScale, scale_text
from datasets.evaluation import Evaluation
from engine.evaluation.candidates import Candidate, inspect, model_names, open_model
from engine.evaluation.digest import code_digest
from engine.evaluation.evaluate import evaluate_scale
from engine.evaluation.measurement import Measurement
from engine.evaluation.memory import peak, reset_peak
from engine.evaluation.metrics import Metric
from engine.evaluation.results import Results
from engine.evaluation.suite import EvaluationSet, Method, Suite
from imaging import save_image, to_image
from models.contract import SRModel
from utils import UserError, distinct_stems


class Comparison:
    """A suite on a device: opens its models, measures what is not kept yet, and gives the measurements of the tables.

    Args:
        metrics: what is measured.
        name: of the only model; None: models are named after their files.
        root: folder of the models' folders of results.
        save_images: keep the images; nothing that is kept is then reused.
        memory, kernels: see `SRModel.upscale` and `SRModel.use_kernels`.
        fresh: ignore what is kept.
        reuse: accept what is kept also where other code has made it.
        count_macs: count the multiply-adds of each model.
        ensemble: average eight flips and rotations; names of models end in '+' then.
        code: digest of the code that measures; None to compute it.
    Raises: UserError where something is missing that the suite does not show as absent.
    """

    def __init__(self, suite: Suite, device: torch.device, metrics: list[Metric], *, name: str | None = None,
                 root: Path = Path('test'), save_images: bool = False, memory: int | None = None, kernels: bool = True,
                 fresh: bool = False, reuse: bool = False, count_macs: bool = False, ensemble: bool = False,
                 code: str | None = None):
        self.suite, self.device, self.metrics, self.code = suite, device, metrics, code or code_digest()
        self.root, self.save_images, self.memory, self.kernels = root, save_images, memory, kernels
        self.ensemble = ensemble
        self.absent: dict[str, str] = {}                      # by file: why it cannot be used
        self.failed: dict[tuple[str, str, AnyScale], str] = {}   # by file, set and scale: why it was not measured
        self.results: dict[str, Results] = {}                 # by file
        self.candidates: dict[str, Candidate] = {}            # by file
        names = model_names(list(dict.fromkeys(file for method in suite.methods for file in method.files.values())))
        for file, file_name in names.items():
            try:
                candidate = inspect(file, name or file_name + '+' * ensemble, count_macs, ensemble)
            except UserError as error:
                if suite.models_required:
                    raise
                self.absent[file] = str(error)
                continue
            self.candidates[file] = candidate
            self.results[file] = Results(root / candidate.name, candidate, device, code=self.code, reuse=reuse,
                                         fresh=fresh or save_images)

    @property
    def metric_names(self) -> list[str]:
        return [metric.name for metric in self.metrics]

    def measure(self) -> None:
        """Measures what is not kept yet. An interruption costs the scale that it meets.

        Raises: UserError when another process writes one of the results.
        """
        with contextlib.ExitStack() as writing:
            for file in dict.fromkeys(file for file, *_ in self._missing()):
                writing.enter_context(self.results[file].writing())
            self._measure(self._missing())

    def _missing(self) -> list[tuple[str, str, Evaluation, AnyScale]]:
        """File, set's name, set and scale of what is not kept yet."""
        return [(file, evaluation_set.name, evaluation_set.dataset, scale)
                for file, evaluation_set, scale in self._measurable()
                if evaluation_set.dataset is not None and self._kept(file, evaluation_set, scale) is None]

    def _measure(self, todo: list[tuple[str, str, Evaluation, AnyScale]]) -> None:
        opened: tuple[str, SRModel] | None = None  # the file that was opened last, and its model
        with tqdm(total=sum(len(item) for *_, item, _ in todo), unit='image', disable=None, leave=False) as bar:
            for done, (file, set_name, dataset, scale) in enumerate(todo):
                bar.set_description(f'{self.candidates[file].name} {set_name} ×{scale_text(scale)}')
                try:
                    if opened is None or opened[0] != file:
                        opened = file, open_model(file, self.device, self.ensemble).use_kernels(self.kernels)
                    self.results[file].add(self._measure_scale(opened[1], file, dataset, scale, bar.update))
                except UserError as error:
                    if not self.suite.tolerant:
                        raise
                    self.failed[file, set_name, scale] = str(error)
                except KeyboardInterrupt as interrupt:
                    message = f'{done} of {len(todo)} results are kept; the same command continues'
                    raise KeyboardInterrupt(message) from interrupt

    def rows(self) -> list[dict]:
        """The result rows of everything that was asked for and measured."""
        found = [self._kept(file, evaluation_set, scale) for file, evaluation_set, scale in self._measurable()]
        return [row for row in found if row]

    def count_outdated(self) -> int:
        """How many of `rows` other code has made."""
        return sum(row.get('code') != self.code for row in self.rows())

    def measurements(self) -> list[Measurement]:
        """What the tables show, set by set and line by line. Raises: UserError when nothing of it could be measured."""
        found = [self._measurement(method, evaluation_set, scale) for evaluation_set in self.suite.sets
                 for method in self.suite.methods for scale in evaluation_set.scales]
        if all(measurement.absent for measurement in found):
            reasons = list(dict.fromkeys(measurement.absent for measurement in found if measurement.absent))
            raise UserError(f"nothing to measure: {'; '.join(reasons[:3])}{'; …' if len(reasons) > 3 else ''}")
        return found

    def _measurable(self) -> Iterator[tuple[str, EvaluationSet, AnyScale]]:
        """File, set and scale of everything that can be measured."""
        for method in self.suite.methods:
            for file in dict.fromkeys(method.files.values()):
                yield from ((file, evaluation_set, scale) for evaluation_set in self.suite.sets
                            for scale in evaluation_set.scales
                            if method.file(scale) == file and self._absence(method, evaluation_set, scale) is None)

    def _absence(self, method: Method, evaluation_set: EvaluationSet, scale: AnyScale) -> str | None:
        """Why a method cannot be measured on a set at a scale; None where it can."""
        file = method.file(scale)
        if evaluation_set.dataset is None or file is None:
            return evaluation_set.absent or f'no model for ×{scale_text(scale)}'
        if file in self.absent:
            return self.absent[file]
        fixed = self.candidates[file].fixed_scale
        if fixed not in (None, scale) and self.suite.tolerant:
            return f'{file} upscales by exactly {fixed}'
        return self.failed.get((file, evaluation_set.name, scale))

    def _kept(self, file: str | None, evaluation_set: EvaluationSet, scale: AnyScale) -> dict | None:
        if file is None or evaluation_set.dataset is None:
            return None
        return self.results[file].find(evaluation_set.dataset, scale, self.metric_names)

    def _measure_scale(self, model: SRModel, file: str, dataset: Evaluation, scale: AnyScale,
                       done: Callable[[], object]) -> dict:
        name, images = self.candidates[file].name, dataset.dataset.files
        stems = dict(zip((image.name for image in images), distinct_stems(images)))

        def save(pair, scale, prediction):
            folder = self.root / name / dataset.name / f'X{scale_text(scale)}'
            save_image(to_image(prediction), folder / f'{stems[pair.name]}.png')
        measured_on = dataset.fingerprint(scale)
        reset_peak(self.device)
        row = evaluate_scale(model, dataset, scale, self.device, name, save if self.save_images else None, self.memory,
                             done=done, metrics=self.metrics)
        return {**row, 'peak_memory': peak(self.device), 'measured_on': measured_on}

    def _measurement(self, method: Method, evaluation_set: EvaluationSet, scale: AnyScale) -> Measurement:
        absent = self._absence(method, evaluation_set, scale)
        row = (None if absent else self._kept(method.file(scale), evaluation_set, scale)) or {}
        candidate = next((self.candidates[file] for file in method.files.values() if file in self.candidates), None)
        published = method.published or ''  # no published method has this name
        return Measurement(
            set=evaluation_set.name, encoder=method.encoder, method=method.name, scale=scale, absent=absent,
            scores={name: row[name] for name in self.metric_names if name in row},
            published=evaluation_set.published.scores.get((published, scale), {}), lr=row.get('lr'),
            published_lr=evaluation_set.published.lr.get((published, scale)),
            seconds=row.get('seconds_per_image'), memory=row.get('peak_memory'),
            params=candidate and candidate.params, macs=candidate and candidate.macs,
            reimplementation=candidate and candidate.reimplementation,
            published_params=evaluation_set.published.sizes.get(published))
