"""A folder in which tests train a tiny network, and what they compare afterwards."""
import contextlib
import hashlib
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest
import torch
import yaml
from helpers import Done, call
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from engine.config import TRAIN_KEYS, load_config
from engine.training.trainer import Trainer

BATCHES = 3  # of an epoch


def slow_except(fast: Collection, cases: Iterable) -> list:
    """The cases of a parametrised test, all but the fast ones marked slow. A case is a value, or a tuple of several."""
    return [case if case in fast else pytest.param(*case if isinstance(case, tuple) else (case,), marks=pytest.mark.slow)
            for case in cases]


class Lab:
    """A folder with images and a tiny config, in which train.py is called."""

    def __init__(self, folder: Path, config: dict, capsys, monkeypatch):
        self.folder, self.config, self.capsys, self.monkeypatch = folder, config, capsys, monkeypatch

    def write_config(self, **changes) -> Path:
        """The config with top-level keys replaced, as a file. None removes a key."""
        config = {key: value for key, value in {**self.config, **changes}.items() if value is not None}
        path = self.folder / 'tiny.yaml'
        path.write_text(yaml.safe_dump(config))
        return path

    def train(self, name: str, *options, **changes) -> Done:
        """Runs train.py in this process."""
        arguments = ('-config', self.write_config(**changes), '-name', name, '-device', 'cpu', *options)
        return call(train.main, arguments, self.capsys, self.monkeypatch)

    def trainer(self, name: str = 'direct', resume: Path | None = None, **changes) -> Trainer:
        config = load_config(self.write_config(**changes), TRAIN_KEYS)
        return Trainer(config=config, folder=self.save(name), data_root=self.folder / 'data', device=torch.device('cpu'),
                       resume=resume)

    def save(self, name: str, file: str = '') -> Path:
        return self.folder / 'save' / name / file

    def loaded(self, name: str, file: str = 'epoch-last.pth') -> dict:
        return torch.load(self.save(name, file), weights_only=True)

    def with_workers(self, count: int) -> dict:
        return {**self.config['train_dataset'], 'num_workers': count}


def hashes(folder: Path) -> dict[str, str]:
    """Every file below a folder, and a hash of its content."""
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(folder.rglob('*')) if file.is_file()}


def checkpoints_of(files: dict[str, str]) -> dict[str, str]:
    """The checkpoints among `hashes`."""
    return {name: value for name, value in files.items() if name.endswith('.pth')}


def differences(a: object, b: object, path: str = '') -> list[str]:
    """Paths at which two checkpoints differ in a single bit."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [line for key in a for line in differences(a[key], b[key], f'{path}.{key}')]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [line for i, pair in enumerate(zip(a, b)) for line in differences(*pair, f'{path}[{i}]')]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
    return [] if same else [path]


def events_of(folder: Path) -> EventAccumulator:
    """All that a run wrote for TensorBoard, its files in the order of their writing.

    TensorBoard goes by their names, which are not in this order where one process writes ten in one second.
    """
    with tempfile.TemporaryDirectory() as ordered:
        for number, file in enumerate(sorted((folder / 'tensorboard').iterdir(), key=lambda file: file.stat().st_mtime_ns)):
            shutil.copy(file, Path(ordered) / f'tfevents.{number:03}')
        events = EventAccumulator(ordered, size_guidance={'scalars': 0, 'images': 0})
        events.Reload()
    return events


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every curve that a run wrote for TensorBoard, those of the clock aside."""
    events = events_of(folder)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()['scalars']
            if not tag.startswith('time/')}


def epoch_lines(log: Path) -> list[str]:
    """The log's line of each epoch, without the clock and the time left."""
    return [re.sub(r', \S+ left$', '', line[20:]) for line in log.read_text().splitlines() if line[20:].startswith('epoch ')]


@contextlib.contextmanager
def after_step(monkeypatch, number: int, action):
    """Calls action(trainer) right after training step `number` (from 1)."""
    original, done = Trainer.train_step, []

    def step(trainer, sample):
        result = original(trainer, sample)
        done.append(result)
        if len(done) == number:
            action(trainer)
        return result
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, 'train_step', step)
        yield


def one_error_line(done: Done, *parts: str) -> bool:
    """Whether stderr is exactly one line that carries all `parts`."""
    return done.err.count('\n') == 1 and done.err.endswith('\n') and all(part in done.err for part in parts)
