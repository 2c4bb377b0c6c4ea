"""A circuit made larger by chance: one random whole path more, and a random edge of what was added.

The path starts from an edge outside the circuit, drawn evenly among all, and is completed by random walks: back until
something that the input reaches inside the circuit, on until something of the circuit that reaches the logits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph
from ..walks import Nodes, Walks

Bools = NDArray[np.bool_]


def inflate(graph: Graph, walks: Walks, mask: Bools, rng: np.random.Generator) -> tuple[Bools, int]:
    """The mask with a random path more, shape (edge,), and one of the added edges, drawn evenly.

    Args:
        graph: The graph.
        walks: Its links.
        mask: A circuit's edges, all on paths, and not all edges.
        rng: Draws the path and the edge.
    """
    edge = int(rng.choice(np.flatnonzero(~mask)))
    reached, needed = _touched(walks, mask)
    path = [edge, *_walk(walks, edge, reached, rng, back=True), *_walk(walks, edge, needed, rng, back=False)]
    added = [link for link in path if link < walks.n_edges and not mask[link]]
    larger = mask.copy()
    larger[added] = True
    return larger, int(rng.choice(added))


def _touched(walks: Walks, mask: Bools) -> tuple[Bools, Bools]:
    """Nodes that the input reaches, and nodes that reach the logits, by kept edges."""
    on_path = np.zeros(walks.logits + 1, dtype=bool)
    kept = np.flatnonzero(mask)
    on_path[walks.start[kept]] = on_path[walks.end[kept]] = True
    reached, needed = on_path.copy(), on_path.copy()
    reached[walks.inputs], needed[walks.logits] = True, True
    return reached, needed


def _walk(walks: Walks, edge: int, goal: Bools, rng: np.random.Generator, *, back: bool) -> list[int]:
    """Random links from one side of an edge until a node of the goal."""
    side, (order, begins), onwards = _direction(walks, back)
    node, walked = int(side[edge]), []
    while not goal[node]:
        link = int(order[rng.integers(begins[node], begins[node + 1])])
        walked.append(link)
        node = int(onwards[link])
    return walked


def _direction(walks: Walks, back: bool) -> tuple[Nodes, tuple[Nodes, Nodes], Nodes]:
    return (walks.start, walks.into, walks.start) if back else (walks.end, walks.out_of, walks.end)
