"""Gradients at some points of the straight path from the ablated input to the clean one, and one sum over edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.baseline import Baseline
from ...circuits.graph import Graph
from ...circuits.pairs import Pairs
from ...circuits.task import Task
from ...models.errors import TaskError
from .contraction import Contraction
from .deltas import Ablated, make_ablated, make_deltas
from .destinations import Gradients
from .inside import Form, inside_scores
from .moments import Moments
from .plan import Found, Plan
from .rules import PLAIN, Rules
from .tape import Tape, Writes, record_tape, record_writes

Rule = Literal["midpoint", "left"]

AT_CLEAN = (1.0,)
"""The path of methods that look at nothing but the clean image."""


def path_points(steps: int, rule: Rule) -> tuple[float, ...]:
    """Places on the path from ablated (0) to clean (1) where gradients are taken, equally weighted.

    Raises:
        TaskError: There is no step, or the rule is not known.
    """
    if steps < 1:
        raise TaskError(f"steps={steps}: pass at least 1, such as steps=5.")
    if rule not in ("midpoint", "left"):
        raise TaskError(f'rule={rule!r} is not known: pass rule="midpoint" or rule="left".')
    return tuple((step + (0.5 if rule == "midpoint" else 0.0)) / steps for step in range(steps))


@dataclass(frozen=True)
class PathPlan(Plan):
    """Gradients at some points of the path, for all discovery pairs.

    Args:
        points: Where gradients are taken, equally weighted.
        form: How edges inside heads are scored.
        rules: How each point's pass is run and differentiated.
        kept: What a pass under these rules holds for each block beside a plain one's, in arrays of a residual's size.
    """

    points: Sequence[float] = AT_CLEAN
    form: Form = "linear"
    rules: Rules = PLAIN
    kept: float = 0.0

    def pairs_at_once(self, *, points: int = 1, kept: float = 0.0) -> int:
        """Pairs of one batch, whose gradients are held for all points."""
        return super().pairs_at_once(points=len(self.points), kept=kept + self.kept)

    def score(self, batch: Pairs, baseline: Baseline, contraction: Contraction, found: Found) -> None:
        """Adds a batch's scores, and where there is a path the metric's drop along it."""
        vit = self.task.vit
        ablated = make_ablated(vit, batch, baseline, inside=self.inside)
        embedded = vit.embed(vit.check_images(batch.clean))
        gradients = Gradients(vit, freeze_norm=self.freeze_norm)
        between = Between(self.graph, self.task, ablated, self.form)
        if self.points == AT_CLEAN:
            clean = self._point(embedded, self.task.metric, gradients, between)
        else:
            clean = record_writes(vit, embedded, keys_values=self.inside)
            metric = self.metric(batch, clean.read)
            found.add_drop(self._drop(clean, ablated, metric))
            for point in self.points:
                self._point(torch.lerp(ablated.embedded, embedded, point), metric, gradients, between, clean)
        for block, scores in contraction(gradients, make_deltas(vit, clean, ablated)):
            found.moments.add(block, scores)
        between.into(found.moments)

    def _point(
        self,
        start: Tensor,
        metric: Callable[[Tensor], Tensor],
        gradients: Gradients,
        between: Between,
        clean: Writes | None = None,
    ) -> Writes:
        """What the run from one point wrote, its gradients added; the rest of its tape is gone before the next."""
        tape = record_tape(
            self.task.vit, start, metric, freeze_norm=self.freeze_norm, inside=self.inside, rules=self.rules
        )
        gradients.add(tape, 1 / len(self.points))
        if self.inside:
            between.add(tape, clean or tape.writes, 1 / len(self.points))
        return tape.writes

    def _drop(self, clean: Writes, ablated: Ablated, metric: Callable[[Tensor], Tensor]) -> Float[Tensor, " pair"]:
        """m(clean) - m(the run from the ablated input)."""
        vit = self.task.vit
        if ablated.writes is not None:
            logits = vit.readout(ablated.writes.read)
        else:
            logits = vit.readout.logits(vit.run_blocks(ablated.embedded))
        return metric(vit.readout(clean.read)) - metric(logits)

    def completeness(self, found: Found) -> dict[str, float]:
        """How far the scores of edges that leave the input are from the metric's drop (unfrozen norms only)."""
        mean = found.moments.mean
        total = sum(float(block.unpack(mean)[:, :, 0].sum()) for block in self.graph.blocks if block.kind != "inside")
        drop = found.drop / found.moments.n_pairs
        diagnostics = {"input_total": total, "metric_drop": drop}
        if not self.freeze_norm:
            diagnostics["completeness_gap"] = abs(total - drop) / max(abs(drop), 1e-30)
        return diagnostics


class Between:
    """Scores of the edges inside heads, summed over the points of the path."""

    def __init__(self, graph: Graph, task: Task, ablated: Ablated, form: Form) -> None:
        self._graph, self._blocks, self._ablated = graph, task.vit.blocks, ablated.keys_values
        self._form: Form = form
        self._sums: list[Tensor] = []

    def add(self, tape: Tape, clean: Writes, weight: float) -> None:
        """Adds one point with a weight."""
        for layer, (block, taped) in enumerate(zip(self._blocks, tape.layers, strict=True)):
            ablated, own = self._ablated[layer], clean.keys_values[layer]
            scores = weight * inside_scores(self._graph, block, taped, ablated, own, self._form)
            if layer < len(self._sums):
                self._sums[layer] += scores
            else:
                self._sums.append(scores)

    def into(self, moments: Moments) -> None:
        """Hands the scores over."""
        for blocks, scores in zip(self._graph.layers, self._sums, strict=False):
            if blocks.inside is not None:
                moments.add(blocks.inside, scores)
