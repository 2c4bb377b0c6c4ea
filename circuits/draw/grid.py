"""Figures between 0 and 1 of several things on several models, as grids of coloured cells that also say the number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...models.files import write_bytes_atomic
from .plots import FRAME, INK, LABEL, plot_kind, plotted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    kind = plot_kind(path, "grids")

    def fill(figure: Figure) -> None:
        every = np.atleast_1d(figure.subplots(len(panels), 1, sharex=True))
        for axes, (title, values) in zip(every, panels.items(), strict=True):
            _panel(axes, values, columns, (intervals or {}).get(title))
            axes.set_yticks(range(len(rows)), rows)
            axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)

    size = (2.6 + 1.2 * CELL * len(columns), 1.8 + len(panels) * (0.5 + 0.62 * CELL * len(rows)))
    return write_bytes_atomic(path, plotted(kind, size, fill))


def _panel(
    axes: Axes, values: NDArray[np.float64], columns: Sequence[str], intervals: NDArray[np.float64] | None = None
) -> None:
    axes.imshow(np.ma.masked_invalid(values), cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            axes.text(column, row, "-", ha="center", va="center", color=FRAME)
        else:
            colour = "#ffffff" if value > 0.6 else INK
            text = "1" if value == 1 else _short(value)
            ends = [] if intervals is None else [end for end in intervals[row, column] if not np.isnan(end)]
            up = 0.14 * bool(ends)
            axes.text(column, row - up, text, ha="center", va="center", color=colour, fontsize=9)
            if ends:
                below = f"[{', '.join(map(_short, ends))}]"
                axes.text(column, row + 0.24, below, ha="center", va="center", color=colour, fontsize=6)
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(values)) - 0.5, minor=True)
    axes.grid(which="minor", color="#ffffff", linewidth=2)
    axes.tick_params(which="both", length=0, labelcolor=LABEL)
    axes.spines[:].set_visible(False)


def _short(value: float) -> str:
    """Two decimals without the zero in front."""
    return f"{value:.2f}".replace("-0.", "\N{MINUS SIGN}.").removeprefix("0")
