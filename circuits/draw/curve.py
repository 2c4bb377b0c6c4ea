"""What circuits keep against the number of edges: transmission on a crossed task, faithfulness on a one-sided one.

A ranking that knows something rises early and stays near 1; random circuits of the same sizes, in grey, are what it has
to beat. Values are not clipped: a circuit can do better than the model, or worse than none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...models.files import write_bytes_atomic
from ..report import Curve
from .plots import INK, plot_kind, plotted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Mark = tuple[int, float] | tuple[int, float, float, float]

_COLOURS = ("#2b6cb0", "#d9622b", "#2f855a", "#7b5ea7", "#b7791f")
_RANDOM = "#8b929c"


def draw_curves(
    curves: Sequence[Curve],
    path: str | Path,
    *,
    mark: Mark | None = None,
    title: str = "",
    measure: str = "faithfulness",
) -> Path:
    """Draws curves to an .svg, .pdf or .png, and returns the path.

    Args:
        curves: The curves; those whose label holds `random` are drawn in grey. Points without edges are left out,
            because the axis is logarithmic, and so are undefined ones.
        path: Where to.
        mark: A circuit to point out, as (edges, value), or (edges, value, low, high) with its interval.
        title: Stands above.
        measure: What is drawn, for the vertical axis.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    kind = plot_kind(path, "curves")
    return write_bytes_atomic(path, _drawn(curves, kind, mark, title, measure))


def curves_svg(
    curves: Sequence[Curve], *, mark: Mark | None = None, title: str = "", measure: str = "faithfulness"
) -> str:
    """The same picture as SVG text."""
    return _drawn(curves, "svg", mark, title, measure).decode()


def _drawn(curves: Sequence[Curve], kind: str, mark: Mark | None, title: str, measure: str) -> bytes:
    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        _fill(axes, curves, mark)
        axes.set_ylabel(measure)
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, parse_math=False)

    return plotted(kind, (6.4, 3.9), fill)


def _fill(axes: Axes, curves: Sequence[Curve], mark: Mark | None) -> None:
    shown: list[float] = [0.0, 1.0]
    sizes: list[int] = []
    known = 0
    for curve in sorted(curves, key=lambda curve: "random" not in curve.label):  # random ones lie behind
        random = "random" in curve.label
        colour = _RANDOM if random else _COLOURS[known % len(_COLOURS)]
        known += not random
        points = _points(curve)
        if len(points):
            _plot(axes, curve, points, colour, random)
            shown += curve.faithfulness[points].tolist()
            sizes += curve.n_edges[points].tolist()
    if mark is not None and mark[0] > 0 and np.isfinite(mark[1]):
        _mark(axes, mark, max(sizes, default=mark[0]))
        shown += mark[1:]
        sizes.append(mark[0])
    _dress(axes, sizes, min(shown), max(shown))


def _points(curve: Curve) -> np.ndarray:
    """Indices of the points that can be shown, by size."""
    known = np.flatnonzero((curve.n_edges > 0) & np.isfinite(curve.faithfulness))
    return known[np.argsort(curve.n_edges[known], kind="stable")]


def _plot(axes: Axes, curve: Curve, points: np.ndarray, colour: str, random: bool) -> None:
    x, y = curve.n_edges[points], curve.faithfulness[points]
    if curve.low is not None and curve.high is not None:
        axes.fill_between(x, curve.low[points], curve.high[points], color=colour, alpha=0.16, linewidth=0)
    label = curve.label.replace("_", " ")
    label = label if label.lstrip("_") else "curve"
    marker = "o" if len(points) <= 25 else None
    (line,) = axes.plot(x, y, color=colour, linewidth=1.4 if random else 1.9, marker=marker, markersize=3.4)
    line.set_label(label)


def _mark(axes: Axes, mark: Mark, largest: int) -> None:
    n_edges, value, *interval = mark
    said = f"[{interval[0]:.2f}, {interval[1]:.2f}]" if interval else "(no interval)"
    if interval:
        axes.plot([n_edges, n_edges], interval, color="#111827", linewidth=1.2, zorder=4)
    axes.plot([n_edges], [value], "o", markersize=8, markerfacecolor="none", markeredgecolor="#111827", zorder=5)
    right = n_edges > largest**0.8
    axes.annotate(
        f"{n_edges} edges: {value:.2f} {said}",
        (n_edges, value),
        xytext=(-10 if right else 10, -16),
        textcoords="offset points",
        ha="right" if right else "left",
        color="#111827",
        bbox={"facecolor": "#ffffff", "alpha": 0.75, "linewidth": 0, "pad": 1.0},
        zorder=6,
    )


def _dress(axes: Axes, sizes: list[int], low: float, high: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for level in (0.0, 1.0):
        axes.axhline(level, color="#9ca3af", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.set_xscale("log")
    smallest, largest = max(1, min(sizes, default=1)), max(sizes, default=10)
    axes.set_xlim(smallest / 1.08, max(largest, smallest + 1) * 1.08)
    decades = np.log10(max(largest, smallest + 1) / smallest)
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0) if decades < 3.2 else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    spare = 0.07 * (high - low)
    axes.set_ylim(low - spare, high + spare)
    axes.set_xlabel("edges in the circuit")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#6b7280")
    axes.tick_params(color="#6b7280", labelcolor="#374151")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="best", fontsize=9)
