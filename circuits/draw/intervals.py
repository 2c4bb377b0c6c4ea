"""Figures with their intervals: as points on rows, as lines over layers, and as what texts explain of heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..report import Figure, Table
from ..words import shortened
from .style import BLUE, DASHED, FRAME, GREY, INK, LABEL, LINES, MARKS, draw_plot, dress, head

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


MOST_ROWS = 60  # of a table that can be read; those behind are left out
MOST_EDGES = 40  # named rows that can be read; more edges are left out and counted


def draw_table(table: Table, path: str | Path, *, title: str = "") -> Path:
    """Draws the figures of a table with their intervals to an .svg, .pdf or .png: a row each, a panel for each column.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    columns = [
        place for place in range(len(table.columns)) if any(isinstance(row[place], Figure) for row in table.rows)
    ]
    kept = [row for row in table.rows if any(isinstance(row[place], Figure) for place in columns)][:MOST_ROWS]

    def fill(drawing: Drawing) -> None:
        places = drawing.subplots(1, max(len(columns), 1), squeeze=False, sharey=True)[0]
        for place, axes in zip(columns, places, strict=False):
            rows = [(_label(row, number), _figure(row[place])) for number, row in enumerate(kept)]
            share = all(one.unit == "share" for _, one in rows if one.value is not None)
            _rows(axes, rows, table.columns[place].replace("_", " "), marks=(0.0, 1.0) if share else ())
        head(drawing if len(columns) > 1 else places[0], title)

    return draw_plot(path, "a table", (2.7 + 4.5 * max(len(columns), 1), 1.2 + 0.34 * len(kept)), fill)


def _label(row: Sequence[str | Figure], number: int) -> str:
    """The words in front of a row's first figure; without any, its number."""
    words = list(takewhile(lambda cell: not isinstance(cell, Figure), row))
    return ", ".join(str(word).replace("_", " ") for word in words) or str(number + 1)


def _figure(cell: str | Figure) -> Figure:
    return cell if isinstance(cell, Figure) else Figure(None, reason=cell)


def draw_stability(
    overlaps: Mapping[str, Figure],
    names: Sequence[str],
    shares: NDArray[np.float64],
    intervals: tuple[NDArray[np.float64], NDArray[np.float64]],
    path: str | Path,
    *,
    level: float = 0.5,
    title: str = "",
) -> Path:
    """Draws how alike the circuits are, and how often each edge was kept, to an .svg, .pdf or .png.

    Args:
        overlaps: Name -> Jaccard index with its interval.
        names: Edges (or nodes), one per share.
        shares: Share of the resamples that keep each, shape (edge,).
        intervals: Lower and upper ends of their intervals, each of shape (edge,).
        path: Where to.
        level: Share above which an edge is in the consensus circuit.
        title: Stands above.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    order = np.argsort(-shares, kind="stable")
    ever = [int(edge) for edge in order if shares[edge] > 0]
    doubtful = [edge for edge in ever if shares[edge] < 1]
    shown = ever if len(ever) <= MOST_EDGES else doubtful[:MOST_EDGES]  # those kept always would crowd out the others

    def fill(drawing: Drawing) -> None:
        heights = (1.0 + len(overlaps), 1.0 + max(len(shown), 1))
        above, below = drawing.subplots(2, 1, height_ratios=heights)
        _rows(above, [(name.replace("_", " "), figure) for name, figure in overlaps.items()], "Jaccard index")
        above.set_xlim(-0.02, 1.02)
        head(above, title)
        _bars(below, [names[edge] for edge in shown], shares[shown], tuple(end[shown] for end in intervals), level)
        below.set_xlabel(f"share of the resamples that keep it{_left_out(ever, shown, shares)}", color=LABEL)

    size = (7.2, 2.2 + 0.34 * len(overlaps) + 0.2 * len(shown))
    return draw_plot(path, "stability", size, fill)


def _left_out(ever: Sequence[int], shown: Sequence[int], shares: NDArray[np.float64]) -> str:
    """How many edges there was no room for."""
    rest = set(ever) - set(shown)
    always = sum(bool(shares[edge] == 1) for edge in rest)
    words = [f"{always:,} more always" * bool(always), f"{len(rest) - always:,} more at times" * (len(rest) > always)]
    return "".join(f"; {word}" for word in words if word)


def _rows(axes: Axes, rows: Sequence[tuple[str, Figure]], label: str, marks: Sequence[float] = ()) -> None:
    for place, (_, figure) in enumerate(rows):
        if figure.value is None:
            axes.text(0.02, place, "undefined", transform=axes.get_yaxis_transform(), va="center", color=FRAME)
            continue
        if figure.low is not None and figure.high is not None:
            axes.plot([figure.low, figure.high], [place, place], color=BLUE, linewidth=2.2, alpha=0.45)
        axes.plot([figure.value], [place], "o", color=BLUE, markersize=5)
        axes.annotate(
            _said(figure), (1, place), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points",
            va="center", fontsize=9, color=LABEL, annotation_clip=False,
        )  # fmt: skip
    for mark in marks:
        axes.axvline(mark, color=GREY, linewidth=0.8, linestyle=DASHED, zorder=0)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(label, color=LABEL)
    dress(axes)


def _said(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return f"{figure.value:.2f} (no interval)"
    return f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"


def _bars(
    axes: Axes, names: Sequence[str], shares: NDArray[np.float64], ends: Sequence[NDArray[np.float64]], level: float
) -> None:
    colours = [BLUE if share > level else GREY for share in shares]
    axes.barh(range(len(names)), shares, color=colours, height=0.72)
    low, high = ends
    axes.hlines(range(len(names)), low, high, color=INK, linewidth=1.1, alpha=0.55)
    axes.axvline(level, color=INK, linewidth=0.8, linestyle=DASHED)
    axes.set_yticks(range(len(names)), list(names), fontsize=8)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.set_xlim(0, 1.02)
    dress(axes)


_MOST_TICKS = 7


@dataclass(frozen=True, eq=False)
class Line:
    """One model's figures, from the first layer to the last.

    Args:
        label: What it is called.
        figures: One per layer; undefined ones are left out.
    """

    label: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, eq=False)
class Panel:
    """One number.

    Args:
        title: What it is, with its unit.
        lines: One per model.
    """

    title: str
    lines: tuple[Line, ...]


def draw_panels(
    panels: Sequence[Panel],
    path: str | Path,
    *,
    ticks: Sequence[str] = (),
    axis: str = "layer",
    title: str = "",
    same_scale: bool = False,
) -> Path:
    """Draws panels beside one another to an .svg, .pdf or .png, and returns the path.

    Args:
        panels: The panels.
        path: Where to.
        ticks: Names of the layers; without them, lines of any length reach from 0 to 1.
        axis: What goes across.
        title: Stands above.
        same_scale: One scale upwards for all panels, for those that show one number.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """

    names = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))  # one name, one colour

    def fill(drawing: Drawing) -> None:
        places, drawn = drawing.subplots(1, len(panels), squeeze=False, sharey=same_scale)[0], {}
        for panel, axes in zip(panels, places, strict=True):
            drawn |= _fill_panel(axes, panel, ticks, names)
            axes.set_xlabel(axis, color=LABEL)
        head(drawing, title)
        if max(len(panel.lines) for panel in panels) > 1:
            drawing.legend(
                [drawn[name] for name in names], names, loc="outside lower center", ncols=3, frameon=False, fontsize=9
            )

    return draw_plot(path, "panels", (3.1 * len(panels) + 0.3, 3.1), fill)


def _fill_panel(axes: Axes, panel: Panel, ticks: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Draws the lines and returns them by name."""
    drawn: dict[str, Any] = {}
    for line in panel.lines:
        place = names.index(line.label)
        n, colour = len(line.figures), LINES[place % len(LINES)]
        across = np.arange(n) if ticks else np.arange(n) / max(n - 1, 1)
        values = np.array([np.nan if f.value is None else f.value for f in line.figures])
        ends = np.array([[np.nan if e is None else e for e in (f.low, f.high)] for f in line.figures])
        axes.fill_between(across, ends[:, 0], ends[:, 1], color=colour, alpha=0.18, linewidth=0)
        (drawn[line.label],) = axes.plot(across, values, color=colour, marker=MARKS[place % len(MARKS)], markersize=4)
    axes.set_title(panel.title, loc="left", fontsize=10, color=LABEL, parse_math=False)
    if ticks:
        step = -(-len(ticks) // _MOST_TICKS)
        shown = range(0, len(ticks), step)
        axes.set_xticks(shown, [ticks[i].removeprefix("block ") for i in shown])
    dress(axes, labelsize=9)
    return drawn


_SAID = 3  # texts that are written beside a row
_LONGEST = 30  # letters of each


@dataclass(frozen=True, eq=False)
class SpanRow:
    """One head.

    Args:
        head: Its name.
        explained: What its texts explain.
        random: Where random directions lie, from and to; None where there were none.
        principal: What as many principal components explain.
        texts: The texts, the first taken first.
    """

    head: str
    explained: Figure
    random: tuple[float, float] | None
    principal: float
    texts: tuple[str, ...]


def draw_spans(rows: Sequence[SpanRow], path: str | Path, *, title: str = "") -> Path:
    """Draws one row per head, the first at the bottom, to an .svg, .pdf or .png, and returns the path.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """

    def fill(drawing: Drawing) -> None:
        axes = drawing.add_subplot()
        for place, row in enumerate(rows):
            _span_row(axes, place, row)
        _dress_spans(axes, [row.head for row in rows])
        head(drawing, title)
        drawing.legend(
            *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9
        )

    return draw_plot(path, "texts of heads", (9.6, 1.6 + 0.28 * max(len(rows), 1)), fill)


def _span_row(axes: Axes, place: int, row: SpanRow) -> None:
    first = place == 0
    if row.random is not None:
        axes.plot(row.random, [place, place], color=GREY, linewidth=7, solid_capstyle="butt", alpha=0.55,
                  label="random directions" if first else None)  # fmt: skip
    axes.plot([row.principal], [place], "|", color=INK, markersize=11, markeredgewidth=1.4,
              label="principal components" if first else None)  # fmt: skip
    if row.explained.low is not None and row.explained.high is not None:
        axes.plot([row.explained.low, row.explained.high], [place, place], color=BLUE, linewidth=2.2, alpha=0.6)
    value = np.nan if row.explained.value is None else row.explained.value
    axes.plot([value], [place], "o", color=BLUE, markersize=5, label="texts" if first else None)
    said = "; ".join(shortened(text, _LONGEST) for text in row.texts[:_SAID])
    axes.annotate(
        said, (1, place), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points", va="center",
        fontsize=8, color=LABEL, annotation_clip=False, parse_math=False,
    )  # fmt: skip


def _dress_spans(axes: Axes, heads: Sequence[str]) -> None:
    axes.set_yticks(range(len(heads)), list(heads))
    axes.set_ylim(-0.6, max(len(heads), 1) - 0.4)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("share of the variance over images that is explained", color=LABEL)
    dress(axes, labelsize=9)
