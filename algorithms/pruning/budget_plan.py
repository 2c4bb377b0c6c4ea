"""What decides the result of budgeted pruning: the options, checked, and all that a journal must agree with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...circuits.graph import Graph
from ...circuits.metrics import Metric
from ...circuits.task import Task
from ...models.errors import TaskError
from .journal import search_identity

Objective = Literal["squared", "faithfulness", "kl"]
Measure = Literal["auto", "exact", "slopes"]
Start = Literal["full", "eap_ig"]

EXACT_UP_TO = 500
"""Edges of a graph on which every candidate of every round is measured exactly, unless told otherwise."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BudgetPlan:
    """What decides the result; see `budgeted_pruning`.

    Raises:
        TaskError: An option makes no sense.
    """

    graph: Graph
    task: Task
    sizes: list[int]
    faithfulness: float
    start: Start
    objective: Objective
    measure: Measure
    share: float
    breaths: int
    swaps: int
    memory: int

    def __post_init__(self) -> None:
        for name, value, known in (
            ("objective", self.objective, get_args(Objective)),
            ("measure", self.measure, get_args(Measure)),
            ("start", self.start, get_args(Start)),
        ):
            if value not in known:
                raise TaskError(f"{name}={value!r} is not known: pass one of {', '.join(map(repr, known))}.")
        if not 0 <= self.faithfulness <= 1:
            raise TaskError(
                f"faithfulness={self.faithfulness}: pass a level up to 1, such as 0.9, or 0 to go by the size."
            )
        if not 0 < self.share < 1:
            raise TaskError(f"share={self.share}: pass a share of the edges above 0 and below 1, such as share=0.1.")
        if self.breaths < 0 or self.swaps < 0:
            raise TaskError(f"breaths={self.breaths}, swaps={self.swaps}: pass numbers from 0 on.")
        if not self.exact and not self.judged.differentiable:
            raise TaskError(
                f'the metric {self.judged.kind} has no gradient to screen edges by: pass measure="exact", or another '
                f"metric."
            )

    @property
    def exact(self) -> bool:
        """Whether every candidate of every round is measured exactly."""
        return self.measure == "exact" or (self.measure == "auto" and len(self.graph) <= EXACT_UP_TO)

    @property
    def judged(self) -> Metric:
        """The metric that the objective looks at."""
        return replace(self.task.metric, kind="kl") if self.objective == "kl" else self.task.metric

    @property
    def options(self) -> dict[str, Any]:
        """The options in plain values."""
        return {
            "size": self.sizes if len(self.sizes) > 1 else self.sizes[0],
            "faithfulness": self.faithfulness,
            "start": self.start,
            "objective": self.objective,
            "measure": self.measure,
            "share": self.share,
            "breaths": self.breaths,
            "swaps": self.swaps,
        }

    def config(self) -> dict[str, Any]:
        """Everything that decides a decision or its last bit."""
        same = search_identity(self.graph, self.task, memory=self.memory)
        return {**self.options, **same, "judged": [self.judged.kind, *same["judged"]]}


Loss = Callable[[Floats, Floats], Floats]


def _squared(outputs: Floats, full: Floats) -> Floats:
    return np.asarray(np.square(outputs - full).mean(-1))


def _faithfulness(outputs: Floats, full: Floats) -> Floats:
    return np.asarray(np.square(outputs.mean(-1) - full.mean(-1)))


def _kl(outputs: Floats, full: Floats) -> Floats:
    return np.asarray(-outputs.mean(-1))


LOSSES: dict[str, Loss] = {"squared": _squared, "faithfulness": _faithfulness, "kl": _kl}
"""Outputs (..., pair) and the full model's (pair,) -> how far the circuit is from the full model, 0 at best."""
