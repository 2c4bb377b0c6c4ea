"""Flows between token groups, layer by layer: bands as wide as what they carry (Sankey 1898, drawn upwards).

Groups are lanes, layers go upwards as in the pictures of circuits; blue helps, orange hurts. One scale serves all
bands, and the widest say their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .style import BLUE, FRAME, GREY, INK, LABEL, ORANGE, TITLE, draw_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LANE, _LAYER = 1.9, 0.62  # inches
_WIDEST = 0.42  # of a lane's distance
_SAID = 0.2  # of the largest effect: bands of at least so much say their number
_LEAST = 0.01  # of the largest: narrower bands cannot be seen


def draw_flow(
    values: NDArray[np.float64],
    sources: Sequence[str],
    targets: Sequence[str],
    unit: str,
    path: str | Path,
    *,
    titles: tuple[str, str] = ("", ""),
) -> Path:
    """Draws flows to an .svg, .pdf or .png, and returns the path.

    Args:
        values: Effect of each flow, shape (layer, source, target); NaN where there is none.
        sources: Names of the groups that flows come from.
        targets: Names of those that they lead to, which are among the sources.
        unit: What the numbers are.
        path: Where to.
        titles: What stands above, and the line under it.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    n_layers = len(values)
    ends = [sources.index(name) for name in targets]

    def fill(figure: Figure) -> None:
        axes = figure.subplots()
        _lanes(axes, sources, n_layers)
        _bands(axes, values, ends)
        axes.set_ylabel("layer", color=LABEL)
        axes.set_xlabel(f"blue helps, orange hurts; bands are as wide as their {unit}", color=LABEL, fontsize=8)
        if any(titles):
            figure.suptitle(titles[0], x=0.01, **TITLE)
            axes.set_title(titles[1], loc="left", fontsize=8, color=LABEL, parse_math=False, wrap=True)

    return draw_plot(path, "flow", (1.4 + _LANE * max(len(sources), 2), 1.6 + _LAYER * n_layers), fill)


def _lanes(axes: Axes, sources: Sequence[str], n_layers: int) -> None:
    for lane in range(len(sources)):
        axes.plot([lane, lane], [0, n_layers], color=GREY, linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(sources)), sources, fontsize=10, color=INK, parse_math=False)
    axes.set_yticks(np.arange(n_layers) + 0.5, [str(layer) for layer in range(n_layers)])
    axes.set_xlim(-0.5, len(sources) - 0.5)
    axes.set_ylim(-0.05, n_layers + 0.05)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=LABEL)


def _bands(axes: Axes, values: NDArray[np.float64], ends: Sequence[int]) -> None:
    known = np.nan_to_num(values)
    largest = float(np.abs(known).max(initial=0.0)) or 1.0
    order = sorted(np.ndindex(*known.shape), key=lambda place: -abs(known[place]))
    for place in order:
        layer, source, target = place
        share = float(abs(known[place])) / largest
        if share < _LEAST:
            continue
        colour = BLUE if known[place] > 0 else ORANGE
        _band(axes, (source, ends[target]), layer, share * _WIDEST, colour)
        if share >= _SAID:
            middle = (source + ends[target]) / 2
            axes.text(
                middle,
                layer + 0.5,
                f"{known[place]:+.2g}",
                ha="center",
                va="center",
                fontsize=7,
                color=INK,
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": FRAME, "linewidth": 0.3},
                zorder=3,
            )


def _band(axes: Axes, lanes: tuple[int, int], layer: int, width: float, colour: str) -> None:
    """From a lane below a layer to a lane above it."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    start, stop = lanes
    half, low, high, middle = width / 2, layer + 0.04, layer + 0.96, layer + 0.5
    points = [
        (start - half, low),
        (start - half, middle),
        (stop - half, middle),
        (stop - half, high),
        (stop + half, high),
        (stop + half, middle),
        (start + half, middle),
        (start + half, low),
        (start - half, low),
    ]
    codes = [
        Outline.MOVETO,
        *[Outline.CURVE4] * 3,
        Outline.LINETO,
        *[Outline.CURVE4] * 3,
        Outline.CLOSEPOLY,
    ]
    axes.add_patch(PathPatch(Outline(points, codes), facecolor=colour, alpha=0.55, linewidth=0, zorder=1))
