"""How long the paths of a circuit are, in edges from input to logits.

Two distributions. Each path counts once: `counts`. Or paths count by what they carry: a walk goes back from the logits,
at each place choosing one of the edges that enter it in proportion to |score|, until it comes to the input; the
distribution of its number of steps is `weighted`. Edges inside heads count as steps; a head's ports do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph
from ..reach import prune
from ..walks import Walks

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PathLengths:
    """Distributions over lengths, shape (length,), for 0, 1, 2, ... edges; empty for a circuit without paths.

    Args:
        counts: Paths of each length. As floats: there can be more than any integer holds.
        weighted: Share of the walks of each length, adds up to 1.
    """

    counts: Floats
    weighted: Floats

    @property
    def n_paths(self) -> float:
        """Number of paths."""
        return float(self.counts.sum())

    @property
    def mean(self) -> float:
        """Mean length over walks; NaN without paths."""
        return float(np.arange(len(self.weighted)) @ self.weighted) if len(self.weighted) else float("nan")

    @property
    def mean_count(self) -> float:
        """Mean length over paths; NaN without paths."""
        return float(np.arange(len(self.counts)) @ self.counts / self.counts.sum()) if len(self.counts) else np.nan


def path_lengths(graph: Graph, mask: NDArray[np.bool_], strength: Floats) -> PathLengths:
    """Lengths of the paths of kept edges.

    Args:
        graph: The graph.
        mask: Kept edges, shape (edge,); those on no path are left out.
        strength: |score| of every edge, shape (edge,). Where all that enter a place have 0, they count alike.
    """
    links = _Links.of(graph, prune(graph, mask), strength)
    if not links.order:
        return PathLengths(np.zeros(0), np.zeros(0))
    longest = links.longest()
    counts, walks = np.zeros((2, links.n_nodes, longest + 1))
    counts[links.logits, 0] = walks[links.logits, 0] = 1.0
    for node in links.order:  # from the logits down
        for link in links.into[node]:
            start, step = int(links.start[link]), int(links.step[link])
            counts[start, step:] += counts[node, : longest + 1 - step]
            walks[start, step:] += links.chance[link] * walks[node, : longest + 1 - step]
    inputs = links.inputs
    return PathLengths(_trimmed(counts[inputs].sum(0)), _trimmed(walks[inputs].sum(0)))


def _trimmed(values: Floats) -> Floats:
    last = np.flatnonzero(values)
    return values[: last[-1] + 1] if len(last) else values[:0]


@dataclass(frozen=True, eq=False)
class _Links:
    """The kept edges and the free links (from a port to its head) of a circuit as a directed graph without cycles.

    Args:
        start: Node where each link starts, shape (link,).
        end: Node where it ends.
        step: 1 for an edge, 0 for a free link.
        chance: Of being chosen by a walk that stands at the link's end.
        into: Links by the node where they end.
        order: The nodes, each after all that it leads to.
        inputs: The nodes of `input`.
        logits: The node of the logits.
        n_nodes: Number of nodes.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    step: NDArray[np.int64]
    chance: Floats
    into: dict[int, list[int]]
    order: list[int]
    inputs: NDArray[np.int64]
    logits: int
    n_nodes: int

    @classmethod
    def of(cls, graph: Graph, mask: NDArray[np.bool_], strength: Floats) -> _Links:
        """The links of a pruned mask."""
        import networkx

        walks = Walks.of(graph)
        kept = np.flatnonzero(mask)
        n_nodes = walks.logits + 1
        entering = np.bincount(walks.end[kept], minlength=n_nodes)  # kept edges into each node
        free = _free_links(walks)
        free = free[entering[walks.start[free]] > 0]
        links = np.concatenate([kept, free])
        start, end = walks.start[links], walks.end[links]
        weight = np.concatenate([strength[kept], np.zeros(len(free))])
        total = np.bincount(end[: len(kept)], weights=weight[: len(kept)], minlength=n_nodes)
        weight[len(kept) :] = total[start[len(kept) :]]  # what enters a port is what its head reads through it
        flow = networkx.DiGraph()
        flow.add_edges_from(zip(end.tolist(), start.tolist(), strict=True))
        reached = {walks.logits, *networkx.descendants(flow, walks.logits)} if walks.logits in flow else set()
        order = [node for node in networkx.topological_sort(flow) if node in reached]
        into: dict[int, list[int]] = {node: [] for node in order}
        for link, node in enumerate(end.tolist()):
            if node in into:
                into[node].append(link)
        step = (np.arange(len(links)) < len(kept)).astype(np.int64)
        return cls(start, end, step, _chances(end, weight, n_nodes), into, order, walks.inputs, walks.logits, n_nodes)

    def longest(self) -> int:
        """Edges of the longest path."""
        length = np.zeros(self.n_nodes, dtype=np.int64)
        for node in self.order:
            for link in self.into[node]:
                start = self.start[link]
                length[start] = max(length[start], length[node] + self.step[link])
        return int(length.max())


def _free_links(walks: Walks) -> NDArray[np.int64]:
    """Links that cost no edge, each once: a head's undivided port stands there as its q, k and v."""
    free = np.arange(walks.n_edges, len(walks.start))
    ends = np.stack([walks.start[free], walks.end[free]], axis=1)
    return free[np.unique(ends, axis=0, return_index=True)[1]]


def _chances(end: NDArray[np.int64], weight: Floats, n_nodes: int) -> Floats:
    """Each link's share of the weight that enters its end."""
    total, number = np.bincount(end, weights=weight, minlength=n_nodes), np.bincount(end, minlength=n_nodes)
    known = total[end] > 0
    return np.where(known, weight / np.where(known, total[end], 1.0), 1.0 / np.maximum(number[end], 1))
