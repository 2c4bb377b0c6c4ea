"""Scores of heads and MLPs, and the node circuits of the highest ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..models.errors import GraphError
from .ablation import Ablation
from .circuit import Circuit
from .formats.plain import plain
from .graph import Graph
from .nodes import leaving, node_circuit, node_names
from .scores import Scores
from .shown import Glance, Shown
from .sizes import Size

if TYPE_CHECKING:
    import pandas

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
