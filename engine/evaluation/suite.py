"""Models × sets × scales, measured one after another; what is finished is kept, so that the same command continues."""
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import datasets
import models
from common import coords
from common.registry import SpecError
from datasets.evaluation import Evaluation
from engine.config import SUITE_KEYS, TEST_KEYS, load_config, named, read_yaml
from engine.evaluation.evaluate import evaluate_scale, format_table, plain_numbers
from engine.evaluation.tables import Cell
from imaging.writing import save_image, to_image
from models.checkpoint import find
from models.sr_model import SRModel
from utils import ROOT, UserError, count_parameters, nearest_name, write_text

PUBLISHED = ROOT / 'configs' / 'published.yaml'
MACS_SIDE, MACS_SCALE = 24, 4  # LR side and factor at which multiply-adds are counted
CLEAR_REFS, STATUS = Path('/proc/self/clear_refs'), Path('/proc/self/status')


class Row(NamedTuple):
    """A line of the table. `files`: checkpoint for each scale, or under None one for all; `published`: name there."""
    encoder: str
    method: str
    files: dict[float | None, str]
    published: str | None = None

    def file(self, scale: float) -> str | None:
        return self.files.get(scale, self.files.get(None))


class Set(NamedTuple):
    """An evaluation set, or why there is none.

    figures: published PSNR by method and scale; sizes: published millions of parameters by method.
    """
    name: str
    scales: list[float]
    dataset: Evaluation | None
    absent: str | None = None
    figures: dict[tuple[str, float], float] = {}
    sizes: dict[str, float] = {}


class Suite(NamedTuple):
    """What is compared.

    given: the models must be there; else those that are missing are shown as absent.
    tolerant: what a model cannot do is shown as absent, instead of being an error.
    """
    title: str
    sets: list[Set]
    rows: list[Row]
    given: bool
    tolerant: bool


class Candidate(NamedTuple):
    """A model file as it was found: what the table says about it besides its results."""
    file: str
    name: str
    weights: str
    params: int
    fixed_scale: int | None
    reimplementation: str | None
    macs: float | None


def is_suite(file: str) -> bool:
    """Whether a config is a suite and no test config."""
    return 'test_dataset' not in (config := read_yaml(Path(file))) and bool({'sets', 'rows'} & config.keys())


def plain_suite(files: list[str], data: Path, model_files: list[str]) -> Suite:
    """Test configs and models, compared with nothing published."""
    sets = [read_set(file, data) for file in files]
    check_once(sets)
    return Suite('PSNR (dB)', sets, model_rows(model_files), given=True, tolerant=len(model_files) > 1)


def read_suite(file: str, data: Path, model_files: list[str] | None = None) -> Suite:
    """A suite config; with `model_files` these are its rows, under the names of its own rows where it has them."""
    config = load_config(file, SUITE_KEYS)
    rows = [Row(row.get('encoder', ''), row['method'], row_files(row['model'], f'{file}: rows[{number}].model'),
                row.get('published')) for number, row in enumerate(config['rows'])]
    sets = [suite_set(Path(file).parent / each['config'], data, each.get('published', [])) for each in config['sets']]
    check_once(sets)
    return Suite(config['title'], sets, model_rows(model_files, rows) if model_files else rows,
                 given=bool(model_files), tolerant=True)


def check_once(sets: list[Set]) -> None:
    """Raises UserError where a set is to be measured twice at a scale."""
    places = [(each.name, scale) for each in sets for scale in each.scales]
    for name, scale in places:
        if places.count((name, scale)) > 1:
            raise UserError(f'-config: {name} at ×{scale:g} is asked for twice; name each set and scale once')


def row_files(model: str | dict, path: str) -> dict[float | None, str]:
    """`model` of a suite's row: a file, or {scale: file}."""
    if isinstance(model, str):
        return {None: model}
    if not model or not all(isinstance(scale, (int, float)) and isinstance(name, str) for scale, name in model.items()):
        raise UserError(f'{path}: expected a checkpoint file, or one for each scale, got {model!r}')
    return {float(scale): name for scale, name in model.items()}


def model_rows(files: list[str], known: list[Row] = ()) -> list[Row]:
    """Rows of the models of a command line, those that a suite knows under its names."""
    if len(set(files)) < len(files):
        raise UserError(f"-model: {next(f for f in files if files.count(f) > 1)} is given twice")
    rows = []
    for file, name in model_names(files).items():
        same = [row for row in known if find(file).name in {Path(other).name for other in row.files.values()}]
        rows.append(same[0]._replace(files={None: file}) if same else Row('', name, {None: file}))
    return rows


def model_names(files: list[str]) -> dict[str, str]:
    """Names of models: that of the file, with its folder's before it where two files have the same."""
    names = {file: Path(file).stem for file in files}
    for file, name in list(names.items()):
        if [Path(other).stem for other in files].count(name) > 1:
            names[file] = f'{Path(file).resolve().parent.name}_{name}'
    if len(set(names.values())) < len(names):
        raise UserError(f"-model: two of {', '.join(files)} would have the same name; rename one, "
                        'or measure it alone with -name')
    return names


def read_set(file: str | Path, data: Path) -> Set:
    """The set of a test config."""
    config = load_config(file, TEST_KEYS)
    with named(file):
        dataset = datasets.make(config['test_dataset'], data, 'test_dataset')
    return Set(dataset.name, dataset.scales, dataset)


def suite_set(file: Path, data: Path, published: list[str]) -> Set:
    """The set of a test config with what is published on it; absent where its images cannot be had."""
    args = load_config(file, TEST_KEYS)['test_dataset']['wrapper'].get('args', {})
    figures, sizes = published_figures(published, str(file))
    try:
        found = read_set(file, data)
    except UserError as error:
        if isinstance(error.__cause__, SpecError):
            raise
        scales = args['scales'] if isinstance(args['scales'], list) else [args['scales']]
        found = Set(args['name'], [float(scale) for scale in scales], None, str(error))
    return found._replace(figures=figures, sizes=sizes)


def published_figures(paths: list[str], source: str) -> tuple[dict[tuple[str, float], float], dict[str, float]]:
    """PSNR by method and scale, and millions of parameters by method, of blocks of configs/published.yaml.

    Args:
        paths: 'TABLE' or 'TABLE.SET'.
    """
    tables, figures, sizes = read_yaml(PUBLISHED), {}, {}
    for path in paths:
        name, _, part = str(path).partition('.')
        rows = tables.get(name, {}).get(part or 'rows')
        if rows is None:
            raise UserError(f"{source}: published: '{path}' is not in {PUBLISHED.name}; {nearest_name(name, tables)}")
        if not isinstance(rows[0], dict):
            rows = [{'method': 'Bicubic', 'psnr': rows}]
        for row in rows:
            scales = tables[name]['scales']
            figures |= {(row['method'], float(s)): psnr for s, psnr in zip(scales, row['psnr']) if psnr is not None}
            if row.get('params_m') is not None:
                sizes[row['method']] = row['params_m']
    return figures, sizes


def inspect(file: str, name: str, count_macs: bool) -> Candidate:
    """Opens a model to see what it is. Raises: UserError when it cannot be used."""
    model = models.load(file, 'cpu')
    path = find(file)
    weights = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else file
    return Candidate(file, name, weights, count_parameters(model), model.fixed_scale, model.reimplementation,
                     macs_per_megapixel(model) if count_macs else None)


@torch.no_grad()
def macs_per_megapixel(model: SRModel) -> float:
    """Multiply-adds of matrix products and convolutions for 10⁶ output pixels, by the plain `forward`.

    Counted on 24×24 LR pixels at ×4 (or the model's own factor), encoder and all queries together.
    """
    side = MACS_SIDE * (model.fixed_scale or MACS_SCALE)
    coord = coords.make_grid(side, side).flatten(0, 1).unsqueeze(0)                  # (1, side², 2)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, MACS_SIDE, MACS_SIDE), coord, coords.make_cell(side, side).unsqueeze(0))
    return counter.get_total_flops() / 2 / side ** 2 * 1e6


class Results:
    """test/NAME/results.json and results.md: the rows of one model on one device, written anew with every row.

    The rows of other weights or of another device than those at hand are forgotten.
    """

    def __init__(self, folder: Path, candidate: Candidate, device: torch.device, fresh: bool):
        self.folder = folder
        self.header = {'model': candidate.name, 'params': candidate.params, 'device': str(device),
                       'weights': candidate.weights}
        self.rows = [] if fresh else self.read()

    def read(self) -> list[dict]:
        try:
            kept = json.loads((self.folder / 'results.json').read_text(encoding='utf-8'))
            same = all(kept.get(key) == value for key, value in self.header.items())
            return [{**row, 'psnr': number(row['psnr'], math.inf), 'ssim': number(row['ssim'], math.nan)}
                    for row in kept['rows'] if 'measured_on' in row] if same else []
        except (OSError, ValueError, AttributeError, KeyError, TypeError):  # none, or not one of ours
            return []

    def find(self, dataset: Evaluation, scale: float) -> dict | None:
        """The row of this very evaluation, if it is kept."""
        place = (dataset.name, scale, dataset.fingerprint(scale))
        return next((row for row in self.rows if (row['dataset'], row['scale'], row['measured_on']) == place), None)

    def add(self, row: dict) -> None:
        """Keeps a row, in the place of an older one of the same set and scale."""
        places = [(other['dataset'], other['scale']) for other in self.rows]
        place = (row['dataset'], row['scale'])
        index = places.index(place) if place in places else len(places)
        self.rows[index:index + 1] = [row]
        text = json.dumps(plain_numbers({**self.header, 'rows': self.rows}), indent=1)
        write_text(self.folder / 'results.json', text + '\n')
        write_text(self.folder / 'results.md', format_table(self.rows) + '\n')


def number(value: float | None, otherwise: float) -> float:
    """A number of results.json, which has null for what JSON cannot write."""
    return otherwise if value is None else value


class Run:
    """A suite on a device: opens what is there, measures what is not kept yet, and gives the cells of the table.

    Args:
        name: of the only model; None: models are named after their files.
        root: folder of the models' folders of results.
        save_images: keep the images; nothing that is kept is then reused.
        memory: see `SRModel.upscale`.
        kernels: see `SRModel.use_kernels`.
        fresh: forget what is kept.
        count_macs: count the multiply-adds of each model.
    Raises: UserError where something is missing that the suite does not show as absent.
    """

    def __init__(self, suite: Suite, device: torch.device, *, name: str | None = None, root: Path = Path('test'),
                 save_images: bool = False, memory: int | None = None, kernels: bool = True, fresh: bool = False,
                 count_macs: bool = False):
        self.suite, self.device, self.root, self.save_images = suite, device, root, save_images
        self.memory, self.kernels = memory, kernels
        self.absent: dict[str, str] = {}                # by file: why it cannot be used
        self.failed: dict[tuple[str, str, float], str] = {}   # by file, set and scale: why it was not measured
        self.results: dict[str, Results] = {}
        self.candidates: dict[str, Candidate] = {}
        names = model_names(list(dict.fromkeys(file for row in suite.rows for file in row.files.values())))
        for file, own_name in names.items():
            try:
                candidate = inspect(file, name or own_name, count_macs)
            except UserError as error:
                if suite.given:
                    raise
                self.absent[file] = str(error)
                continue
            self.candidates[file] = candidate
            self.results[file] = Results(root / candidate.name, candidate, device, fresh or save_images)

    def jobs(self) -> Iterator[tuple[str, Set, float]]:
        """File, set and scale of everything that can be measured."""
        for row in self.suite.rows:
            for file in dict.fromkeys(row.files.values()):
                yield from ((file, each, scale) for each in self.suite.sets for scale in each.scales
                            if row.file(scale) == file and self.missing(row, each, scale) is None)

    def missing(self, row: Row, each: Set, scale: float) -> str | None:
        """Why a cell cannot be measured, if so."""
        file = row.file(scale)
        if each.dataset is None or file is None:
            return each.absent or f'no model for ×{scale:g}'
        if file in self.absent:
            return self.absent[file]
        fixed = self.candidates[file].fixed_scale
        if fixed not in (None, scale) and self.suite.tolerant:
            return f'{file} upscales by exactly {fixed}'
        return self.failed.get((file, each.name, scale))

    def measure(self) -> None:
        """Measures what is not kept yet. An interruption costs the scale that it meets."""
        todo = [(file, each, scale) for file, each, scale in self.jobs()
                if self.results[file].find(each.dataset, scale) is None]
        opened, model = None, None
        with tqdm(total=sum(len(each.dataset) for _, each, _ in todo), unit='image', disable=None, leave=False) as bar:
            for place, (file, each, scale) in enumerate(todo):
                candidate = self.candidates[file]
                bar.set_description(f'{candidate.name} {each.name} ×{scale:g}')
                try:
                    if opened != file:
                        opened, model = file, models.load(file, self.device).use_kernels(self.kernels)
                    self.results[file].add(self.measure_cell(model, candidate, each.dataset, scale, bar.update))
                except UserError as error:
                    if not self.suite.tolerant:
                        raise
                    self.failed[file, each.name, scale] = str(error)
                except KeyboardInterrupt as interrupt:
                    message = f'{place} of {len(todo)} results are kept; the same command continues'
                    raise KeyboardInterrupt(message) from interrupt

    def measure_cell(self, model: SRModel, candidate: Candidate, dataset: Evaluation, scale: float,
                     done: Callable[[], object]) -> dict:
        def save(pair, scale, prediction, folder=self.root / candidate.name / dataset.name):
            save_image(to_image(prediction), folder / f'X{scale:g}' / f'{Path(pair.name).stem}.png')
        measured_on = dataset.fingerprint(scale)
        reset_peak(self.device)
        row = evaluate_scale(model, dataset, scale, self.device, candidate.name, save if self.save_images else None,
                             self.memory, done=done)
        return {**row, 'peak_memory': peak(self.device), 'measured_on': measured_on}

    def rows(self) -> list[dict]:
        """The result rows of everything that was asked for and measured."""
        found = [self.results[file].find(each.dataset, scale) for file, each, scale in self.jobs()]
        return [row for row in found if row]

    def cells(self) -> list[Cell]:
        """The table, row by row; raises UserError when nothing of it is there."""
        cells = [self.cell(row, each, scale) for each in self.suite.sets for row in self.suite.rows for scale in each.scales]
        if all(cell.absent for cell in cells):
            reasons = list(dict.fromkeys(cell.absent for cell in cells))
            raise UserError(f"nothing to measure: {'; '.join(reasons[:3])}{'; …' if len(reasons) > 3 else ''}")
        return cells

    def cell(self, row: Row, each: Set, scale: float) -> Cell:
        absent = self.missing(row, each, scale)
        found = None if absent else self.results[row.file(scale)].find(each.dataset, scale)
        about = next((self.candidates[file] for file in row.files.values() if file in self.candidates), None)
        return Cell(
            set=each.name, encoder=row.encoder, method=row.method, scale=scale, absent=absent,
            psnr=found and found['psnr'], ssim=found and found['ssim'], seconds=found and found['seconds_per_image'],
            memory=found and found['peak_memory'], params=about and about.params, macs=about and about.macs,
            reimplementation=about and about.reimplementation, published=each.figures.get((row.published, scale)),
            published_params=each.sizes.get(row.published))


def reset_peak(device: torch.device) -> None:
    """Starts `peak` anew; of a process where the system allows it."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
    else:
        try:
            CLEAR_REFS.write_text('5')
        except OSError:
            return


def peak(device: torch.device) -> int | None:
    """Bytes held at most since `reset_peak`: tensors on a GPU, or the whole process; None where the system does not tell."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    if not STATUS.is_file():
        return None
    lines = dict(line.split(':', 1) for line in STATUS.read_text().splitlines())
    return int(lines['VmHWM'].split()[0]) * 1024 if 'VmHWM' in lines else None
