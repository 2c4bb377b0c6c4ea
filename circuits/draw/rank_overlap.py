"""Overlap of two rankings at each rank: seeds of one kind, two kinds, and chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .plots import FRAME, INK, LABEL, plotted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#2b6cb0", "#d9622b", "#2f855a", "#7b5ea7", "#b7791f")
_BETWEEN = ("#111827", "#4b5563", "#9ca3af")

RankCurves = Mapping[str, tuple[NDArray[np.int64], Mapping[str, NDArray[np.float64]]]]


def rank_overlap_svg(curves: RankCurves, kinds: Sequence[str]) -> str:
    """SVG text: one panel for edges and one for nodes.

    Args:
        curves: As `rank_curves` makes them.
        kinds: The kinds in order, which decides their colours.
    """

    def fill(figure: Figure) -> None:
        panels = np.atleast_1d(figure.subplots(1, len(curves), sharey=True))
        for axes, (what, (ranks, lines)) in zip(panels, curves.items(), strict=True):
            _panel(axes, ranks, lines, kinds)
            axes.set_title("heads and MLPs" if what == "nodes" else what, loc="left", fontsize=11, color=INK)
        panels[0].set_ylabel("Jaccard index of the first n")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=9, loc="outside lower center", ncols=min(4, len(labels)))

    return plotted("svg", (4.4 * len(curves), 4.0), fill).decode()


def _panel(
    axes: Axes, ranks: NDArray[np.int64], lines: Mapping[str, NDArray[np.float64]], kinds: Sequence[str]
) -> None:
    from matplotlib.ticker import FuncFormatter

    between = 0
    for name, values in lines.items():
        kind = name.removeprefix("two seeds of ")
        if name == "by chance":
            style = {"color": FRAME, "linestyle": (0, (4, 3)), "linewidth": 1.3}
        elif kind != name and kind in kinds:
            style = {"color": _COLOURS[list(kinds).index(kind) % len(_COLOURS)], "linewidth": 1.8}
        else:
            style = {"color": _BETWEEN[between % len(_BETWEEN)], "linewidth": 1.8}
            between += 1
        (line,) = axes.plot(ranks, values, **style)
        line.set_label(name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.0f}"))
    axes.set_xlim(1, float(ranks[-1]))
    axes.set_ylim(-0.02, 1.03)
    axes.set_xlabel("n edges, best first")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FRAME)
    axes.tick_params(which="both", color=FRAME, labelcolor=LABEL)
