"""The descent behind `learned_masks`: steps along the loss under gates, their density going from size to size.

A step draws gates for all edges, runs a few pairs under them, and moves the gates' parameters by what the loss says.
Everything drawn by chance depends on the seed and the step alone, so that a descent goes on from a state as if it had
never been interrupted.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import make_baseline
from ...circuits.bootstrap import FLOOR
from ...circuits.mask_runs import run_masks
from ...models.errors import TaskError
from ..progress import progress_bar
from .gates import Mirror, draw_gates, open_probability, with_density
from .journal import Journal
from .mask_plan import Goal, MaskPlan
from .soft_run import SoftRunner

SAVE_SECONDS = 1.0
CACHE_SHARE = 0.3  # of the memory, for ablated values that would be computed again at every step
SMOOTHING = 0.9  # of what the progress bar shows


class Descent:
    """One descent: the gates' parameters, and the batches that move them."""

    def __init__(self, plan: MaskPlan, journal: str | Path | None, progress: bool) -> None:
        self.plan, self.task, self._progress = plan, plan.task, progress
        self.journal = Journal(journal, plan.config() if journal is not None else {})
        self.log_alpha = plan.first_log_alpha()
        self.mirror = Mirror(torch.zeros_like(self.log_alpha))
        self.reached: list[NDArray[np.float64]] = []  # P(gate > 0) at each size, largest first
        self.step = 0
        if self.journal.steps:
            self._load(self.journal.steps[-1])
        self._shown: dict[str, float] = {}
        self._saved = time.monotonic()

    def run(self) -> list[NDArray[np.float64]]:
        """P(gate > 0) of every edge at the end of each size, largest size first."""
        vit, plan = self.task.vit, self.plan
        self.baseline = make_baseline(vit, self.task.ablation, self.task.reference, memory=plan.memory)
        self.runner, self.goal = SoftRunner(vit, plan.graph), self._goal()
        bar = progress_bar("learned_masks", plan.total_steps, self._progress, "step")
        with torch.no_grad(), vit.borrowed(), self.journal, bar:
            bar.update(self.step)
            self._cached = self._cache()
            while self.step < plan.total_steps:
                self._one()
                bar.update()
                bar.set_postfix(self._shown, refresh=False)
        return self.reached

    def _goal(self) -> Goal:
        """What the loss compares with, from one clean run and one with no edge kept."""
        plan, task = self.plan, self.task
        nothing = np.zeros(len(plan.graph), dtype=bool)
        runs = run_masks(
            task.vit, plan.graph, [nothing], task.metric, task.discovery, self.baseline, n_logits=1, memory=plan.memory
        )
        goal = Goal(task.metric, plan.objective, runs.clean_logits, runs.logits[0])
        if goal.scale < FLOOR:
            raise TaskError(
                f"the outputs with all edges and with none are {goal.scale:.1e} apart on these pairs: there is nothing "
                f"to explain. Choose another corruption or ablation."
            )
        return goal

    def _cache(self) -> Tensor | None:
        """Ablated values of all pairs, where they fit."""
        cfg, pairs = self.task.vit.cfg, self.task.discovery
        size = torch.finfo(self.task.vit.dtype).bits // 8 * cfg.tokens.n_tokens * cfg.d_model
        if len(pairs) * self.plan.graph.n_sources * size > CACHE_SHARE * self.plan.memory:
            return None
        return torch.cat([self.baseline(batch) for batch in pairs.batches(self._at_once())], 1)

    def _at_once(self) -> int:
        """Pairs whose run fits: two buffers and the ablated values, and what a block records and works with."""
        cfg, tokens = self.task.vit.cfg, self.task.vit.cfg.tokens.n_tokens
        rows = int(self.plan.graph.port_rows.max()) + 1
        residuals = 3.5 * self.plan.graph.n_sources + cfg.n_layers * (rows + 6) + 3 * rows
        floats = tokens * (residuals * cfg.d_model + (cfg.n_layers + 3) * 2 * cfg.d_mlp)
        if len(self.plan.graph.groups) > 1:
            floats += (4 * cfg.n_layers + 8) * cfg.n_heads * tokens**2  # patterns are recorded
        left = (1 - CACHE_SHARE) * self.plan.memory
        return max(1, int(left // (floats * (torch.finfo(self.task.vit.dtype).bits // 8))))

    def _one(self) -> None:
        """One step."""
        plan, step = self.plan, self.step
        gates, slope = draw_gates(self.log_alpha, plan.generator(step))
        clean, partners = plan.pairs_of(step)
        loss, faithfulness, gradient = self._measure(gates, clean, partners)
        moved = self.log_alpha - self.mirror.step(gradient * slope, plan.learning_rate)
        density = plan.density(step)
        self.log_alpha = with_density(moved, density)
        self.step += 1
        if self.step % plan.steps == 0:
            self.reached.append(open_probability(self.log_alpha).numpy())
        self._show(loss=loss, faithfulness=faithfulness, density=density)
        if time.monotonic() - self._saved > SAVE_SECONDS or self.step == plan.total_steps:
            self.journal.replace(self._state())
            self._saved = time.monotonic()

    def _measure(
        self, gates: Tensor, clean: NDArray[np.intp], partners: NDArray[np.intp]
    ) -> tuple[float, float, Tensor]:
        """Loss, faithfulness, and the loss's derivative by every gate, over a few pairs at a time."""
        vit, pairs, goal = self.task.vit, self.task.discovery, self.goal
        loss, faithfulness, gradient = 0.0, 0.0, torch.zeros(len(gates), dtype=torch.float64)
        for start in range(0, len(clean), self._at_once()):
            chosen, others = (which[start : start + self._at_once()] for which in (clean, partners))
            full = goal.full_logits[chosen].to(vit.device, vit.dtype)
            weight = 1 / (len(clean) * goal.scale)
            found = self.runner(
                gates,
                vit.embed(vit.check_images(pairs.clean[chosen])),
                self._ablated(others),
                lambda logits, full=full, weight=weight: goal.distance(logits, full).sum() * weight,
            )
            loss += float(found.loss)
            faithfulness += goal.faithfulness(found.logits, chosen) * len(chosen) / len(clean)
            gradient += found.gradient.double().cpu()
        return loss, faithfulness, gradient

    def _ablated(self, which: NDArray[np.intp]) -> Tensor:
        if self._cached is not None:
            return self._cached[:, which]
        return self.baseline(self.task.discovery.select(which.tolist()))

    def _show(self, **figures: float) -> None:
        for name, value in figures.items():
            before = self._shown.get(name, value)
            self._shown[name] = value if name == "density" else SMOOTHING * before + (1 - SMOOTHING) * value

    def _state(self) -> dict[str, Any]:
        arrays = {"log_alpha": self.log_alpha.numpy(), "momentum": self.mirror.momentum.numpy()}
        return {
            "step": self.step,
            "square": self.mirror.square,
            "reached": [_text(found) for found in self.reached],
            **{name: _text(array) for name, array in arrays.items()},
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self.log_alpha = torch.from_numpy(_array(state["log_alpha"]))
        self.mirror = Mirror(torch.from_numpy(_array(state["momentum"])), state["square"], self.step)
        self.reached = [_array(text) for text in state["reached"]]


def _text(array: NDArray[np.float64]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _array(text: str) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text), dtype=np.float64).copy()
