"""A circuit under other names: heads exchanged inside their layers, everything else as it was.

A renamed circuit is isomorphic to the first one: the same wiring, size and edges of each class, carried by other heads
of the same layers. It asks whether *these* heads matter, where everything that can be said without naming a head is
kept. At `block` ports the heads of a layer share what they read, so only what each writes is renamed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..models.errors import GraphError
from .graph import Graph
from .head_edges import HeadEdges, all_head_edges
from .reach import prune

Bools = NDArray[np.bool_]


def can_rename(graph: Graph) -> bool:
    """Whether any layer has two heads to exchange. If not, a class holds one edge, and nothing can be dealt either."""
    return any(graph.cfg.heads_of(layer) > 1 for layer in range(graph.cfg.n_layers))


def require_two_heads(graph: Graph) -> None:
    """Does nothing if some layer has heads to exchange.

    Raises:
        GraphError: No layer has.
    """
    if not can_rename(graph):
        raise GraphError(
            f"{graph} has one head in each layer, so there is nothing to exchange: a renamed or dealt circuit would be "
            f'the circuit itself. Ask can_rename(graph) first, and compare with control_masks(circuit, "paths", ...).'
        )


def renamed_masks(graph: Graph, mask: Bools, n: int, *, seed: int) -> list[Bools]:
    """Masks of `n` circuits with their heads renamed at random, shape (edge,), as large as the pruned mask.

    Each layer's heads are permuted evenly; a draw may leave them where they were. The empty and the full mask are
    their own.

    Args:
        graph: The graph.
        mask: The circuit to be renamed; its edges on no path are dropped first.
        n: How many.
        seed: The same seed gives the same masks.

    Raises:
        GraphError: No layer has two heads, or n is negative.
    """
    require_two_heads(graph)
    if n < 0:
        raise GraphError(f"{n} renamed circuits were asked for: pass 0 or more.")
    layers, wanted = all_head_edges(graph), prune(graph, mask)
    return [
        rename_along(layers, wanted, random_names(layers, np.random.default_rng([seed, draw, 3]))) for draw in range(n)
    ]


def random_names(layers: Sequence[HeadEdges], rng: np.random.Generator) -> list[NDArray[np.intp]]:
    """A random permutation of the heads of each layer."""
    return [rng.permutation(len(layer.edges)) for layer in layers]


def rename(graph: Graph, mask: Bools, names: Sequence[NDArray[np.intp]]) -> Bools:
    """The mask in which head h of layer l does what head `names[l][h]` did, shape (edge,).

    Args:
        graph: The graph.
        mask: Which edges are kept, shape (edge,).
        names: For each layer a permutation of its heads.
    """
    return rename_along(all_head_edges(graph), mask, names)


def rename_along(layers: Sequence[HeadEdges], mask: Bools, names: Sequence[NDArray[np.intp]]) -> Bools:
    padded = np.append(mask, False)
    for layer, order in zip(layers, names, strict=True):
        padded[layer.edges] = padded[layer.edges[order]]  # an edge between two layers moves in both turns
    return padded[:-1]
