"""Which way every gate should move: two ways to tell, of a few pairs under gates drawn by chance.

pathwise    the loss is differentiated through hard-concrete gates (`engines/gated_run`): one forward and one backward
            pass for all edges. It sees nothing where a softmax is saturated or an MLP is a step.
measured    gates are drawn open or shut, and every edge is flipped by itself (`engines/flips`):
            L(gate open) - L(gate shut), the others as drawn, is the loss's derivative by P(open), whatever the model's
            slopes are. A run of the rest of the model for each edge, so for small graphs.

What learned masks are to reach: outputs close to the full model's, as a share of the empty circuit's distance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import Baseline
from ...circuits.graph import Graph
from ...circuits.judging.bootstrap import FLOOR
from ...circuits.mask_runs import run_masks
from ...circuits.memory import bytes_of_pair
from ...circuits.tasks.metrics import Metric, kl_divergence
from ...circuits.tasks.pairs import Pairs
from ...circuits.tasks.task import Task
from ...models.errors import TaskError
from ..engines.flips import measure_flips
from ..engines.gated_run import GatedResult, GatedRunner
from .gates import Edges, draw_gates, draw_masks
from .mask_plan import MaskPlan, Objective, augmented

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


CACHE_SHARE = 0.3  # of the memory, for ablated values that would be computed again at every step


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


class StepGradient(NamedTuple):
    """Of one step: the loss, faithfulness, and the loss's derivative by every gate's parameter."""

    loss: float
    faithfulness: float
    gradient: Edges


@runtime_checkable
class GateGradient(Protocol):
    """Draws gates and tells which way they should move."""

    def __call__(self, log_alpha: Edges, generator: torch.Generator, clean: Rows, partners: Rows) -> StepGradient:
        """On the clean images of some pairs, each with the ablated values of a pair among `partners`."""
        ...


class Reparameterized:
    """Tells by differentiating through hard-concrete gates; call it under `vit.borrowed()`."""

    def __init__(self, plan: MaskPlan, goal: Goal, baseline: Baseline) -> None:
        self.plan, self.task, self.goal, self.baseline = plan, plan.task, goal, baseline
        self.runner = GatedRunner(plan.task.vit, plan.graph)
        self.at_once = self.runner.pairs_within(int((1 - CACHE_SHARE) * plan.memory))
        self._cached = None if plan.augments else self._cache()

    def _cache(self) -> Float[Tensor, "source pair token model"] | None:
        """Ablated values of all pairs, where they fit."""
        pairs = self.task.searched
        size = bytes_of_pair(self.task.vit, residuals=self.plan.graph.n_sources)
        if len(pairs) * size > CACHE_SHARE * self.plan.memory:
            return None
        return torch.cat([self.baseline(batch) for batch in pairs.batches(self.at_once)], 1)

    def _ablated(self, which: Rows, generator: torch.Generator) -> Float[Tensor, "source pair token model"]:
        if self._cached is not None:
            return self._cached[:, which]
        met = self.task.searched.select(which.tolist())
        if self.plan.augments and self.task.ablation.kind == "partner":
            met = replace(met, corrupt=augmented(met.corrupt, generator))
        return self.baseline(met)

    def _clean(self, which: Rows, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Clean images, and what the full model says to them, in float64 on the CPU."""
        images = self.task.searched.clean[which]
        if not self.plan.augments:
            return self.task.vit.check_images(images), self.goal.full[which]
        images = self.task.vit.check_images(augmented(images, generator))
        return images, self.task.vit(images).double().cpu()

    def __call__(self, log_alpha: Edges, generator: torch.Generator, clean: Rows, partners: Rows) -> StepGradient:
        """A few pairs at a time, under one draw."""
        gates, slope = draw_gates(log_alpha, generator)
        gradient, outputs, loss = torch.zeros_like(gates), [], 0.0
        for start in range(0, len(clean), self.at_once):
            chosen, others = (which[start : start + self.at_once] for which in (clean, partners))
            found = self._batch(gates, chosen, others, len(clean), generator)
            outputs.append(self.goal.metric(found.logits.double().cpu(), self.goal.full[chosen]).numpy())
            gradient += found.gradient.double().cpu()
            loss += float(found.loss)
        return StepGradient(loss, self.goal.faithfulness(np.concatenate(outputs), clean), gradient * slope)

    def _batch(self, gates: Edges, chosen: Rows, others: Rows, n_pairs: int, generator: torch.Generator) -> GatedResult:
        vit, goal = self.task.vit, self.goal
        images, full = self._clean(chosen, generator)
        full = full.to(device=vit.device, dtype=vit.dtype)

        def loss(logits: Tensor) -> Tensor:
            return goal.distance(logits, full).sum() / (n_pairs * goal.scale)

        return self.runner(gates, vit.embed(images), self._ablated(others, generator), loss)


class FiniteDifference:
    """Tells by opening and shutting every gate; call it under `vit.borrowed()`."""

    def __init__(self, plan: MaskPlan, goal: Goal, baseline: Baseline) -> None:
        self.plan, self.goal, self.baseline = plan, goal, baseline
        self._edges = np.arange(len(plan.graph))

    def __call__(self, log_alpha: Edges, generator: torch.Generator, clean: Rows, partners: Rows) -> StepGradient:
        """Every edge flipped around one draw."""
        task, goal = self.plan.task, self.goal
        pairs, mask = task.searched, draw_masks(log_alpha, generator)
        answers = None if pairs.answers is None else pairs.answers[clean]
        met = Pairs(pairs.clean[clean], pairs.corrupt[partners], None, pairs.pair_ids[partners], answers=answers)
        found = measure_flips(
            task.vit, self.plan.graph, mask, self._edges, goal.metric, met, self.baseline, memory=self.plan.memory
        )
        now = goal.distances(found.now, clean).mean()
        flipped = goal.distances(found.flipped, clean).mean(-1)
        gain = np.where(mask, now - flipped, flipped - now) / goal.scale
        return StepGradient(float(now / goal.scale), goal.faithfulness(found.now, clean), torch.from_numpy(gain))
