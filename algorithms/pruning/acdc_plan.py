"""What decides the result of ACDC: the options, checked, and all that a journal must agree with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from ...circuits.graph import Graph
from ...circuits.scores import Scores
from ...circuits.tasks.metrics import Metric
from ...circuits.tasks.task import Task
from ..engines.edge_mask import Destination
from ..registry import Chosen
from .journal import scores_digest, search_identity


@dataclass(frozen=True, eq=False)
class AcdcPlan:
    """What decides the result; see `acdc`.

    Raises:
        GraphError: The order's scores belong to another graph.
    """

    graph: Graph
    task: Task
    tau: float
    order: Scores | Literal["paper"]
    memory: int
    chosen: Chosen

    def __post_init__(self) -> None:
        if isinstance(self.order, Scores):
            self.graph.require_same(self.order.graph, "scores")

    @property
    def judged(self) -> Metric:
        """The metric that is watched.

        On a crossed task the mean of a metric that speaks for the target says nothing: there the distance to the full
        model's on each clean image is watched in its place.
        """
        chosen = self.task.metric
        chosen = chosen if self.chosen.metric == "task" else dataclasses.replace(chosen, kind=self.chosen.metric)
        if self.task.sides == "both" and not chosen.relative:
            return dataclasses.replace(chosen, kind="distance")
        return chosen

    def arrange(self, destination: Destination, columns: list[int]) -> list[int]:
        """The order in which a destination's edges are tried."""
        if not isinstance(self.order, Scores):
            return columns[::-1]
        values = self.order.values
        return sorted(columns, key=lambda column: (values[destination.edge(column)], -column))

    @property
    def options(self) -> dict[str, Any]:
        """The options in plain values."""
        order = self.order.algorithm if isinstance(self.order, Scores) else self.order
        return self.chosen.record(tau=self.tau, order=order)

    def config(self) -> dict[str, Any]:
        """Everything that decides a decision or its last bit."""
        return {
            **self.options,
            **search_identity(self.graph, self.task, memory=self.memory),
            "order_digest": scores_digest(self.order),
            "judged": [self.judged.kind, list(self.judged.target), list(self.judged.foil)],
        }
