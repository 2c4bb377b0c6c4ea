"""From the logits of patched runs to effects and flips.

On a crossed task an effect is turned so that it says how much of the metric's speaking for what the clean image shows
a place carries (`Task.signs`), the metric of both runs likewise, and a pair flips if its answer leaves what is shown.
Only pairs of two classes are taken (`Pairs.opposed`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from ...circuits.metrics import Metric
from ...circuits.pairs import Pairs
from ...circuits.task import Task


def contrasted(task: Task, pairs: Pairs | None) -> Pairs:
    """The pairs that effects are taken over: given ones, or the discovery's, as the ablation needs them."""
    return (task.discovery if pairs is None else pairs).under(task.ablation).opposed


@dataclass(frozen=True, eq=False)
class Contrast:
    """The clean and the corrupted run of a batch, between which patched runs lie.

    Args:
        metric: The task's.
        clean: Logits of the clean run, (pair, class).
        corrupt: Logits of the corrupted run.
        direction: `noising` or `denoising`.
        signs: 1 where a higher metric speaks for what the clean image shows, -1 where a lower one does.
        shows_foil: Where the clean image shows the foil.
    """

    metric: Metric
    clean: Float[Tensor, "pair class"]
    corrupt: Float[Tensor, "pair class"]
    direction: str
    signs: Float[Tensor, " pair"]
    shows_foil: Bool[Tensor, " pair"]

    @classmethod
    def of(
        cls,
        task: Task,
        pairs: Pairs,
        clean: Float[Tensor, "pair token model"],
        corrupt: Float[Tensor, "pair token model"],
        direction: str,
    ) -> Contrast:
        """From the pairs and the residuals in front of block 0."""
        vit = task.vit
        ends = [vit.readout.logits(vit.run_blocks(embedded)) for embedded in (clean, corrupt)]
        signs, shown = task.signs(pairs).to(vit.device), (pairs.sign < 0).to(vit.device)
        return cls(task.metric, ends[0], ends[1], direction, signs, shown)

    def __call__(self, patched: Float[Tensor, "pair candidate class"]) -> tuple[Tensor, Tensor]:
        """Effects in float64 and flips, each (pair, candidate)."""
        noising = self.direction == "noising"
        base = (self.clean if noising else self.corrupt)[:, None]
        moved = self._metric(patched) - self._metric(base)
        before, after = (self.metric.prefers_target(run) ^ self.shows_foil[:, None] for run in (base, patched))
        return (-moved, before & ~after) if noising else (moved, ~before & after)

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The metric of the clean and of the corrupted run, turned as effects are, each (pair,)."""
        clean, corrupt = (self._metric(run[:, None])[:, 0].cpu().numpy() for run in (self.clean, self.corrupt))
        return clean, corrupt

    def _metric(self, logits: Float[Tensor, "pair candidate class"]) -> Float[Tensor, "pair candidate"]:
        return self.signs[:, None] * self.metric(logits, self.clean[:, None].expand_as(logits)).double()
