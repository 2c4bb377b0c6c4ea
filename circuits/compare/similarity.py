"""How alike two circuits are by their edges, by their rankings, and as graphs.

Statistics are counted over arrays that say where every edge of a graph starts and ends. Nodes are components without
token groups: the sources in the order in which they write, the logits, and at `block` ports each layer's one attention
input. A node's depth runs from 0 (input) to 1 (logits): with L layers, attention of layer l reads and writes at (2 l +
1) / (2 L + 1), its MLP at (2 l + 2) / (2 L + 1), so depths of models with different numbers of layers can be compared.

Rankings of the same things are compared from the top down.

- The overlap at rank k: Jaccard index of the first k of each. A curve, so that no size has to be chosen.
- Rank-biased overlap (Webber, Moffat and Zobel 2010): a reader goes down both lists and stops after each rank with
  probability 1 - p; RBO is the share that the lists have in common where the reader stops, on average. The first
  d = 1 / (1 - p) ranks have most of the weight.
- Spearman's rank correlation of the scores, where all ranks weigh the same.

Rankings hold indices, best first, each at most once. Ties are the caller's to break; `Scores.ranking` breaks them in
the graph's order, so edges that all score exactly zero look alike: that matters for correlations of sparse scores, and
little for RBO, which hardly looks so far down.

As graphs, circuits are compared by Weisfeiler and Lehman's colours (Shervashidze et al. 2011).

1. Every node starts with a label: here the kind of component and its token group, so that neither a head's number nor
   its layer counts, and circuits of any models can be compared.
2. Again and again each node's new label stands for its own and the sorted labels of its neighbours, each with what the
   edge to it is called (q, k, v) and which way it goes. After h rounds a label stands for a neighbourhood h edges deep.
3. The kernel counts common labels, k(G, H) = sum over rounds and labels of count_G * count_H, and is normalised:
   k(G, H) / sqrt(k(G, G) k(H, H)) is 1 for a circuit with itself and with any relabelled copy, and at least 0.

It looks at which edges there are and not at scores. Two circuits that differ in one early edge share few deep labels,
so more rounds make the measure stricter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import GraphError
from ..edge_blocks import EdgeBlock
from ..graph import Graph

if TYPE_CHECKING:
    from ..circuit import Circuit


Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Ranking = NDArray[np.integer]

KINDS = ("q", "k", "v", "attention", "inside", "mlp", "logits")
"""What an edge ends at: a head's port; its undivided input at `head` and `block` ports; `inside` a head, from one token
group to another; an MLP; the logits."""


@dataclass(frozen=True, eq=False)
class EdgeTable:
    """One entry per edge in the graph's order, shape (edge,), unless said otherwise.

    Args:
        nodes: Names of the nodes, whether the model has them or not (a block without an MLP).
        depth: Depth of each node, shape (node,).
        source: Node where the edge starts; for an edge inside a head, the head.
        destination: Node where it ends.
        kind: Index into `KINDS`.
        source_group: Token group where it starts.
        group: Token group where it ends.
        components: Which nodes are heads and MLPs that the model has, shape (node,), in the order of `node_names`.
    """

    nodes: tuple[str, ...]
    depth: NDArray[np.float64]
    source: Ints
    destination: Ints
    kind: Ints
    source_group: Ints
    group: Ints
    components: NDArray[np.bool_]


def edge_table(graph: Graph) -> EdgeTable:
    """The table of a graph's edges; takes memory for some arrays over all edges, and no objects."""
    sources = graph.source_names()
    attention = tuple(f"a{layer}" for layer in range(graph.cfg.n_layers)) if graph.ports == "block" else ()
    nodes = (*sources, "logits", *attention)
    columns = np.zeros((5, len(graph)), dtype=np.int64)
    for block in graph.blocks:
        for values, out in zip(_block(graph, block), columns, strict=True):
            block.pack(np.broadcast_to(values, block.dense_shape), out)
    depth = np.array([_depth(name, graph.cfg.n_layers) for name in nodes])
    components = np.zeros(len(nodes), dtype=bool)
    components[1 : graph.n_sources] = graph.source_exists[1:]
    return EdgeTable(nodes, depth, columns[0], columns[1], columns[2], columns[3], columns[4], components)


def _depth(node: str, n_layers: int) -> float:
    if node in ("input", "logits"):
        return float(node == "logits")
    layer = int(node[1:].split(".")[0])
    return (2 * layer + 1 + (node[0] == "m")) / (2 * n_layers + 1)


def _block(graph: Graph, block: EdgeBlock) -> tuple[Ints, ...]:
    """Source, destination, kind, source group and group, each to be broadcast to (row, group, column)."""
    rows, groups, width = block.dense_shape
    row, group, column = (axis.astype(np.int64) for axis in np.ogrid[:rows, :groups, :width])
    if block.kind == "logits":
        return column, np.array(graph.n_sources), np.array(KINDS.index("logits")), group, group
    first = graph.first_head(block.layer)
    if block.kind == "mlp":
        return column, np.array(graph.mlp_source(block.layer)), np.array(KINDS.index("mlp")), group, group
    ports = {"attention": 3, "inside": 2}[block.kind] if graph.ports == "qkv" else 1
    node = first + row // ports if graph.ports != "block" else np.array(graph.n_sources + 1 + block.layer)
    if block.kind == "inside":
        return node, node, np.array(KINDS.index("inside")), column, group
    kind = row % 3 if graph.ports == "qkv" else np.array(KINDS.index("attention"))
    return column, node, kind, group, group


RBO_P = 0.98
"""Default of `p`: 1 / (1 - p) = 50 ranks are looked at on average."""


def places(ranking: Ranking, n: int) -> Ranking:
    """The place of each of n things in a ranking, from 0; things that are not ranked stand behind all, at n."""
    found = np.full(n, n, dtype=np.int64)
    found[ranking] = np.arange(len(ranking))
    return found


def overlap_curve(first: Ranking, second: Ranking) -> Floats:
    """Jaccard index of the things that have appeared by each rank, shape (rank,) for the ranks 1, 2, ..., n.

        overlap[k - 1] = |A_k and B_k| / |A_k or B_k|,    A_k = things with a place below k

    Args:
        first: Place of each thing in the first ranking, from 0, as `places` gives it; shape (thing,). Several things
            may appear at one rank (the two ends of an edge).
        second: The same in the second ranking.
    """
    n = len(first)
    both = np.cumsum(np.bincount(np.maximum(first, second), minlength=n)[:n])
    either = np.cumsum(np.bincount(np.minimum(first, second), minlength=n)[:n])
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def rank_biased_overlap(first: Ranking, second: Ranking, *, p: float = RBO_P) -> float:
    """Extrapolated rank-biased overlap of two rankings that may differ in length, from 0 to 1 (Webber et al., eq. 32).

    With X_d things shared by the first d ranks of both, s and l the shorter and the longer length,

        RBO = (1 - p) / p (sum_d=1..l X_d / d p^d  +  sum_d=s+1..l X_s (d - s) / (s d) p^d)
              + ((X_l - X_s) / l + X_s / s) p^l

    which assumes that below their ends the lists go on to agree as much as they did. Two equal lists get 1.

    Args:
        first: Indices, best first.
        second: The same.
        p: Chance of going on to the next rank, in (0, 1).

    Raises:
        GraphError: p is not in (0, 1), or one ranking is empty and the other is not.
    """
    if not 0 < p < 1:
        raise GraphError(f"p={p} is not possible: pass a number between 0 and 1, such as p={RBO_P}.")
    short, long = sorted((first, second), key=len)
    if not len(long):
        return 1.0
    if not len(short):
        raise GraphError("one of the two rankings is empty: rank-biased overlap needs at least one rank in each.")
    shared = _shared(short, long)
    s, n = len(short), len(long)
    depth = np.arange(1, n + 1)
    weights = np.exp(depth * np.log(p))
    summed = (shared / depth * weights).sum()
    below = depth[s:]
    summed += (shared[s - 1] * (below - s) / (s * below) * weights[s:]).sum()
    tail = (shared[-1] - shared[s - 1]) / n + shared[s - 1] / s
    return float((1 - p) / p * summed + tail * weights[-1])


def _shared(short: Ranking, long: Ranking) -> Ranking:
    """X_d for each depth of the longer ranking; the shorter one ends before."""
    n = int(max(short.max(), long.max())) + 1
    in_both = np.maximum(places(short, n), places(long, n))
    ends = np.intersect1d(short, long)
    return np.cumsum(np.bincount(in_both[ends], minlength=len(long))[: len(long)])


def rank_correlations(values: Floats) -> Floats:
    """Spearman's correlation of each two rows, ties at their mean rank, (row, thing) -> (row, row).

    NaN for rows that hold NaN and for rows that rank nothing because all values are equal.
    """
    from scipy.stats import rankdata

    ranks = np.full(values.shape, np.nan)
    known = ~np.isnan(values).any(1)
    ranks[known] = rankdata(values[known], axis=1) if known.any() else ranks[known]
    centred = ranks - ranks.mean(1, keepdims=True)
    lengths = np.sqrt((centred**2).sum(1))
    products = np.outer(lengths, lengths)
    usable = products > 0
    found = np.where(usable, centred @ centred.T / np.where(usable, products, 1.0), np.nan)
    return found.round(12)  # a ranking's correlation with itself is 1


ROUNDS = 3


@dataclass(frozen=True)
class Labelled:
    """A graph with names on its nodes and on its arcs.

    Args:
        labels: First label of each node.
        arcs: (node, neighbour, label): what each node sees. An undirected edge is two arcs.
    """

    labels: tuple[str, ...]
    arcs: tuple[tuple[int, int, str], ...]

    @classmethod
    def of(cls, circuit: Circuit) -> Labelled:
        """A circuit's components; parallel q, k and v edges are one arc with their letters together."""
        whole = circuit.to_networkx()
        place = {name: index for index, name in enumerate(whole.nodes)}
        labels = tuple(f"{node['kind']}@{node.get('group', '')}" for _, node in whole.nodes(data=True))
        letters: dict[tuple[int, int], set[str]] = {}
        for source, destination, edge in whole.edges(data=True):
            said = edge.get("port", "") + "|" * edge["inside"]
            letters.setdefault((place[source], place[destination]), set()).add(said)
        arcs = []
        for (source, destination), found in letters.items():
            said = ",".join(sorted(found))
            arcs += [(destination, source, f"<{said}"), (source, destination, f">{said}")]
        return cls(labels, tuple(arcs))


def wl_colours(graphs: Sequence[Labelled], *, rounds: int = ROUNDS) -> list[NDArray[np.int64]]:
    """The colour of every node after 0, 1, ..., `rounds` rounds, one array (round, node) per graph.

    Colours mean the same in all graphs of one call: two nodes of one colour have equal neighbourhoods so deep.

    Raises:
        GraphError: `rounds` is negative.
    """
    if rounds < 0:
        raise GraphError(f"rounds={rounds} is not possible: pass 0 or more, such as rounds={ROUNDS}.")
    known: dict[Any, int] = {}
    colours = [[[known.setdefault(("start", label), len(known)) for label in graph.labels]] for graph in graphs]
    for depth in range(rounds):
        for graph, found in zip(graphs, colours, strict=True):
            found.append([known.setdefault((depth, key), len(known)) for key in _keys(graph, found[-1])])
    return [np.array(found, dtype=np.int64).reshape(rounds + 1, -1) for found in colours]


def _keys(graph: Labelled, now: list[int]) -> list[tuple[int, tuple[tuple[str, int], ...]]]:
    seen: list[list[tuple[str, int]]] = [[] for _ in now]
    for node, neighbour, label in graph.arcs:
        seen[node].append((label, now[neighbour]))
    return [(own, tuple(sorted(around))) for own, around in zip(now, seen, strict=True)]


def wl_kernel(graphs: Sequence[Labelled], *, rounds: int = ROUNDS) -> NDArray[np.float64]:
    """Normalised kernel of each two graphs, shape (graph, graph); graphs without nodes are like one another only."""
    colours = wl_colours(graphs, rounds=rounds)
    n = 1 + max((int(found.max()) for found in colours if found.size), default=0)
    counts = np.array([np.bincount(found.ravel(), minlength=n) for found in colours], dtype=np.float64)
    products = counts @ counts.T
    own = np.sqrt(np.diag(products))
    scale = np.outer(own, own)
    alike = np.where(scale > 0, products / np.where(scale > 0, scale, 1.0), np.equal.outer(own, own).astype(float))
    return alike.round(12)


def wl_similarity(circuits: Sequence[Circuit], *, rounds: int = ROUNDS) -> NDArray[np.float64]:
    """Normalised Weisfeiler-Lehman kernel of each two circuits, shape (circuit, circuit)."""
    return wl_kernel([Labelled.of(circuit) for circuit in circuits], rounds=rounds)
