"""How an edge runs between the boxes of a layout, as the `d` of an SVG path.

Edges leave a box at its top and arrive from below. In between, x is a function of y: a monotone cubic that cannot
overshoot (Fritsch and Butland 1984), led into the gutter wherever it would run behind a box that the circuit uses. So
no edge can be mistaken for one that ends at a box on its way. MLP to MLP edges run outside their column, the longer the
further. An edge inside a head leaves a port, dips under the row and comes up at the lower corner of the head in the
other lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..names import Edge, End
from .layout import Box, Lane, Layout
from .style import text

Point = tuple[float, float]
_BAR = 90.0  # px; from this width on, edges attach to a box side by side


def route(layout: Layout, edge: Edge) -> str:
    """The path of an edge."""
    if layout.panels:
        return _on_maps(layout, edge)
    if edge.inside:
        return _inside(layout, edge)
    source, target = layout.boxes[str(edge.source)], _reading(layout, edge.destination)
    if edge.source.kind == edge.destination.kind == "mlp":
        return _arc(layout, source, target)
    lane = layout.lanes[edge.source.group]
    start = (_attach(source, target.x, lane), source.top)
    end = (_attach(target, source.x, lane), target.bottom)
    return _smooth(_around(layout, edge, start, end))


def _reading(layout: Layout, end: End) -> Box:
    return layout.ports.get(str(end)) or layout.boxes.get(str(end)) or _owner(layout, end)


def _owner(layout: Layout, end: End) -> Box:
    """The box, or the frame around heads, that a port belongs to."""
    name = str(replace(end, port=""))
    return layout.frames.get(name) or layout.boxes[name]


def _attach(box: Box, other: float, lane: Lane) -> float:
    """Where on a box an edge to `other` attaches: its middle, or on a wide one, spread in the order of the others."""
    if box.width < _BAR:
        return box.x
    if box.end.kind == "attention":
        return float(np.clip(other, box.left + 8, box.right - 8))
    return box.left + 12 + (other - lane.x) / lane.width * (box.width - 24)


def _around(layout: Layout, edge: Edge, start: Point, end: Point) -> list[Point]:
    """Points of falling y that lead the edge past the boxes in its way, one detour per row of boxes."""
    own = (edge.source.node, edge.destination.node)
    boxes = [
        box
        for box in layout.obstacles[edge.source.group]
        if box.end.node not in own and box.top < start[1] - 2.0 and box.bottom > end[1] + 2.0
    ]
    points, rows = [start, end], set()
    for _ in range(4):  # a detour can lead into the next row's box
        hit = {box.y: (box, x) for box, x in _hits(points, boxes) if box.y not in rows}
        if not hit:
            break
        for y, (box, x) in hit.items():
            rows.add(y)
            aside = _aside(layout, box, x, edge)
            points += [(aside, min(box.bottom + 2.0, start[1] - 1.0)), (aside, max(box.top - 2.0, end[1] + 1.0))]
        points.sort(key=lambda point: -point[1])
    return points


def _hits(points: Sequence[Point], boxes: Sequence[Box]) -> list[tuple[Box, float]]:
    """Boxes that the curve would run behind, and where it crosses their middle."""
    if not boxes:
        return []
    heights = np.array([(box.bottom, box.y, box.top) for box in boxes])
    heights = np.clip(heights, points[-1][1], points[0][1])
    x = _curve(points, heights)
    reach = np.array([box.width / 2 + 2.0 for box in boxes])
    offset = x - np.array([box.x for box in boxes])[:, None]
    inside = (offset.min(1) < reach) & (offset.max(1) > -reach)  # a flat curve crosses a box between two heights
    return [(boxes[place], float(x[place, 1])) for place in np.flatnonzero(inside).tolist()]


def _curve(points: Sequence[Point], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smooth curve's x at heights y."""
    px, py = np.array(points).T
    slopes = np.array(_slopes(points))
    place = np.clip(np.searchsorted(-py, -y, side="right") - 1, 0, len(px) - 2)
    step = py[place + 1] - py[place]
    t = (y - py[place]) / step
    rise = px[place + 1] - px[place]
    bend = (slopes[place] * step - rise) * (1 - t) - (slopes[place + 1] * step - rise) * t
    return px[place] + t * rise + t * (1 - t) * bend


def _aside(layout: Layout, box: Box, x: float, edge: Edge) -> float:
    """Where in the gutter beside a box an edge passes that would cross it at x, keeping the order of the edges."""
    gutter = layout.sizes.column - box.width
    across = float(np.clip((x - box.x) / (box.width / 2 + 3.0), -1.0, 1.0))
    left = across < 0 or (abs(across) < 0.02 and (edge.source.layer + edge.destination.layer) % 2 == 0)
    spread = 0.3 * abs(across) + 0.03 * (edge.destination.layer % 6)
    return box.x + (-1 if left else 1) * (box.width / 2 + 3.0 + spread * gutter)


def _slopes(points: Sequence[Point]) -> list[float]:
    """dx/dy at each point: 0 at both ends and wherever x turns, else the harmonic mean of the two sides."""
    steps = [(x1 - x0) / (y1 - y0) for (x0, y0), (x1, y1) in pairwise(points)]
    inner = [2 * a * b / (a + b) if a * b > 0 else 0.0 for a, b in pairwise(steps)]
    return [0.0, *inner, 0.0]


def _smooth(points: Sequence[Point]) -> str:
    """Cubics through the points; y is linear along each, so that `_curve` says where they run."""
    path = f"M{_pair(points[0])}"
    for ((x0, y0), a), ((x1, y1), b) in pairwise(zip(points, _slopes(points), strict=True)):
        third = (y1 - y0) / 3
        path += f"C{_pair((x0 + a * third, y0 + third))} {_pair((x1 - b * third, y1 - third))} {_pair((x1, y1))}"
    return path


def _arc(layout: Layout, source: Box, target: Box) -> str:
    """From an MLP to a later one, around those in between on the outside, the longer the further."""
    start, end = (source.x, source.top), (target.x, target.bottom)
    span = target.end.layer - source.end.layer
    if span == 1:
        return _smooth([start, end])
    aside = source.right + 4.0 + 5.5 * min(span - 2, 12)
    clear = layout.sizes.row - source.height / 2 - 2.0
    return _smooth([start, (aside, source.y - clear), (aside, target.y + clear), end])


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


def _on_maps(layout: Layout, edge: Edge) -> str:
    """Upright at one place of several panels; bowed from place to place inside one."""
    source, target = _reading(layout, edge.source), _owner(layout, edge.destination)
    if not edge.inside:
        target = _reading(layout, edge.destination)
        if source.top > target.bottom:
            return _smooth([(source.x, source.top), (target.x, target.bottom)])
        over = source.top - 0.5 * layout.cell[1]  # a head and its MLP side by side
        controls = ((source.x, over), (target.x, over), (target.x, target.top))
        return f"M{_pair((source.x, source.top))}C{' '.join(map(_pair, controls))}"
    if edge.source.group == edge.destination.group:
        return _to_itself(source, target)
    across, down = target.x - source.x, target.y - source.y
    length = float(np.hypot(across, down))
    short = min(1.0, 0.5 * target.width / max(abs(across), 1e-6), 0.5 * target.height / max(abs(down), 1e-6))
    end = (target.x - short * across, target.y - short * down)
    bow = min(0.14 * length, 40.0) * (1.0 if across > 0 else -1.0) / length
    controls = [(source.x + part * across + bow * down, source.y + part * down - bow * across) for part in (0.3, 0.75)]
    return f"M{_pair((source.x, source.y))}C{' '.join(map(_pair, [*controls, end]))}"


def _to_itself(port: Box, target: Box) -> str:
    """What a head reads at the place where it writes: straight up from its port, or around where it has none."""
    if port.top > target.top:
        return f"M{_pair((port.x, port.top))}L{_pair((port.x, target.bottom + 1))}"
    low, wide = target.bottom + 0.6 * target.height, 0.3 * target.width
    points = ((target.x - wide, low), (target.x + wide, low), (target.x + wide, target.bottom))
    return f"M{_pair((target.x - wide, target.bottom))}C{' '.join(map(_pair, points))}"


def _pair(point: Point) -> str:
    return f"{text(float(point[0]))} {text(float(point[1]))}"
