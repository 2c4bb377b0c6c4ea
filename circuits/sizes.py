"""What "n edges" means, everywhere: edges on paths from input to logits, filled up from a ranking.

Edges on no path carry nothing, so they are not counted. Of a ranking the longest prefix counts that leaves at most n:

    C(n) = prune(ranking[:k]),  k the largest with |prune(ranking[:k])| <= n

so a larger n only adds edges. C(n) has fewer than n edges where the next one of the ranking connects more than fit.

An edge *enters* at the shortest prefix in which it is on a path. With places in the ranking as strengths that is how
strong the strongest path through it is, so one pass over the graph gives the C(n) of every n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..models.errors import GraphError
from .graph import Graph
from .reach import path_strengths

Size = float | int
"""A share of the graph's edges below 1, or a number of edges from 1 on."""


def edges_of(size: Size | Sequence[Size], graph: Graph) -> list[int]:
    """The numbers of edges that are asked for, in the order given.

    Raises:
        GraphError: A size is not above 0, is not a whole number from 1 on, or is larger than the graph.
    """
    several = list(size) if isinstance(size, Sequence | np.ndarray) else [size]
    if not several:
        raise GraphError("no size was asked for: pass one, such as size=0.05, or several, such as size=[0.1, 0.05].")
    return [edge_count(value, graph) for value in several]


def edge_count(size: Size, graph: Graph, *, least: int = 1) -> int:
    """The number of edges that is asked for; a share is rounded, to one edge at least.

    Args:
        size: What was asked for.
        graph: The graph.
        least: The smallest number that makes sense.

    Raises:
        GraphError: It is neither a share above 0 nor a whole number from `least` to all edges of the graph.
    """
    if isinstance(size, float) and size == 1:
        raise GraphError(
            f"a size of 1.0 could be one edge or all of them: pass size=1, or size={len(graph)}, the whole graph."
        )
    if 0 < size < 1:
        return max(1, round(size * len(graph)))
    if not least <= size <= len(graph) or size != int(size):
        raise GraphError(
            f"a size of {size:g} edges is not possible: pass a number from {least} to {len(graph)}, or a share of the "
            f"graph's edges below 1, such as 0.05."
        )
    return int(size)


def entries(graph: Graph, ranking: NDArray[np.intp]) -> NDArray[np.intp]:
    """The length of the shortest prefix of a ranking in which each edge is on a path, shape (edge,).

    Args:
        graph: The graph.
        ranking: Edge indices, best first, all of them.
    """
    n_edges = len(graph)
    strengths = np.empty(n_edges, dtype=np.intp)
    strengths[ranking] = np.arange(n_edges, 0, -1)
    return n_edges + 1 - path_strengths(graph, strengths)


def masks_within(
    graph: Graph, ranking: NDArray[np.intp], sizes: Sequence[int] | NDArray[np.int64], *, before_pruning: bool = False
) -> list[NDArray[np.bool_]]:
    """The pruned mask of the longest prefix of a ranking with at most n edges on paths, for each n.

    Args:
        graph: The graph.
        ranking: Edge indices, best first.
        sizes: The n, from 0 to all edges.
        before_pruning: n counts the edges of the prefix, those on no path as well; for comparison with others' counts.
    """
    entered = entries(graph, ranking)
    lengths = np.asarray(sizes)
    if not before_pruning:  # edge n of those that enter, the first being edge 0, is the first that is too many
        lengths = np.append(np.sort(entered), len(graph) + 1)[lengths] - 1
    return [entered <= length for length in lengths]


def largest_within(graph: Graph, ranking: NDArray[np.intp], n: int) -> NDArray[np.bool_]:
    """The pruned mask of the longest prefix of a ranking with at most n edges on paths."""
    return masks_within(graph, ranking, [n])[0]
