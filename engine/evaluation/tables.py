"""Comparison tables in the form of the papers: a line for each method, a column for each scale; four formats."""
import csv
import io
import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from engine.evaluation.evaluate import plain_numbers
from utils import write_text


class Cell(NamedTuple):
    """A method on a set at a scale. `absent` says why it was not measured; what is not known is None.

    psnr and published in dB, seconds per image, memory in bytes, macs in multiply-adds per output megapixel,
    published_params in millions.
    """
    set: str
    encoder: str
    method: str
    scale: float
    absent: str | None = None
    psnr: float | None = None
    ssim: float | None = None
    published: float | None = None
    params: int | None = None
    published_params: float | None = None
    macs: float | None = None
    seconds: float | None = None
    memory: int | None = None
    reimplementation: str | None = None

    @property
    def line(self) -> tuple[str, str, str]:
        """Where the cell stands."""
        return self.set, self.encoder, self.method


class Style(NamedTuple):
    """How a language writes what a table needs; the functions take text and give text."""
    best: Callable[[str], str]
    second: Callable[[str], str]
    footnote: Callable[[int], str]
    times: str
    dash: str
    text: Callable[[str], str]


SPECIAL = {'\\': r'\textbackslash{}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}', '×': r'$\times$', '—': '---',
           **{character: f'\\{character}' for character in '&%$#_{}'}}
MARKDOWN = Style('**{}**'.format, '<u>{}</u>'.format, '<sup>{}</sup>'.format, '×', '—',
                 lambda text: text.replace('|', r'\|'))
LATEX = Style(r'\textbf{{{}}}'.format, r'\underline{{{}}}'.format, r'$^{{{}}}$'.format, r'$\times$', '---',
              lambda text: ''.join(SPECIAL.get(character, character) for character in text))


def scaled(value: float | None, unit: float) -> str | None:
    """A number in a unit, or None for what is unknown or nothing (bicubic has no parameters)."""
    return f'{value / unit:.3g}' if value else None


def known(values: Iterable) -> list:
    return [value for value in values if value is not None]


# columns on request: heading, and what the cells of a line have in common or on average (beside it what is published)
COLUMNS = {
    'params': ('params (M)', lambda cells: (f'{cells[0].params / 1e6:.1f}' if cells[0].params else None,
                                            cells[0].published_params)),
    'macs': ('GMACs per output MP', lambda cells: (scaled(cells[0].macs, 1e9), None)),
    'seconds': ('s per image', lambda cells: (scaled(mean(known(c.seconds for c in cells)), 1), None)),
    'memory': ('peak memory (GiB)',
               lambda cells: (scaled(max(known(c.memory for c in cells), default=None), 2 ** 30), None)),
}


def mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def ranks(cells: list[Cell]) -> dict[Cell, int]:
    """1 for the best and 2 for the second best measured PSNR of each set and scale, as they read to two decimals.

    Equal figures share a rank; where a single method was measured there is none.
    """
    columns: dict[tuple[str, float], list[Cell]] = {}
    for cell in cells:
        if cell.psnr is not None:
            columns.setdefault((cell.set, cell.scale), []).append(cell)
    ranked = {}
    for column in columns.values():
        if len(column) > 1:
            figures = sorted({round(cell.psnr, 2) for cell in column}, reverse=True)[:2]
            ranked |= {cell: figures.index(round(cell.psnr, 2)) + 1 for cell in column if round(cell.psnr, 2) in figures}
    return ranked


def footnotes(cells: list[Cell]) -> list[str]:
    """What re-implementations are made from, each text once; the footnotes are numbered from 1."""
    return list(dict.fromkeys(cell.reimplementation for cell in cells if cell.reimplementation))


def absences(cells: list[Cell]) -> list[str]:
    """A line for each reason why cells are absent: what is missing, and for whom."""
    whom: dict[str, list[str]] = {}
    for cell in cells:
        if cell.absent:
            whom.setdefault(cell.absent, []).append(f'{name_of(cell)} on {cell.set}')
    everyone = {f'{name_of(cell)} on {cell.set}' for cell in cells}
    lines = []
    for reason, names in whom.items():
        sets = {cell.set for cell in cells if cell.absent == reason}
        methods = list(dict.fromkeys(name_of(cell) for cell in cells if cell.absent == reason))
        whole = len(sets) == 1 and {name for name in everyone if name.endswith(f' on {min(sets)}')} <= set(names)
        lines.append(f"{min(sets) if whole else ', '.join(methods)}: {reason}")
    return lines


def name_of(cell: Cell) -> str:
    """'RDN-LTE', 'RDN', 'Bicubic'."""
    return cell.method if cell.encoder in ('', cell.method) else f'{cell.encoder}-{cell.method}'


def grid(cells: list[Cell], columns: list[str], style: Style) -> list[list[str]]:
    """The table's texts, line by line, headings first.

    Columns: the set where there are several, the encoder where there is one, the method, those of `columns`, the scales.
    """
    ranked, notes, scales = ranks(cells), footnotes(cells), list(dict.fromkeys(cell.scale for cell in cells))
    several, encoders = len({cell.set for cell in cells}) > 1, any(cell.encoder for cell in cells)
    table = [[*['set'] * several, *['encoder'] * encoders, 'method', *(COLUMNS[name][0] for name in columns),
              *(f'{style.times}{scale:g}' for scale in scales)]]
    for line in dict.fromkeys(cell.line for cell in cells):
        own = [cell for cell in cells if cell.line == line]
        by_scale = {cell.scale: cell for cell in own}
        set_name, encoder, method = map(style.text, line)
        told = own[0].reimplementation
        table.append([*[set_name] * several, *[encoder] * encoders,
                      method + (style.footnote(notes.index(told) + 1) if told else ''),
                      *(beside(*COLUMNS[name][1](own), style) for name in columns),
                      *(figure(by_scale.get(scale), ranked, style) for scale in scales)])
    return table


def beside(value: str | None, published: float | None, style: Style) -> str:
    """A figure, with what is published in parentheses."""
    return (value or style.dash) + (f' ({published:g})' if published is not None else '')


def figure(cell: Cell | None, ranked: dict[Cell, int], style: Style) -> str:
    """'**32.50** (32.47)': the PSNR measured, marked by its rank, and in parentheses the one published."""
    if cell is None:
        return ''
    value = style.dash if cell.psnr is None else f'{cell.psnr:.2f}'
    value = {1: style.best, 2: style.second}.get(ranked.get(cell), str)(value)
    return value + (f' ({cell.published:.2f})' if cell.published is not None else '')


def legend(cells: list[Cell]) -> str:
    """The sentence that explains the table's signs."""
    return 'Measured; best in bold, second best underlined' + (
        '; in parentheses as published.' if any(cell.published is not None for cell in cells) else '.')


def markdown(title: str, cells: list[Cell], columns: list[str]) -> str:
    head, *lines = grid(cells, columns, MARKDOWN)
    texts = head.index('method') + 1
    rule = ['---'] * texts + ['---:'] * (len(head) - texts)
    paragraphs = [f'**{title}**', '\n'.join(f"| {' | '.join(line)} |" for line in (head, rule, *lines)), legend(cells)]
    notes = footnotes(cells)
    if notes:
        paragraphs.append('\n'.join(f'{MARKDOWN.footnote(i)} Re-implementation {note}.' for i, note in enumerate(notes, 1)))
    if absences(cells):
        paragraphs.append('\n'.join(['— not measured:', '', *(f'- {MARKDOWN.text(line)}' for line in absences(cells))]))
    return '\n\n'.join(paragraphs) + '\n'


def latex(title: str, cells: list[Cell], columns: list[str]) -> str:
    """A `table` that needs the package booktabs; what is absent is told in comments."""
    head, *lines = grid(cells, columns, LATEX)
    texts = head.index('method') + 1
    body = []
    for before, line in zip([None, *lines], lines):
        if before and before[:texts - 1] != line[:texts - 1]:  # another set or encoder
            body.append(r'\midrule')
        body.append(' & '.join(line) + r' \\')
    notes = [f'{LATEX.footnote(i)} Re-implementation {LATEX.text(note)}.' for i, note in enumerate(footnotes(cells), 1)]
    return '\n'.join([
        *(f'% not measured: {line}' for line in absences(cells)), r'\begin{table}', r'\centering',
        rf"\caption{{{' '.join([LATEX.text(title) + '.', legend(cells), *notes])}}}",
        rf"\begin{{tabular}}{{{'l' * texts}{'r' * (len(head) - texts)}}}", r'\toprule',
        ' & '.join(head) + r' \\', r'\midrule',
        *body, r'\bottomrule', r'\end{tabular}', r'\end{table}']) + '\n'


def comma_separated(cells: list[Cell]) -> str:
    """Every cell with all that is known of it, and its rank; empty where a value is absent."""
    ranked, text = ranks(cells), io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow([*Cell._fields, 'rank'])
    writer.writerows([*cell, ranked.get(cell)] for cell in cells)
    return text.getvalue()


def write_tables(folder: Path, title: str, cells: list[Cell], columns: list[str]) -> None:
    """Writes table.md, table.tex, table.csv and table.json into `folder`."""
    ranked = ranks(cells)
    content = {'title': title, 'cells': [{**cell._asdict(), 'rank': ranked.get(cell)} for cell in cells]}
    write_text(folder / 'table.md', markdown(title, cells, columns))
    write_text(folder / 'table.tex', latex(title, cells, columns))
    write_text(folder / 'table.csv', comma_separated(cells))
    write_text(folder / 'table.json', json.dumps(plain_numbers(content), indent=1) + '\n')
