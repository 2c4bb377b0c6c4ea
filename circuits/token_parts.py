"""Token groups that differ from pair to pair: which pairs share them, and the graph that these have.

The edges of a graph over `tokens="mask"` are named once for all pairs. In one pair the graph is that of the pair's own
partition: it has the same groups by name, of which one without tokens has no edges. So whatever is true of a
graph whose groups are fixed is true of a pair, and what runs on such a graph runs on the pairs of each partition in
turn. Figures over pairs are taken over those in which an edge occurs.

Where groups are the same in all pairs there is one part, which is everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from ..models.errors import TaskError
from .graph import Graph
from .tasks.task import Pairs

Rows = NDArray[np.intp] | slice


@dataclass(frozen=True, eq=False)
class Part:
    """Pairs that share a partition.

    Args:
        graph: Their graph.
        edges: Which edges of the whole graph its edges are.
        rows: Which of the pairs they are.
        pairs: The pairs.
    """

    graph: Graph
    edges: Rows
    rows: Rows
    pairs: Pairs

    def own(self, edges: NDArray[np.intp]) -> NDArray[np.intp]:
        """Of some of the whole graph's edges those that occur, as edges of the part's graph."""
        if isinstance(self.edges, slice):
            return edges
        place = np.searchsorted(self.edges, edges)
        return place[self.edges.take(place, mode="clip") == edges]


def parts_of(graph: Graph, pairs: Pairs, *, alike: bool = True) -> list[Part]:
    """The pairs by the partition of their tokens.

    Args:
        graph: The graph.
        pairs: The pairs.
        alike: Whether the pairs of a part have the same groups; else only the same edges, and where both object and
            background occur the part's graph is the whole one (`groups_of` says what each pair's groups are).

    Raises:
        TaskError: The groups are those of masks, and the pairs have none.
    """
    if not graph.groups.per_pair:
        return [Part(graph, slice(None), slice(None), pairs)]
    by_groups: dict[tuple[int | None, ...], list[int]] = {}
    for row, of_token in enumerate(groups_of(graph, pairs).tolist()):
        key = tuple(of_token)
        whole = not alike and len(set(key)) == len(graph.groups)
        by_groups.setdefault(graph.groups.of_token if whole else key, []).append(row)
    found = []
    for key, rows in by_groups.items():
        own, edges = _graph_at(graph, key)
        found.append(Part(own, edges, np.array(rows), pairs.select(rows)))
    return found


@lru_cache(maxsize=512)  # every run of a mask asks for the same ones
def _graph_at(graph: Graph, of_token: tuple[int | None, ...]) -> tuple[Graph, Rows]:
    """The graph of pairs whose tokens are in these groups, and which of the whole graph's edges it has."""
    if of_token == graph.groups.of_token:
        return graph, slice(None)
    own = Graph(graph.cfg, replace(graph.groups, of_token=of_token), graph.ports)
    every, edges = np.arange(len(graph)), np.zeros(len(own), dtype=np.intp)
    for whole, block in zip(graph.blocks, own.blocks, strict=True):
        block.pack(whole.unpack(every), edges)
    return own, edges


def groups_of(graph: Graph, pairs: Pairs) -> Int[Tensor, "#pair token"]:
    """The group of each token in each pair; one row where all pairs have the same.

    Raises:
        TaskError: The groups are those of masks, and the pairs have none.
    """
    groups = graph.groups
    if not groups.per_pair:
        return torch.tensor(groups.of_token, device="cpu")[None]
    if pairs.objects is None:
        raise TaskError(
            'the token groups of tokens="mask" are object and background, but the pairs don\'t say where the object '
            'is: make the task with masks, such as class_contrast(..., masks="attention"), a folder of masks or a '
            ".csv of boxes (on the command line --mask); or compile the graph with other tokens."
        )
    return torch.from_numpy(groups.of_objects(pairs.objects.any(1).numpy()))


def occurring(graph: Graph, pairs: Pairs) -> NDArray[np.bool_]:
    """Whether each edge occurs in each pair, shape (pair, edge); one row where all do."""
    if not graph.groups.per_pair:
        return np.ones((1, len(graph)), dtype=bool)
    found = np.zeros((len(pairs), len(graph)), dtype=bool)
    for part in parts_of(graph, pairs, alike=False):
        found[np.ix_(np.arange(len(pairs))[part.rows], np.arange(len(graph))[part.edges])] = True
    return found


def where_occurring(
    graph: Graph, pairs: Pairs, values: NDArray[np.float64], edges: Sequence[int] | NDArray[np.intp]
) -> NDArray[np.float64]:
    """Values of some edges, shape (pair, some edge), and NaN where an edge does not occur in a pair."""
    return np.where(occurring(graph, pairs)[:, edges], values, np.nan) if graph.groups.per_pair else values


def rows_of(parts: Sequence[Part]) -> Rows:
    """Where each pair stands among the pairs of the parts, one part after the other."""
    return slice(None) if len(parts) == 1 else np.argsort(np.concatenate([np.asarray(part.rows) for part in parts]))
