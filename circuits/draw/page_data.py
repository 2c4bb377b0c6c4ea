"""What the scripts of pages work with, in plain values: places, edges, curves and attention.

Coordinates are those of the still picture (`layout`, `route`). Edges stand in rank order, each with the number at
which it *enters*: the shortest prefix of the ranking in which it is on a path from input to logits. With the numbers
sorted, C(n) of `circuits/sizes.py` is the edges whose number is below that of the n-th (counted from 0), so the page
can show every size without a dead end. An edge's ends and the free links between them are the nodes of `reach.Walks`:
whoever walks along them follows the graph's paths and no others.

Attention is bytes, 255 for the largest number of its row and 0 for its smallest (of weights: for 0), with the row's
range beside it; base64.
"""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..circuit import Circuit
from ..compare.matching import named_edge, named_node
from ..formats.plain import plain
from ..formats.tables import ranked_indices
from ..graph import Graph
from ..names import End
from ..reach import Walks, path_strengths
from ..report import Report
from ..words import group_title, measure, title
from .curve import curve_points, own_point
from .layout import Box, Layout
from .page_effects import effects_data
from .panels import place
from .route import route
from .strokes import Stroke, strokes, strokes_beyond
from .style import legible

if TYPE_CHECKING:
    from ..compare.matching import Matching
    from ..figure_data import Exhibit
    from ..patch_effects import PatchEffects

MAX_EDGES = 10_000
"""Of a larger circuit the page holds the largest part made of whole paths that has at most so many edges."""
MAX_BEYOND, MAX_GRAPH = 2_000, 1_000_000
"""Up to so many edges the ranking is gone on with beyond the circuit, in graphs of at most so many."""
MAX_PATTERN_BYTES = 3_000_000
"""Of all full patterns of one image together; heads that touch the strongest edges come first."""


def script_json(value: Any) -> str:
    """JSON that may stand inside a `<script>`: whatever a text holds, nothing in it ends the element.

    Raises:
        FormatError: A number is not finite.
    """
    text = json.dumps(_legible(plain(value)), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _legible(value: Any) -> Any:
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, list):
        return [_legible(one) for one in value]
    return {key: _legible(one) for key, one in value.items()} if isinstance(value, dict) else value


def page_data(
    circuit: Circuit,
    *,
    report: Report | None = None,
    exhibit: Exhibit | None = None,
    patch_effects: PatchEffects | None = None,
) -> dict[str, Any]:
    """The circuit, and what is known of it, for the script of its page; the keys are those that `page/*.js` read."""
    data, shown = circuit_data(circuit, MAX_EDGES, removed=_removed(report), beyond=MAX_BEYOND)
    about = {"schema": "vitcircuits.page/1", "title": title(circuit), "curves": _curves(report)}
    effects = effects_data(patch_effects, () if exhibit is None else exhibit.keys)
    return {**about, **data, "images": _images(circuit, exhibit, shown[: data["n_kept"]]), "effects": effects}


def circuit_data(
    circuit: Circuit,
    limit: int,
    *,
    beside: Circuit | None = None,
    removed: Mapping[str, str] | None = None,
    beyond: int = 0,
) -> tuple[dict[str, Any], list[Stroke]]:
    """The diagram of a circuit for a page's script, and its edges.

    Args:
        circuit: The circuit.
        limit: The most edges.
        beside: A circuit of the same graph that stands on the same places.
        removed: Name of an edge -> what the circuit loses without it.
        beyond: The ranking goes on beyond the circuit up to so many edges on paths.
    """
    order = _order(circuit, beyond)
    entered, n_kept = _entered(circuit.graph, order), len(circuit)
    shown = _shown(strokes(circuit), np.minimum(entered[:n_kept], n_kept + 1), limit)
    end = n_kept + 1
    if len(shown) == n_kept < len(order):
        ends = np.append(np.sort(entered), len(order) + 1)
        end = max(end, int(ends[min(beyond, len(order))]))
        chosen = n_kept + np.flatnonzero(entered[n_kept:] < end)
        shown = [*shown, *strokes_beyond(circuit, order, chosen, shown)]
    more = [] if beside is None else _shown(strokes(beside), _entered(beside.graph, _order(beside)), limit)
    layout = place(circuit.graph, [stroke.edge for stroke in (*shown, *more)])
    boxes = {**layout.boxes, **layout.frames}
    walks = Walks.of(circuit.graph)
    data = {
        "n_circuit": n_kept,
        "n_graph": len(circuit.graph),
        "n_kept": min(n_kept, len(shown)),
        "end": end,
        "off_paths": int((entered[:n_kept] > n_kept).sum()),
        "layout": _layout(layout),
        "boxes": [_box(circuit, box, layout, walks.logits) for box in boxes.values()],
        "ports": [_rectangle(box) for box in layout.ports.values()],
        "edges": _edges(shown, entered, layout, list(boxes), walks),
        "links": _links(walks, [stroke.edge.index for stroke in shown]),
        "removed": removed or {},
    }
    return data, shown


def pair_data(
    first: Circuit, second: Circuit, names: tuple[str, str], *, matching: Matching | None = None, limit: int
) -> dict[str, Any]:
    """Two circuits for the script that shows them side by side; `key` says what is the same in both.

    Args:
        first: The one.
        second: The other.
        names: What they are called.
        matching: Heads of the second in the names of the first; without one, names are compared if the graphs have one
            shape.
        limit: The most edges of each.
    """
    linked = first.graph.signature == second.graph.signature
    both = [(first, second, None), (second, first, matching)]
    circuits = []
    for circuit, other, names_of_first in both:
        data, shown = circuit_data(circuit, limit, beside=other if linked else None)
        data["edges"]["key"] = ["|".join(named_edge(stroke.edge, names_of_first)) for stroke in shown]
        for box in data["boxes"]:
            box["key"] = f"{named_node(box['node'], names_of_first)}@{box['group']}"
        circuits.append(data)
    return {"names": names, "comparable": linked or matching is not None, "linked": linked, "circuits": circuits}


def _order(circuit: Circuit, beyond: int = 0) -> NDArray[np.intp]:
    """The kept edges in rank order; then, as far as the graph is small and scored, the others."""
    kept = ranked_indices(circuit)
    if circuit.scores is None or len(circuit) >= beyond or len(circuit.graph) > MAX_GRAPH:
        return kept
    return np.concatenate([kept, ranked_indices(replace(circuit, mask=~circuit.mask))])


def _entered(graph: Graph, order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Of each edge of an order, the shortest prefix in which it is on a path; one more than all for none."""
    strengths = np.zeros(len(graph), dtype=np.intp)
    strengths[order] = np.arange(len(order), 0, -1)
    return len(order) + 1 - path_strengths(graph, strengths)[order]


def _shown(drawn: Sequence[Stroke], entered: NDArray[np.intp], limit: int) -> list[Stroke]:
    end = np.sort(entered)[limit] if len(entered) > limit else len(entered) + 2
    return [stroke for stroke, place in zip(drawn, entered.tolist(), strict=True) if place < end]


def _layout(layout: Layout) -> dict[str, Any]:
    lanes = [
        {"group": lane.group, "title": group_title(lane.group) if lane.group else "", "x": lane.x, "width": lane.width}
        for lane in layout.lanes.values()
    ]
    return {
        "width": layout.width,
        "height": layout.height,
        "row": layout.sizes.row,
        "font": layout.sizes.font,
        "box": layout.sizes.box[1],
        "lanes": lanes,
        "rows": layout.rows,
        "row_titles": layout.row_titles,
        "panels": [vars(panel) for panel in layout.panels],
        "places": {name: [round(at, 1) for at in place] for name, place in layout.places.items()},
        "titles": {group: group_title(group) for group in layout.titles},
        "cell": layout.cell,
        "lean": layout.lean,
        "picture": layout.picture,
    }


def _rectangle(box: Box) -> dict[str, Any]:
    size = {name: round(getattr(box, name), 1) for name in ("x", "y", "width", "height")}
    return {"name": box.name, "label": box.label, "state": box.state, **size}


def _box(circuit: Circuit, box: Box, layout: Layout, logits: int) -> dict[str, Any]:
    end = box.end
    place = logits if end.kind == "logits" else _place(circuit.graph, end)
    about = {"node": end.node, "kind": end.kind, "layer": end.layer, "head": end.head, "group": end.group}
    where = {"frame": box.name in layout.frames, "place": place}
    return {**_rectangle(box), **about, **where, "direct": _direct(circuit, end)}


def _place(graph: Graph, end: End) -> int:
    """The node of `Walks` where a source writes; -1 for a frame around heads, which writes through them."""
    if end.kind == "attention":
        return -1
    sources = {"input": lambda: 0, "mlp": lambda: graph.mlp_source(end.layer)}
    source = sources.get(end.kind, lambda: graph.first_head(end.layer) + end.head)()
    return source * len(graph.groups) + graph.groups.names.index(end.group)


def _direct(circuit: Circuit, end: End) -> list[float] | None:
    """Score and standard error of a node's own edge to the logits, kept or not."""
    logits = End("logits", group=end.group)
    name = f"{end}->{logits}"
    if circuit.scores is None or end.kind not in ("head", "mlp", "input") or name not in circuit.graph:
        return None
    index = circuit.graph.index(name)
    found = [float(circuit.scores.values[index]), float(circuit.scores.std_err[index])]
    return found if np.isfinite(found).all() else None


def _edges(
    shown: Sequence[Stroke], entered: NDArray[np.intp], layout: Layout, boxes: Sequence[str], walks: Walks
) -> dict[str, Any]:
    """Columns, one entry per edge."""
    at = {name: place for place, name in enumerate(boxes)}
    edges = [stroke.edge for stroke in shown]
    indices = [edge.index for edge in edges]
    return {
        "name": [edge.name for edge in edges],
        "kind": [{"head": "attention"}.get(e.destination.kind, e.destination.kind) for e in edges],
        "inside": [edge.inside for edge in edges],
        "source": [at[str(edge.source.bare)] for edge in edges],
        "target": [at[str(edge.destination.bare)] for edge in edges],
        "from": walks.start[indices],
        "to": walks.end[indices],
        "enters": [int(entered[stroke.rank - 1]) for stroke in shown],
        "rank": [stroke.rank for stroke in shown],
        "path": [route(layout, edge) for edge in edges],
        **{name: [getattr(stroke, name) for stroke in shown] for name in ("score", "std_err", "mean_abs", "exact")},
        "share": [round(stroke.share, 4) for stroke in shown],
    }


def _links(walks: Walks, indices: Sequence[int]) -> NDArray[np.int64]:
    """The free links that lead from the end of a shown edge to the start of one, shape (link, 2)."""
    start, end = walks.start[walks.n_edges :], walks.end[walks.n_edges :]
    used = np.isin(start, walks.end[indices])
    return np.stack([start[used], end[used]], axis=1)


def _curves(report: Report | None) -> dict[str, Any] | None:
    if report is None or not report.curves:
        return None
    return {"measure": measure(report), "lines": list(map(curve_points, report.curves)), "own": own_point(report)}


def _removed(report: Report | None) -> dict[str, str]:
    """Name of an edge -> what the circuit loses without it, where that was measured."""
    table = None if report is None else report.tables.get("local_minimality")
    if table is None:
        return {}
    return {
        str(row[0]): "; ".join(f"{c}: {v}" for c, v in zip(table.columns[1:], row[1:], strict=True))
        for row in table.rows
    }


def _images(circuit: Circuit, exhibit: Exhibit | None, shown: Sequence[Stroke]) -> dict[str, Any] | None:
    """Grid and attention; the pictures themselves stand in the page already."""
    if exhibit is None or not len(exhibit.clean) or not len(exhibit.attention):
        return None
    cfg = circuit.graph.cfg
    return {
        "grid": exhibit.grid,
        "n_prefix": exhibit.n_prefix,
        "tokens": cfg.tokens.token_names(),
        "frames": exhibit.frames,
        "has_cls": cfg.tokens.has_cls,
        "heads": [cfg.heads_of(layer) for layer in range(cfg.n_layers)],
        "places": _places(circuit.graph),
        "rows": {name: _rows(one) for name, one in {"pattern": exhibit.attention, **exhibit.kinds}.items()},
        "patterns": _patterns(exhibit, shown),
    }


_FEW = 3


def _places(graph: Graph) -> list[str] | None:
    """The token group of each token, where groups are many places on every image alike."""
    groups = graph.groups
    if len(groups) <= _FEW or groups.kind == "frame" or groups.per_pair:
        return None
    return [groups.names[group] for group in groups.of_token if group is not None]


def _rows(weights: NDArray[np.floating]) -> dict[str, Any]:
    """Numbers, shape (..., token), as bytes, with the range of each row; what a mask forbids is the smallest."""
    weights = weights.astype(np.float32)
    known = np.where(np.isfinite(weights), weights, np.nan)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows without a number
        smallest, largest = np.nan_to_num(np.fmin(np.nanmin(known, -1), 0.0)), np.nan_to_num(np.nanmax(known, -1))
    width = np.where(largest > smallest, largest - smallest, 1.0)[..., None]
    scaled = np.nan_to_num((known - smallest[..., None]) / width)
    data = base64.b64encode((scaled * 255 + 0.5).astype(np.uint8).tobytes()).decode("ascii")
    ranges = {"smallest": smallest, "largest": largest}
    short = {name: [float(f"{one:.3g}") for one in some.ravel().tolist()] for name, some in ranges.items()}
    return {"shape": weights.shape, "data": data, **(short if smallest.any() else {"largest": short["largest"]})}


def _patterns(exhibit: Exhibit, shown: Sequence[Stroke]) -> Mapping[str, Any]:
    """Full patterns, shape (image, token, token), by head; as many heads of the circuit as fit."""
    if exhibit.patterns is None or exhibit.frames > 1:  # a patch that is pointed at is one token
        return {}
    ends = (end for stroke in shown for end in (stroke.edge.source, stroke.edge.destination) if end.head >= 0)
    heads = dict.fromkeys((end.node, end.layer, end.head) for end in ends)
    n_tokens = exhibit.patterns.shape[-1]
    most = MAX_PATTERN_BYTES // (n_tokens * n_tokens)
    return {name: _rows(exhibit.patterns[:, layer, head]) for name, layer, head in list(heads)[:most]}
