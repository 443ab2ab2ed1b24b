"""The results of a model that are kept in test/NAME, so that an interrupted command continues."""
import contextlib
import json
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any

import torch

from common.locks import locked
from common.scales import AnyScale, is_scale
from datasets.evaluation import Evaluation
from engine.evaluation.candidates import Candidate
from engine.evaluation.evaluate import format_table, plain_numbers
from engine.evaluation.metrics import METRICS
from utils import write_text

KINDS: dict[str, Any] = {'model': str, 'dataset': str, 'scale': (Real, str), 'protocol': str, 'lr': str, 'images': int,
                         'seconds_per_image': Real, 'per_image': list, 'peak_memory': (int, type(None)), 'measured_on': str}

BUSY = 'another process measures into this folder; wait until it has ended, or choose another -name'


class Results:
    """test/NAME/results.json and results.md: the rows of one model on one device, rewritten with every new row.

    Rows of other weights or of another device are dropped, and so is whatever is damaged.

    Args:
        code: digest of the program's code.
        reuse: accept rows that other code has made.
        fresh: drop all rows.
    """

    def __init__(self, folder: Path, candidate: Candidate, device: torch.device, *, code: str, reuse: bool = False,
                 fresh: bool = False):
        self.folder, self.code, self.reuse = folder, code, reuse
        self.header = {'model': candidate.name, 'params': candidate.params, 'device': str(device),
                       'weights': candidate.weights}
        self.fresh = fresh
        self.rows = [] if fresh else self._read()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What `add` is called in: no other process writes these results meanwhile. Reads the rows that are there by now.

        Raises: UserError when another process writes them.
        """
        with locked(self.folder, BUSY):
            self.rows = [] if self.fresh else self._read()
            yield

    def find(self, dataset: Evaluation, scale: AnyScale, metrics: list[str]) -> dict | None:
        """The kept row of this very evaluation with all these metrics, if there is one."""
        place = (dataset.name, scale, dataset.fingerprint(scale))
        return next((row for row in self.rows if (row['dataset'], row['scale'], row['measured_on']) == place
                     and (self.reuse or row.get('code') == self.code) and set(metrics) <= row.keys()), None)

    def add(self, row: dict) -> None:
        """Keeps a row, which replaces an older one of the same set and scale.

        Metrics that only the older one has are kept where the images and the code are the same.
        """
        row = {**row, 'code': self.code}
        places = [(other['dataset'], other['scale']) for other in self.rows]
        place = (row['dataset'], row['scale'])
        index = places.index(place) if place in places else len(places)
        for older in self.rows[index:index + 1]:
            if (older['measured_on'], older.get('code')) == (row['measured_on'], row['code']):
                row = _merged(older, row)
        self.rows[index:index + 1] = [row]
        text = json.dumps(plain_numbers({**self.header, 'rows': self.rows}), indent=1)
        write_text(self.folder / 'results.json', text + '\n')
        write_text(self.folder / 'results.md', format_table(self.rows) + '\n')

    def _read(self) -> list[dict]:
        try:
            kept = json.loads((self.folder / 'results.json').read_text(encoding='utf-8'))
        except (OSError, ValueError, RecursionError):  # there is none, or it is damaged
            return []
        if not isinstance(kept, dict) or any(kept.get(key) != value for key, value in self.header.items()):
            return []
        rows = kept.get('rows')
        return [_with_undefined(row) for row in rows if _is_row(row)] if isinstance(rows, list) else []


def _is_row(row: object) -> bool:
    """Whether a value of results.json is a complete row."""
    if not isinstance(row, dict) or not all(isinstance(row.get(key, ...), kind) for key, kind in KINDS.items()):
        return False
    images = row['per_image']
    if not is_scale(row['scale']):
        return False
    return (len(images) == row['images'] and all(isinstance(image, dict) and 'name' in image for image in images)
            and all(_is_score(scores.get(name, ...)) for name in _metrics_of(row) for scores in (row, *images)))


def _is_score(value: object) -> bool:
    return value is None or (isinstance(value, Real) and not isinstance(value, bool))


def _metrics_of(row: dict) -> list[str]:
    return [key for key in row if key in METRICS.entries]


def _with_undefined(row: dict) -> dict:
    """A row with the metrics' own values in place of null, which is what JSON has for them."""
    def restored(scores: dict) -> dict:
        return {key: METRICS.entries[key].undefined if value is None and key in METRICS.entries else value
                for key, value in scores.items()}
    return {**restored(row), 'per_image': [restored(image) for image in row['per_image']]}


def _merged(older: dict, row: dict) -> dict:
    """`row` with the further metrics of an older row of the same evaluation."""
    further = [name for name in _metrics_of(older) if name not in row]
    images = [{**image, **{name: before[name] for name in further}}
              for before, image in zip(older['per_image'], row['per_image'], strict=True)]
    return {**row, **{name: older[name] for name in further}, 'per_image': images}
