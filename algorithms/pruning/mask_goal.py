"""What learned masks are to reach: outputs close to the full model's, as a share of the empty circuit's distance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import Baseline
from ...circuits.bootstrap import FLOOR
from ...circuits.graph import Graph
from ...circuits.mask_runs import run_masks
from ...circuits.metrics import Metric, kl_divergence
from ...circuits.task import Task
from ...models.errors import TaskError

Objective = Literal["auto", "both", "metric", "kl"]
Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Goal:
    """The loss of a run under gates.

    Args:
        metric: What distances are told from: the task's, or kl.
        blended: Whether KL over all classes is added to the squared difference of the metric over its variance.
        full: Logits of the full model on the clean images, or those taught instead, (pair, class), float64 on the CPU.
        none: With no edge kept, likewise.
        signs: 1 where a higher metric speaks for the clean image's class, -1 where a lower one does.
    """

    metric: Metric
    blended: bool
    full: Float[Tensor, "pair class"]
    none: Float[Tensor, "pair class"]
    signs: Float[Tensor, " pair"]

    @classmethod
    def of(cls, graph: Graph, task: Task, objective: Objective, baseline: Baseline, *, memory: int) -> Goal:
        """From one clean run and one with no edge kept.

        Raises:
            TaskError: The two say the same.
        """
        metric = replace(task.metric, kind="kl") if objective == "kl" else task.metric
        nothing = np.zeros(len(graph), dtype=bool)
        pairs = task.searched
        runs = run_masks(task.vit, graph, [nothing], task.metric, pairs, baseline, n_logits=1, memory=memory)
        full = pairs.wanted(runs.clean_logits)
        goal = cls(metric, objective == "both", full, runs.logits[0], task.signs(pairs))
        if goal.scale < FLOOR:
            raise TaskError(
                f"the outputs with all edges and with none are {goal.scale:.1e} apart on these pairs: there is nothing "
                f"to explain. Choose another corruption or ablation."
            )
        return goal

    def distance(self, logits: Tensor, full: Tensor) -> Float[Tensor, " pair"]:
        """Per pair: the squared difference of the metric, KL(full || logits), or both, with a gradient."""
        if self.metric.kind == "kl":
            return kl_divergence(full, logits)
        squared = (self.metric(logits) - self.metric(full)).square()
        return squared / self.variance + kl_divergence(full, logits) if self.blended else squared

    @cached_property
    def variance(self) -> float:
        """Of the full model's metric over the pairs."""
        return max(float(self._outputs[0].var()), FLOOR)

    def distances(self, outputs: Floats, pairs: Rows) -> Floats:
        """The same from what the metric said, (..., pair)."""
        return -outputs if self.metric.kind == "kl" else np.square(outputs - self._outputs[0][pairs])

    def faithfulness(self, outputs: Floats, pairs: Rows) -> float:
        """The share of the behaviour on some pairs, for the eye, from what the metric said, (pair,)."""
        signs = self.signs[pairs].numpy()
        full, none = ((signs * found[pairs]).mean() for found in self._outputs)
        return float(((signs * outputs).mean() - none) / (full - none)) if abs(full - none) > FLOOR else float("nan")

    @cached_property
    def scale(self) -> float:
        """Mean distance with no edge kept."""
        return float(self.distance(self.none, self.full).mean())

    @cached_property
    def _outputs(self) -> tuple[Floats, Floats]:
        return self.metric(self.full, self.full).numpy(), self.metric(self.none, self.full).numpy()
