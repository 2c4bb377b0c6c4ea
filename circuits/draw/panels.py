"""Figures by layer with their intervals as lines with bands: one panel per number, one line per model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...models.files import write_bytes_atomic
from ..report import Figure
from .plots import FRAME, INK, LABEL, plot_kind, plotted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_COLOURS = ("#2b6cb0", "#d9622b", "#2f855a", "#7b5ea7", "#b7791f", "#4a5568")
_MARKS = ("o", "s", "^", "D", "v", "P")  # so that lines are told apart in black and white
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
    kind = plot_kind(path, "panels")

    def fill(drawing: Drawing) -> None:
        places = drawing.subplots(1, len(panels), squeeze=False, sharey=same_scale)[0]
        for panel, axes in zip(panels, places, strict=True):
            _fill(axes, panel, ticks)
            axes.set_xlabel(axis, color=LABEL)
        drawing.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK, parse_math=False)
        if max(len(panel.lines) for panel in panels) > 1:
            handles, labels = places[0].get_legend_handles_labels()
            drawing.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)

    return write_bytes_atomic(path, plotted(kind, (3.1 * len(panels) + 0.3, 3.1), fill))


def _fill(axes: Axes, panel: Panel, ticks: Sequence[str]) -> None:
    for place, line in enumerate(panel.lines):
        n, colour = len(line.figures), _COLOURS[place % len(_COLOURS)]
        across = np.arange(n) if ticks else np.arange(n) / max(n - 1, 1)
        values = np.array([np.nan if f.value is None else f.value for f in line.figures])
        ends = np.array([[np.nan if e is None else e for e in (f.low, f.high)] for f in line.figures])
        axes.fill_between(across, ends[:, 0], ends[:, 1], color=colour, alpha=0.18, linewidth=0)
        axes.plot(across, values, color=colour, marker=_MARKS[place % len(_MARKS)], markersize=4, label=line.label)
    axes.set_title(panel.title, loc="left", fontsize=10, color=LABEL, parse_math=False)
    if ticks:
        step = -(-len(ticks) // _MOST_TICKS)
        shown = range(0, len(ticks), step)
        axes.set_xticks(shown, [ticks[i].removeprefix("block ") for i in shown])
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FRAME)
    axes.tick_params(color=FRAME, labelcolor=LABEL, labelsize=9)
