"""What an evaluation found: every figure with its interval or the reason that it has none, and how it was obtained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Figure:
    """One number of a report.

    Args:
        value: The number; None where it is not defined.
        unit: `nats`, `logits`, `share`, or empty.
        low: Lower end of the 95% interval.
        high: Upper end of the 95% interval.
        reason: Why there is no value or no interval; empty where there are both.
        method: How it was obtained, in a few words.
    """

    value: float | None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    reason: str = ""
    method: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return f"undefined ({self.reason})"
        interval = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f}{interval}" + f" {self.unit}" * (self.unit not in ("", "share"))


@dataclass(frozen=True, eq=False)
class Curve:
    """Faithfulness against size; all arrays have shape (point,).

    Args:
        label: What was ranked, such as `eap_ig` or `random`.
        n_nominal: Edges asked for.
        n_edges: Edges left after those on no path were dropped.
        faithfulness: Normalised faithfulness, 0 for no edge and 1 for all.
        low: Lower end of the 95% interval (over pairs, or for random circuits over draws).
        high: Upper end.
    """

    label: str
    n_nominal: NDArray[np.int64]
    n_edges: NDArray[np.int64]
    faithfulness: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class Report:
    """The judgement of one circuit on one set of pairs.

    Args:
        figures: Name -> figure, such as `faithfulness`, `kl`, `accuracy`, `cpr`, `cmd`, `random_faithfulness`.
        curves: Faithfulness curves: the circuit's ranking, and random circuits for comparison.
        n_edges: Edges of the circuit.
        n_graph: Edges of the graph.
        n_pairs: Pairs that were used.
        method: How every figure was obtained: granularity, ablation, metric, aggregation, pairs used.
    """

    figures: Mapping[str, Figure]
    curves: tuple[Curve, ...]
    n_edges: int
    n_graph: int
    n_pairs: int
    method: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Figure:
        return self.figures[name]

    def __str__(self) -> str:
        width = max(map(len, self.figures), default=0)
        head = f"{self.n_edges} of {self.n_graph} edges, {self.n_pairs} pairs"
        return "\n".join([head, *(f"  {name:<{width}}  {figure}" for name, figure in self.figures.items())])
