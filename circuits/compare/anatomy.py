"""How one circuit is built, in numbers that can be compared between any models.

The strength of an edge is its |score|; in a circuit without scores every edge has the same. Shares are of the strength
of the kept edges.

- `effective edges` = exp(H), H the Shannon entropy of the edges' shares (Hill's number of order 1): n equally strong
  edges have n. It is at most the number of edges, and says how many really share the work.
- `modularity` (Newman 2006) of the best division that networkx' Louvain method finds, over components as nodes with
  strengths added up both ways. Small sparse graphs have much of it by chance: set it beside random circuits.
- `depth read`, `depth written`: mean depth of where edges end and where they start, from 0 (input) to 1 (logits).
- `path length`: edges of a walk back from the logits that chooses by strength (see `paths`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..reach import prune
from .edge_table import KINDS, EdgeTable, edge_table
from .paths import PathLengths, path_lengths

if TYPE_CHECKING:
    from ..circuit import Circuit

Floats = NDArray[np.float64]

DEPTH_BINS = 4
_LOUVAIN_SEED = 0


@dataclass(frozen=True, eq=False)
class Anatomy:
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

    def __str__(self) -> str:
        flat = self.flat()
        width = max(map(len, flat))
        how = "shares of |score|" if self.weighted else "no scores: every edge counts alike"
        return "\n".join([how, *(f"  {name:<{width}}  {value:.3g}" for name, value in flat.items())])


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
