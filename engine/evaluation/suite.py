"""What is compared: evaluation sets and methods, from a suite config or from test configs and models."""
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
from common.registry import SpecError
from common.scales import AnyScale, scale_text
from datasets.evaluation import Evaluation
from datasets.folders import FolderEvaluation, scale_folder
from engine.config import SUITE_KEYS, TEST_KEYS, load_config, named
from engine.evaluation.candidates import model_names
from engine.evaluation.published import Published, read_published
from engine.yaml_files import read_yaml
from models.checkpoint import find
from utils import UserError, printable, shortened


class Method(NamedTuple):
    """A line of the tables.

    Attributes:
        encoder, name: what it is called; the encoder may be empty.
        files: checkpoint for each scale, or under None one for all.
        published: its name in configs/published.yaml.
    """
    encoder: str
    name: str
    files: dict[AnyScale | None, str]
    published: str | None = None

    def file(self, scale: AnyScale) -> str | None:
        return self.files.get(scale, self.files.get(None))


class EvaluationSet(NamedTuple):
    """An evaluation set with what is published on it; without its images, `absent` says why."""
    name: str
    scales: list[AnyScale]
    dataset: Evaluation | None
    absent: str | None = None
    published: Published = Published()


class Suite(NamedTuple):
    """What is compared.

    Attributes:
        title: of the tables; may be empty.
        models_required: a missing model is an error, instead of being shown as absent.
        tolerant: what a model cannot do is shown as absent, instead of being an error.
    """
    title: str
    sets: list[EvaluationSet]
    methods: list[Method]
    models_required: bool
    tolerant: bool


def is_suite(file: str) -> bool:
    """Whether a config is a suite and no test config."""
    config = read_yaml(file)
    return 'test_dataset' not in config and bool({'sets', 'rows'} & config.keys())


def plain_suite(files: list[str], data: Path, model_files: list[str], overrides: Sequence[str] = ()) -> Suite:
    """Test configs, each with the changes of -set, and models, compared with nothing published."""
    sets = [_read_set(file, data, overrides) for file in files]
    _check_once(sets)
    return Suite('', sets, _methods_of(model_files), models_required=True, tolerant=len(model_files) > 1)


def folder_suite(hr: Path, lr: Path | None, scales: list[AnyScale], protocol: str, model_files: list[str]) -> Suite:
    """A folder of HR images, with its LR images where there are any, and models."""
    return Suite('', folder_sets(hr, lr, scales, protocol), _methods_of(model_files), models_required=True,
                 tolerant=len(model_files) > 1)


def folder_sets(hr: Path, lr: Path | None, scales: list[AnyScale], protocol: str) -> list[EvaluationSet]:
    """A set for each scale; says on stderr how many images of it are too small."""
    sets = []
    for scale in scales:
        dataset = FolderEvaluation(hr=hr, scale=scale, protocol=protocol, lr=lr and scale_folder(lr, scale, len(scales)))
        if dataset.skipped:
            print(f'{printable(hr)}: {dataset.skipped} of {dataset.skipped + len(dataset)} images are too small for '
                  f"protocol '{protocol}' at ×{scale_text(scale)} and are left out", file=sys.stderr)
        sets.append(EvaluationSet(dataset.name, [scale], dataset))
    _check_once(sets, '-scales')
    return sets


def read_suite(file: str, data: Path, model_files: list[str] | None = None, overrides: Sequence[str] = ()) -> Suite:
    """A suite config. With `model_files` these are its methods, under the suite's names where it names the same files.

    Args:
        overrides: changes of -set to the suite's own keys; its test configs stay as they are.
    """
    config = load_config(file, SUITE_KEYS, overrides)
    methods = [Method(row.get('encoder', ''), row['method'], _files_by_scale(row['model'], f'{file}: rows[{number}].model'),
                      row.get('published')) for number, row in enumerate(config['rows'])]
    sets = [_suite_set(Path(file).parent / block['config'], data, block.get('published', [])) for block in config['sets']]
    _check_once(sets)
    return Suite(config['title'], sets, _methods_of(model_files, methods) if model_files else methods,
                 models_required=bool(model_files), tolerant=True)


def _check_once(sets: list[EvaluationSet], option: str = '-config') -> None:
    """Raises UserError where a set is to be measured twice at a scale."""
    places = [(evaluation_set.name, scale) for evaluation_set in sets for scale in evaluation_set.scales]
    for name, scale in places:
        if places.count((name, scale)) > 1:
            raise UserError(f'{option}: {name} at ×{scale_text(scale)} is asked for twice; name each set and scale once')


def _files_by_scale(model: str | dict, path: str) -> dict[AnyScale | None, str]:
    """`model` of a suite's row: a file, or {scale: file}."""
    if isinstance(model, str):
        return {None: model}
    if not model or not all(isinstance(scale, (int, float)) and isinstance(name, str) for scale, name in model.items()):
        raise UserError(f'{path}: expected a checkpoint file, or one for each scale, got {shortened(model)}')
    return {float(scale): name for scale, name in model.items()}


def _methods_of(files: list[str], known: Sequence[Method] = ()) -> list[Method]:
    """The methods of a command line's models; those that a suite knows keep the suite's names."""
    if len(set(files)) < len(files):
        raise UserError(f"-model: {next(f for f in files if files.count(f) > 1)} is given twice")
    methods = []
    for file, name in model_names(files).items():
        same = [method for method in known if find(file).name in {Path(other).name for other in method.files.values()}]
        methods.append(same[0]._replace(files={None: file}) if same else Method('', name, {None: file}))
    return methods


def _read_set(file: str | Path, data: Path, overrides: Sequence[str] = ()) -> EvaluationSet:
    """The set of a test config with the changes of -set."""
    config = load_config(file, TEST_KEYS, overrides)
    with named(file, overrides):
        dataset = datasets.make(config['test_dataset'], data, 'test_dataset')
    return EvaluationSet(dataset.name, dataset.scales, dataset)


def _suite_set(file: Path, data: Path, published: list[str]) -> EvaluationSet:
    """The set of a test config with what is published on it; absent where its images cannot be had."""
    args = load_config(file, TEST_KEYS)['test_dataset']['wrapper'].get('args', {})
    figures = read_published(published, str(file))
    try:
        found = _read_set(file, data)
    except UserError as error:
        if isinstance(error.__cause__, SpecError):
            raise
        scales = args['scales'] if isinstance(args['scales'], list) else [args['scales']]
        found = EvaluationSet(args['name'], [float(scale) for scale in scales], None, str(error))
    return found._replace(published=figures)
