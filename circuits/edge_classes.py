"""Edges that are alike but for which head of a layer they leave or enter.

Two edges are of one class if they agree in the kind of their source (input, head, MLP) and its layer, in the kind of
their reader (a head's port, a head, an attention block, an MLP, the logits) and its layer, in the port, and in the
token groups at both ends. Edges inside heads: one layer, one port, the same groups. So a class holds one edge where
neither end is a head, n where one is, and n x n between two layers of n heads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .edge_blocks import EdgeBlock
from .graph import Graph

Bools = NDArray[np.bool_]
Labels = NDArray[np.intp]


def edge_classes(graph: Graph) -> Labels:
    """The class of each edge, shape (edge,), numbered from 0 without gaps."""
    labels = np.zeros(len(graph), dtype=np.intp)
    for place, block in enumerate(graph.blocks):
        rows, groups, columns = (np.arange(size) for size in block.dense_shape)
        ports = _ports(graph, block)[rows]
        starts = columns if block.kind == "inside" else _source_kinds(graph)[columns]
        first = (3 * place + ports)[:, None] * len(groups) + groups  # row, group
        block.pack(first[:, :, None] * (graph.n_sources + len(groups)) + starts, labels)
    return np.unique(labels, return_inverse=True)[1].reshape(-1)


def _ports(graph: Graph, block: EdgeBlock) -> Labels:
    """Which port each row of a block is, shape (row,); 0 throughout where rows are not ports."""
    rows = np.arange(block.dense_shape[0])
    if graph.ports != "qkv":
        return 0 * rows
    return rows % {"attention": 3, "inside": 2}.get(block.kind, 1)


def _source_kinds(graph: Graph) -> Labels:
    """One number for the input, one for the heads of each layer, one for each MLP, shape (source,)."""
    layer, place = np.divmod(np.arange(graph.n_sources) - 1, graph.cfg.n_heads + 1)
    kinds = 1 + 2 * layer + (place == graph.cfg.n_heads)
    kinds[0] = 0
    return kinds


def class_counts(classes: Labels, mask: Bools) -> NDArray[np.int64]:
    """Kept edges of each class, shape (class,)."""
    return np.bincount(classes[mask], minlength=int(classes.max()) + 1).astype(np.int64)


def share_in_class(graph: Graph, wanted: Bools, mask: Bools) -> float:
    """How much of `wanted` another mask matches class by class: sum over classes of min(kept, wanted) / all wanted.

    1 for two masks that keep as many edges of each class, and for an empty `wanted`.
    """
    classes = edge_classes(graph)
    counts = class_counts(classes, wanted)
    return float(np.minimum(counts, class_counts(classes, mask)).sum() / counts.sum()) if counts.any() else 1.0


def fixed_share(graph: Graph, mask: Bools) -> float:
    """Share of the kept edges whose class is kept whole, so that dealing within classes cannot move them.

    Every dealt circuit has these edges in common with the mask. 1 for an empty mask.
    """
    classes = edge_classes(graph)
    counts, sizes = class_counts(classes, mask), np.bincount(classes)
    return float(counts[counts == sizes].sum() / counts.sum()) if counts.any() else 1.0
