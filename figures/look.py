"""The look that all figures share: widths, fonts, colours, grids of panels, files. The only place that knows matplotlib.

matplotlib is an extra: it is imported when something is drawn.
"""
from __future__ import annotations

import itertools
import warnings
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils import UserError, atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = {'column': 3.5, 'page': 7.16}  # inches, of IEEE's pages
SUFFIXES = ('.png', '.pdf', '.svg')
# of Okabe and Ito, which people with any kind of colour vision can tell apart; the yellow is too pale for lines
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
MARKERS = 'os^Dv<>'
BOX = '#56B4E9'  # of boxes and points on images, edged in black
HEAT = 'viridis'  # these maps grow evenly in lightness: they can be read in greys, too
SIGNED = 'PuOr'
LETTER, SMALLEST = 8.0, 5.0  # points
LONGEST = 400    # letters: more than fit on a page at the smallest size
GAP = 0.05       # inches between panels
LINE = 0.14      # inches of a line of text
BAR = 0.68       # inches at the right for a colour bar with its ticks and label
STYLE: dict[Any, Any] = {
    'font.family': 'DejaVu Sans', 'font.size': LETTER, 'axes.titlesize': LETTER, 'axes.labelsize': LETTER,
    'xtick.labelsize': 7, 'ytick.labelsize': 7, 'legend.fontsize': 7, 'axes.linewidth': 0.6, 'lines.linewidth': 1.2,
    'lines.markersize': 3.5, 'legend.frameon': False, 'axes.grid': True, 'grid.alpha': 0.3, 'grid.linewidth': 0.5,
    'image.interpolation': 'nearest', 'savefig.dpi': 300, 'pdf.fonttype': 42, 'svg.fonttype': 'path', 'svg.hashsalt': 'msit',
}


@contextmanager
def style() -> Iterator[None]:
    """The settings of matplotlib that figures are drawn and written with. Raises UserError where it is not installed."""
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise UserError('figures and plots need matplotlib: pip install "matplotlib>=3.8"') from error
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing')  # of a name: an empty box stands in its place
        yield


def new_figure(width: float, height: float, **settings: Any) -> Figure:
    """An empty figure of a size in inches. Raises UserError where matplotlib is not installed."""
    with style():
        from matplotlib.figure import Figure
        return Figure(figsize=(width, height), **settings)


def new_plots(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of plots with axes. Raises UserError where matplotlib is not installed."""
    figure = new_figure(width, height, layout='constrained')
    with style():
        return figure, list(figure.subplots(rows, columns, squeeze=False).flatten())


def plain_ticks(axis: Any) -> None:
    """Gives a logarithmic axis plain numbers at 1, 2 and 5 times the powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter('{x:g}'))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: Path) -> None:
    """Writes a figure atomically, in the format of the path's suffix; equal figures make equal files."""
    undated = {'.pdf': {'CreationDate': None}, '.svg': {'Date': None}, '.png': {}}[path.suffix.lower()]
    with style(), atomic_path(path) as temporary:
        figure.savefig(temporary, metadata=undated, format=path.suffix[1:].lower())


class Sheet:
    """A figure of panels at places in inches, from the top left.

    Args:
        width, height: of the figure.
    """

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = new_figure(width, height)

    def panel(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes without ticks and frame."""
        axes = self.figure.add_axes((left / self.width, 1 - (top + height) / self.height,
                                     width / self.width, height / self.height))
        axes.set_axis_off()
        return axes

    def text(self, x: float, y: float, text: str, room: float, **settings: Any) -> None:
        """A line of text around the point (x, y), made smaller or cut where it is wider than `room`."""
        text, size = fitted(text, room)
        settings = {'ha': 'center', 'va': 'center', 'fontsize': size, 'parse_math': False, **settings}
        self.figure.text(x / self.width, 1 - y / self.height, text, **settings)

    def colour_bar(self, source: Any, left: float, top: float, width: float, height: float, label: str) -> None:
        """A colour bar for an image that was shown."""
        axes = self.figure.add_axes((left / self.width, 1 - (top + height) / self.height,
                                     width / self.width, height / self.height))
        bar = self.figure.colorbar(source, cax=axes)
        bar.set_label(label)
        bar.outline.set_linewidth(0.4)


class Grid:
    """A sheet of rows and columns of equal panels, with room for titles above, names at the left, captions below.

    Args:
        rows, columns: how many.
        width: of the figure, in inches.
        aspect: width / height of a panel.
        left, right, top: inches beside the panels.
        captions: lines of text below each panel.
    """

    def __init__(self, *, rows: int, columns: int, width: float, aspect: float = 1.0, left: float = 0.0, right: float = 0.0,
                 top: float = 0.0, captions: int = 0):
        self.left, self.top = left, top
        self.panel_width = (width - left - right - (columns - 1) * GAP) / columns
        self.panel_height = self.panel_width / aspect
        self.below = captions * LINE
        self.sheet = Sheet(width, top + rows * (self.panel_height + self.below) + (rows - 1) * GAP)

    @property
    def figure(self) -> Figure:
        return self.sheet.figure

    def place(self, row: int, column: int) -> tuple[float, float]:
        """Left and top of a panel, in inches."""
        return (self.left + column * (self.panel_width + GAP),
                self.top + row * (self.panel_height + self.below + GAP))

    def panel(self, row: int, column: int, caption: str = '') -> Axes:
        """Axes, and the lines below them."""
        left, top = self.place(row, column)
        for number, line in enumerate(caption.split('\n') if caption else ()):
            self.sheet.text(left + self.panel_width / 2, top + self.panel_height + (number + 0.55) * LINE, line,
                            self.panel_width)
        return self.sheet.panel(left, top, self.panel_width, self.panel_height)

    def title(self, column: int, text: str, span: int = 1, line: int = 0) -> None:
        """A title above a column, or above several; `line` counts from the panels upwards."""
        room = span * (self.panel_width + GAP) - GAP
        self.sheet.text(self.place(0, column)[0] + room / 2, self.top - (line + 0.55) * LINE, text, room)

    def name(self, row: int, text: str, span: int = 1) -> None:
        """The name of a row, or of several, at the left, upright."""
        room = span * (self.panel_height + self.below + GAP) - GAP - self.below
        self.sheet.text(LINE / 2, self.place(row, 0)[1] + room / 2, text, room, rotation=90)

    def colour_bar(self, source: Any, label: str, rows: int) -> None:
        """A colour bar at the right of all panels; needs BAR inches there."""
        height = self.place(rows - 1, 0)[1] + self.panel_height - self.top
        self.sheet.colour_bar(source, self.sheet.width - BAR + GAP, self.top, 0.09, height, label)


def fitted(text: str, room: float) -> tuple[str, float]:
    """A line of text, and the size of its letters in points, at which it is at most `room` inches wide.

    Below SMALLEST points the middle of the text is left out instead.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    def width(text: str) -> float:                                                   # in inches, at LETTER points
        return TextPath((0, 0), text, size=LETTER, prop=FontProperties(family='DejaVu Sans')).get_extents().width / 72

    def middle_left_out(kept: int) -> str:
        return f'{text[:kept - kept // 2]}…{text[len(text) - kept // 2:]}'
    if len(text) > LONGEST:
        text = middle_left_out(LONGEST)
    if not text.strip() or width(text) <= room:
        return text, LETTER
    size = max(SMALLEST, LETTER * room / width(text))
    if width(text) * size / LETTER <= room:
        return text, size
    fitting = bisect_right(range(2, len(text)), room, key=lambda kept: width(middle_left_out(kept)) * size / LETTER)
    return middle_left_out(max(2, fitting + 1)), size


def show(axes: Axes, image: np.ndarray, **settings: Any) -> Any:
    """Shows an image (H, W, 3) uint8 or a map (H, W), pixels square; returns what a colour bar is made from."""
    shown = axes.imshow(image, **settings)
    axes.grid(False)
    return shown


def frame(axes: Axes, box: tuple[float, float, float, float], width: float = 0.8) -> None:
    """Draws a box (top, left, height, width), in pixels, on an image: bright on a dark edge, so that it is seen anywhere."""
    from matplotlib.patches import Rectangle
    top, left, box_height, box_width = box
    for line, colour in ((width + 1.0, 'black'), (width, BOX)):
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), box_width, box_height, fill=False, linewidth=line,
                                 edgecolor=colour))


def line_styles() -> Iterator[tuple[str, str]]:
    """A colour and a marker for each of any number of lines."""
    return zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS))


def mark(axes: Axes, y: float, x: float) -> None:
    """Draws a point on an image, in pixels."""
    axes.plot([x], [y], marker='+', markersize=7, color='black', markeredgewidth=2.6)
    axes.plot([x], [y], marker='+', markersize=6, color=BOX, markeredgewidth=1.1)
