"""Figures with their intervals as points on lines, one row each; a figure without an interval says so in its row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...models.files import write_bytes_atomic
from ..report import Figure, Table
from .plots import FRAME, INK, LABEL, plot_kind, plotted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

BLUE, GREY = "#2b6cb0", "#9ca3af"
MOST_EDGES = 40  # named rows that can be read; more edges are left out and counted


def draw_spread(table: Table, path: str | Path, *, title: str = "") -> Path:
    """Draws a spread's table to an .svg, .pdf or .png: faithfulness of each choice with its interval.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    rows = {
        f"{row[0]}, {str(row[1]).replace('_', ' ')}": cell for row in table.rows for cell in row if _is_figure(cell)
    }
    kind = plot_kind(path, "a spread")

    def fill(drawing: Drawing) -> None:
        axes = drawing.add_subplot()
        _rows(axes, rows, "faithfulness", marks=(0.0, 1.0))  # type: ignore[arg-type]
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)

    return write_bytes_atomic(path, plotted(kind, (7.2, 1.2 + 0.34 * len(rows)), fill))


def _is_figure(cell: object) -> bool:
    return isinstance(cell, Figure)


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
    kind, order = plot_kind(path, "stability"), np.argsort(-shares, kind="stable")
    ever = [int(edge) for edge in order if shares[edge] > 0]
    doubtful = [edge for edge in ever if shares[edge] < 1]
    shown = ever if len(ever) <= MOST_EDGES else doubtful[:MOST_EDGES]  # those kept always would crowd out the others

    def fill(drawing: Drawing) -> None:
        heights = (1.0 + len(overlaps), 1.0 + max(len(shown), 1))
        above, below = drawing.subplots(2, 1, height_ratios=heights)
        _rows(above, {name.replace("_", " "): figure for name, figure in overlaps.items()}, "Jaccard index")
        above.set_xlim(-0.02, 1.02)
        above.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
        _bars(below, [names[edge] for edge in shown], shares[shown], tuple(end[shown] for end in intervals), level)
        below.set_xlabel(f"share of the resamples that keep it{_left_out(ever, shown, shares)}", color=LABEL)

    size = (7.2, 2.2 + 0.34 * len(overlaps) + 0.2 * len(shown))
    return write_bytes_atomic(path, plotted(kind, size, fill))


def _left_out(ever: Sequence[int], shown: Sequence[int], shares: NDArray[np.float64]) -> str:
    """How many edges there was no room for."""
    rest = set(ever) - set(shown)
    always = sum(bool(shares[edge] == 1) for edge in rest)
    words = [f"{always:,} more always" * bool(always), f"{len(rest) - always:,} more at times" * (len(rest) > always)]
    return "".join(f"; {word}" for word in words if word)


def _rows(axes: Axes, rows: Mapping[str, Figure], label: str, marks: Sequence[float] = ()) -> None:
    for place, figure in enumerate(rows.values()):
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
        axes.axvline(mark, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(label, color=LABEL)
    _dress(axes)


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
    axes.axvline(level, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(names)), list(names), fontsize=8)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.set_xlim(0, 1.02)
    _dress(axes)


def _dress(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FRAME)
    axes.tick_params(color=FRAME, labelcolor=LABEL)
