"""The results of a model that are kept in test/NAME, so that an interrupted command continues."""
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from common.locks import locked
from common.ranges import Range
from common.scales import AnyScale, is_scale
from datasets.evaluation import Evaluation
from engine.evaluation.candidates import Candidate
from engine.evaluation.evaluate import format_table, plain_numbers
from engine.evaluation.metrics import METRICS
from utils import write_text

TEXTS = ('model', 'dataset', 'protocol', 'lr', 'measured_on')
NUMBERS = {'images': Range(1, 10 ** 9, True), 'seconds_per_image': Range(0.0, 1e9),
           'peak_memory': Range(0, 2 ** 60, True)}
SCALE = Range(1.0, 1e9)
SCORE = Range(-1e6, 1e6)
LONGEST = 1000  # characters of a text
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
                     and (self.reuse or row.get('code') == self.code) and set(metrics) <= row.keys()
                     and row['images'] == len(dataset)), None)

    def add(self, row: dict) -> None:
        """Keeps a row, which replaces an older one of the same set and scale.

        Metrics that only the older one has are kept where the images and the code are the same.
        """
        row = {**row, 'code': self.code}
        places = [(other['dataset'], other['scale']) for other in self.rows]
        place = (row['dataset'], row['scale'])
        index = places.index(place) if place in places else len(places)
        for older in self.rows[index:index + 1]:
            if all(older.get(key) == row[key] for key in ('measured_on', 'code', 'images')):
                row = _merged(older, row)
        self.rows[index:index + 1] = [row]
        write_text(self.folder / 'results.md', format_table(self.rows) + '\n')
        text = json.dumps(plain_numbers({**self.header, 'rows': self.rows}), indent=1)
        write_text(self.folder / 'results.json', text + '\n')  # last: what it has is not measured and written again

    def _read(self) -> list[dict]:
        file = self.folder / 'results.json'
        try:
            kept = json.loads(file.read_text(encoding='utf-8')) if file.is_file() else None
        except (OSError, ValueError, RecursionError):  # there is none, or it is damaged
            return []
        if not isinstance(kept, dict) or any(kept.get(key) != value for key, value in self.header.items()):
            return []
        rows = kept.get('rows')
        return [_with_undefined(row) for row in rows if _is_row(row)] if isinstance(rows, list) else []


def _is_row(row: Any) -> bool:
    """Whether a value of results.json is a complete row, with nothing in it that the program cannot have written."""
    if not isinstance(row, dict) or not isinstance(row.get('per_image'), list):
        return False
    images = row['per_image']
    scores = {key: value for key, value in row.items() if key not in (*TEXTS, *NUMBERS, 'scale', 'per_image', 'code')}
    scale = row.get('scale')
    return (is_scale(scale) and (isinstance(scale, str) or scale in SCALE)
            and all(_is_text(row.get(key)) for key in TEXTS) and ('code' not in row or _is_text(row['code']))
            and all(row.get(key) in allowed or (key, row.get(key, '')) == ('peak_memory', None)
                    for key, allowed in NUMBERS.items())
            and len(images) == row['images'] and all(map(_is_image, images)) and all(map(_is_score, scores.values()))
            and all(name in image for name in _metrics_of(row) for image in images))


def _is_image(scores: object) -> bool:
    """Whether a value is the name of an image with its scores."""
    return (isinstance(scores, dict) and isinstance(scores.get('name'), str)
            and all(_is_score(value) for key, value in scores.items() if key != 'name'))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST and value.isprintable()


def _is_score(value: object) -> bool:
    return value is None or value in SCORE


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
