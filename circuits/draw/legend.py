"""The legend under a diagram: only what occurs in it."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Graph
from .layout import Layout
from .strokes import DASH, NEGATIVE, POSITIVE, UNSCORED, Stroke, number, width_of
from .words import group_title, shortened, tag, text

_LINE = 19.0


def legend(
    graph: Graph, layout: Layout, drawn: Sequence[Stroke], n_edges: int, *, x: float, y: float
) -> tuple[list[str], float]:
    """SVG of the legend with its upper left corner at (x, y), and its height."""
    parts: list[str] = []
    place = y
    for symbol, words in _entries(graph, layout, drawn, n_edges):
        place += _LINE
        parts += [_symbol(symbol, x, place), tag("text", text(words), x=x + 46.0, y=place, class_="legend")]
    return parts, place - y + 6.0


def _entries(graph: Graph, layout: Layout, drawn: Sequence[Stroke], n_edges: int) -> list[tuple[str, str]]:
    signs = {stroke.sign for stroke in drawn}
    entries = []
    if "positive" in signs:
        entries.append(("positive", "helps: removing the edge lowers the metric"))
    if "negative" in signs:
        entries.append(("negative", "hurts: removing the edge raises the metric"))
    if "unscored" in signs:
        entries.append(("unscored", "no score, or a score of zero"))
    largest = max(drawn, key=lambda stroke: stroke.share, default=None)
    if largest is not None and largest.score:
        top = abs(largest.score) / (largest.share or 1.0)
        entries.append(("widths", f"width: |score| {number(0.1 * top)}, {number(0.5 * top)}, {number(top)}"))
    if any(stroke.edge.inside for stroke in drawn):
        entries.append(("inside", "inside a head, from one token group to another"))
    if graph.ports == "qkv":
        entries.append(("ports", "query, key, value: where a head reads"))
    if graph.ports == "block":
        entries.append(("bar", "where all heads of a layer read"))
    unused = [box for box in layout.boxes.values() if box.state == "unused" and box.end.kind in ("head", "mlp")]
    if unused:
        entries.append(("faint" if unused[0].label else "dot", "a head or MLP that no drawn edge touches"))
    return entries + [("", note) for note in _notes(layout, len(drawn), n_edges)]


def _notes(layout: Layout, n_drawn: int, n_edges: int) -> list[str]:
    notes = []
    if n_drawn < n_edges:
        notes.append(f"{n_drawn} strongest of {n_edges:,} edges drawn, {n_edges - n_drawn:,} left out")
    if not n_edges:
        notes.append("no edge is kept")
    if layout.left_out:
        names = [group_title(group) for group in layout.left_out]
        which = ", ".join(names) if len(names) <= 4 else f"{len(names)} other token groups"
        notes.append(shortened(f"no edge drawn at: {which}", 60))
    return notes


def _symbol(kind: str, x: float, y: float) -> str:
    """A small picture of what an entry explains, 36 pixels wide; empty for a note."""
    middle = y - 4.0
    line = {"x1": x, "y1": middle, "x2": x + 36.0, "y2": middle, "stroke_width": 2.4}
    box = {"fill": "#ffffff", "stroke": "#6b7280", "stroke_width": 0.9}
    match kind:
        case "positive":
            return tag("line", stroke=POSITIVE, **line)
        case "negative":
            return tag("line", stroke=NEGATIVE, stroke_dasharray=DASH, **line)
        case "unscored":
            return tag("line", stroke=UNSCORED, **line)
        case "bar":
            return tag("rect", x=x, y=middle - 3.0, width=36.0, height=6.0, rx=3.0, **box)
        case "dot":
            return tag("rect", x=x + 16.0, y=middle - 2.0, width=4.0, height=4.0, rx=2.0, fill="#d1d5db")
        case "faint":
            return tag(
                "rect", x=x + 8.0, y=middle - 5.0, width=20.0, height=10.0, rx=2.5, fill="none", stroke="#d1d5db"
            )
    drawn = {"widths": _widths, "inside": _inside, "ports": _ports}.get(kind)
    return drawn(x, middle) if drawn else ""


def _widths(x: float, y: float) -> str:
    places = enumerate((width_of(0.1), width_of(0.5), width_of(1.0)))
    ends = ((x + 13.0 * place, width) for place, width in places)
    return "".join(
        tag("line", x1=a, y1=y, x2=a + 10.0, y2=y, stroke="#4b5563", stroke_width=width) for a, width in ends
    )


def _inside(x: float, y: float) -> str:
    ends = ((x, y - 4), (x + 8, y + 8), (x + 32, y + 8), (x + 34, y - 3))
    start, *rest = (f"{text(across)} {text(down)}" for across, down in ends)
    ink = {"stroke": UNSCORED, "stroke_width": 1.4, "fill": "none", "marker_end": "url(#vc-arrow-unscored)"}
    return tag("path", d=f"M{start}C{' '.join(rest)}", **ink)


def _ports(x: float, y: float) -> str:
    return "".join(
        tag("circle", cx=x + 7.0 + 11.0 * place, cy=y, r=4.6, fill="#ffffff", stroke="#6b7280")
        + tag("text", letter, x=x + 7.0 + 11.0 * place, y=y + 2.5, class_="letter", text_anchor="middle")
        for place, letter in enumerate("qkv")
    )
