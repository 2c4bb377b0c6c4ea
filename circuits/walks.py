"""A graph as nodes and links to walk along, for drawing whole paths by chance.

Nodes are sources at a token group, rows of attention's ports at a group, and (with several groups) the places inside
heads where values of other groups arrive. An edge links two of them. Links that cost no edge (a head's query port to
the head) stand beside the edges. Walking along links from `input` to the logits gives exactly the graph's paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .edge_blocks import EdgeBlock, LayerBlocks
from .graph import Graph

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
