"""A curve of transmission or faithfulness small enough for the cell of a table: the ranking in blue, chance in grey.

The horizontal axis is the logarithm of the number of edges, from 1 to all; the lines are at 0 and 1, and what lies
further out than a quarter is drawn at the rim. The circuit is a dot.
"""

from __future__ import annotations

import math

import numpy as np

from ..report import Curve, Report
from ..report_words import measure
from .words import tag

WIDTH, HEIGHT = 132, 40
_RIM = 0.25
_BLUE, _GREY, _INK = "#2b6cb0", "#9aa1ab", "#111827"


def sparkline(report: Report) -> str:
    """The curve of the report's first ranking and that of random circuits, as SVG; empty if there are none."""
    known = [curve for curve in report.curves if "random" not in curve.label][:1]
    random = [curve for curve in report.curves if "random" in curve.label][:1]
    if not known and not random:
        return ""
    lines = [tag("path", d=f"M0 {_y(level)}H{WIDTH}", stroke="#e5e7eb", fill="none") for level in (0.0, 1.0)]
    lines += [_line(curve, report.n_graph, _GREY) for curve in random]
    lines += [_line(curve, report.n_graph, _BLUE) for curve in known]
    figure = report.figures.get("transmission", report.figures.get("faithfulness"))
    if figure is not None and figure.value is not None and report.n_edges:
        x, y = _x(report.n_edges, report.n_graph), _y(figure.value)
        lines.append(tag("circle", cx=x, cy=y, r=2.6, fill="#fff", stroke=_INK, stroke_width=1.3))
    size = {"width": WIDTH, "height": HEIGHT, "viewBox": f"0 0 {WIDTH} {HEIGHT}"}
    return tag("svg", *lines, **size, role="img", aria_label=f"{measure(report).capitalize()} by size")


def _line(curve: Curve, largest: int, colour: str) -> str:
    points = np.flatnonzero((curve.n_edges > 0) & np.isfinite(curve.faithfulness))
    points = points[np.argsort(curve.n_edges[points], kind="stable")]
    places = [(_x(int(curve.n_edges[at]), largest), _y(float(curve.faithfulness[at]))) for at in points]
    path = " ".join(f"{x},{y}" for x, y in dict.fromkeys(places))
    return tag("polyline", points=path, fill="none", stroke=colour, stroke_width=1.5, stroke_linejoin="round")


def _x(n_edges: int, largest: int) -> str:
    return f"{3 + (WIDTH - 6) * math.log(max(n_edges, 1)) / math.log(max(largest, 2)):.1f}"


def _y(value: float) -> str:
    share = (min(max(value, -_RIM), 1 + _RIM) + _RIM) / (1 + 2 * _RIM)
    return f"{3 + (HEIGHT - 6) * (1 - share):.1f}"
