"""What decides the result of ACDC: the options, checked, and all that a journal must agree with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from ...circuits.graph import Graph
from ...circuits.metrics import Metric
from ...circuits.scores import Scores
from ...circuits.task import Task
from ...models.errors import TaskError
from ..engines.edge_mask import Destination
from ..registry import ALGORITHMS, run_algorithm
from .journal import scores_digest, search_identity

MetricChoice = Literal["kl", "logit_difference", "task"]
Worsening = Literal["signed", "absolute"]


def as_order(
    order: Scores | str, graph: Graph, task: Task, *, memory: int, progress: bool
) -> Scores | Literal["paper"]:
    """The order itself, or the scores of the algorithm that it names.

    Raises:
        TaskError: There is no such algorithm, or it makes no scores.
    """
    if isinstance(order, Scores):
        return order
    if order == "paper":
        return "paper"
    known = [name for name, entry in ALGORITHMS.items() if entry.finds == "scores"]
    if order not in known:
        raise TaskError(f'order={order!r} is not known: pass "paper", scores, or one of {", ".join(known)}.')
    found = run_algorithm(order, graph, task, memory=memory, progress=progress)
    assert isinstance(found, Scores)
    return found


@dataclass(frozen=True, eq=False)
class AcdcPlan:
    """What decides the result; see `acdc`.

    Raises:
        TaskError: An option makes no sense.
        GraphError: The order's scores belong to another graph.
    """

    graph: Graph
    task: Task
    tau: float
    metric: MetricChoice
    order: Scores | Literal["paper"]
    worsening: Worsening
    batch: int
    memory: int

    def __post_init__(self) -> None:
        if not 0 < self.tau < float("inf"):
            raise TaskError(f"tau={self.tau}: pass a threshold above 0, such as tau=0.01.")
        if self.batch < 1:
            raise TaskError(f"batch={self.batch}: pass at least 1.")
        for name, value, known in (
            ("metric", self.metric, ("kl", "logit_difference", "task")),
            ("worsening", self.worsening, ("signed", "absolute")),
        ):
            if value not in known:
                raise TaskError(f"{name}={value!r} is not known: pass one of {', '.join(map(repr, known))}.")
        if isinstance(self.order, Scores):
            self.graph.require_same(self.order.graph, "scores")

    @property
    def judged(self) -> Metric:
        """The metric that is watched.

        On a crossed task the mean of a metric that speaks for the target says nothing: there the distance to the full
        model's on each clean image is watched in its place.
        """
        chosen = self.task.metric
        chosen = chosen if self.metric == "task" else dataclasses.replace(chosen, kind=self.metric)
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
        return {
            "tau": self.tau,
            "metric": self.metric,
            "order": order,
            "worsening": self.worsening,
            "batch": self.batch,
        }

    def config(self) -> dict[str, Any]:
        """Everything that decides a decision or its last bit."""
        return {
            **self.options,
            **search_identity(self.graph, self.task, memory=self.memory),
            "order_digest": scores_digest(self.order),
            "judged": [self.judged.kind, list(self.judged.target), list(self.judged.foil)],
        }
