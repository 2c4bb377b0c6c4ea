"""The kept edges of a circuit in rank order, as the tables, graphs and JSON list them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from ..names import Edge
from ..scores import By

if TYPE_CHECKING:
    from ..circuit import Circuit


@dataclass(frozen=True)
class EdgeRow:
    """A kept edge with its place among the kept edges; the numbers are None in a circuit without scores.

    Args:
        rank: 1 for the edge that ranks highest among those kept.
        edge: The edge.
        score: Signed mean over pairs, in the metric's unit.
        std_err: Its standard error over pairs.
        mean_abs: Mean over pairs of the absolute value.
        exact: Whether it was measured by ablating the edge.
    """

    rank: int
    edge: Edge
    score: float | None = None
    std_err: float | None = None
    mean_abs: float | None = None
    exact: bool | None = None

    def measured(self) -> dict[str, Any]:
        """The numbers by name; empty in a circuit without scores."""
        if self.score is None:
            return {}
        return {"score": self.score, "std_err": self.std_err, "mean_abs": self.mean_abs, "exact": self.exact}


def ranked_indices(circuit: Circuit) -> NDArray[np.intp]:
    """Indices of the kept edges, highest first by what the circuit was selected by.

    That is `provenance["by"]`, or the signed mean; equal scores, and circuits without scores, in the graph's order.
    """
    if circuit.scores is None:
        return circuit.indices
    by = circuit.provenance.get("by", "signed")
    order = circuit.scores.ranking(by if by in get_args(By) else "signed")
    return order[circuit.mask[order]]


def edge_rows(circuit: Circuit) -> list[EdgeRow]:
    """The kept edges in rank order."""
    graph, scores = circuit.graph, circuit.scores
    indices = ranked_indices(circuit)
    edges = [graph.edge(index) for index in indices.tolist()]
    if scores is None:
        return [EdgeRow(rank, edge) for rank, edge in enumerate(edges, 1)]
    arrays = (scores.values, scores.std_err, scores.mean_abs)
    numbers = [np.asarray(array, dtype=np.float64)[indices].tolist() for array in arrays]
    exact = scores.exact[indices].tolist()
    return [EdgeRow(*row) for row in zip(range(1, len(edges) + 1), edges, *numbers, exact, strict=True)]
