"""What decides the result of budgeted pruning: the options, checked, and all that a journal must agree with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...circuits.graph import Graph
from ...circuits.tasks.metrics import Metric
from ...circuits.tasks.task import Task
from ...models.errors import TaskError
from ..registry import Chosen
from .journal import search_identity

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
    memory: int
    chosen: Chosen

    def __post_init__(self) -> None:
        if not self.exact and not self.judged.differentiable:
            raise TaskError(
                f'the metric {self.judged.kind} has no gradient to screen edges by: pass measure="exact", or another '
                f"metric."
            )

    @property
    def exact(self) -> bool:
        """Whether every candidate of every round is measured exactly."""
        return self.chosen.measure == "exact" or (self.chosen.measure == "auto" and len(self.graph) <= EXACT_UP_TO)

    @property
    def judged(self) -> Metric:
        """The metric that the objective looks at."""
        return replace(self.task.metric, kind="kl") if self.chosen.objective == "kl" else self.task.metric

    @property
    def options(self) -> dict[str, Any]:
        """The options in plain values."""
        return self.chosen.record(size=self.sizes if len(self.sizes) > 1 else self.sizes[0])

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
