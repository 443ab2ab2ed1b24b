"""Columns that tables have on request, between the method and the scales."""
import statistics
from collections.abc import Callable
from typing import NamedTuple

from engine.evaluation.measurement import Measurement


class Column(NamedTuple):
    """A column on request: its heading, and the text and what is published of the measurements of a line."""
    heading: str
    text: Callable[[list[Measurement]], str | None]
    published: Callable[[list[Measurement]], float | None] = lambda line: None


def _scaled(value: float | None, unit: float = 1) -> str | None:
    """A number in a unit, or None for what is unknown or nothing (bicubic has no parameters)."""
    return f'{value / unit:.3g}' if value else None


def _known(line: list[Measurement], field: str) -> list[float]:
    """The values of a field that are known."""
    return [value for measurement in line if (value := getattr(measurement, field)) is not None]


COLUMNS = {
    'params': Column('params (M)', lambda line: f'{line[0].params / 1e6:.1f}' if line[0].params else None,
                     lambda line: line[0].published_params),
    'macs': Column('GMACs per output MP', lambda line: _scaled(line[0].macs, 1e9)),
    'seconds': Column('s per image', lambda line: _scaled(statistics.fmean(_known(line, 'seconds') or [0]))),
    'memory': Column('peak memory (GiB)', lambda line: _scaled(max(_known(line, 'memory'), default=None), 2 ** 30)),
}
