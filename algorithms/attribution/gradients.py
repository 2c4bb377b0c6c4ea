"""Edge attribution: EAP and EAP-IG from plain fused passes.

    score[u, v] = (a_u(clean) - a'_u) . d metric / d x_v

summed over tokens and channels, for each pair: a first-order estimate of how much of the metric the edge carries. EAP
(Syed et al. 2023, section 3) takes the gradient at the clean image. EAP-IG (Hanna et al. 2024, arXiv 2403.17806)
averages it over points on the straight path from the ablated input to the clean one, which runs in the residual in
front of block 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY, make_baseline
from ...circuits.graph import Graph
from ...circuits.pairs import Pairs
from ...circuits.run import require_model
from ...circuits.scores import Scores
from ...circuits.task import Task
from ...models.errors import TaskError
from ..progress import progress_bar
from .budget import pairs_at_once
from .contraction import Contraction
from .deltas import Ablated, make_ablated, make_deltas
from .destinations import Gradients
from .inside import Softmax, inside_scores
from .moments import Moments
from .tape import Tape, Writes, record_tape, record_writes

Rule = Literal["midpoint", "left"]

_AT_CLEAN = (1.0,)
"""EAP's path: nothing but the clean image."""


def eap(
    graph: Graph,
    task: Task,
    *,
    freeze_norm: bool = True,
    softmax: Softmax = "linear",
    memory: int = DEFAULT_MEMORY,
    progress: bool = False,
) -> Scores:
    """First-order estimate of how much of the metric each edge carries, the gradient taken at the clean image.

    Costs two forward passes and one backward pass per batch, however many edges there are, and one sum over edges.
    It sees nothing through a saturated softmax or a step, and ranks edges by slope where the effect is a difference.

    Args:
        graph: The graph.
        task: Its discovery pairs are used.
        freeze_norm: Treat each norm's standard deviation as a constant in the backward pass.
        softmax: Edges between token groups inside heads: `linear`, or `exact` in the pattern.
        memory: Bytes to hold at once, above the model and the images; at least one pair is held.
        progress: Show a bar on stderr.

    Raises:
        TaskError: The metric has no gradient at the clean image (kl) or none at all (accuracy).
        GraphError: The graph was compiled for another model.
    """
    if task.metric.kind == "kl":
        raise TaskError(
            "the metric kl has zero gradient at the clean image, where the model agrees with itself, so EAP would "
            "score every edge 0: use eap_ig, exact_effects, or another metric such as metric='logit_difference'."
        )
    options = {"freeze_norm": freeze_norm, "softmax": softmax}
    plan = _Plan(graph, task, _AT_CLEAN, freeze_norm, softmax, memory, progress, "eap")
    return plan.run().moments.scores(task, "eap", options)


def eap_ig(
    graph: Graph,
    task: Task,
    *,
    steps: int = 5,
    rule: Rule = "midpoint",
    freeze_norm: bool = True,
    report_error: bool = False,
    memory: int = DEFAULT_MEMORY,
    progress: bool = False,
) -> Scores:
    """How much of the metric each edge carries, the gradient averaged along the path from ablated to clean input.

    Costs two forward passes, `steps` forward and backward passes, and one sum over edges. With unfrozen norms the
    scores of all edges that leave `input` add up to m(clean) - m(ablated input) as steps grow; what is missing is
    reported in `diagnostics["completeness_gap"]` as a share. Blind to even functions, whose value is the same at both
    ends.

    Args:
        graph: The graph.
        task: Its discovery pairs are used.
        steps: Points on the path.
        rule: `midpoint`, or `left` (EAP-IG's own: the path's start is a point, its end is not).
        freeze_norm: Treat each norm's standard deviation as a constant in the backward pass.
        report_error: Also run with twice the steps, and report the mean absolute difference of scores over their mean
            absolute value in `diagnostics["error_vs_double"]`.
        memory: Bytes to hold at once, above the model and the images; at least one pair is held.
        progress: Show a bar on stderr.

    Raises:
        TaskError: The metric has no gradient (accuracy), or the steps or the rule make no sense.
        GraphError: The graph was compiled for another model.
    """
    options = {"steps": steps, "rule": rule, "freeze_norm": freeze_norm}
    plan = _Plan(graph, task, path_points(steps, rule), freeze_norm, "linear", memory, progress, "eap_ig")
    found = plan.run()
    moments, diagnostics = found.moments, plan.completeness(found)
    if report_error:
        finer = replace(plan, points=path_points(2 * steps, rule)).run().moments.mean
        diagnostics["error_vs_double"] = float(np.abs(moments.mean - finer).sum() / max(np.abs(finer).sum(), 1e-30))
    return moments.scores(task, "eap_ig", options, diagnostics=diagnostics)


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
class _Plan:
    """Gradients at some points of the path, for all discovery pairs."""

    graph: Graph
    task: Task
    points: Sequence[float]
    freeze_norm: bool
    softmax: Softmax
    memory: int
    progress: bool
    name: str

    def run(self) -> _Found:
        """The scores' running sums over all discovery pairs, and the metric's drop."""
        vit, pairs, inside = self.task.vit, self.task.discovery, len(self.graph.groups) > 1
        require_model(vit, self.graph)
        if not self.task.metric.differentiable:
            raise TaskError(
                f"the metric {self.task.metric.kind} has no gradient: use exact_effects, or another metric such as "
                f"metric='logit_difference'."
            )
        baseline = make_baseline(vit, self.task.ablation, self.task.reference, memory=self.memory)
        found = _Found(Moments(self.graph))
        size = self._pairs_at_once()
        with vit.borrowed(), torch.no_grad(), progress_bar(self.name, len(pairs), self.progress) as bar:
            contraction = Contraction(vit, self.graph)
            for batch in pairs.batches(size):
                ablated = make_ablated(vit, batch, baseline, inside=inside)
                self._batch(batch, ablated, contraction, found)
                bar.update(len(batch))
        return found

    def _pairs_at_once(self) -> int:
        return pairs_at_once(
            self.graph,
            self.task.vit,
            self.memory,
            points=len(self.points),
            freeze_norm=self.freeze_norm,
            ablation=self.task.ablation,
        )

    def _batch(self, batch: Pairs, ablated: Ablated, contraction: Contraction, found: _Found) -> None:
        vit, inside = self.task.vit, len(self.graph.groups) > 1
        embedded = vit.embed(vit.check_images(batch.clean))
        gradients = Gradients(vit, freeze_norm=self.freeze_norm)
        between = _Between(self.graph, self.task, ablated, self.softmax)
        if self.points == _AT_CLEAN:
            clean = self._point(embedded, self.task.metric, gradients, between)
        else:
            clean = record_writes(vit, embedded, keys_values=inside)
            metric = self._metric(clean)
            found.drop += self._drop(clean, ablated, metric)
            for point in self.points:
                self._point(torch.lerp(ablated.embedded, embedded, point), metric, gradients, between, clean)
        for block, scores in contraction(gradients, make_deltas(vit, clean, ablated)):
            found.moments.add(block, scores)
        between.into(found.moments)
        found.moments.n_pairs += len(batch)

    def _metric(self, clean: Writes) -> Callable[[Tensor], Tensor]:
        if self.task.metric.kind != "kl":
            return self.task.metric
        return partial(self.task.metric, reference=self.task.vit.readout(clean.read))

    def _point(
        self,
        start: Tensor,
        metric: Callable[[Tensor], Tensor],
        gradients: Gradients,
        between: _Between,
        clean: Writes | None = None,
    ) -> Writes:
        """What the run from one point wrote, its gradients added; the rest of its tape is gone before the next."""
        inside = len(self.graph.groups) > 1
        tape = record_tape(self.task.vit, start, metric, freeze_norm=self.freeze_norm, inside=inside)
        gradients.add(tape, 1 / len(self.points))
        if inside:
            between.add(tape, clean or tape.writes, 1 / len(self.points))
        return tape.writes

    def _drop(self, clean: Writes, ablated: Ablated, metric: Callable[[Tensor], Tensor]) -> float:
        """Sum of m(clean) - m(the run from the ablated input)."""
        vit = self.task.vit
        if ablated.writes is not None:
            logits = vit.readout(ablated.writes.read)
        else:
            logits = vit.readout.logits(vit.run_blocks(ablated.embedded))
        return float((metric(vit.readout(clean.read)) - metric(logits)).double().sum())

    def completeness(self, found: _Found) -> dict[str, float]:
        """How far the scores of edges that leave the input are from the metric's drop (unfrozen norms only)."""
        mean = found.moments.mean
        total = sum(float(block.unpack(mean)[:, :, 0].sum()) for block in self.graph.blocks if block.kind != "inside")
        drop = found.drop / found.moments.n_pairs
        diagnostics = {"input_total": total, "metric_drop": drop}
        if not self.freeze_norm:
            diagnostics["completeness_gap"] = abs(total - drop) / max(abs(drop), 1e-30)
        return diagnostics


@dataclass
class _Found:
    """Scores, and the sum over pairs of m(clean) - m(the run from the ablated input)."""

    moments: Moments
    drop: float = 0.0


class _Between:
    """Scores of the edges inside heads, summed over the points of the path."""

    def __init__(self, graph: Graph, task: Task, ablated: Ablated, softmax: Softmax) -> None:
        self._graph, self._blocks, self._ablated = graph, task.vit.blocks, ablated.keys_values
        self._softmax: Softmax = softmax
        self._sums: list[Tensor] = []

    def add(self, tape: Tape, clean: Writes, weight: float) -> None:
        """Adds one point with a weight."""
        for layer, (block, taped) in enumerate(zip(self._blocks, tape.layers, strict=True)):
            ablated, own = self._ablated[layer], clean.keys_values[layer]
            scores = weight * inside_scores(self._graph, block, taped, ablated, own, self._softmax)
            if layer < len(self._sums):
                self._sums[layer] += scores
            else:
                self._sums.append(scores)

    def into(self, moments: Moments) -> None:
        """Hands the scores over."""
        for blocks, scores in zip(self._graph.layers, self._sums, strict=False):
            if blocks.inside is not None:
                moments.add(blocks.inside, scores)
