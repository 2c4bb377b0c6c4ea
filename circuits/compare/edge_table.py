"""Where every edge of a graph starts and ends, as arrays: what statistics of circuits are counted over.

Nodes are components without token groups: the sources in the order in which they write, the logits, and at `block`
ports each layer's one attention input. A node's depth runs from 0 (input) to 1 (logits): with L layers, attention of
layer l reads and writes at (2 l + 1) / (2 L + 1), its MLP at (2 l + 2) / (2 L + 1),
so depths of models with different numbers of layers can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..edge_blocks import EdgeBlock
from ..graph import Graph

Ints = NDArray[np.int64]

KINDS = ("q", "k", "v", "attention", "inside", "mlp", "logits")
"""What an edge ends at: a head's port; its undivided input at `head` and `block` ports; `inside` a head, from one token
group to another; an MLP; the logits."""


@dataclass(frozen=True, eq=False)
class EdgeTable:
    """One entry per edge in the graph's order, shape (edge,), unless said otherwise.

    Args:
        nodes: Names of the nodes, whether the model has them or not (a block without an MLP).
        depth: Depth of each node, shape (node,).
        source: Node where the edge starts; for an edge inside a head, the head.
        destination: Node where it ends.
        kind: Index into `KINDS`.
        source_group: Token group where it starts.
        group: Token group where it ends.
        components: Which nodes are heads and MLPs that the model has, shape (node,), in the order of `node_names`.
    """

    nodes: tuple[str, ...]
    depth: NDArray[np.float64]
    source: Ints
    destination: Ints
    kind: Ints
    source_group: Ints
    group: Ints
    components: NDArray[np.bool_]


def edge_table(graph: Graph) -> EdgeTable:
    """The table of a graph's edges; takes memory for some arrays over all edges, and no objects."""
    sources = graph.source_names()
    attention = tuple(f"a{layer}" for layer in range(graph.cfg.n_layers)) if graph.ports == "block" else ()
    nodes = (*sources, "logits", *attention)
    columns = np.zeros((5, len(graph)), dtype=np.int64)
    for block in graph.blocks:
        for values, out in zip(_block(graph, block), columns, strict=True):
            block.pack(np.broadcast_to(values, block.dense_shape), out)
    depth = np.array([_depth(name, graph.cfg.n_layers) for name in nodes])
    components = np.zeros(len(nodes), dtype=bool)
    components[1 : graph.n_sources] = graph.source_exists[1:]
    return EdgeTable(nodes, depth, columns[0], columns[1], columns[2], columns[3], columns[4], components)


def _depth(node: str, n_layers: int) -> float:
    if node in ("input", "logits"):
        return float(node == "logits")
    layer = int(node[1:].split(".")[0])
    return (2 * layer + 1 + (node[0] == "m")) / (2 * n_layers + 1)


def _block(graph: Graph, block: EdgeBlock) -> tuple[Ints, ...]:
    """Source, destination, kind, source group and group, each to be broadcast to (row, group, column)."""
    rows, groups, width = block.dense_shape
    row, group, column = (axis.astype(np.int64) for axis in np.ogrid[:rows, :groups, :width])
    if block.kind == "logits":
        return column, np.array(graph.n_sources), np.array(KINDS.index("logits")), group, group
    first = graph.first_head(block.layer)
    if block.kind == "mlp":
        return column, np.array(graph.mlp_source(block.layer)), np.array(KINDS.index("mlp")), group, group
    ports = {"attention": 3, "inside": 2}[block.kind] if graph.ports == "qkv" else 1
    node = first + row // ports if graph.ports != "block" else np.array(graph.n_sources + 1 + block.layer)
    if block.kind == "inside":
        return node, node, np.array(KINDS.index("inside")), column, group
    kind = row % 3 if graph.ports == "qkv" else np.array(KINDS.index("attention"))
    return column, node, kind, group, group
