"""Comparison tables in the form of the papers: for each metric a line for each method and a column for each scale."""
import math
from collections.abc import Callable
from typing import NamedTuple

from common.scales import AnyScale, scale_text
from engine.evaluation.columns import COLUMNS, Column
from engine.evaluation.measurement import Measurement
from engine.evaluation.metrics import METRICS


class Style(NamedTuple):
    """How a language writes what a table needs; the functions take text and give text."""
    best: Callable[[str], str]
    second: Callable[[str], str]
    footnote: Callable[[int], str]
    times: str
    dash: str
    text: Callable[[str], str]


def ranks(measurements: list[Measurement], metric: str) -> dict[tuple, int]:
    """By place, 1 for the best and 2 for the second best of each set and scale, as the values read in tables.

    Equal values share a rank; where a single method was measured there is none.
    """
    described = METRICS.entries[metric]
    columns: dict[tuple[str, AnyScale], dict[tuple, float]] = {}
    for measurement in measurements:
        value = measurement.scores.get(metric, math.nan)
        if not math.isnan(value):
            printed = float(described.text(value))
            columns.setdefault((measurement.set, measurement.scale), {})[measurement.place] = printed
    ranked: dict[tuple, int] = {}
    for column in columns.values():
        if len(column) > 1:
            best = sorted(set(column.values()), reverse=described.higher_is_better)[:2]
            ranked |= {place: best.index(value) + 1 for place, value in column.items() if value in best}
    return ranked


def footnotes(measurements: list[Measurement]) -> list[str]:
    """What re-implementations are made from, each text once; the footnotes are numbered from 1."""
    return list(dict.fromkeys(measurement.reimplementation for measurement in measurements if measurement.reimplementation))


def absences(measurements: list[Measurement]) -> list[str]:
    """A line for each reason why measurements are absent: what is missing, and for which set or methods."""
    lines = []
    for reason in dict.fromkeys(measurement.absent for measurement in measurements if measurement.absent):
        affected = [measurement for measurement in measurements if measurement.absent == reason]
        name, *other_sets = dict.fromkeys(measurement.set for measurement in affected)
        methods = dict.fromkeys(measurement.full_name for measurement in affected)
        whole_set = {measurement.full_name for measurement in measurements if measurement.set == name} == methods.keys()
        lines.append(f"{name if whole_set and not other_sets else ', '.join(methods)}: {reason}")
    return lines


def grid(measurements: list[Measurement], metric: str, columns: list[str], style: Style) -> list[list[str]]:
    """The texts of a metric's table, line by line, headings first.

    Columns: the set where there are several, the encoder where there is one, the method, those of `columns`, the scales.
    """
    ranked, notes = ranks(measurements, metric), footnotes(measurements)
    scales = list(dict.fromkeys(measurement.scale for measurement in measurements))
    several_sets = len({measurement.set for measurement in measurements}) > 1
    encoders = any(measurement.encoder for measurement in measurements)
    table = [[*['set'] * several_sets, *['encoder'] * encoders, 'method', *(COLUMNS[name].heading for name in columns),
              *(f'{style.times}{scale_text(scale)}' for scale in scales)]]
    for line in dict.fromkeys(measurement.line for measurement in measurements):
        found = [measurement for measurement in measurements if measurement.line == line]
        by_scale = {measurement.scale: measurement for measurement in found}
        set_name, encoder, method = map(style.text, line)
        note = found[0].reimplementation
        table.append([*[set_name] * several_sets, *[encoder] * encoders,
                      method + (style.footnote(notes.index(note) + 1) if note else ''),
                      *(_column_text(COLUMNS[name], found, style) for name in columns),
                      *(_score_text(by_scale.get(scale), metric, ranked, style) for scale in scales)])
    return table


def _column_text(column: Column, line: list[Measurement], style: Style) -> str:
    """A value, with what is published in parentheses."""
    published = column.published(line)
    return (column.text(line) or style.dash) + (f' ({published:g})' if published is not None else '')


def _score_text(measurement: Measurement | None, metric: str, ranked: dict[tuple, int], style: Style) -> str:
    """'**32.50** (32.47)': the value measured, marked by its rank, and in parentheses the one published."""
    if measurement is None:
        return ''
    text, published = METRICS.entries[metric].text, measurement.published.get(metric)
    value = text(measurement.scores[metric]) if metric in measurement.scores else style.dash
    value = {1: style.best, 2: style.second}.get(ranked.get(measurement.place, 0), str)(value)
    return value + (f' ({text(published)})' if published is not None else '')
