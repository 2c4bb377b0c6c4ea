"""Which edges of a circuit are drawn, in what order and with what ink, and the legend that explains the ink.

Blue helps, orange hurts and is dashed as well, so that the sign survives a black-and-white print; width is linear in
|score|. Every writer (SVG, DOT, HTML) takes its edges and its ink from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..circuit import Circuit
from ..formats.tables import EdgeRow, edge_rows, ranked_indices, rows_at
from ..graph import Graph
from ..sizes import largest_within
from ..words import group_title, shortened
from .layout import Layout
from .style import BLUE, FRAME, HEAT, ORANGE, tag, text

POSITIVE, NEGATIVE, UNSCORED = BLUE, ORANGE, FRAME
DASH = "5 3"


@dataclass(frozen=True)
class Stroke(EdgeRow):
    """An edge as it is drawn; numbers that are not finite are None.

    Args:
        share: |score| as a share of the largest in the circuit.
    """

    share: float = 0.0

    @property
    def sign(self) -> str:
        """`positive`, `negative`, or `unscored` (which includes a score of exactly zero)."""
        if not self.score:
            return "unscored"
        return "positive" if self.score > 0 else "negative"

    @property
    def colour(self) -> str:
        """Blue, orange or grey."""
        return {"positive": POSITIVE, "negative": NEGATIVE, "unscored": UNSCORED}[self.sign]

    @property
    def marker(self) -> str:
        """Which arrowhead it has inside a head."""
        return self.sign

    @property
    def width(self) -> float:
        """Width in pixels, linear in |score|."""
        return width_of(self.share)

    @property
    def opacity(self) -> float:
        """Weak edges recede behind strong ones."""
        return 0.5 + 0.45 * self.share**0.5

    @property
    def tooltip(self) -> str:
        """Name, score and rank in one line."""
        if self.score is None:
            return self.edge.name
        error = "" if self.std_err is None else f" ± {number(self.std_err)}"
        return f"{self.edge.name}   score {number(self.score, signed=True)}{error}   rank {self.rank}"


def width_of(share: float) -> float:
    """Width in pixels of an edge with this share of the largest |score|."""
    return 0.9 + 5.1 * share


def number(value: float, *, signed: bool = False) -> str:
    """Three significant digits."""
    text = f"{value:+.3g}" if signed else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}") if "e" not in text else text


def strokes(circuit: Circuit, *, limit: int | None = None) -> tuple[Stroke, ...]:
    """The circuit's edges, best rank first; with a limit at most that many, the largest by |score| that make up paths.

    What is drawn has no dead ends (`sizes.py`), unless the first path has more edges than the limit. Without scores
    there is nothing to choose by, and a limit takes edges evenly spaced in the graph's order.
    """
    order, scores = ranked_indices(circuit), circuit.scores
    size = np.zeros(len(order)) if scores is None else np.nan_to_num(np.abs(scores.values[order]), posinf=0.0)
    places, largest = np.arange(len(order)), float(size.max(initial=0.0)) or 1.0
    if limit is not None and len(order) > limit:
        evenly = np.linspace(0, len(order) - 1, limit).astype(np.intp)
        places = evenly if scores is None else _strongest(circuit.graph, order, size, limit)
    return tuple(
        _stroke(row, share) for row, share in zip(edge_rows(circuit, places), size[places] / largest, strict=True)
    )


def strokes_beyond(
    circuit: Circuit, order: NDArray[np.intp], places: NDArray[np.intp], drawn: Sequence[Stroke]
) -> tuple[Stroke, ...]:
    """Edges that a circuit does not keep, at some places of an order of edges, on the scale of those that it keeps."""
    per_share = max((abs(one.score) / one.share for one in drawn if one.score and one.share), default=1.0)
    rows = rows_at(circuit, order, places)
    return tuple(_stroke(row, min(1.0, abs(_finite(row.score) or 0.0) / per_share)) for row in rows)


def _stroke(row: EdgeRow, share: float) -> Stroke:
    return Stroke(*map(_finite, [*vars(row).values(), float(share)]))


def _strongest(graph: Graph, order: NDArray[np.intp], size: NDArray[np.float64], limit: int) -> NDArray[np.intp]:
    """Places in the order of the strongest edges that make up paths, at most so many."""
    strongest = np.argsort(-size, kind="stable")
    others = np.setdiff1d(np.arange(len(graph)), order)
    chosen = largest_within(graph, np.concatenate([order[strongest], others]), limit)[order]
    return np.flatnonzero(chosen) if chosen.any() else np.sort(strongest[:limit])


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


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
    if layout.panels:
        entries.append(("heat", "a place: the sum of |score| of the edges drawn from or to it"))
    if graph.ports == "qkv" and layout.ports:
        entries.append(("ports", "query, key, value: where a head reads"))
    if graph.ports == "block" and layout.ports:
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
        case "heat":
            return tag("path", d=f"M{text(x + 5)} {text(middle - 5)}h24l6 10h-24z", fill=HEAT, fill_opacity=0.6)
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
