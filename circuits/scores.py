"""Scores: one signed number per edge, with its spread over the pairs.

A score says how much of the metric m the edge carries, m(clean) - m(edge ablated): positive helps, negative hurts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..models.errors import GraphError
from .ablation import Ablation
from .formats import found
from .formats.plain import plain
from .graph import EdgeNames, Graph
from .names import Edge
from .reach import prune
from .shown import Glance, Shown
from .sizes import Size, edge_count, largest_within

if TYPE_CHECKING:
    import pandas

    from .circuit import Circuit

By = Literal["auto", "signed", "abs_mean", "mean_abs"]
"""How edges are ranked: by the signed mean over pairs, by its absolute value, or by the mean of absolute values.

`auto` is the mean of absolute values on crossed tasks, and the signed mean on one-sided ones. Chosen by transmission:
on DeiT-Tiny, cats against dogs under means, 40 and 60% of the edges by EAP transmit .45 and .88 by the mean of absolute
values, and .04 or less by the signed mean; on five contrasts of digits neither is ahead throughout.
"""


SCORED = ("edge", "score", "std_err", "mean_abs")
"""Columns of edges that are shown with their scores; named as in a frame."""


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Shown):
    """One entry per edge, in the graph's order; all arrays have shape (edge,).

    Iteration gives the edges with their scores, and `scores["m1->logits"]` is one of them.

    Args:
        graph: The graph that was scored.
        values: Signed mean over pairs, in the metric's unit.
        mean_abs: Mean over pairs of the absolute value.
        std_err: Standard error of `values` over pairs.
        exact: Which edges were measured by ablating them rather than estimated.
        n_pairs: Number of pairs.
        algorithm: The algorithm's registered name.
        options: Its options, plain values.
        ablation: What a removed edge carries.
        task: The task in plain values (metric, classes, data, seed).
        diagnostics: Figures that say how far to trust the scores, such as `completeness_gap`.
    """

    graph: Graph
    values: NDArray[np.float64]
    mean_abs: NDArray[np.float64]
    std_err: NDArray[np.float64]
    exact: NDArray[np.bool_]
    n_pairs: int
    algorithm: str
    options: Mapping[str, Any] = field(default_factory=dict)
    ablation: Ablation = Ablation()
    task: Mapping[str, Any] = field(default_factory=dict)
    diagnostics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("values", "mean_abs", "std_err", "exact"):
            array = getattr(self, name)
            if array.shape != (len(self.graph),):
                raise GraphError(
                    f"{name} has shape {array.shape} but {self.graph} needs ({len(self.graph)},): one entry per edge."
                )
            array.setflags(write=False)
        for name in ("options", "task", "diagnostics"):  # plain from the start, so that what is loaded is equal
            object.__setattr__(self, name, plain(getattr(self, name), non_finite="keep"))

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Edge]:
        return map(self.edge, range(len(self)))

    def __getitem__(self, name: str | Edge) -> Edge:
        """The edge of this name, with its score.

        Raises:
            MissingEdgeError: There is no such edge. It is a GraphError and a KeyError.
        """
        return self.edge(self.graph.index(str(name)))

    def __contains__(self, edge: object) -> bool:
        return str(edge) in self.graph

    def edge(self, index: int) -> Edge:
        """The edge with this index, with its score.

        Raises:
            GraphError: The index is out of range.
        """
        return replace(self.graph.edge(index), score=float(self.values[index]))

    def __str__(self) -> str:
        return f"{self.algorithm} scores of {len(self):,} edges over {self.n_pairs} pairs, ablation {self.ablation}"

    def glance(self, most: int) -> Glance:
        """What was scored, and the highest edges."""
        return Glance(str(self), SCORED, self.rows(self.ranking()[:most].tolist()), len(self))

    def rows(self, indices: Sequence[int]) -> list[tuple[str, ...]]:
        """Edges as they are shown, below `SCORED`."""
        return [
            (str(self.graph.edge(i)), f"{self.values[i]:+.3g}", f"{self.std_err[i]:.2g}", f"{self.mean_abs[i]:.3g}")
            for i in indices
        ]

    def frame(self) -> pandas.DataFrame:
        """All edges in rank order (the columns: `formats/tables.py`)."""
        every = np.ones(len(self), dtype=bool)
        return found("formats.tables.edges_table")(self._circuit(every, {"by": self.resolved()}))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scores):
            return NotImplemented
        plain = ("graph", "n_pairs", "algorithm", "options", "ablation", "task", "diagnostics")
        arrays = ("values", "mean_abs", "std_err", "exact")
        return all(getattr(self, name) == getattr(other, name) for name in plain) and all(
            np.array_equal(getattr(self, name), getattr(other, name), equal_nan=name != "exact") for name in arrays
        )

    def edge_names(self) -> EdgeNames:
        """Names of the edges, made when they are looked at."""
        return self.graph.edge_names()

    def resolved(self, by: By = "auto") -> By:
        """How edges are ranked, `auto` made into what it means for these scores.

        Raises:
            GraphError: The choice is not known.
        """
        if by not in get_args(By):
            raise GraphError(f"by={by!r} is not known: pass one of {', '.join(map(repr, get_args(By)))}.")
        if by != "auto":
            return by
        return "mean_abs" if self.task.get("sides") == "both" else "signed"

    def ranking_values(self, by: By = "auto") -> NDArray[np.float64]:
        """The numbers that edges are ranked by, highest first.

        Raises:
            GraphError: The choice is not known.
        """
        values = {"signed": self.values, "abs_mean": np.abs(self.values), "mean_abs": self.mean_abs}
        return values[self.resolved(by)]

    def ranking(self, by: By = "auto") -> NDArray[np.intp]:
        """Edge indices from the highest score down; equal scores in the graph's order."""
        return np.argsort(-self.ranking_values(by), kind="stable")

    def top(self, n: Size, *, by: By = "auto") -> Circuit:
        """The circuit of the highest-ranked edges, as many as leave at most n on paths from input to logits.

        Edges on no path are dropped and don't count, so circuits of one n are of one size, and a larger n only adds
        edges. There are fewer than n where the next edge of the ranking connects more than fit: `provenance` has what
        was asked for as `n`, and what came out as `n_edges`.

        Args:
            n: A number of edges, or a share of the graph's edges below 1.
            by: How edges are ranked.

        Raises:
            GraphError: n is negative, not whole, or larger than the graph.
        """
        count = edge_count(n, self.graph, least=0)
        mask = largest_within(self.graph, self.ranking(by), count)
        asked = float(n) if 0 < n < 1 else count
        return self._circuit(
            mask, {"selection": "top", "n": asked, "n_edges": int(mask.sum()), "by": self.resolved(by)}
        )

    def threshold(self, tau: float, *, by: By = "auto") -> Circuit:
        """The circuit of all edges that score at least tau, less those on no path from input to logits."""
        mask = prune(self.graph, self.ranking_values(by) >= tau)
        return self._circuit(mask, {"selection": "threshold", "tau": float(tau), "by": self.resolved(by)})

    def _circuit(self, mask: NDArray[np.bool_], selection: dict[str, Any]) -> Circuit:
        from .circuit import Circuit

        provenance = {"algorithm": self.algorithm, "options": dict(self.options), **selection}
        return Circuit(self.graph, mask, self, self.ablation, dict(self.task), provenance)
