"""Which head of one model does what a head of another does.

Head numbers mean nothing across models, so heads are matched by what they do on the same images: where they look
(attention patterns) and what they write towards the logits (direct effects). The similarity of two heads is the mean of
the correlation of their patterns and that of their effects, over images and places. The best assignment, each head used
at most once, is found by scipy's `linear_sum_assignment`; MLPs are assigned by their direct effects alone. Then the
edges of one circuit can be spelled in the names of the other's heads, and their overlap is counted.

A matching always finds something: `similarity` says how much the matched heads have in common, and `margin` by how much
each is better than the next best. Overlap after matching is an upper bound of a kind, since the matching itself was
fitted; random circuits of the same sizes, matched by the same heads, are what to hold it against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ...models.errors import GraphError
from ..names import Edge
from ..nodes import granularity, kept_nodes

if TYPE_CHECKING:
    from ..circuit import Circuit

Floats = NDArray[np.float64]

Window = float | Literal["block", "free"]
"""Between which depths heads are matched."""

FORBIDDEN = -1e3  # a similarity that no assignment takes if it has any other choice


@dataclass(frozen=True, eq=False)
class HeadFeatures:
    """What the heads of one model do on some images; `gather_heads` makes it.

    Args:
        model: Name of the model.
        n_layers: Its number of blocks.
        names: Names of the heads, such as `a0.h1`.
        layers: Block of each head, shape (head,).
        patterns: Where each head looks, shape (head, feature).
        effects: What each head adds to the logits directly, shape (head, feature).
        mlp_effects: What each block's MLP adds to the logits directly, shape (block, feature).
    """

    model: str
    n_layers: int
    names: tuple[str, ...]
    layers: NDArray[np.int64]
    patterns: Floats
    effects: Floats
    mlp_effects: Floats

    @property
    def depth(self) -> Floats:
        """Relative depth of each head: the middle of its block, from 0 to 1."""
        return (self.layers + 0.5) / self.n_layers


@dataclass(frozen=True, eq=False)
class Matching:
    """Which head of the second model stands for which of the first.

    Args:
        heads: Name in the second model -> name in the first.
        mlps: The same for MLPs, matched by their direct effects.
        similarity: Of each matched pair of heads, by the name in the second model, from -1 to 1.
        margin: By how much that is better than the same head's next best choice among those allowed.
        method: How it was found, in words.
    """

    heads: Mapping[str, str]
    mlps: Mapping[str, str]
    similarity: Mapping[str, float]
    margin: Mapping[str, float]
    method: str

    def __str__(self) -> str:
        mean = np.mean(list(self.similarity.values())) if self.similarity else np.nan
        lines = [f"{len(self.heads)} heads matched, mean similarity {mean:.2f} ({self.method})"]
        return "\n".join(lines + [f"  {b} -> {a}  {self.similarity[b]:.2f}" for b, a in self.heads.items()])

    def node(self, name: str) -> str | None:
        """The first model's name for a component of the second; None where it has no counterpart."""
        return name if name in ("input", "logits") else {**self.heads, **self.mlps}.get(name)


def head_similarity(first: HeadFeatures, second: HeadFeatures) -> Floats:
    """Similarity of each two heads, shape (head of first, head of second), from -1 to 1.

    The mean of the correlations of patterns and of effects. A head whose pattern or effect does not vary correlates
    with nothing: 0. What varies in neither of the two (effects of heads that the logits don't read directly, under
    attention pooling) is left out.

    Raises:
        GraphError: The features are not of the same images.
    """
    for what in ("patterns", "effects"):
        widths = [getattr(one, what).shape[1] for one in (first, second)]
        if widths[0] != widths[1]:
            raise GraphError(
                f"{what} of {first.model} have {widths[0]} features and those of {second.model} {widths[1]}: gather "
                f"both on the same images with one grid, such as gather_heads(vit, images, grid=(4, 4))."
            )
    parts = [_correlation(getattr(first, what), getattr(second, what)) for what in ("patterns", "effects")]
    known = np.sum([~np.isnan(part) for part in parts], axis=0)
    return np.nansum(parts, axis=0) / np.maximum(known, 1)


def _correlation(first: Floats, second: Floats) -> Floats:
    """Of each two rows; 0 where one does not vary, NaN where neither does."""
    unit, varies = [], []
    for values in (first, second):
        centred = values - values.mean(1, keepdims=True)
        length = np.sqrt((centred**2).sum(1, keepdims=True))
        floor = 1e-12 * np.abs(values).max(initial=0.0) * np.sqrt(values.shape[1])
        varies.append(length[:, 0] > floor)
        unit.append(np.where(length > floor, centred / np.where(length > floor, length, 1.0), 0.0))
    return np.where(np.logical_or.outer(*varies), unit[0] @ unit[1].T, np.nan)


def match_heads(first: HeadFeatures, second: HeadFeatures, *, window: Window = "block") -> Matching:
    """The assignment of heads with the largest total similarity.

    Args:
        first: Heads whose names are kept.
        second: Heads that are given the names of the first.
        window: Largest difference in relative depth (0 to 1). `block` is half a block of the shallower model: with
            equal numbers of blocks, heads are matched inside blocks. `free`: any head with any other.

    Raises:
        GraphError: The features are not of the same images.
    """
    similarity = head_similarity(first, second)
    most = {"block": 0.5 / min(first.n_layers, second.n_layers), "free": np.inf}.get(window, window)  # type: ignore[arg-type,call-overload]
    blocks = ((np.arange(first.n_layers) + 0.5) / first.n_layers, (np.arange(second.n_layers) + 0.5) / second.n_layers)
    value = _within(similarity, first.depth, second.depth, most)
    pairs = _assigned(value)
    names = {second.names[b]: first.names[a] for b, a in pairs}
    found = {second.names[b]: float(similarity[a, b]) for b, a in pairs}
    margin = {second.names[b]: _margin(value[:, b], a) for b, a in pairs}
    where = "over all depths" if window == "free" else f"within {most:.3g} of relative depth"
    method = f"assignment of largest total similarity of patterns and direct effects, {where}"
    alike = np.nan_to_num(_correlation(first.mlp_effects, second.mlp_effects))
    mlps = _assigned(_within(alike, blocks[0], blocks[1], most))
    return Matching(names, {f"m{b}": f"m{a}" for b, a in mlps}, found, margin, method)


def _within(similarity: Floats, first: Floats, second: Floats, most: float) -> Floats:
    """The similarities of things whose depths are at most so far apart; the others forbidden."""
    return np.where(np.abs(first[:, None] - second[None, :]) <= most + 1e-9, similarity, FORBIDDEN)


def _assigned(value: Floats) -> list[tuple[int, int]]:
    """(column, row) of the assignment with the largest sum, less forbidden ones, in the order of the columns."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(value, maximize=True)
    chosen = zip(columns.tolist(), rows.tolist(), strict=True)
    return sorted((b, a) for b, a in chosen if value[a, b] > FORBIDDEN / 2)


def _margin(column: Floats, chosen: int) -> float:
    """How much better the chosen head is than the best other one; negative where another would be better."""
    others = np.delete(column, chosen)
    others = others[others > FORBIDDEN / 2]
    return float(column[chosen] - others.max()) if len(others) else float("inf")


def named_edge(edge: Edge, matching: Matching | None = None) -> tuple[str, ...]:
    """An edge as (source, its group, destination, port, its group), in the names of the first model.

    What has no counterpart there keeps its own name with a mark, and so is nobody's.
    """
    port = "inside " * edge.inside + edge.port
    source, destination = (named_node(end.node, matching) for end in (edge.source, edge.destination))
    return source, edge.source.group, destination, port, edge.destination.group


def named_node(node: str, matching: Matching | None = None) -> str:
    """A node in the names of the first model; with a mark where it has no counterpart there."""
    if matching is None or not (node[0] == "m" or "." in node):  # input, logits, all heads of a layer together
        return node
    return matching.node(node) or f"{node} (unmatched)"


def named_edges(circuit: Circuit, matching: Matching | None = None) -> set[tuple[str, ...]]:
    """The kept edges, each as `named_edge` spells it."""
    return {named_edge(edge, matching) for edge in circuit}


def named_nodes(circuit: Circuit, matching: Matching | None = None) -> set[str]:
    """The heads and MLPs that a circuit uses, in the names of the first model, as `named_edges`."""
    if granularity(circuit) == "node":
        kept = set(kept_nodes(circuit))
        return {(matching.node(node) or f"{node} (unmatched)") if matching else node for node in kept}
    ends = {end for edge in named_edges(circuit, matching) for end in (edge[0], edge[2])}
    return {end for end in ends if end not in ("input", "logits") and (end[0] == "m" or "." in end)}


def matched_overlap(first: Circuit, second: Circuit, matching: Matching) -> tuple[float, float]:
    """Jaccard index of edges, and of heads and MLPs, once the second circuit's heads have the first's names.

    Edges of components that have no counterpart count in the union. Graphs may differ in everything but how tokens are
    grouped and what ports there are.

    Raises:
        GraphError: Token groups or ports differ, so that no edge of one could be an edge of the other.
    """
    kinds = [(one.graph.groups.names, one.graph.ports) for one in (first, second)]
    if kinds[0] != kinds[1]:
        raise GraphError(
            f"the circuits have other token groups or ports ({first.graph}; {second.graph}): compile both graphs with "
            f"the same tokens= and ports=."
        )
    edges = named_edges(first), named_edges(second, matching)
    nodes = named_nodes(first), named_nodes(second, matching)
    return jaccard_of_sets(*edges), jaccard_of_sets(*nodes)


def jaccard_of_sets(first: set, second: set) -> float:
    """Shared things over all things; 1 for two empty sets."""
    return len(first & second) / len(first | second) if first | second else 1.0
