"""Where a picture stands whose token groups are places: each level is a map of the image, the input below, the logits
on top.

Lanes side by side run out of the window with the number of tokens (16 patches of MNIST: 5,000 pixels). So each level,
one per layer, is a *panel*: the grid of patches, CLS, registers and pool at its left, frames of a video side by side.
In a place's cell stand the heads that are used there, their MLP above them. The residual stream never mixes places,
so its edges are upright; a panel leans by a little with each row, so that places below one another have uprights of
their own. What crosses from place to place stays inside its panel: the edges inside heads.

Groups that are no single tokens (roles, frames, masks) have lanes as long as these fit, and cells in a row otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..graph import Graph
from ..names import Edge, End
from .layout import Box, Layout, MapLevel, Sizes, Use, place_lanes, used_by

MAX_WIDTH = 1_600.0
"""Pixels; a wider picture is shrunk until nothing in it can be read."""
_MAX_HEIGHT = 2_400.0
_LEFT, _BETWEEN, _LEAN = 66.0, 46.0, 0.4  # px, px, share of a cell's height by which a row is shifted


def place(graph: Graph, edges: Iterable[Edge]) -> Layout:
    """Positions for the nodes of a graph, given the edges that will be drawn: in lanes, or on maps of the image."""
    edges = list(edges)
    if graph.groups.kind != "each":
        lanes = place_lanes(graph, edges)
        if lanes.width <= MAX_WIDTH or len(graph.groups) == 1:
            return lanes
    return _Maps(graph, used_by(edges)).layout()


@dataclass(frozen=True)
class _Cell:
    """What a place's cell looks like.

    Args:
        size: Width and height in pixels.
        box: Of a head.
        columns: Heads side by side.
        rows: Heads above one another.
        port: Radius of a port; 0 without.
    """

    size: tuple[float, float]
    box: tuple[float, float]
    columns: int
    rows: int
    port: float

    @classmethod
    def roomy(cls, n_heads: int) -> _Cell:
        """Heads with their ports under them, and an MLP above them."""
        columns = n_heads if n_heads <= 4 else -(-n_heads // 2)
        rows = -(-n_heads // columns)
        return cls((36.0 * columns + 10.0, 32.0 + 34.0 * rows), (31.0, 14.0), columns, rows, 4.4)

    @classmethod
    def tiny(cls, n_heads: int, most: float) -> _Cell:
        """Heads without ports, their MLP beside them; not wider than that."""
        columns = n_heads if n_heads <= 6 else -(-n_heads // 2)
        rows = -(-n_heads // columns)
        width = min(9.0 * (columns + 1) + 3.0, most)
        return cls((width, 7.0 * rows + 2.0), ((width - 3.0) / (columns + 1) - 1.5, 5.5), columns, rows, 0.0)

    @property
    def step(self) -> tuple[float, float]:
        """From one head to the next, across and down."""
        return (36.0, 34.0) if self.port else (self.box[0] + 1.5, 7.0)

    def head(self, head: int) -> tuple[float, float]:
        """Middle of a head from the cell's middle."""
        row, column = divmod(head, self.columns)
        (across, down), (_, height) = self.step, self.size
        if not self.port:
            return (column - self.columns / 2) * across, (row - (self.rows - 1) / 2) * down
        return (column - (self.columns - 1) / 2) * across, 40.0 - height / 2 + down * row

    @property
    def mlp(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Middle from the cell's middle, and size."""
        if not self.port:
            return (self.columns / 2 * self.step[0], 0.0), (self.box[0], self.size[1] - 3.0)
        return (0.0, 14.0 - self.size[1] / 2), (0.55 * self.size[0], self.box[1])


def _columns_and_rows(graph: Graph) -> dict[str, tuple[float, float]]:
    """Where each group stands in units of cells; what has no pixels, such as CLS, at the left of the patches."""
    groups, tokens = graph.groups, graph.cfg.tokens
    if groups.kind != "each":
        return {name: (float(at), 0.0) for at, name in enumerate(groups.names)}
    rows, columns = tokens.grid
    n_others = tokens.n_tokens - tokens.n_patches
    aside = -(-n_others // rows)
    found, others = {}, 0
    for token, name in enumerate(groups.names):
        if (patch := token - tokens.n_prefix) in range(tokens.n_patches):
            frame, at = divmod(patch, rows * columns)
            left = frame * (columns + 0.4) + (aside + 0.4 if aside else 0.0)
            found[name] = (left + at % columns, float(at // columns))
        else:
            high = min(rows, n_others - others // rows * rows)
            found[name] = (float(others // rows), (rows - high) / 2 + others % rows)
            others += 1
    return found


class _Maps:
    """Collects the boxes of one layout."""

    def __init__(self, graph: Graph, use: Use) -> None:
        self._graph, self._use = graph, use
        self._grid = _columns_and_rows(graph)
        across = 1 + max(column for column, _ in self._grid.values())
        down = 1 + max(row for _, row in self._grid.values())
        n_heads = max(1, *(graph.cfg.heads_of(layer) for layer in range(graph.cfg.n_layers)))
        most = MAX_WIDTH - 2 * _LEFT
        cell = _Cell.roomy(n_heads)
        if across * cell.size[0] > most or graph.cfg.n_layers * down * cell.size[1] > _MAX_HEIGHT:
            cell = _Cell.tiny(n_heads, 0.95 * most / across)
        lean = min(_LEAN * cell.size[1], cell.size[0] / down) if down > 1 else 0.0
        self._cell, self._lean = cell, lean
        (wide, high), left = cell.size, _LEFT + lean
        self._places = {
            name: (left + wide * (column + 0.5) + lean * row, high * (row + 0.5))
            for name, (column, row) in self._grid.items()
        }
        self._width = left + wide * across + lean * down + 12.0
        self._boxes: dict[str, Box] = {}
        self._ports: dict[str, Box] = {}
        self._frames: dict[str, Box] = {}

    def layout(self) -> Layout:
        """All panels placed, from the top."""
        graph, panels = self._graph, []
        names = graph.groups.names
        titles = () if graph.groups.kind == "each" else names
        y = 28.0 if titles else 12.0
        pool = graph.cfg.tokens.has_pool
        for level in range(graph.cfg.n_layers + 1, -1, -1):
            layer = level - 1
            if layer == graph.cfg.n_layers:
                shown = [name for name, read in zip(names, graph.read_groups, strict=True) if read]
            else:
                shown = [name for name in names if not pool or name != "pool" or graph.cfg.is_pool(layer)]
            top = min(self._places[name][1] for name in shown) - self._cell.size[1] / 2
            bottom = max(self._places[name][1] for name in shown) + self._cell.size[1] / 2
            panel = MapLevel(self._title(layer), level, y - top, tuple(shown))
            panels.append(panel)
            for name in shown:
                self._level(panel, name, layer)
            y += bottom - top + (_BETWEEN if self._cell.port else 0.7 * _BETWEEN)
        return Layout(
            width=self._width,
            height=y,
            sizes=Sizes(self._cell.size[0], self._cell.size[1], self._cell.box, self._font, self._cell.port, 1.0),
            lanes={},
            boxes=self._boxes,
            ports=self._ports,
            frames=self._frames,
            rows=(),
            row_titles=(),
            places=self._places,
            panels=tuple(reversed(panels)),
            cell=self._cell.size,
            lean=self._lean,
            titles=titles,
            picture=self._picture(),
        )

    def _picture(self) -> tuple[float, float, float, float] | None:
        tokens, (wide, high) = self._graph.cfg.tokens, self._cell.size
        if self._graph.groups.kind != "each" or tokens.frames > 1:
            return None
        rows, columns = tokens.grid
        x, y = self._places[self._graph.groups.names[tokens.n_prefix]]
        return x - (wide + self._lean) / 2, y - high / 2, wide * columns, high * rows

    @property
    def _font(self) -> float:
        return 9.5 if self._cell.port else min(4.5, 0.5 * self._cell.box[0])

    def _title(self, layer: int) -> str:
        cfg = self._graph.cfg
        if layer in (-1, cfg.n_layers):
            return "input" if layer < 0 else "logits"
        return "pool" if cfg.is_pool(layer) else f"layer {layer}"

    def _level(self, panel: MapLevel, group: str, layer: int) -> None:
        """What is used at a place of a level."""
        x, y = self._places[group]
        y += panel.y
        if panel.title in ("input", "logits"):
            size = (0.62 * self._cell.size[0] if self._cell.port else self._cell.box[0], self._cell.box[1])
            self._box(End(panel.title, group=group), panel.title, x, y, size)
            return
        for head in range(self._graph.cfg.heads_of(layer)):
            across, down = self._cell.head(head)
            self._head(End("head", layer, head, group=group), x + across, y + down)
        if self._graph.ports == "block":
            self._block(End("attention", layer, group=group), x, y)
        (across, down), size = self._cell.mlp
        self._box(End("mlp", layer, group=group), f"m{layer}", x + across, y + down, size)

    def _box(self, end: End, label: str, x: float, y: float, size: tuple[float, float]) -> bool:
        """Places a node that is used; the others would fill every cell."""
        state = self._use.state(end)
        if state != "unused":
            self._boxes[str(end)] = Box(str(end), end, label, x, y, *size, state)
        return state != "unused"

    def _head(self, end: End, x: float, y: float) -> None:
        radius = self._cell.port
        if not self._box(end, f"h{end.head}", x, y, self._cell.box) or not radius or self._graph.ports == "block":
            return
        for at, letter in enumerate("qkv" if self._graph.ports == "qkv" else " "):
            port = replace(end, port=letter.strip())
            if str(port) in self._use.ports:
                across = (at - 1) * 10.0 if port.port else 0.0
                below = y + self._cell.box[1] / 2 + 1.0 + radius
                self._ports[str(port)] = Box(
                    str(port), port, port.port, x + across, below, 2 * radius, 2 * radius, "reads"
                )

    def _block(self, end: End, x: float, y: float) -> None:
        """The frame around the heads of a layer, which read together."""
        writes, reads = str(end) in self._use.writes, str(end) in self._use.ports
        if not writes and not reads:
            return
        heads = [self._cell.head(head) for head in range(self._graph.cfg.heads_of(end.layer))]
        (left, right), (top, bottom) = ((min(some), max(some)) for some in zip(*heads, strict=True))
        (wide, high), state = self._cell.box, "writes" if writes else "reads"
        size = right - left + wide + 2.0, bottom - top + high + 2.0
        frame = Box(str(end), end, "", x + (left + right) / 2, y + (top + bottom) / 2, *size, state)
        self._frames[str(end)] = frame
        if self._cell.port:
            self._ports[str(end)] = Box(str(end), end, "", frame.x, frame.bottom + 4.0, size[0] - 6.0, 5.0, "reads")
