"""What budgeted pruning keeps small: how far masks are from the full model on the discovery pairs, run or foreseen.

Flips are measured exactly (`engines/flips`), or foreseen from slopes (`engines/gated_run`): with the metric's slope s
of an edge on a pair, dropping it leaves m - s and adding it m + s, and the loss is taken of that. So a pair on which
the circuit already falls short is not asked to give more, and edges whose effects cancel over the pairs are not taken
for harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...circuits.baseline import constants, make_baseline
from ...circuits.graph import Graph
from ...circuits.judging.bootstrap import Resamples
from ...circuits.memory import chunk_size
from ...circuits.run import masks_sizes, run_pairs
from ...circuits.tasks.metrics import Metric
from ...circuits.tasks.task import Task
from ...circuits.token_parts import where_occurring
from ...models import processes
from ...models.errors import TaskError
from ..engines.edge_mask import Bools
from ..engines.flips import flips_sizes, measure_flips
from ..engines.gated_run import GatedRunner, measure_slopes
from ..registry import Chosen
from .journal import search_identity

Floats = NDArray[np.float64]

EXACT_UP_TO = 500
"""Edges of a graph on which every candidate of every round is measured exactly, unless told otherwise."""


Loss = Callable[[Floats, Floats], Floats]


def _squared(outputs: Floats, full: Floats) -> Floats:
    return np.asarray(np.square(outputs - full).mean(-1))


def _faithfulness(outputs: Floats, full: Floats) -> Floats:
    return np.asarray(np.square(outputs.mean(-1) - full.mean(-1)))


def _kl(outputs: Floats, full: Floats) -> Floats:
    return np.asarray(-outputs.mean(-1))


LOSSES: dict[str, Loss] = {"squared": _squared, "faithfulness": _faithfulness, "kl": _kl}
"""Outputs (..., pair) and the full model's (pair,) -> how far the circuit is from the full model, 0 at best."""


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

    def asked(self) -> list[Callable[[int], object]]:
        """What the search asks of a budget; see `require_memory`."""
        vit, graph, ablation = self.task.vit, self.graph, self.task.ablation
        n, left = len(self.task.searched), lambda memory: memory - constants(vit, ablation)
        asked = masks_sizes(vit, ablation) + flips_sizes(vit, graph, ablation, n, whole=False)
        if self.exact:
            return asked + flips_sizes(vit, graph, ablation, n)
        return [*asked, lambda memory: GatedRunner.pairs_within(vit, graph, left(memory))]

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
        rounds = {} if self.exact else {"orders": 2}  # a journal of one order would go on to neither's circuit
        return {**self.options, **same, **rounds, "judged": [self.judged.kind, *same["judged"]]}


class LossMeter:
    """Measures masks on the discovery pairs, and counts what was run.

    Args:
        plan: The options.
    """

    def __init__(self, plan: BudgetPlan) -> None:
        self.plan, task = plan, plan.task
        self.baseline = make_baseline(task.vit, task.ablation, task.reference, memory=plan.memory)
        self.n_exact = 0  # flips that were run on all pairs
        self.n_slopes = 0  # forward and backward passes over all pairs
        self._loss = LOSSES[plan.chosen.objective]
        everything = np.ones(len(plan.graph), dtype=bool)
        self.reference = self._clean_logits()
        self.full = self._values(plan.judged, self.reference)
        self._behaviour = Resamples.of(task.searched, 0, seed=0).behaviour
        self._shown = task.metric.response if task.sides == "both" else task.metric
        self._task_full = float(self._behaviour(self._values(self._shown, self.reference)))
        self._task_none = float(self._behaviour(self._values(self._shown, self._logits(~everything))))
        self.scale: float = self.loss(~everything)

    def _clean_logits(self) -> torch.Tensor:
        vit, pairs = self.plan.task.vit, self.plan.task.searched
        batches = list(pairs.batches(chunk_size(vit, len(pairs), 32)))
        with torch.no_grad():
            logits = processes.in_order(lambda batch: vit(batch.clean).cpu(), batches)
            return pairs.wanted(torch.cat(list(logits)).to(vit.device))

    def _logits(self, mask: Bools) -> torch.Tensor:
        plan = self.plan
        return run_pairs(plan.task.vit, plan.graph, mask, plan.task.searched, self.baseline, memory=plan.memory)

    def _values(self, metric: Metric, logits: torch.Tensor) -> Floats:
        return metric(logits, self.reference).double().cpu().numpy()

    def judge(self, mask: Bools) -> tuple[float, float]:
        """Loss of a mask, and the share of the behaviour that it keeps, NaN where that is not defined."""
        logits = self._logits(mask)
        gap = self._task_full - self._task_none
        kept = float(self._behaviour(self._values(self._shown, logits)))
        share = (kept - self._task_none) / gap if abs(gap) > 1e-6 else np.nan
        return float(self._loss(self._values(self.plan.judged, logits), self.full)), float(share)

    def loss(self, mask: Bools) -> float:
        """Of a mask."""
        return self.judge(mask)[0]

    def exact(self, mask: Bools, edges: Sequence[int] | NDArray[np.intp]) -> tuple[float, Floats]:
        """The loss, and with each of some edges flipped, measured."""
        plan, task = self.plan, self.plan.task
        found = measure_flips(
            task.vit, plan.graph, mask, edges, plan.judged, task.searched, self.baseline, memory=plan.memory
        )
        self.n_exact += found.runs // len(task.searched)
        return float(self._loss(found.now, self.full)), self._loss(found.flipped, self.full)

    def _slopes(self, mask: Bools, metric: Metric) -> tuple[Floats, Floats]:
        """A metric on every pair, (pair,), and its slopes, (edge, pair)."""
        plan, task = self.plan, self.plan.task
        now, slopes = measure_slopes(
            task.vit, plan.graph, mask, metric, task.searched, self.baseline, memory=plan.memory
        )
        self.n_slopes += 1
        return now, slopes.T

    def foreseen(self, mask: Bools) -> tuple[float, Floats]:
        """The loss, and with each edge of the graph flipped, to first order."""
        now, slopes = self._slopes(mask, self.plan.judged)
        flipped = self._loss(now + np.where(mask, -1, 1)[:, None] * slopes, self.full)
        return float(self._loss(now, self.full)), flipped

    def without(self, mask: Bools, edges: NDArray[np.intp]) -> tuple[float, list[Floats]]:
        """The loss, and without each of some kept edges: measured, or foreseen in two ways.

        First what an edge would add to a circuit without error, then what it adds to this one's. The second knows that
        an edge may make up for what others lack; but many of those, dropped together, overshoot: in that order alone,
        80% of DeiT-Tiny's edges had T = .10 under means. KL has no slope at the full model; there the task's metric
        speaks for the first way.
        """
        plan, judged = self.plan, self.plan.judged
        if plan.exact:
            now, measured = self.exact(mask, edges)
            return now, [measured]
        outputs, slopes = self._slopes(mask, judged)
        now, own = float(self._loss(outputs, self.full)), slopes[edges]
        speaks = plan.task.metric
        alone = self._slopes(mask, speaks)[1][edges] if speaks != judged and speaks.differentiable else own
        added = np.square(alone.mean(-1)) if plan.chosen.objective == "faithfulness" else np.square(alone).mean(-1)
        return now, [now + added, self._loss(outputs - own, self.full)]

    def effects(self, mask: Bools) -> Floats:
        """What each kept edge carries of the task's metric around a mask, (pair, edge); 0 for the others.

        NaN where an edge does not occur in a pair.
        """
        plan, task, kept = self.plan, self.plan.task, np.flatnonzero(mask)
        arguments = (task.metric, task.searched, self.baseline)
        signs = task.signs(task.searched).numpy()[:, None]
        if not plan.exact and task.metric.differentiable:
            effects = measure_slopes(task.vit, plan.graph, mask, *arguments, memory=plan.memory)[1] * mask
        else:
            found = measure_flips(task.vit, plan.graph, mask, kept, *arguments, memory=plan.memory)
            effects = np.zeros((len(task.searched), len(mask)))
            effects[:, kept] = (found.now - found.flipped).T
        return where_occurring(plan.graph, task.searched, signs * effects, np.arange(len(mask)))
