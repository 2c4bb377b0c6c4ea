"""From the logits of patched runs to effects and flips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ...circuits.metrics import Metric
from ...circuits.task import Task


@dataclass(frozen=True, eq=False)
class Contrast:
    """The clean and the corrupted run of a batch, between which patched runs lie.

    Args:
        metric: The task's.
        clean: Logits of the clean run, (pair, class).
        corrupt: Logits of the corrupted run.
        direction: `noising` or `denoising`.
    """

    metric: Metric
    clean: Float[Tensor, "pair class"]
    corrupt: Float[Tensor, "pair class"]
    direction: str

    @classmethod
    def of(
        cls,
        task: Task,
        clean: Float[Tensor, "pair token model"],
        corrupt: Float[Tensor, "pair token model"],
        direction: str,
    ) -> Contrast:
        """From the residuals in front of block 0."""
        vit = task.vit
        ends = [vit.readout.logits(vit.run_blocks(embedded)) for embedded in (clean, corrupt)]
        return cls(task.metric, ends[0], ends[1], direction)

    def __call__(self, patched: Float[Tensor, "pair candidate class"]) -> tuple[Tensor, Tensor]:
        """Effects in float64 and flips, each (pair, candidate)."""
        noising = self.direction == "noising"
        base = (self.clean if noising else self.corrupt)[:, None]
        moved = self._metric(patched) - self._metric(base)
        before, after = self.metric.prefers_target(base), self.metric.prefers_target(patched)
        return (-moved, before & ~after) if noising else (moved, ~before & after)

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The metric of the clean and of the corrupted run, each (pair,)."""
        clean, corrupt = (self._metric(run[:, None])[:, 0].cpu().numpy() for run in (self.clean, self.corrupt))
        return clean, corrupt

    def _metric(self, logits: Float[Tensor, "pair candidate class"]) -> Float[Tensor, "pair candidate"]:
        return self.metric(logits, self.clean[:, None].expand_as(logits)).double()
