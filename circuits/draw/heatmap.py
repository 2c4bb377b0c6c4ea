"""Numbers as grids of coloured cells that also say the number, while there is room.

Heat maps are of signed numbers, rows upwards as in the pictures of circuits: blue helps, orange hurts. Their colours
are symmetrical about zero and the same in all panels; cells without a number are grey. Grids are of shares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .style import BLUE, FRAME, INK, LABEL, ORANGE, PALE, TITLE, draw_plot, head, plotted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure, SubFigure


_LONGEST = 40  # labels along an axis; of more, only some are written
_BAR = 0.18  # width of the colour bar in inches
_INCHES = 13.0  # the widest and highest that the cells together become


@dataclass(frozen=True, eq=False)
class Heatmap:
    """One or more grids of numbers beside one another.

    Args:
        values: Shape (panel, row, column); NaN where there is none.
        rows: Label of each row, the lowest first.
        columns: Label of each column.
        row_axis: What rows are.
        column_axis: What columns are.
        unit: What the numbers are, beside the colour bar.
        panels: Title of each panel; none for a single one.
        title: Stands above.
        subtitle: Stands under the title.
        share: Whether the numbers are shares from 0 to 1, written in percent.
    """

    values: NDArray[np.float64]
    rows: Sequence[str]
    columns: Sequence[str]
    row_axis: str
    column_axis: str
    unit: str
    panels: Sequence[str] = ()
    title: str = ""
    subtitle: str = ""
    share: bool = False

    def __post_init__(self) -> None:
        assert self.values.shape[1:] == (len(self.rows), len(self.columns))

    @property
    def cell(self) -> tuple[float, float]:
        """Width and height of a cell in inches."""
        n_panels, n_rows, n_columns = self.values.shape
        wide = 0.5 if self.numbered else 0.3
        return min(wide, _INCHES / (n_panels * n_columns)), min(0.34, _INCHES / n_rows)

    @property
    def numbered(self) -> bool:
        """Whether there is room to write a number into each cell."""
        n_panels, n_rows, n_columns = self.values.shape
        return n_panels * n_columns * 0.5 <= _INCHES and n_rows * 0.25 <= _INCHES


def draw_heatmap(heatmap: Heatmap, path: str | Path) -> Path:
    """Draws a heat map to an .svg, .pdf or .png, and returns the path.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    return draw_plot(path, "a heat map", size_of(heatmap), partial(_fill, heatmap=heatmap))


def heatmap_svg(heatmap: Heatmap) -> str:
    """The same picture as SVG text."""
    return plotted("svg", size_of(heatmap), partial(_fill, heatmap=heatmap)).decode()


def size_of(heatmap: Heatmap) -> tuple[float, float]:
    """Width and height in inches."""
    n_panels, n_rows, n_columns = heatmap.values.shape
    width, height = heatmap.cell
    wide = n_panels * (n_columns * width + 0.15) + 0.08 * max(map(len, heatmap.rows), default=0) + 1.5
    labels = 0.08 * max(map(len, heatmap.columns), default=0) if _turned(heatmap) else 0.2
    words = 0.3 + max(0.096 * len(heatmap.title), 0.074 * len(heatmap.subtitle))
    return max(wide, words, 3.2), max(n_rows * height, 0.075 * len(heatmap.unit)) + labels + 1.3


def _fill(figure: Figure, heatmap: Heatmap) -> None:
    fill_grids(figure, heatmap, *figure.get_size_inches())
    write_title(figure, heatmap.title, heatmap.subtitle)


def effect_colours() -> Any:
    """From what hurts through nothing to what helps; pale where there is no number."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("effect", [ORANGE, "#ffffff", BLUE]).with_extremes(bad=PALE)


def ends_of(values: NDArray[np.float64], *, share: bool) -> tuple[float, float]:
    """The ends of the scale: symmetrical about zero for signed numbers, 0 to 1 for shares."""
    largest = 1.0 if share else float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    return 0.0 if share else -largest, largest


def fill_grids(figure: Figure | SubFigure, heatmap: Heatmap, wide: float, high: float) -> None:
    """The grids and their colour bar, without the title, in a figure of so many inches."""
    colours = effect_colours()
    lowest, largest = ends_of(heatmap.values, share=heatmap.share)
    places = figure.subplots(1, len(heatmap.values), sharey=True, squeeze=False)[0]
    shown: Any = None
    for panel, axes in enumerate(places):
        shown = axes.imshow(
            heatmap.values[panel], cmap=colours, vmin=-largest, vmax=largest, origin="lower", aspect="auto"
        )
        _dress(axes, heatmap, first=panel == 0)
        if heatmap.panels:
            axes.set_title(heatmap.panels[panel], fontsize=10, color=LABEL, parse_math=False)
        if heatmap.numbered:
            _write_numbers(axes, heatmap, heatmap.values[panel], largest)
    bar = figure.colorbar(shown, ax=list(places), fraction=_BAR / wide, pad=_BAR / 2 / wide, aspect=high / _BAR)
    dress_bar(bar, (lowest, largest), heatmap.unit, share=heatmap.share)


def dress_bar(bar: Colorbar, ends: tuple[float, float], unit: str, *, share: bool = False) -> None:
    """A colour bar from one end of the scale to the other, with what the numbers are."""
    from matplotlib.ticker import PercentFormatter

    bar.ax.set_ylim(*ends)
    if share:
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    bar.set_label(unit, color=LABEL, fontsize=9)
    bar.ax.tick_params(color=FRAME, labelcolor=LABEL, labelsize=8)
    bar.outline.set_visible(False)  # type: ignore[operator]


def write_title(figure: Figure, title: str, subtitle: str) -> None:
    """The title in bold and the subtitle under it, in room that is taken from the grids."""
    height, at = figure.get_figheight(), 0.06
    both = {"x": 0.08 / figure.get_figwidth(), "va": "top"}
    if title:
        figure.text(y=1 - at / height, s=title, **both, **TITLE)
        at += 0.2
    if subtitle:
        figure.text(y=1 - at / height, s=subtitle, ha="left", fontsize=9, color=LABEL, parse_math=False, **both)
        at += 0.2
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, 0, 1, 1 - at / height))


def _dress(axes: Axes, heatmap: Heatmap, *, first: bool) -> None:
    columns, rows = _thinned(heatmap.columns), _thinned(heatmap.rows)
    axes.set_xticks(columns, [heatmap.columns[i] for i in columns], rotation=90 if _turned(heatmap) else 0)
    axes.set_yticks(rows, [heatmap.rows[i] for i in rows])
    axes.set_xlabel(heatmap.column_axis, color=LABEL)
    if first:
        axes.set_ylabel(heatmap.row_axis, color=LABEL)
    axes.tick_params(length=0, labelcolor=LABEL, labelsize=9)
    axes.spines[:].set_color(FRAME)
    axes.spines[:].set_linewidth(0.6)


def _thinned(labels: Sequence[str]) -> range:
    return range(0, len(labels), -(-len(labels) // _LONGEST))


def _turned(heatmap: Heatmap) -> bool:
    """Whether column labels stand upright, because they would run into one another."""
    step = len(heatmap.columns) / max(1, len(_thinned(heatmap.columns)))
    return max(map(len, heatmap.columns), default=0) * 0.085 > heatmap.cell[0] * step


def _write_numbers(axes: Axes, heatmap: Heatmap, values: NDArray[np.float64], largest: float) -> None:
    size = 8 if heatmap.cell[0] >= 0.45 else 6.5
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "#ffffff" if abs(value) > 0.6 * largest else INK
            text = f"{100 * value:.0f}" if heatmap.share else _number(float(value), largest)
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


def _number(value: float, largest: float) -> str:
    """As many digits as give the largest two or three, so that cells compare; in powers of ten where all are tiny."""
    magnitude = math.floor(math.log10(largest))
    if magnitude < -4:
        return f"{value:.0e}".replace("-", "\N{MINUS SIGN}") if value else "0"
    text = f"{value:.{max(0, 2 - max(magnitude, 0) - min(magnitude + 1, 0))}f}"
    return "0" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


CELL = 0.62  # inches


def draw_grids(
    panels: Mapping[str, NDArray[np.float64]],
    rows: Sequence[str],
    columns: Sequence[str],
    path: str | Path,
    *,
    intervals: Mapping[str, NDArray[np.float64]] | None = None,
) -> Path:
    """Draws one grid per panel, below one another, to an .svg, .pdf or .png, and returns the path.

    Args:
        panels: Title -> figures between 0 and 1, shape (row, column); NaN leaves a cell empty.
        rows: Names of the rows.
        columns: Names of the columns.
        path: Where to.
        intervals: Title of a panel -> ends of its figures' intervals, shape (row, column, 2), NaN for none.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """

    def fill(figure: Figure) -> None:
        every = np.atleast_1d(figure.subplots(len(panels), 1, sharex=True))
        for axes, (title, values) in zip(every, panels.items(), strict=True):
            _grid_panel(axes, values, columns, (intervals or {}).get(title))
            axes.set_yticks(range(len(rows)), rows)
            head(axes, title)

    size = (2.6 + 1.2 * CELL * len(columns), 1.8 + len(panels) * (0.5 + 0.62 * CELL * len(rows)))
    return draw_plot(path, "grids", size, fill)


def _grid_panel(
    axes: Axes, values: NDArray[np.float64], columns: Sequence[str], intervals: NDArray[np.float64] | None = None
) -> None:
    axes.imshow(np.ma.masked_invalid(values), cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            axes.text(column, row, "-", ha="center", va="center", color=FRAME)
        else:
            colour = "#ffffff" if value > 0.6 else INK
            text = "1" if value == 1 else _two_decimals(value)
            ends = [] if intervals is None else [end for end in intervals[row, column] if not np.isnan(end)]
            up = 0.14 * bool(ends)
            axes.text(column, row - up, text, ha="center", va="center", color=colour, fontsize=9)
            if ends:
                below = f"[{', '.join(map(_two_decimals, ends))}]"
                axes.text(column, row + 0.24, below, ha="center", va="center", color=colour, fontsize=6)
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(values)) - 0.5, minor=True)
    axes.grid(which="minor", color="#ffffff", linewidth=2)
    axes.tick_params(which="both", length=0, labelcolor=LABEL)
    axes.spines[:].set_visible(False)


def _two_decimals(value: float) -> str:
    """Two decimals without the zero in front."""
    return f"{value:.2f}".replace("-0.", "\N{MINUS SIGN}.").removeprefix("0")
