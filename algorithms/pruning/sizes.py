"""How large a circuit is asked for, and filling a ranking up to that size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...circuits.graph import Graph
from ...circuits.reach import prune
from ...models.errors import TaskError

Size = float | int
"""A share of the graph's edges below 1, or a number of edges from 1 on."""


def edges_of(size: Size | Sequence[Size], graph: Graph) -> list[int]:
    """The numbers of edges that are asked for, in the order given.

    Raises:
        TaskError: A size is not above 0, is not a whole number from 1 on, or is larger than the graph.
    """
    several = list(size) if isinstance(size, Sequence | np.ndarray) else [size]
    if not several:
        raise TaskError("no size was asked for: pass one, such as size=0.05, or several, such as size=[0.1, 0.05].")
    return [_edges(float(value), graph) for value in several]


def _edges(value: float, graph: Graph) -> int:
    if 0 < value < 1:
        return max(1, round(value * len(graph)))
    if value != int(value) or not 1 <= value <= len(graph):
        raise TaskError(
            f"size={value:g}: pass a share of the edges below 1, such as size=0.05, or a number of edges from 1 to "
            f"{len(graph)}."
        )
    return int(value)


def prefix_within(graph: Graph, ranking: NDArray[np.intp], n: int) -> int:
    """Length of the longest prefix of a ranking that has at most n edges on paths from input to logits.

    Pruning only ever leaves more edges when more are kept, so it is found by bisection.

    Args:
        graph: The graph.
        ranking: Edge indices, best first.
        n: Edges that the circuit may have.
    """
    low, high = 0, len(ranking)
    while low < high:
        middle = (low + high + 1) // 2
        if int(_pruned_prefix(graph, ranking, middle).sum()) <= n:
            low = middle
        else:
            high = middle - 1
    return low


def largest_within(graph: Graph, ranking: NDArray[np.intp], n: int) -> NDArray[np.bool_]:
    """That prefix as a mask, pruned; see `prefix_within`."""
    return _pruned_prefix(graph, ranking, prefix_within(graph, ranking, n))


def _pruned_prefix(graph: Graph, ranking: NDArray[np.intp], length: int) -> NDArray[np.bool_]:
    mask = np.zeros(len(graph), dtype=bool)
    mask[ranking[:length]] = True
    return prune(graph, mask)
