"""Cuts: sets of edges that everything on its way from the input to the logits crosses exactly once.

A cut in front of a layer holds the edges whose source writes before that layer's attention and whose destination is in
that layer or behind it. The first cut holds the edges that leave the input, the last those into the logits. Edges
inside heads belong to no cut: they say how one node works.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...circuits.graph import Graph


def cut_totals(graph: Graph, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of scores over each cut, from the input's to the logits', shape (layer + 1,).

    Args:
        graph: The graph.
        values: One entry per edge.
    """
    totals = np.zeros(graph.cfg.n_layers + 1)
    for block in graph.blocks:
        if block.kind == "inside":
            continue
        by_source = block.unpack(values).sum((0, 1))
        last = graph.cfg.n_layers if block.kind == "logits" else block.layer
        for layer in range(last + 1):
            totals[layer] += by_source[: graph.first_head(layer)].sum()
    return totals


def completeness(graph: Graph, values: NDArray[np.float64], drop: float) -> float:
    """How far the worst cut is from the metric's drop, as a share of the drop."""
    return float(np.abs(cut_totals(graph, values) - drop).max() / max(abs(drop), 1e-30))
