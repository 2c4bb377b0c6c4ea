"""Node circuits: heads and MLPs kept or dropped whole.

A node circuit is a circuit whose mask holds every edge among the kept nodes, `input` and the logits included; so it
runs, draws and exports as any other. Its provenance says `granularity: node` and which nodes were kept. A share of
the nodes and the same share of the edges are different things, so circuits of two granularities are never compared.

Scores of heads and MLPs give the node circuits of the highest ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..models.errors import GraphError
from .ablation import Ablation
from .circuit import Circuit
from .formats.plain import plain
from .graph import Graph
from .judging.controls import random_masks
from .reach import prune
from .scores import Scores
from .shown import Glance, Shown
from .sizes import Size

if TYPE_CHECKING:
    import pandas

Bools = NDArray[np.bool_]


def node_names(graph: Graph) -> tuple[str, ...]:
    """Names of the heads and MLPs, in the order in which they write."""
    return tuple(np.array(graph.source_names())[graph.source_exists][1:].tolist())


def leaving(graph: Graph, node: str) -> Bools:
    """The edges that carry what a head or an MLP writes, shape (edge,). Without them it is ablated whole.

    Raises:
        GraphError: There is no such node.
    """
    column, mask = _column(graph, node), np.zeros(len(graph), dtype=bool)
    for block in graph.blocks:
        if block.kind != "inside" and column < block.width:
            dense = np.zeros(block.dense_shape, dtype=bool)
            dense[:, :, column] = True
            block.pack(dense, mask)
    return mask


def among(graph: Graph, nodes: Iterable[str]) -> Bools:
    """The edges from `input` or a kept node to a kept node or the logits, shape (edge,).

    At `block` ports the heads of a layer share what they read, so an edge into a layer's attention is kept if one of
    its heads is.

    Raises:
        GraphError: There is no such node.
    """
    kept = np.zeros(graph.n_sources, dtype=bool)
    kept[[0, *(_column(graph, node) for node in nodes)]] = True
    mask = np.zeros(len(graph), dtype=bool)
    for block in graph.blocks:
        dense = np.broadcast_to(_readers(graph, block.kind, block.layer, kept)[:, None, None], block.dense_shape)
        block.pack(dense if block.kind == "inside" else dense & kept[: block.width], mask)
    return mask


def _readers(graph: Graph, kind: str, layer: int, kept: Bools) -> Bools:
    """Which rows of an edge block belong to a kept node."""
    if kind == "logits":
        return np.ones(1, dtype=bool)
    heads = slice(graph.first_head(layer), graph.first_head(layer) + graph.cfg.n_heads)
    if kind == "mlp":
        return kept[heads.stop : heads.stop + 1]
    rows = graph.port_rows if kind == "attention" else graph.inside_rows
    found = np.zeros(int(rows.max()) + 1, dtype=bool)
    found[rows[kept[heads]]] = True
    return found


def _column(graph: Graph, node: str) -> int:
    """A node's source index."""
    names = node_names(graph)
    if node not in names:
        raise GraphError(f"{node!r} is no head or MLP of {graph}: pass names such as {names[0]!r} or {names[-1]!r}.")
    return graph.source_names().index(node)


def node_circuit(graph: Graph, nodes: Iterable[str], **fields: Any) -> Circuit:
    """The circuit of all edges among these heads and MLPs, less those on no path from input to logits.

    Args:
        graph: The graph.
        nodes: Names of the kept heads and MLPs, such as `a0.h1` and `m1`.
        **fields: The circuit's `scores`, `ablation`, `task` and `provenance`.

    Raises:
        GraphError: There is no such node.
    """

    wanted = set(nodes)
    mask = prune(graph, among(graph, wanted))
    kept = [name for name in node_names(graph) if name in wanted]
    provenance = {**fields.pop("provenance", {}), "granularity": "node", "nodes": kept}
    return Circuit(graph, mask, provenance=provenance, **fields)


def granularity(circuit: Circuit) -> str:
    """`edge`, or `node` for a circuit of heads and MLPs that were kept or dropped whole."""
    return str(circuit.provenance.get("granularity", "edge"))


def kept_nodes(circuit: Circuit) -> list[str]:
    """The heads and MLPs of a node circuit.

    Raises:
        GraphError: It is an edge circuit.
    """
    if granularity(circuit) != "node":
        raise GraphError("an edge circuit keeps no nodes whole: make one by node_circuit(graph, nodes).")
    return list(circuit.provenance["nodes"])


def matched_masks(circuit: Circuit, n: int, *, seed: int) -> list[Bools]:
    """Masks of `n` random circuits like this one, shape (edge,).

    For an edge circuit: whole paths, matched by layer and kind, as many edges. For a node circuit: as many heads and as
    many MLPs, kept whole, drawn from all layers.
    """
    graph = circuit.graph
    if granularity(circuit) == "edge":
        return random_masks(graph, prune(graph, circuit.mask), n, seed=seed)
    rng, kept, masks = np.random.default_rng([seed, 2]), kept_nodes(circuit), []
    for _ in range(n):
        drawn: list[str] = []
        for mlp in (False, True):
            names = [name for name in node_names(graph) if name.startswith("m") == mlp]
            drawn += rng.choice(names, sum(name in names for name in kept), replace=False).tolist()
        masks.append(prune(graph, among(graph, drawn)))
    return masks


MATCHED_BY = {
    "edge": "random circuits of the same size, made of whole paths, matched by layer and kind",
    "node": "random node circuits of as many heads and as many MLPs",
}
"""How `matched_masks` draws, in words."""


def require_comparable(circuits: Sequence[Circuit]) -> None:
    """Does nothing if the circuits are all edge circuits or all node circuits, of one graph.

    Raises:
        GraphError: They are not: equal shares of nodes and of edges are different sizes.
    """
    kinds = sorted({granularity(circuit) for circuit in circuits})
    if len(kinds) > 1:
        raise GraphError(
            "node circuits and edge circuits are never compared: the same percentage of nodes holds far more edges. "
            "Compare circuits of one granularity, or judge each by evaluate(circuit, task) under its own name."
        )
    for circuit in circuits[1:]:
        circuits[0].graph.require_same(circuit.graph, "circuits")


def jaccard(first: Circuit, second: Circuit) -> float:
    """Edges (of node circuits: nodes) that both keep over those that one of them keeps; 1 for two empty circuits.

    Raises:
        GraphError: One is a node circuit and the other an edge circuit, or their graphs differ.
    """
    require_comparable([first, second])
    if granularity(first) == "node":
        names = node_names(first.graph)
        return overlap(*(np.isin(names, kept_nodes(circuit)) for circuit in (first, second)))
    return overlap(first.mask, second.mask)


def overlap(first: Bools, second: Bools) -> float:
    """Size of the intersection over that of the union; 1 where both are empty."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


NodeBy = Literal["signed", "abs_mean"]
"""How nodes are ranked: by the signed score, or by its absolute value."""


@dataclass(frozen=True, eq=False, repr=False)
class NodeScores(Shown):
    """One number per head and MLP, in the order in which they write; arrays have shape (node,).

    Args:
        graph: The graph.
        values: How much of the metric each carries, in the metric's unit; positive helps.
        std_err: Standard error of `values` over pairs; NaN where it is not known.
        exact: Whether each node was ablated, rather than estimated.
        n_pairs: Number of pairs.
        algorithm: What scored them, or the edges whose scores were summed.
        options: Its options, plain values.
        ablation: What a removed node carries.
        task: The task in plain values.
    """

    graph: Graph
    values: NDArray[np.float64]
    std_err: NDArray[np.float64]
    exact: bool
    n_pairs: int
    algorithm: str
    options: Mapping[str, Any] = field(default_factory=dict)
    ablation: Ablation = Ablation()
    task: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("values", "std_err"):
            array = getattr(self, name)
            if array.shape != (len(self.names),):
                raise GraphError(f"{name} has shape {array.shape}, but {self.graph} has {len(self.names)} nodes.")
            array.setflags(write=False)
        for name in ("options", "task"):
            object.__setattr__(self, name, plain(getattr(self, name), non_finite="keep"))

    @classmethod
    def from_edges(cls, scores: Scores) -> NodeScores:
        """Each node's score as the sum over the edges that leave it.

        For attribution to first order (EAP, EAP-IG on inputs) the sum is the node's own attribution exactly. Summed
        exact effects are not the node's exact effect, because edges interact: use `node_effects` for that.
        The standard error of a sum needs the pairs, so it is not known.
        """
        values = np.array([scores.values[leaving(scores.graph, name)].sum() for name in node_names(scores.graph)])
        unknown = np.full(len(values), np.nan)
        return cls(
            scores.graph,
            values,
            unknown,
            False,
            scores.n_pairs,
            scores.algorithm,
            dict(scores.options),
            scores.ablation,
            dict(scores.task),
        )

    def __len__(self) -> int:
        return len(self.values)

    def __str__(self) -> str:
        return f"{self.algorithm}: scores of {len(self)} heads and MLPs over {self.n_pairs} pairs"

    def glance(self, most: int) -> Glance:
        """What was scored, and the highest nodes."""
        places = self.ranking()[:most].tolist()
        known = not np.isnan(self.std_err).any()
        rows = [(self.names[i], f"{self.values[i]:+.3g}", *([f"{self.std_err[i]:.2g}"] * known)) for i in places]
        return Glance(str(self), ("node", "score", *(["std_err"] * known)), rows, len(self))

    def frame(self) -> pandas.DataFrame:
        """All heads and MLPs from the highest score down: `node`, `score` and `std_err`."""
        import pandas

        columns = {"node": list(self.names), "score": self.values, "std_err": self.std_err}
        return pandas.DataFrame(columns).iloc[self.ranking()].reset_index(drop=True)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the nodes, in the scores' order."""
        return node_names(self.graph)

    def ranking(self, by: NodeBy = "signed") -> NDArray[np.intp]:
        """Nodes from the highest score down; equal scores in the graph's order.

        Raises:
            GraphError: The choice is not known.
        """
        if by not in get_args(NodeBy):
            raise GraphError(f'by={by!r} is not known for nodes: pass by="signed" or by="abs_mean".')
        return np.argsort(-(self.values if by == "signed" else np.abs(self.values)), kind="stable")

    def top(self, n: Size, *, by: NodeBy = "signed") -> Circuit:
        """The node circuit of the n highest heads and MLPs: all edges among them, `input` and the logits included.

        Args:
            n: A number of heads and MLPs, or a share of them below 1 (rounded, to one at least).
            by: How they are ranked.

        Raises:
            GraphError: n is negative, not whole, or larger than the number of nodes.
        """
        if 0 < n < 1:
            n = max(1, round(n * len(self)))
        if not 0 <= n <= len(self) or n != int(n):
            raise GraphError(f"top({n}) is not possible: there are {len(self)} heads and MLPs; pass 0 to {len(self)}.")
        n = int(n)
        kept = [self.names[place] for place in self.ranking(by)[:n]]
        provenance = {"algorithm": self.algorithm, "options": dict(self.options), "selection": "top", "n": n, "by": by}
        return node_circuit(self.graph, kept, ablation=self.ablation, task=dict(self.task), provenance=provenance)
