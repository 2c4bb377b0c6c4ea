"""The descent behind `learned_masks`: steps along the loss under gates, their density going from size to size.

A step draws gates for all edges, runs a few pairs under them, and moves the gates' parameters (`gate_gradient`).
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

from ...circuits.baseline import make_baseline
from ..progress import progress_bar
from .gate_gradient import FiniteDifference, GateGradient, Goal, Reparameterized
from .gates import MirrorDescent, open_probability, with_density
from .journal import Journal
from .mask_plan import MaskPlan

SAVE_SECONDS = 1.0
SMOOTHING = 0.9  # of what the progress bar shows


class Descent:
    """One descent: the gates' parameters, and the batches that move them."""

    def __init__(self, plan: MaskPlan, journal: str | Path | None, progress: bool) -> None:
        self.plan, self.task, self._progress = plan, plan.task, progress
        self.journal = Journal(journal, plan.config() if journal is not None else {})
        self.log_alpha = plan.first_log_alpha()
        self.mirror = MirrorDescent(torch.zeros_like(self.log_alpha))
        self.reached: list[NDArray[np.float64]] = []  # P(gate > 0) at each size, largest first
        self.step = 0
        if self.journal.steps:
            self._load(self.journal.steps[-1])
        self._shown: dict[str, float] = {}
        self._saved = time.monotonic()

    def run(self) -> list[NDArray[np.float64]]:
        """P(gate > 0) of every edge at the end of each size, largest size first."""
        vit, plan = self.task.vit, self.plan
        bar = progress_bar("learned_masks", plan.total_steps, self._progress, "step")
        with torch.no_grad(), vit.borrowed(), self.journal, bar:
            baseline = make_baseline(vit, self.task.ablation, self.task.reference, memory=plan.memory)
            goal = Goal.of(plan.graph, self.task, plan.aim, baseline, memory=plan.memory)
            tell: GateGradient = (FiniteDifference if plan.measures else Reparameterized)(plan, goal, baseline)
            bar.update(self.step)
            while self.step < plan.total_steps:
                self._one(tell)
                bar.update()
                bar.set_postfix(self._shown, refresh=False)
        return self.reached

    def _one(self, tell: GateGradient) -> None:
        """One step."""
        plan, step = self.plan, self.step
        told = tell(self.log_alpha, plan.generator(step), *plan.pairs_of(step))
        moved = self.log_alpha - self.mirror.step(told.gradient, plan.rate(step))
        density = plan.density(step)
        self.log_alpha = with_density(moved, density)
        self.step += 1
        if self.step % plan.chosen.steps == 0:
            self.reached.append(open_probability(self.log_alpha).numpy())
        self._show(loss=told.loss, faithfulness=told.faithfulness, density=density)
        if time.monotonic() - self._saved > SAVE_SECONDS or self.step == plan.total_steps:
            self.journal.replace(self._state())
            self._saved = time.monotonic()

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
        self.mirror = MirrorDescent(torch.from_numpy(_array(state["momentum"])), state["square"], self.step)
        self.reached = [_array(text) for text in state["reached"]]


def _text(array: NDArray[np.float64]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _array(text: str) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text), dtype=np.float64).copy()
