"""Comparison tables as Markdown, LaTeX, CSV and JSON."""
import csv
import io
import json
from pathlib import Path

from common.locks import locked
from common.scales import scale_text
from engine.evaluation.evaluate import plain_numbers
from engine.evaluation.measurement import Measurement
from engine.evaluation.metrics import METRICS
from engine.evaluation.tables import Style, absences, footnotes, grid, ranks
from utils import write_text

SPECIAL = {'\\': r'\textbackslash{}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}', '×': r'$\times$', '—': '---',
           **{character: f'\\{character}' for character in '&%$#_{}'}}
MARKDOWN = Style('**{}**'.format, '<u>{}</u>'.format, '<sup>{}</sup>'.format, '×', '—',
                 lambda text: text.replace('|', r'\|'))
LATEX = Style(r'\textbf{{{}}}'.format, r'\underline{{{}}}'.format, r'$^{{{}}}$'.format, r'$\times$', '---',
              lambda text: ''.join(SPECIAL.get(character, character) for character in text))


def markdown(title: str, measurements: list[Measurement], metrics: list[str], columns: list[str]) -> str:
    """A table for each metric, and below them what they have in common: legend, footnotes, what was not measured."""
    paragraphs = []
    for metric in metrics:
        head, *lines = grid(measurements, metric, columns, MARKDOWN)
        texts = head.index('method') + 1
        rule = ['---'] * texts + ['---:'] * (len(head) - texts)
        paragraphs += [f'**{_caption(title, metric)}**',
                       '\n'.join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))]
    paragraphs += [_legend(measurements, metrics), *_other_sources(measurements, metrics)]
    notes = footnotes(measurements)
    if notes:
        paragraphs.append('\n'.join(f'{MARKDOWN.footnote(i)} Re-implementation {note}.' for i, note in enumerate(notes, 1)))
    missing = absences(measurements)
    if missing:
        paragraphs.append('\n'.join(['— not measured:', '', *(f'- {MARKDOWN.text(line)}' for line in missing)]))
    return '\n\n'.join(paragraphs) + '\n'


def latex(title: str, measurements: list[Measurement], metrics: list[str], columns: list[str]) -> str:
    """A `table` for each metric; needs the package booktabs. What was not measured is listed in comments."""
    lines = [f'% not measured: {line}' for line in absences(measurements)]
    return '\n'.join([*lines, *(_latex_table(title, measurements, metric, columns) for metric in metrics)]) + '\n'


def _latex_table(title: str, measurements: list[Measurement], metric: str, columns: list[str]) -> str:
    head, *lines = grid(measurements, metric, columns, LATEX)
    texts = head.index('method') + 1
    body = []
    for before, line in zip([None, *lines], lines):
        if before and before[:texts - 1] != line[:texts - 1]:  # another set or encoder
            body.append(r'\midrule')
        body.append(' & '.join(line) + r' \\')
    notes = [f'{LATEX.footnote(number)} Re-implementation {LATEX.text(note)}.'
             for number, note in enumerate(footnotes(measurements), 1)]
    other = map(LATEX.text, _other_sources(measurements, [metric]))
    caption = ' '.join([f'{LATEX.text(_caption(title, metric))}.', _legend(measurements, [metric]), *other, *notes])
    return '\n'.join([
        r'\begin{table}', r'\centering', rf'\caption{{{caption}}}',
        rf"\begin{{tabular}}{{{'l' * texts}{'r' * (len(head) - texts)}}}", r'\toprule',
        ' & '.join(head) + r' \\', r'\midrule', *body, r'\bottomrule', r'\end{tabular}', r'\end{table}'])


def comma_separated(measurements: list[Measurement], metrics: list[str]) -> str:
    """Every measurement with all that is known of it; empty where a value is absent."""
    text, records = io.StringIO(), _records(measurements, metrics)
    writer = csv.DictWriter(text, list(records[0]) if records else [], lineterminator='\n')
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def write_tables(folder: Path, title: str, measurements: list[Measurement], metrics: list[str], columns: list[str]) -> None:
    """Writes table.md, table.tex, table.csv and table.json into `folder`, all of one table: other processes wait."""
    content = {'title': title, 'measurements': _records(measurements, metrics)}
    with locked(folder):
        write_text(folder / 'table.md', markdown(title, measurements, metrics, columns))
        write_text(folder / 'table.tex', latex(title, measurements, metrics, columns))
        write_text(folder / 'table.csv', comma_separated(measurements, metrics))
        write_text(folder / 'table.json', json.dumps(plain_numbers(content), indent=1) + '\n')


def _records(measurements: list[Measurement], metrics: list[str]) -> list[dict]:
    """Measurements with plain keys: NAME, published_NAME and rank_NAME for each metric, and all other fields."""
    ranked = {metric: ranks(measurements, metric) for metric in metrics}
    return [{
        **{key: value for key, value in measurement._asdict().items() if key not in ('scores', 'published')},
        **{key: value for metric in metrics for key, value in (
            (metric, measurement.scores.get(metric)), (f'published_{metric}', measurement.published.get(metric)),
            (f'rank_{metric}', ranked[metric].get(measurement.place)))},
    } for measurement in measurements]


def _caption(title: str, metric: str) -> str:
    """'PSNR (dB): DIV2K validation set'."""
    return f'{METRICS.entries[metric].heading}{": " if title else ""}{title}'


def _legend(measurements: list[Measurement], metrics: list[str]) -> str:
    """The sentence that explains the tables' signs."""
    published = any(measurement.published.keys() & set(metrics) for measurement in measurements)
    return 'Measured; best in bold, second best underlined' + ('; in parentheses as published.' if published else '.')


def _other_sources(measurements: list[Measurement], metrics: list[str]) -> list[str]:
    """The sentence about published figures whose LR images are of another source than the measured ones'; none without."""
    pairs: dict[tuple[str, str, str], list[str]] = {}
    for entry in measurements:
        if entry.lr and entry.published_lr and entry.lr != entry.published_lr and entry.published.keys() & set(metrics):
            pairs.setdefault((entry.full_name, entry.set, f'{entry.published_lr}, measured on {entry.lr}'), []).append(
                f'×{scale_text(entry.scale)}')
    found = [f"{name} on {group}, {', '.join(scales)}: {sources}" for (name, group, sources), scales in pairs.items()]
    return [f"Published on other LR images than measured: {'; '.join(found)}."] if found else []
