"""Which kept edges lie on a path from the input to the logits.

A node is *alive* at a token group if a path of kept edges leads to it from `input`; a source that is not alive carries
the ablation's value by definition. A place is *needed* if a path of kept edges leads from it to the logits. An edge is
on a path if its start is alive and its end is needed. A head is fed at its target group through q, and through the
edges inside it through k and v; with one token group those edges vanish into the head. Heads that share a norm reach
one another through it: if one is alive or needed, so are all of its layer.

All of this is "and" along a path and "or" over paths, so it is written as minimum and maximum. Of booleans these are
the same; of numbers they give the strength of the strongest path, where a path is as strong as its weakest edge.

A graph as nodes and links to walk along, for drawing whole paths by chance.

Nodes are sources at a token group, rows of attention's ports at a group, and (with several groups) the places inside
heads where values of other groups arrive. An edge links two of them. Links that cost no edge (a head's query port to
the head) stand beside the edges. Walking along links from `input` to the logits gives exactly the graph's paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .edge_blocks import EdgeBlock, LayerBlocks
from .graph import Graph

Bools = NDArray[np.bool_]
Strengths = NDArray[Any]  # booleans or whole numbers; what comes out is of the kind that went in


@dataclass(frozen=True)
class Reach:
    """What of a masked graph is connected.

    Args:
        alive: Whether a kept path leads from the input to a source, shape (source, group).
        needed: Whether a kept path leads from a source to the logits, shape (source, group).
        mask: The kept edges that are on a path, shape (edge,).
    """

    alive: Bools
    needed: Bools
    mask: Bools


def reach(graph: Graph, mask: Bools) -> Reach:
    """The connected part of a graph under a mask of kept edges, shape (edge,)."""
    alive, row_alive = _forward(graph, mask)
    needed, on_path = _backward(graph, mask, alive, row_alive)
    return Reach(alive, needed, on_path)


def prune(graph: Graph, mask: Bools) -> Bools:
    """The mask without the edges that are on no path from input to logits."""
    return reach(graph, mask).mask


def path_strengths(graph: Graph, strengths: NDArray[np.intp]) -> NDArray[np.intp]:
    """How strong the strongest path from input to logits through each edge is, shape (edge,); 0 where there is none.

    Args:
        graph: The graph.
        strengths: How strong each edge is, above 0, shape (edge,). A path is as strong as its weakest edge.
    """
    alive, row_alive = _forward(graph, strengths)
    return _backward(graph, strengths, alive, row_alive)[1]


def _forward(graph: Graph, mask: Strengths) -> tuple[Strengths, list[Strengths]]:
    alive = np.zeros((graph.n_sources, len(graph.groups)), dtype=mask.dtype)
    alive[0] = True if mask.dtype == np.bool_ else np.iinfo(mask.dtype).max
    row_alive = []
    for layer, blocks in enumerate(graph.layers):
        first = graph.first_head(layer)
        rows = _any_source(blocks.attention.unpack(mask), alive[:first])
        row_alive.append(rows)
        heads = graph.head_sources(layer)
        alive[heads] = _heads_alive(graph, blocks, mask, rows) * graph.live_targets(layer)
        if graph.cfg.is_joint(layer):
            alive[heads] = np.maximum.reduce(alive[heads], axis=0)
        alive[heads] *= graph.source_exists[heads, None]
        fed = _any_source(blocks.mlp.unpack(mask), alive[: blocks.mlp.width])
        alive[graph.mlp_source(layer)] = fed[0]
    return alive, row_alive


def _any_source(kept: Strengths, alive: Strengths) -> Strengths:
    """(row, group, source) & (source, group) -> (row, group): does any alive source feed it?"""
    return np.maximum.reduce(np.minimum(kept, alive.T[None]), axis=-1)


def _heads_alive(graph: Graph, blocks: LayerBlocks, mask: Strengths, row_alive: Strengths) -> Strengths:
    """(head, target group): fed through q, or through a kept k or v edge inside the head."""
    q, k, v = (row_alive[graph.port_rows[:, port]] for port in range(3))
    if blocks.inside is None:
        return _either(q, k, v)
    kept = blocks.inside.unpack(mask)[graph.inside_rows]  # head, (k, v), target group, source group
    through_k, through_v = np.minimum(kept[:, 0], k[:, None, :]), np.minimum(kept[:, 1], v[:, None, :])
    return _either(q, through_k.max(-1), through_v.max(-1))


def _either(*several: Strengths) -> Strengths:
    return np.maximum.reduce(several)


def _backward(
    graph: Graph, mask: Strengths, alive: Strengths, row_alive: Sequence[Strengths]
) -> tuple[Strengths, Strengths]:
    needed = np.zeros_like(alive)
    on_path = np.zeros(len(graph), dtype=mask.dtype)
    kept = graph.logits.unpack(mask)
    graph.logits.pack(np.minimum(kept, alive.T[None]), on_path)
    needed[:] = np.maximum(needed, kept[0].T)
    for layer in reversed(range(graph.cfg.n_layers)):
        blocks, first = graph.layers[layer], graph.first_head(layer)
        width = blocks.mlp.width
        kept = np.minimum(blocks.mlp.unpack(mask), needed[graph.mlp_source(layer)][None, :, None])
        needed[:width] = np.maximum(needed[:width], kept[0].T)
        blocks.mlp.pack(np.minimum(kept, alive[:width].T[None]), on_path)
        heads = graph.head_sources(layer)
        if graph.cfg.is_joint(layer):
            needed[heads] = np.maximum.reduce(needed[heads], axis=0)
        rows_needed = _rows_needed(graph, blocks, mask, needed[heads], row_alive[layer], on_path)
        kept = np.minimum(blocks.attention.unpack(mask), rows_needed[:, :, None])
        needed[:first] = np.maximum(needed[:first], kept.max(0).T)
        blocks.attention.pack(np.minimum(kept, alive[:first].T[None]), on_path)
    return needed, on_path


def _rows_needed(
    graph: Graph, blocks: LayerBlocks, mask: Strengths, needed: Strengths, row_alive: Strengths, on_path: Strengths
) -> Strengths:
    """(row, group) of the attention block: does it lead to a needed head? Also marks the edges inside heads."""
    rows_needed = np.zeros(blocks.attention.present.shape, dtype=mask.dtype)
    if blocks.inside is None:
        for port in range(3):
            np.maximum.at(rows_needed, graph.port_rows[:, port], needed)
        return rows_needed
    np.maximum.at(rows_needed, graph.port_rows[:, 0], needed)
    kept = blocks.inside.unpack(mask)
    marked = np.zeros_like(kept)
    for kind in range(2):  # keys, values
        rows, ports = graph.inside_rows[:, kind], graph.port_rows[:, kind + 1]
        leads = np.minimum(kept[rows], needed[:, :, None])  # head, target group, source group
        np.maximum.at(rows_needed, ports, leads.max(1))
        np.maximum.at(marked, rows, np.minimum(leads, row_alive[ports][:, None, :]))
    blocks.inside.pack(marked, on_path)
    return rows_needed


Nodes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Walks:
    """Where links start and end; the edges come first in the graph's order, then the free links.

    Args:
        n_edges: Edges of the graph.
        start: Node where each link starts, shape (link,).
        end: Node where it ends, shape (link,).
        inputs: The nodes of `input`.
        logits: The node of the logits; there are `logits + 1` nodes.
    """

    n_edges: int
    start: Nodes
    end: Nodes
    inputs: Nodes
    logits: int

    @classmethod
    def of(cls, graph: Graph) -> Walks:
        """The links of a graph."""
        builder = _Builder(graph)
        for layer, blocks in enumerate(graph.layers):
            builder.add_layer(layer, blocks)
        logits = builder.n_nodes
        builder.connect(graph.logits, builder.sources(graph.logits), np.array(logits))
        free = np.concatenate(builder.free) if builder.free else np.zeros((0, 2), np.int64)
        start = np.concatenate([builder.start, free[:, 0]])
        end = np.concatenate([builder.end, free[:, 1]])
        return cls(len(graph), start, end, np.arange(len(graph.groups)), logits)

    @cached_property
    def into(self) -> tuple[Nodes, Nodes]:
        """Links in the order of the node where they end, and where each node's links begin in it."""
        return _by_node(self.end, self.logits + 1)

    @cached_property
    def out_of(self) -> tuple[Nodes, Nodes]:
        """Links in the order of the node where they start, and where each node's links begin in it."""
        return _by_node(self.start, self.logits + 1)

    def wander(self, edge: int, goal: Bools, rng: np.random.Generator, *, back: bool) -> list[int]:
        """Random links from one side of an edge (`back`: from its start towards the input) until a node of the goal."""
        side, (order, begins) = (self.start, self.into) if back else (self.end, self.out_of)
        node, walked = int(side[edge]), []
        while not goal[node]:
            link = int(order[rng.integers(begins[node], begins[node + 1])])
            walked.append(link)
            node = int(side[link])
        return walked


def _by_node(nodes: Nodes, n_nodes: int) -> tuple[Nodes, Nodes]:
    return np.argsort(nodes, kind="stable"), np.concatenate([[0], np.cumsum(np.bincount(nodes, minlength=n_nodes))])


class _Builder:
    """Numbers the nodes while it goes through the layers."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.n_groups = len(graph.groups)
        self.n_nodes = graph.n_sources * self.n_groups
        self.start = np.zeros(len(graph), np.int64)
        self.end = np.zeros(len(graph), np.int64)
        self.free: list[NDArray[np.int64]] = []

    def sources(self, block: EdgeBlock) -> Nodes:
        """Nodes of the sources that a block reads, shape (1, group, source)."""
        return (np.arange(block.width)[None, :] * self.n_groups + np.arange(self.n_groups)[:, None])[None]

    def connect(self, block: EdgeBlock, start: Nodes, end: Nodes) -> None:
        """Records where the edges of a block start and end, both broadcast to (row, group, column)."""
        block.pack(np.broadcast_to(start, block.dense_shape), self.start)
        block.pack(np.broadcast_to(end, block.dense_shape), self.end)

    def _new(self, block: EdgeBlock) -> Nodes:
        """A new node for each row and group of a block."""
        shape = block.dense_shape[:2]
        self.n_nodes += shape[0] * shape[1]
        return np.arange(self.n_nodes - shape[0] * shape[1], self.n_nodes).reshape(shape)

    def add_layer(self, layer: int, blocks: LayerBlocks) -> None:
        """The nodes and links of one transformer block."""
        graph, live = self.graph, np.flatnonzero(self.graph.live_targets(layer))
        n_heads = graph.cfg.heads_of(layer)
        of_head = graph.first_head(layer) + np.arange(n_heads)
        heads = of_head[:, None] * self.n_groups + live[None, :]
        ports = self._new(blocks.attention)
        self.connect(blocks.attention, self.sources(blocks.attention), ports[:, :, None])
        for port in range(3 if blocks.inside is None else 1):
            rows = graph.port_rows[:n_heads, port]
            self._link(ports[rows][:, live], heads, blocks.attention.present[rows][:, live])
        if blocks.inside is not None:
            inside = self._new(blocks.inside)
            reads = np.zeros(len(inside), np.intp)
            reads[graph.inside_rows] = graph.port_rows[:, 1:]
            self.connect(blocks.inside, ports[reads][:, None, :], inside[:, :, None])
            for kind in range(2):
                self._link(inside[graph.inside_rows[:n_heads, kind]][:, live], heads)
        mlp = graph.mlp_source(layer) * self.n_groups + np.arange(self.n_groups)
        self.connect(blocks.mlp, self.sources(blocks.mlp), mlp[None, :, None])

    def _link(self, start: Nodes, end: Nodes, present: NDArray[np.bool_] | bool = True) -> None:
        """Free links where they start at something that is there: a constant query is nothing to come from."""
        found = np.broadcast_to(present, start.shape)
        self.free.append(np.unique(np.stack([start[found], end[found]], axis=1), axis=0))
