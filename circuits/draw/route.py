"""How an edge runs between the boxes of a layout, as the `d` of an SVG path.

Edges leave a box at its top and arrive from below. In between, x is a function of y: a straight line, moved aside into
the gutter wherever it would run behind a box that the circuit uses, and smoothed by a monotone cubic that cannot
overshoot (Fritsch and Butland 1984). So no edge can be mistaken for one that ends at a box on its way. MLP to MLP edges
bow outwards, the longer the further. An edge inside a head leaves a port, dips under the row and comes up at the lower
corner of the head in the other lane.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..names import Edge, End
from .layout import Box, Lane, Layout
from .words import text

Point = tuple[float, float]
_BAR = 90.0  # px; from this width on, edges attach to a box side by side


def route(layout: Layout, edge: Edge) -> str:
    """The path of an edge."""
    if edge.inside:
        return _inside(layout, edge)
    source, target = layout.boxes[str(edge.source)], _reading(layout, edge.destination)
    lane = layout.lanes[edge.source.group]
    start = (_attach(source, target.x, lane), source.top)
    end = (_attach(target, source.x, lane), target.bottom)
    if edge.source.kind == edge.destination.kind == "mlp":
        return _arc(start, end, edge.destination.layer - edge.source.layer)
    return _smooth([start, *_detours(layout, edge, start, end), end])


def _reading(layout: Layout, end: End) -> Box:
    return layout.ports.get(str(end)) or layout.boxes[str(end)]


def _attach(box: Box, other: float, lane: Lane) -> float:
    """Where on a box an edge to `other` attaches: its middle, or on a wide one, spread in the order of the others."""
    if box.width < _BAR:
        return box.x
    if box.end.kind == "attention":
        return float(np.clip(other, box.left + 8, box.right - 8))
    return box.left + 12 + (other - lane.x) / lane.width * (box.width - 24)


def _detours(layout: Layout, edge: Edge, start: Point, end: Point) -> list[Point]:
    """Points that lead the edge past the boxes in its way, from the lowest up."""
    points: list[Point] = []
    top = min(end[1] + 1.0, start[1])
    own = (edge.source.node, edge.destination.node)
    for box in layout.obstacles[edge.source.group]:
        low, high = box.bottom, box.top
        if high > start[1] - 1.0 or low < top or box.end.node in own:
            continue
        share = (start[1] - box.y) / (start[1] - end[1])
        x = start[0] + share * (end[0] - start[0])
        if abs(x - box.x) < box.width / 2 + 3.0:
            aside = _aside(layout, box, x, edge)
            points += [(aside, min(low + 2.0, start[1] - 1.0)), (aside, max(high - 2.0, end[1] + 1.0))]
    return sorted(points, key=lambda point: -point[1])


def _aside(layout: Layout, box: Box, x: float, edge: Edge) -> float:
    """Where in the gutter beside a box an edge passes that would cross it at x, keeping the order of the edges."""
    gutter = layout.sizes.column - box.width
    across = (x - box.x) / (box.width / 2 + 3.0)
    left = across < 0 or (abs(across) < 0.02 and (edge.source.layer + edge.destination.layer) % 2 == 0)
    spread = 0.3 * abs(across) + 0.03 * (edge.destination.layer % 6)
    return box.x + (-1 if left else 1) * (box.width / 2 + 3.0 + spread * gutter)


def _smooth(points: Sequence[Point]) -> str:
    """Cubics through points of falling y; vertical at both ends and wherever x turns."""
    slopes = [0.0]
    for (x0, y0), (x1, y1), (x2, y2) in zip(points, points[1:], points[2:], strict=False):
        before, after = (x1 - x0) / (y1 - y0 or -1.0), (x2 - x1) / (y2 - y1 or -1.0)
        slopes.append(2 * before * after / (before + after) if before * after > 0 else 0.0)
    slopes.append(0.0)
    path = f"M{_pair(points[0])}"
    for (x0, y0), (x1, y1), a, b in zip(points, points[1:], slopes, slopes[1:], strict=False):
        third = (y1 - y0) / 3
        grip = 1.35 * third if a == b == 0 else third
        path += f"C{_pair((x0 + a * grip, y0 + grip))} {_pair((x1 - b * grip, y1 - grip))} {_pair((x1, y1))}"
    return path


def _arc(start: Point, end: Point, span: int) -> str:
    bow, lift = (9.3 * min(span, 13), 0.3 * (start[1] - end[1])) if span > 1 else (0.0, 0.5 * (start[1] - end[1]))
    controls = ((start[0] + bow, start[1] - lift), (end[0] + bow, end[1] + lift), end)
    return f"M{_pair(start)}C{' '.join(map(_pair, controls))}"


def _inside(layout: Layout, edge: Edge) -> str:
    port = layout.ports[str(edge.source)]
    target = layout.frames.get(str(edge.destination)) or layout.boxes[str(edge.destination)]
    if edge.source.group == edge.destination.group:
        x = port.x if port.width < _BAR else port.left + 14
        return f"M{_pair((x, port.top))}L{_pair((x, target.bottom + 1))}"
    leftwards = target.x < port.x
    x1 = port.x if port.width < _BAR else (port.left + 10 if leftwards else port.right - 10)
    x2 = target.right - 3 if leftwards else target.left + 3
    # A cubic with both controls at one depth reaches 3/4 of it.
    deepest = (layout.sizes.channel - 4.0) / 0.75
    low = port.bottom + 10.0 + (deepest - 10.0) * (abs(x2 - x1) / layout.width) ** 0.5
    points = ((x1 + 0.25 * (x2 - x1), low), (x2 - 0.04 * (x2 - x1), low), (x2, target.bottom + 3))
    return f"M{_pair((x1, port.bottom))}C{' '.join(map(_pair, points))}"


def _pair(point: Point) -> str:
    return f"{text(float(point[0]))} {text(float(point[1]))}"
