"""Which way every gate should move: two ways to tell, of a few pairs under gates drawn by chance.

pathwise    the loss is differentiated through hard-concrete gates (`engines/gated_run`): one forward and one backward
            pass for all edges. It sees nothing where a softmax is saturated or an MLP is a step.
measured    gates are drawn open or shut, and every edge is flipped by itself (`engines/flips`):
            L(gate open) - L(gate shut), the others as drawn, is the loss's derivative by P(open), whatever the model's
            slopes are. A run of the rest of the model for each edge, so for small graphs.

The loss is the distance of the run under the gates from the full model (`Goal`), over that with no edge kept.
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

from ...circuits.baseline import Baseline, constants
from ...circuits.graph import Graph
from ...circuits.judging.bootstrap import FLOOR
from ...circuits.memory import bytes_of_pair, chunk_size
from ...circuits.run import run_masks
from ...circuits.tasks.metrics import Metric, kl_divergence
from ...circuits.tasks.task import Pairs, Task
from ...circuits.token_parts import Part, parts_of
from ...models import processes
from ...models.errors import TaskError
from ..engines.flips import measure_flips
from ..engines.gated_run import GatedResult, GatedRunner
from .gates import Edges, draw_gates, draw_masks
from .mask_plan import VIEWS, MaskPlan, Objective, augmented

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


ALIKE = 2  # pairs that meet the same gates, at least: one by one they take 8% longer and tell hardly more
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


def step_pairs(task: Task, graph: Graph, memory: int) -> int:
    """Pairs of a step that are run at once, beside ablated values that are kept; at least 1."""
    left = int((1 - CACHE_SHARE) * (memory - constants(task.vit, task.ablation)))
    return GatedRunner.pairs_within(task.vit, graph, left)


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
        self.runner: GatedRunner | None = None
        self.at_once = step_pairs(plan.task, plan.graph, plan.memory)
        self._cached = None if plan.augments else self._cache()
        self._answers: dict[tuple[int, int], Tensor] = {}  # the full model's, to each view of a photograph

    def _cache(self) -> Float[Tensor, "source pair token model"] | None:
        """Ablated values of all pairs, where they fit."""
        pairs = self.task.searched
        size = bytes_of_pair(self.task.vit, residuals=self.plan.graph.n_sources)
        if len(pairs) * size > CACHE_SHARE * self.plan.memory:
            return None
        return torch.cat([self.baseline(batch) for batch in pairs.batches(self.at_once)], 1)

    def _drawn(self, clean: Rows, partners: Rows, generator: torch.Generator) -> tuple[Tensor, list[int], Pairs]:
        """A step's clean images, which of their views they are, and some pairs, whose ablated values they meet."""
        pairs, views = self.task.searched, [0] * len(clean)
        images, met = pairs.clean[clean], pairs.select(partners.tolist())
        if self.plan.augments:
            views = torch.randint(VIEWS, (len(clean),), generator=generator).tolist()
            chance = [self.plan.view_generator(row, view) for row, view in zip(clean.tolist(), views, strict=True)]
            images = torch.cat([augmented(images[[at]], own) for at, own in enumerate(chance)])
            if self.task.ablation.kind == "partner":
                met = replace(met, corrupt=augmented(met.corrupt, generator))
        return images, views, met

    def __call__(self, log_alpha: Edges, generator: torch.Generator, clean: Rows, partners: Rows) -> StepGradient:
        """In chunks of pairs; what chance decides is drawn before, the same on all processes.

        Every two pairs, of small models more, have gates of their own: the gradient then varies less from draw to draw.
        """
        n_pairs = len(clean)
        alike = max(ALIKE, chunk_size(self.task.vit, n_pairs, n_pairs))
        drawn = [draw_gates(log_alpha, generator) for _ in range(0, n_pairs, alike)]
        distinct, place = np.unique(partners, return_inverse=True)
        images, views, met = self._drawn(clean, distinct, generator)
        graph, pairs = self.plan.graph, self.task.searched
        parts = parts_of(graph, pairs.met(clean, partners) if graph.groups.per_pair else pairs)
        size, every = min(alike, self.at_once), np.arange(n_pairs)
        chunks = [
            (part, rows[start : start + size])
            for part in parts
            for draw in range(len(drawn))
            for rows in [every[part.rows][every[part.rows] // alike == draw]]
            for start in range(0, len(rows), size)
        ]

        def one(chunk: tuple[Part, Rows]) -> tuple[NDArray[np.float64], Tensor, float]:
            part, rows = chunk
            (gates, slope), which = drawn[rows[0] // alike], [(int(clean[row]), views[row]) for row in rows]
            ablated = self._ablated(met, place[rows]) if self._cached is None else self._cached[:, partners[rows]]
            found, full = self._run(part.graph, gates[part.edges], images[rows], which, ablated, n_pairs)
            return (
                self.goal.metric(found.logits.double().cpu(), full).numpy(),
                found.gradient.double().cpu() * slope[part.edges],
                float(found.loss),
            )

        gradient, outputs, loss = torch.zeros_like(log_alpha), [], 0.0
        for (part, _), (told, own, value) in zip(chunks, processes.at_once(one, chunks), strict=True):
            outputs.append(told)
            gradient[part.edges] += own
            loss += value
        seen = np.concatenate([clean[rows] for _, rows in chunks])
        return StepGradient(loss, self.goal.faithfulness(np.concatenate(outputs), seen), gradient)

    def _ablated(self, met: Pairs, places: Rows) -> Float[Tensor, "source pair token model"]:
        """Ablated values of some of the pairs, each computed once."""
        needed, place = np.unique(places, return_inverse=True)
        if len(needed) == len(places):
            return self.baseline(met.select(places.tolist()))
        return self.baseline(met.select(needed.tolist()))[:, place]

    def _run(
        self, graph: Graph, gates: Edges, images: Tensor, which: list[tuple[int, int]], ablated: Tensor, n_pairs: int
    ) -> tuple[GatedResult, Tensor]:
        """A chunk's run, and what the full model says to its images, in float64 on the CPU."""
        vit, goal = self.task.vit, self.goal
        if self.runner is None or self.runner.graph is not graph:
            self.runner = GatedRunner(vit, graph)
        images, full = vit.check_images(images), self._full(images, which)
        wanted = full.to(device=vit.device, dtype=vit.sum_dtype)

        def loss(logits: Tensor) -> Tensor:
            return goal.distance(logits, wanted).sum() / (n_pairs * goal.scale)

        return self.runner(gates, vit.embed(images), ablated, loss), full

    def _full(self, images: Tensor, which: list[tuple[int, int]]) -> Tensor:
        """What the full model says; of a view it is computed once, by itself, whatever else is in the step."""
        if not self.plan.augments:
            return self.goal.full[[row for row, _ in which]]
        for at, key in enumerate(which):
            if key not in self._answers:
                self._answers[key] = self.task.vit(images[[at]]).double().cpu()
        return torch.cat([self._answers[key] for key in which])


class FiniteDifference:
    """Tells by opening and shutting every gate; call it under `vit.borrowed()`."""

    def __init__(self, plan: MaskPlan, goal: Goal, baseline: Baseline) -> None:
        self.plan, self.goal, self.baseline = plan, goal, baseline
        self._edges = np.arange(len(plan.graph))

    def __call__(self, log_alpha: Edges, generator: torch.Generator, clean: Rows, partners: Rows) -> StepGradient:
        """Every edge flipped around one draw."""
        task, goal = self.plan.task, self.goal
        met, mask = task.searched.met(clean, partners), draw_masks(log_alpha, generator)
        found = measure_flips(
            task.vit, self.plan.graph, mask, self._edges, goal.metric, met, self.baseline, memory=self.plan.memory
        )
        now = goal.distances(found.now, clean).mean()
        flipped = goal.distances(found.flipped, clean).mean(-1)
        gain = np.where(mask, now - flipped, flipped - now) / goal.scale
        return StepGradient(float(now / goal.scale), goal.faithfulness(found.now, clean), torch.from_numpy(gain))
