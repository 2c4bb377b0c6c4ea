"""Where everything in a picture of a circuit stands; nothing is drawn here. Maps instead of lanes: `panels`.

A circuit is layered already, so no layout engine is needed. A row is a layer, the input below and the logits on top.
A column is a head; a layer's MLP stands in a column aside, half a row above its heads, because it reads them (beside
them, where both read the same). Only what the graph has is placed: attention pooling is the last row, and its own lane,
`pool`, holds nothing else. With several token groups each has its own lane, a copy of the columns: the residual stream
never mixes tokens, so an edge leaves its lane only inside a head. Under a head stand the ports that it reads through; y
grows downwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np

from ..graph import Graph
from ..names import Edge, End

State = Literal["writes", "reads", "unused"]
_FULL_GRID_COLUMNS, _FULL_BOXES = 40, 48


@dataclass(frozen=True)
class Sizes:
    """Lengths in pixels for one density of the picture."""

    column: float
    row: float
    box: tuple[float, float]
    font: float
    port: float
    gap: float = 0.0

    @property
    def lift(self) -> float:
        """How far a layer's MLP stands above its heads: half a row, or less where edges inside heads need the room."""
        return min(0.5 * self.row, self.box[1] + 28.0) if self.gap else 0.5 * self.row

    @property
    def channel(self) -> float:
        """Height of the free strip between the ports of a row and the MLP of the layer below."""
        return self.row - self.lift - self.box[1] - self.gap - 2 * self.port


_ROOMY = Sizes(column=84.0, row=118.0, box=(56.0, 24.0), font=12.5, port=5.2)
_NORMAL = Sizes(column=60.0, row=98.0, box=(48.0, 20.0), font=10.5, port=4.6)
_DENSE = Sizes(column=52.0, row=92.0, box=(44.0, 18.0), font=9.5, port=4.4)


@dataclass(frozen=True)
class Box:
    """A rectangle with a name: a head, an MLP, the input, the logits, or the small port that a head reads through.

    Args:
        name: The end's printable name.
        end: What it stands for.
        label: What is written in it.
        x: Middle.
        y: Middle.
        width: In pixels.
        height: In pixels.
        state: Whether a drawn edge leaves it, only enters it, or neither.
    """

    name: str
    end: End
    label: str
    x: float
    y: float
    width: float
    height: float
    state: State = "unused"

    @property
    def left(self) -> float:
        """Smallest x."""
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        """Largest x."""
        return self.x + self.width / 2

    @property
    def top(self) -> float:
        """Smallest y."""
        return self.y - self.height / 2

    @property
    def bottom(self) -> float:
        """Largest y."""
        return self.y + self.height / 2


@dataclass(frozen=True)
class Lane:
    """The columns of one token group.

    Args:
        group: The token group's name; empty with one group.
        heads: The heads that have a column, left to right.
        x: Left end.
        width: In pixels.
        heads_x: Left end of the first head's column.
        mlp_x: Middle of the MLPs' column.
    """

    group: str
    heads: tuple[int, ...]
    x: float
    width: float
    heads_x: float
    mlp_x: float


@dataclass(frozen=True)
class MapLevel:
    """A level of a picture whose token groups are places on a map (`panels`).

    Args:
        title: What it is called.
        level: 0 for the input, then the layers, then the logits.
        y: What its places' heights are counted from.
        groups: The token groups that have a cell there.
    """

    title: str
    level: int
    y: float
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """A picture's geometry.

    Args:
        width: In pixels.
        height: In pixels.
        sizes: The lengths it was made with.
        lanes: One per token group that is drawn, by name.
        boxes: Heads, MLPs, inputs and logits by name, such as `a0.h1@cls`.
        ports: Places under a head where it reads, by name, such as `a0.h1<q>@cls`.
        frames: At `block` ports, the frame around a layer's heads by name, such as `a0@cls`.
        rows: Middle of each layer's row of heads.
        row_titles: What each row is called.
        left_out: Token groups that no drawn edge touches.
        panels: Levels from below, where groups are places on a map and have no lanes.
        places: There, the middle of each group's cell, its height counted from the panel's.
        cell: Width and height of a cell.
        lean: By how much further right a cell's lower edge stands than its upper one.
        titles: Token groups whose names stand above their cells.
        picture: Left and top of all patches together, their width and height, as far as one image is their map.
    """

    width: float
    height: float
    sizes: Sizes
    lanes: Mapping[str, Lane]
    boxes: Mapping[str, Box]
    ports: Mapping[str, Box]
    frames: Mapping[str, Box]
    rows: tuple[float, ...]
    row_titles: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    panels: tuple[MapLevel, ...] = ()
    places: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    cell: tuple[float, float] = (0.0, 0.0)
    lean: float = 0.0
    titles: tuple[str, ...] = ()
    picture: tuple[float, float, float, float] | None = None

    @cached_property
    def obstacles(self) -> Mapping[str, tuple[Box, ...]]:
        """By token group, the heads and MLPs in use, their ports included, which other edges go around."""
        found: dict[str, list[Box]] = {group: [] for group in self.lanes}
        hanging = self.sizes.gap + 2 * self.sizes.port
        for box in self.boxes.values():
            if box.end.kind not in ("head", "mlp") or box.state == "unused":
                continue
            below = hanging if box.end.kind == "head" and not self.frames else 0.0
            found[box.end.group].append(replace(box, y=box.y + below / 2, height=box.height + below))
        return {group: tuple(boxes) for group, boxes in found.items()}


@dataclass(frozen=True)
class Use:
    """Names that the drawn edges write from and read at; by group, the longest MLP to MLP edge in layers."""

    writes: set[str] = field(default_factory=set)
    reads: set[str] = field(default_factory=set)
    ports: set[str] = field(default_factory=set)
    ends: list[End] = field(default_factory=list)
    spans: dict[str, int] = field(default_factory=dict)

    def state(self, end: End) -> State:
        """Only a head can read in one lane and write in another; with one group whatever is used writes."""
        name = str(end)
        if name in self.writes or (name in self.reads and not end.group):
            return "writes"
        return "reads" if name in self.reads else "unused"


def place_lanes(graph: Graph, edges: Iterable[Edge]) -> Layout:
    """Positions for the nodes of a graph, given the edges that will be drawn, a lane for each token group.

    The whole grid is shown faintly where it fits (40 columns of heads); beyond that each lane has only the columns that
    it uses.
    """
    use = used_by(edges)
    touched = {end.group for end in use.ends}
    groups = [name for name in graph.groups.names if name in touched]
    if not groups:
        groups = [name for name, read in zip(graph.groups.names, graph.read_groups, strict=True) if read][:3]
    full = len(groups) * graph.cfg.n_heads <= _FULL_GRID_COLUMNS
    heads = {group: _heads(graph, use, group, full) for group in groups}
    sizes = _sizes(graph, sum(map(len, heads.values())), len(groups))
    with_mlps = {group for group in groups if any(_has_mlp(graph, layer, group) for layer in range(graph.cfg.n_layers))}
    lanes = _lanes(groups, heads, use, sizes, with_mlps if full else set())
    left_out = tuple(name for name in graph.groups.names if name not in groups)
    return _Placer(graph, use, sizes, lanes, full).layout(left_out)


def used_by(edges: Iterable[Edge]) -> Use:
    """Which ends and ports some edges touch, and where they are read and written."""
    use = Use()
    for edge in edges:
        source, destination = edge.source, edge.destination
        use.ends.extend((source, destination))
        if edge.inside:
            use.ports.add(str(source))
            use.reads.add(str(source.bare))
            use.writes.add(str(destination))
            continue
        use.writes.add(str(source))
        use.ports.add(str(destination))
        use.reads.add(str(destination.bare))
        if source.kind == destination.kind == "mlp":
            use.spans[source.group] = max(use.spans.get(source.group, 0), destination.layer - source.layer)
    return use


def _heads(graph: Graph, use: Use, group: str, full: bool) -> tuple[int, ...]:
    if full:
        layers = range(graph.cfg.n_layers)
        return tuple(range(max(graph.cfg.heads_of(layer) * _has_heads(graph, layer, group) for layer in layers)))
    return tuple(sorted({end.head for end in use.ends if end.group == group and end.kind == "head"}))


def _sizes(graph: Graph, n_columns: int, n_lanes: int) -> Sizes:
    small = graph.cfg.n_layers <= 4
    sizes = _ROOMY if n_columns <= 8 and small else _NORMAL if n_columns <= 16 else _DENSE
    if not small and n_columns:  # deep and narrow: wide gutters, so that long edges find their way
        sizes = replace(sizes, column=max(sizes.column, min(150.0, 640.0 / n_columns)))
    if len(graph.groups) == 1:
        return sizes
    crowded = 60.0 if n_lanes > 3 else 26.0  # edges inside heads run below the rows, across all lanes
    return replace(sizes, gap=0.55 * sizes.box[1], row=sizes.row + crowded)


def _has_heads(graph: Graph, layer: int, group: str) -> bool:
    """Whether a layer's heads read or write at a token group."""
    place = graph.groups.names.index(group)
    return bool(graph.stream_groups[place] | graph.live_targets(layer)[place])


def _has_mlp(graph: Graph, layer: int, group: str) -> bool:
    """Whether a layer has an MLP that can be seen at a token group."""
    return bool(graph.layers[layer].mlp.present[0, graph.groups.names.index(group)])


def _lanes(
    groups: list[str], heads: Mapping[str, tuple[int, ...]], use: Use, sizes: Sizes, with_mlps: set[str]
) -> list[Lane]:
    lanes, x = [], 52.0
    for group in groups:
        has_mlp = group in with_mlps or any(end.kind == "mlp" and end.group == group for end in use.ends)
        span = use.spans.get(group, 0)
        arcs = min(90.0, 7.0 * span) if span > 1 else 0.0
        columns = sizes.column * len(heads[group])
        aside = (sizes.column + 12.0) * has_mlp + arcs
        width = max(28.0 + columns + aside, 36.0 + sizes.box[0])
        spare = (width - columns - aside) / 2
        lanes.append(Lane(group, heads[group], x, width, x + spare, x + spare + columns + 12 + sizes.column / 2))
        x += width + 14.0
    return lanes


class _Placer:
    """Collects the boxes of one layout."""

    def __init__(self, graph: Graph, use: Use, sizes: Sizes, lanes: list[Lane], full: bool) -> None:
        self._graph, self._use, self._sizes, self._lanes, self._full = graph, use, sizes, lanes, full
        self._boxes: dict[str, Box] = {}
        self._ports: dict[str, Box] = {}
        self._frames: dict[str, Box] = {}
        n_layers = graph.cfg.n_layers
        title = 26.0 if len(graph.groups) > 1 else 0.0
        self._logits_y = title + 14.0 + sizes.box[1] / 2
        self._rows = tuple(self._logits_y + sizes.row * (n_layers - layer) for layer in range(n_layers))
        self._input_y = self._rows[0] + sizes.row * 0.8 + sizes.gap
        self._as_boxes = len(lanes) * n_layers * graph.cfg.n_heads <= _FULL_BOXES

    def layout(self, left_out: tuple[str, ...]) -> Layout:
        """All lanes placed, with a note of the token groups that were left out."""
        for lane in self._lanes:
            self._lane(lane)
        last = self._lanes[-1]
        return Layout(
            width=last.x + last.width + 10.0,
            height=self._input_y + self._sizes.box[1] / 2 + 14.0,
            sizes=self._sizes,
            lanes={lane.group: lane for lane in self._lanes},
            boxes=self._boxes,
            ports=self._ports,
            frames=self._frames,
            rows=self._rows,
            row_titles=tuple(self._title(layer) for layer in range(self._graph.cfg.n_layers)),
            left_out=left_out,
        )

    def _title(self, layer: int) -> str:
        return "pool" if self._graph.cfg.is_pool(layer) else f"layer {layer}"

    def _lane(self, lane: Lane) -> None:
        graph, (width, height) = self._graph, self._sizes.box
        span = self._sizes.column * len(lane.heads)
        bar = float(np.clip(0.62 * span, width, 460.0))
        middle = lane.heads_x + span / 2 if span else lane.x + lane.width / 2
        place = graph.groups.names.index(lane.group)
        if graph.stream_groups[place]:
            self._box(End("input", group=lane.group), "input", middle, self._input_y, (bar, height))
        if graph.read_groups[place]:
            self._box(End("logits", group=lane.group), "logits", middle, self._logits_y, (bar, height))
        for layer, y in enumerate(self._rows):
            self._row(lane, layer, y)

    def _row(self, lane: Lane, layer: int, y: float) -> None:
        """What a layer has in a lane."""
        graph, group = self._graph, lane.group
        heads = [head for head in lane.heads if head < graph.cfg.heads_of(layer)]
        if heads and _has_heads(graph, layer, group):
            for column, head in enumerate(heads):
                end = End("head", layer, head, group=group)
                self._head(end, lane.heads_x + self._sizes.column * (column + 0.5), y)
            if graph.ports == "block":
                span = self._sizes.column * len(heads)
                self._block(End("attention", layer, group=group), lane.heads_x + span / 2, y, span)
        if _has_mlp(graph, layer, group):
            lift = 0.0 if graph.cfg.is_parallel(layer) else self._sizes.lift
            self._box(End("mlp", layer, group=group), f"m{layer}", lane.mlp_x, y - lift, self._sizes.box)

    def _box(self, end: End, label: str, x: float, y: float, size: tuple[float, float]) -> Box | None:
        """Places a node; one that is not used shrinks to a dot in a large grid, and is left out of a compressed one."""
        state = self._use.state(end)
        if state == "unused" and not self._full:
            return None
        if state == "unused" and not self._as_boxes and end.kind in ("head", "mlp"):
            label, size = "", (4.0, 4.0)
        box = Box(str(end), end, label, x, y, *size, state)
        self._boxes[box.name] = box
        return box

    def _head(self, end: End, x: float, y: float) -> None:
        box = self._box(end, end.node, x, y, self._sizes.box)
        if box is None or not box.label or self._graph.ports == "block":
            return
        radius = self._sizes.port
        below = y + self._sizes.box[1] / 2 + self._sizes.gap + radius
        for place, letter in enumerate("qkv" if self._graph.ports == "qkv" else " "):
            port = replace(end, port=letter.strip())
            if not self._reads(port):
                continue
            offset = (place - 1) * 0.31 * self._sizes.box[0] if port.port else 0.0
            state: State = "reads" if str(port) in self._use.ports else "unused"
            self._ports[str(port)] = Box(str(port), port, port.port, x + offset, below, 2 * radius, 2 * radius, state)

    def _reads(self, port: End) -> bool:
        """Whether the graph has the port: a constant query has none, nor has one that no readout can see."""
        present = self._graph.layers[port.layer].attention.present
        kind = "qkv".index(port.port) if port.port else 0
        return bool(present[self._graph.port_rows[port.head, kind], self._graph.groups.names.index(port.group)])

    def _block(self, end: End, x: float, y: float, span: float) -> None:
        state: State = "reads" if str(end) in self._use.ports else "unused"
        writes = str(end) in self._use.writes
        if not self._full and state == "unused" and not writes:
            return
        height = self._sizes.box[1]
        frame = Box(str(end), end, "", x, y, span - 2.0, height + 10.0, "writes" if writes else state)
        self._frames[str(end)] = frame
        if not self._reads(end):
            return
        below = frame.bottom + self._sizes.gap + 3.0
        self._ports[str(end)] = Box(str(end), end, "", x, below, frame.width - 8.0, 6.0, state)
