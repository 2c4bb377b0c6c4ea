"""What budgeted pruning measures: the loss of a mask, and what it would be with one edge flipped.

Flips are measured exactly (`engines/flips`), or foreseen from slopes (`engines/gated_run`): with the metric's slope s
of an edge on a pair, dropping it leaves m - s and adding it m + s, and the loss is taken of that. So a pair on which
the circuit already falls short is not asked to give more, and edges whose effects cancel over the pairs are not taken
for harmless.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ...circuits.baseline import make_baseline
from ...circuits.bootstrap import Resamples
from ...circuits.metrics import Metric
from ...circuits.run import run_pairs
from ..engines.edge_mask import Bools
from ..engines.flips import measure_flips
from ..engines.gated_run import measure_slopes
from .budget_plan import LOSSES, BudgetPlan, Floats


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
        pairs = self.plan.task.searched
        with torch.no_grad():
            return pairs.wanted(torch.cat([self.plan.task.vit(batch.clean) for batch in pairs.batches(32)]))

    def _logits(self, mask: Bools) -> torch.Tensor:
        plan = self.plan
        return run_pairs(plan.task.vit, plan.graph, mask, plan.task.searched, self.baseline, memory=plan.memory // 8)

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

    def exact(self, mask: Bools, edges: Sequence[int] | NDArray[np.intp]) -> Floats:
        """The loss with each of some edges flipped, measured."""
        plan, task = self.plan, self.plan.task
        found = measure_flips(
            task.vit, plan.graph, mask, edges, plan.judged, task.searched, self.baseline, memory=plan.memory
        )
        self.n_exact += found.runs // len(task.searched)
        return self._loss(found.flipped, self.full)

    def foreseen(self, mask: Bools) -> Floats:
        """The loss with each edge of the graph flipped, to first order."""
        plan, task = self.plan, self.plan.task
        now, slopes = measure_slopes(
            task.vit, plan.graph, mask, plan.judged, task.searched, self.baseline, memory=plan.memory
        )
        self.n_slopes += 1
        return self._loss(now + np.where(mask, -1, 1)[:, None] * slopes.T, self.full)

    def flips(self, mask: Bools, edges: NDArray[np.intp]) -> Floats:
        """The loss with each of some edges flipped, in the plan's way."""
        return self.exact(mask, edges) if self.plan.exact else self.foreseen(mask)[edges]

    def effects(self, mask: Bools) -> Floats:
        """What each kept edge carries of the task's metric around a mask, (pair, edge); 0 for the others."""
        plan, task, kept = self.plan, self.plan.task, np.flatnonzero(mask)
        arguments = (task.metric, task.searched, self.baseline)
        signs = task.signs(task.searched).numpy()[:, None]
        if not plan.exact and task.metric.differentiable:
            return signs * measure_slopes(task.vit, plan.graph, mask, *arguments, memory=plan.memory)[1] * mask
        found = measure_flips(task.vit, plan.graph, mask, kept, *arguments, memory=plan.memory)
        effects = np.zeros((len(task.searched), len(mask)))
        effects[:, kept] = (found.now - found.flipped).T
        return signs * effects
