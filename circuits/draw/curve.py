"""What circuits keep against the number of edges: transmission on a crossed task, faithfulness on a one-sided one.

A ranking that knows something rises early and stays near 1; random circuits of the same sizes, in grey, are what it has
to beat. Values are not clipped: a circuit can do better than the model, or worse than none of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..figures import main_figure
from ..report import Curve, Report
from ..words import measure
from .style import BLUE, DASHED, FRAME, GREY, INK, LINES, PALE, draw_plot, dress, head, plotted, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Mark = tuple[int, float] | tuple[int, float, float, float]

_RANDOM = "#8b929c"
_SIZE = 6.4, 3.9  # inches


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
    return draw_plot(path, "curves", _SIZE, partial(_fill, curves=curves, mark=mark, title=title, measure=measure))


def draw_report(report: Report, path: str | Path, *, title: str = "") -> Path:
    """Draws a report's curves, with the circuit's own point among them, and returns the path.

    Raises:
        FormatError: The ending is not known, or the file cannot be written.
    """
    return draw_curves(report.curves, path, mark=own_point(report), title=title, measure=measure(report))


def curves_svg(
    curves: Sequence[Curve], *, mark: Mark | None = None, title: str = "", measure: str = "faithfulness"
) -> str:
    """The same picture as SVG text."""
    fill = partial(_fill, curves=curves, mark=mark, title=title, measure=measure)
    return plotted("svg", _SIZE, fill).decode()


def own_point(report: Report) -> Mark | None:
    """The circuit's own point on the curve, with its interval where it has one."""
    figure = main_figure(report)
    if figure is None or figure.value is None:
        return None
    point = (report.n_edges, figure.value)
    return point if figure.low is None or figure.high is None else (*point, figure.low, figure.high)


def curve_points(curve: Curve) -> dict[str, Any]:
    """A curve in plain values, by size: its points that can be shown."""
    points = _points(curve)
    ends = {} if curve.low is None or curve.high is None else {"low": curve.low[points], "high": curve.high[points]}
    values = {"n": curve.n_edges[points], "value": curve.faithfulness[points], **ends}
    plain = {name: [one if np.isfinite(one) else None for one in array.tolist()] for name, array in values.items()}
    return {"label": curve.label.replace("_", " "), "random": "random" in curve.label, **plain}


def _fill(figure: Figure, curves: Sequence[Curve], mark: Mark | None, title: str, measure: str) -> None:
    axes = figure.add_subplot()
    axes.set_ylabel(measure)
    head(axes, title)
    shown: list[float] = [0.0, 1.0]
    sizes: list[int] = []
    known = 0
    for curve in sorted(curves, key=lambda curve: "random" not in curve.label):  # random ones lie behind
        random = "random" in curve.label
        colour = _RANDOM if random else LINES[known % len(LINES)]
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
        axes.plot([n_edges, n_edges], interval, color=INK, linewidth=1.2, zorder=4)
    axes.plot([n_edges], [value], "o", markersize=8, markerfacecolor="none", markeredgecolor=INK, zorder=5)
    right = n_edges > largest**0.8
    axes.annotate(
        f"{n_edges} edges: {value:.2f} {said}",
        (n_edges, value),
        xytext=(-10 if right else 10, -16),
        textcoords="offset points",
        ha="right" if right else "left",
        color=INK,
        bbox={"facecolor": "#ffffff", "alpha": 0.75, "linewidth": 0, "pad": 1.0},
        zorder=6,
    )


def _dress(axes: Axes, sizes: list[int], low: float, high: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for level in (0.0, 1.0):
        axes.axhline(level, color=GREY, linewidth=0.8, linestyle=DASHED, zorder=0)
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
    dress(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="best", fontsize=9)


_BETWEEN = (INK, "#4b5563", GREY)

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
            _rank_panel(axes, ranks, lines, kinds)
            axes.set_title("heads and MLPs" if what == "nodes" else what, loc="left", fontsize=11, color=INK)
        panels[0].set_ylabel("Jaccard index of the first n")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=9, loc="outside lower center", ncols=min(4, len(labels)))

    return plotted("svg", (4.4 * len(curves), 4.0), fill).decode()


def _rank_panel(
    axes: Axes, ranks: NDArray[np.int64], lines: Mapping[str, NDArray[np.float64]], kinds: Sequence[str]
) -> None:
    from matplotlib.ticker import FuncFormatter

    between = 0
    for name, values in lines.items():
        kind = name.removeprefix("two seeds of ")
        if name == "by chance":
            style = {"color": FRAME, "linestyle": DASHED, "linewidth": 1.3}
        elif kind != name and kind in kinds:
            style = {"color": LINES[list(kinds).index(kind) % len(LINES)], "linewidth": 1.8}
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
    dress(axes, which="both")


WIDTH, HEIGHT = 132, 40
_RIM = 0.25
_CHANCE = "#9aa1ab"


def sparkline(report: Report) -> str:
    """The curve of the report's first ranking and that of random circuits, as SVG; empty if there are none."""
    known = [curve for curve in report.curves if "random" not in curve.label][:1]
    random = [curve for curve in report.curves if "random" in curve.label][:1]
    if not known and not random:
        return ""
    lines = [tag("path", d=f"M0 {_y(level)}H{WIDTH}", stroke=PALE, fill="none") for level in (0.0, 1.0)]
    lines += [_line(curve, report.n_graph, _CHANCE) for curve in random]
    lines += [_line(curve, report.n_graph, BLUE) for curve in known]
    figure = main_figure(report)
    if figure is not None and figure.value is not None and report.n_edges:
        x, y = _x(report.n_edges, report.n_graph), _y(figure.value)
        lines.append(tag("circle", cx=x, cy=y, r=2.6, fill="#fff", stroke=INK, stroke_width=1.3))
    size = {"width": WIDTH, "height": HEIGHT, "viewBox": f"0 0 {WIDTH} {HEIGHT}"}
    return tag("svg", *lines, **size, role="img", aria_label=f"{measure(report).capitalize()} by size")


def _line(curve: Curve, largest: int, colour: str) -> str:
    places = [(_x(int(curve.n_edges[at]), largest), _y(float(curve.faithfulness[at]))) for at in _points(curve)]
    path = " ".join(f"{x},{y}" for x, y in dict.fromkeys(places))
    return tag("polyline", points=path, fill="none", stroke=colour, stroke_width=1.5, stroke_linejoin="round")


def _x(n_edges: int, largest: int) -> str:
    return f"{3 + (WIDTH - 6) * math.log(max(n_edges, 1)) / math.log(max(largest, 2)):.1f}"


def _y(value: float) -> str:
    share = (min(max(value, -_RIM), 1 + _RIM) + _RIM) / (1 + 2 * _RIM)
    return f"{3 + (HEIGHT - 6) * (1 - share):.1f}"
