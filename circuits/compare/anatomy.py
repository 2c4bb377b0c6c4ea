"""How a circuit is built: its size, where its edges end, how deep, how modular, and how long its paths are.

The numbers can be compared between any models.

The strength of an edge is its |score|; in a circuit without scores every edge has the same. Shares are of the strength
of the kept edges.

- `effective edges` = exp(H), H the Shannon entropy of the edges' shares (Hill's number of order 1): n equally strong
  edges have n. It is at most the number of edges, and says how many really share the work.
- `modularity` (Newman 2006) of the best division that networkx' Louvain method finds, over components as nodes with
  strengths added up both ways. Small sparse graphs have much of it by chance: set it beside random circuits.
- `depth read`, `depth written`: mean depth of where edges end and where they start, from 0 (input) to 1 (logits).
- `path length`: edges of a walk back from the logits that chooses by strength (see `path_lengths`).

Lengths of paths, in edges from input to logits, have two distributions. Each path counts once: `counts`. Or paths count
by what they carry: a walk goes back from the logits, at each place choosing one of the edges that enter it in
proportion to |score|, until it comes to the input; the distribution of its number of steps is `weighted`. Edges inside
heads count as steps; a head's ports do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph
from ..reach import Walks, prune
from ..report import Table, Tabular
from .similarity import KINDS, EdgeTable, edge_table

if TYPE_CHECKING:
    import pandas

    from ..circuit import Circuit


Floats = NDArray[np.float64]

DEPTH_BINS = 4
_LOUVAIN_SEED = 0


@dataclass(frozen=True, eq=False, repr=False)
class Anatomy(Tabular):
    """How a circuit is built; edges on no path from input to logits are left out.

    Args:
        figures: Name -> number: sizes and means, as the module describes them.
        by_kind: Share of the strength by what edges end at (see `edge_table.KINDS`), for kinds that the graph has.
        by_depth: Share by depth of where edges end, in equal bins from input to logits.
        by_group: Share by the token group where edges end.
        paths: Lengths of the paths.
        weighted: Whether strengths are |scores|, or all alike.
    """

    figures: Mapping[str, float]
    by_kind: Mapping[str, float]
    by_depth: Mapping[str, float]
    by_group: Mapping[str, float]
    paths: PathLengths
    weighted: bool

    def flat(self) -> dict[str, float]:
        """Everything by one name each, such as `effective edges` and `share to q`."""
        return {
            **self.figures,
            **{f"share to {name}": value for name, value in self.by_kind.items()},
            **{f"share at depth {name}": value for name, value in self.by_depth.items()},
            **({f"share at {name}": value for name, value in self.by_group.items()} if len(self.by_group) > 1 else {}),
        }

    @property
    def headline(self) -> str:
        """What the shares are of."""
        return "shares of |score|" if self.weighted else "no scores: every edge counts alike"

    def table(self) -> Table:
        """Everything by one name each."""
        return Table(("figure", "value"), tuple((name, f"{value:.3g}") for name, value in self.flat().items()))

    def frame(self) -> pandas.DataFrame:
        """The same in numbers: `figure`, `value`."""
        import pandas

        return pandas.DataFrame(self.flat().items(), columns=["figure", "value"])


def describe(circuit: Circuit, *, strength: Floats | None = None) -> Anatomy:
    """The anatomy of a circuit.

    Args:
        circuit: The circuit.
        strength: Of every edge, shape (edge,); |score| by default, ones without scores.
    """
    graph, table = circuit.graph, edge_table(circuit.graph)
    weighted = strength is not None or circuit.scores is not None
    strength = strengths(circuit) if strength is None else strength
    mask = prune(graph, circuit.mask)
    kept = np.flatnonzero(mask)
    shares = _shares(strength[kept])
    paths = path_lengths(graph, mask, strength)
    group_names = [name or "all" for name in graph.groups.names]
    present = np.unique(table.kind)
    kinds = _sums(table.kind[kept], shares, len(KINDS))
    groups = _sums(table.group[kept], shares, len(group_names))
    return Anatomy(
        figures=_figures(table, kept, shares, paths, len(graph)),
        by_kind={KINDS[place]: float(kinds[place]) for place in present},
        by_depth=_by_depth(table.depth[table.destination[kept]], shares),
        by_group=dict(zip(group_names, groups.tolist(), strict=True)),
        paths=paths,
        weighted=weighted,
    )


def strengths(circuit: Circuit) -> Floats:
    """|score| of every edge, shape (edge,), 0 where it is not known; ones without scores."""
    scores = circuit.scores
    return np.ones(len(circuit.graph)) if scores is None else np.nan_to_num(np.abs(scores.values), posinf=0.0)


def _sums(place: NDArray[np.int64], shares: Floats, n: int) -> Floats:
    return np.bincount(place, weights=shares, minlength=n).astype(np.float64)  # integers where there is nothing


def _shares(strength: Floats) -> Floats:
    total = float(strength.sum())
    return strength / total if total > 0 else np.full(len(strength), 1 / max(1, len(strength)))


def _figures(table: EdgeTable, kept: NDArray, shares: Floats, paths: PathLengths, n_graph: int) -> dict[str, float]:
    source, destination = table.source[kept], table.destination[kept]
    nodes = np.unique(np.concatenate([source, destination]))
    names = [table.nodes[node] for node in nodes]
    return {
        "edges": float(len(kept)),
        "share of graph": len(kept) / n_graph,
        "heads": float(sum("." in name for name in names)),
        "MLPs": float(sum(name.startswith("m") for name in names)),
        "effective edges": effective_number(shares),
        "modularity": modularity(source, destination, shares),
        "depth written": float(shares @ table.depth[source]) if len(kept) else np.nan,
        "depth read": float(shares @ table.depth[destination]) if len(kept) else np.nan,
        "path length": paths.mean,
        "path length, each once": paths.mean_count,
    }


def _by_depth(depth: Floats, shares: Floats) -> dict[str, float]:
    place = np.minimum((depth * DEPTH_BINS).astype(np.int64), DEPTH_BINS - 1)
    found = _sums(place, shares, DEPTH_BINS)
    ends = np.linspace(0, 1, DEPTH_BINS + 1)
    names = [f"{low:g} to {high:g}" for low, high in pairwise(ends)]
    return dict(zip(names, found.tolist(), strict=True))


def effective_number(shares: Floats) -> float:
    """exp of the Shannon entropy of shares that add up to 1; 0 of none."""
    positive = shares[shares > 0]
    return float(np.exp(-(positive * np.log(positive)).sum())) if len(positive) else 0.0


def modularity(source: NDArray, destination: NDArray, weight: Floats) -> float:
    """Modularity of the division that Louvain's method finds; NaN where nothing has any weight."""
    import networkx

    whole = networkx.Graph()
    for one, other, value in zip(source.tolist(), destination.tolist(), weight.tolist(), strict=True):
        before = whole.get_edge_data(one, other, {"weight": 0.0})["weight"]
        whole.add_edge(one, other, weight=before + value)
    if whole.size(weight="weight") <= 0:
        return float("nan")
    parts = networkx.community.louvain_communities(whole, weight="weight", seed=_LOUVAIN_SEED)
    return float(networkx.community.modularity(whole, parts, weight="weight"))


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
