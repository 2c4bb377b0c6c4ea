"""Which way every gate should move: two ways to tell, of a few pairs under gates drawn by chance.

pathwise    the loss is differentiated through hard-concrete gates (`engines/gated_run`): one forward and one backward
            pass for all edges. It sees nothing where a softmax is saturated or an MLP is a step.
measured    gates are drawn open or shut, and every edge is flipped by itself (`engines/flips`):
            L(gate open) - L(gate shut), the others as drawn, is the loss's derivative by P(open), whatever the model's
            slopes are. A run of the rest of the model for each edge, so for small graphs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.baseline import Baseline
from ...circuits.memory import bytes_of_pair
from ...circuits.pairs import Pairs
from ..engines.flips import measure_flips
from ..engines.gated_run import GatedResult, GatedRunner
from .augment import augmented
from .gates import Edges, draw_gates, draw_masks
from .mask_goal import Goal, Rows
from .mask_plan import MaskPlan

CACHE_SHARE = 0.3  # of the memory, for ablated values that would be computed again at every step


class Told(NamedTuple):
    """Of one step: the loss, faithfulness, and the loss's derivative by every gate's parameter."""

    loss: float
    faithfulness: float
    gradient: Edges


@runtime_checkable
class Teller(Protocol):
    """Draws gates and tells which way they should move."""

    def __call__(self, log_alpha: Edges, generator: torch.Generator, clean: Rows, partners: Rows) -> Told:
        """On the clean images of some pairs, each with the ablated values of a pair among `partners`."""
        ...


class Pathwise:
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

    def __call__(self, log_alpha: Edges, generator: torch.Generator, clean: Rows, partners: Rows) -> Told:
        """A few pairs at a time, under one draw."""
        gates, slope = draw_gates(log_alpha, generator)
        gradient, outputs, loss = torch.zeros_like(gates), [], 0.0
        for start in range(0, len(clean), self.at_once):
            chosen, others = (which[start : start + self.at_once] for which in (clean, partners))
            found = self._batch(gates, chosen, others, len(clean), generator)
            outputs.append(self.goal.metric(found.logits.double().cpu(), self.goal.full[chosen]).numpy())
            gradient += found.gradient.double().cpu()
            loss += float(found.loss)
        return Told(loss, self.goal.faithfulness(np.concatenate(outputs), clean), gradient * slope)

    def _batch(self, gates: Edges, chosen: Rows, others: Rows, n_pairs: int, generator: torch.Generator) -> GatedResult:
        vit, goal = self.task.vit, self.goal
        images, full = self._clean(chosen, generator)
        full = full.to(device=vit.device, dtype=vit.dtype)

        def loss(logits: Tensor) -> Tensor:
            return goal.distance(logits, full).sum() / (n_pairs * goal.scale)

        return self.runner(gates, vit.embed(images), self._ablated(others, generator), loss)


class Measured:
    """Tells by opening and shutting every gate; call it under `vit.borrowed()`."""

    def __init__(self, plan: MaskPlan, goal: Goal, baseline: Baseline) -> None:
        self.plan, self.goal, self.baseline = plan, goal, baseline
        self._edges = np.arange(len(plan.graph))

    def __call__(self, log_alpha: Edges, generator: torch.Generator, clean: Rows, partners: Rows) -> Told:
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
        return Told(float(now / goal.scale), goal.faithfulness(found.now, clean), torch.from_numpy(gain))
