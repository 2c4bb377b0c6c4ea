"""Learned masks (Edge Pruning, Bhaskar et al. 2024, arXiv 2406.16778): a gate on every edge, learned by descent.

    minimise over gates    E[ distance(run under the gates, full model) ]    with the gates' density held at a target

On a crossed task the distance is taken on clean images of both classes, so that no constant is near: to (m - m_full)^2
over the variance of m_full KL over all classes is added, which tells images of one class apart (distillation).
Measured on DeiT-Tiny, cats against dogs, held-out photographs, 300 steps a size: 60, 40 and 20% of the edges transmit
.94, .95 and .71 under means, .96, .83 and .25 under class swap (docs/faithfulness.md tells apart what brought it).

1. Every edge has a hard-concrete gate (`gates`), all open at first, or opened by scores (HAP: attribution first).
2. At every step a few pairs are run, every two of them under a draw of the gates, and the loss's derivative by every
   gate is taken: through the gates, or on small graphs by flipping each edge under one draw for all (`gate_gradients`).
3. The gates move against the gradient; then all are shifted by one number that brings their density to the target.
4. The target goes down from the largest size to the smallest and rests at each: one descent gives all of them.
5. A circuit is what stays of the gates that are most often open, as many as leave the size that was asked for once
   edges on no path are gone.
6. On small graphs it is polished: a kept edge is swapped for an absent one as long as that brings the run measurably
   closer to the full model (`budget_search`).

Everything drawn by chance depends on the seed and the step alone, so that a descent goes on from a state as if it had
never been interrupted.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray

from ...circuits.baseline import DEFAULT_MEMORY, make_baseline
from ...circuits.circuit import Circuit
from ...circuits.graph import Graph
from ...circuits.memory import require_memory
from ...circuits.run import masks_sizes, require_model
from ...circuits.scores import Scores
from ...circuits.sizes import Size, edges_of, largest_within
from ...circuits.tasks.task import Task
from ...models.settings import COUNTS, SEEDS, Range
from ...models.watching import progress_bar
from ..attribution.accumulate import EffectStatistics, scores_of
from ..engines.flips import flips_sizes
from ..registry import algorithm, chosen, least_memory, scored_by
from .budget_loss import EXACT_UP_TO
from .budget_search import BudgetSearch
from .gate_gradients import FiniteDifference, GateGradient, Goal, Reparameterized, step_pairs
from .gates import MirrorDescent, open_probability, with_density
from .journal import Journal
from .mask_plan import MaskPlan


@overload
def learned_masks(graph: Graph, task: Task, *, size: Size = ..., **options: Any) -> Circuit: ...
@overload
def learned_masks(graph: Graph, task: Task, *, size: Sequence[Size], **options: Any) -> list[Circuit]: ...
@algorithm
def learned_masks(
    graph: Graph,
    task: Task,
    *,
    size: Size | Sequence[Size] = 0.05,
    steps: Annotated[int, COUNTS] = 200,
    batch: Annotated[int, COUNTS] = 8,
    learning_rate: Annotated[float, Range(above=0)] = 0.3,
    objective: Literal["auto", "both", "metric", "kl"] = "auto",
    partners: Literal["auto", "given", "shuffled"] = "auto",
    start: Scores | str = "auto",
    derivative: Literal["auto", "pathwise", "measured"] = "auto",
    polish: Literal["auto", "yes", "no"] = "auto",
    augment: Literal["auto", "yes", "no"] = "auto",
    seed: Annotated[int, SEEDS] = 0,
    journal: str | Path | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> Circuit | list[Circuit]:
    """The circuit of a size whose run stays closest to the full model's, or one for each of several sizes.

    Its scores are P(gate > 0): an order of edges, in no unit of the metric. A step costs a forward and a backward pass
    of the pairs in it. What it finds depends on the seed, and among edges that can stand for one another it keeps any.
    Two sizes of one descent are not nested.

    Args:
        graph: The graph.
        task: Its discovery pairs are used.
        size: Edges on paths from input to logits: a share of the graph below 1, or a number from 1 on.
        steps: For each size (seven tenths near scores, `MaskPlan.trusts`); in the last two fifths the density rests.
        batch: Pairs in a step, as many of each class on a crossed task.
        learning_rate: Of `log_alpha`, for an edge of RMS gradient; less at rest and near scores (`MaskPlan.rate`).
        objective: `metric` (squared difference to the full model's), `kl`, or `both` (auto: on crossed tasks).
        partners: Whose ablated values an image meets: its `given` partner's, or another pair's at every step
            (`shuffled`; auto: where partners are other images).
        start: `none` (all edges open), or scores or an algorithm that makes them: from 80% of the edges by mean of
            absolute values, on one-sided tasks from four times the size (auto: eap_ig on crossed, large graphs).
        derivative: `pathwise`, through the gates, or `measured`, every gate flipped (auto: up to 500 edges).
        polish: Whether circuits end with measured swaps on the given pairs (auto: up to 500 edges).
        augment: Whether images are mirrored and cropped in four ways (auto: photographs on crossed tasks).
        seed: Draws gates, batches and partners.
        journal: A file for the state; the same call goes on from it, to the same circuit.
        memory: Bytes to hold at once; at least one pair is held.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        TaskError: An option makes no sense, the metric has no gradient, or there is nothing to explain.
        GraphError: The graph or the scores belong to another model, or a size is not possible.
        FormatError: The journal is another search's, or cannot be written.
    """
    require_model(task.vit, graph)
    sizes = edges_of(size, graph)
    start = _starting(start, graph, task)
    plan = MaskPlan(graph, task, sizes, "none", memory, chosen("learned_masks", locals()))
    least = least_memory(start, graph, task)
    require_memory(memory, f"learned_masks of {graph.cfg.name}", *masks_asked(plan), least=least)
    plan = replace(plan, start=scored_by(start, "start", "none", graph, task, memory=memory, progress=progress))
    reached = dict(zip(plan.descending, Descent(plan, journal, progress).run(), strict=True))
    found = [_circuit(plan, n, reached[n], progress) for n in sizes]
    return found if isinstance(size, Sequence | np.ndarray) else found[0]


def _starting(start: Scores | str, graph: Graph, task: Task) -> Scores | str:
    """What is started from, `auto` resolved."""
    if start != "auto":
        return start
    warm = task.sides == "both" and len(graph) > EXACT_UP_TO and task.metric.kind not in ("kl", "accuracy")
    return "eap_ig" if warm else "none"


def masks_asked(plan: MaskPlan) -> list[Callable[[int], object]]:
    """What a descent asks of a budget, and the swaps after it; see `require_memory`."""
    task, graph = plan.task, plan.graph
    asked = masks_sizes(task.vit, task.ablation)
    if plan.measures:
        asked += flips_sizes(task.vit, graph, task.ablation, plan.chosen.batch, whole=False)
    else:
        asked.append(lambda memory: step_pairs(task, graph, memory))
    return asked + (plan.swaps(1).asked() if plan.polishes else [])


def _circuit(plan: MaskPlan, n: int, probability: NDArray[np.float64], progress: bool | None) -> Circuit:
    task = plan.task
    told = EffectStatistics(probability, probability.copy(), np.full(len(probability), np.nan))
    scores = scores_of(plan.graph, task, "learned_masks", plan.options, told)
    provenance = {"algorithm": "learned_masks", "options": plan.options, "selection": "learned_masks", "n": n}
    mask = largest_within(plan.graph, scores.ranking(), n)
    if plan.polishes:
        before, mask = mask, BudgetSearch(plan.swaps(n), None, progress).refined(mask, n)
        provenance |= {"polished": True, "edges_exchanged": int((mask & ~before).sum())}
    return Circuit(plan.graph, mask, scores, task.ablation, dict(task.info), provenance)


SAVE_SECONDS = 1.0
SMOOTHING = 0.9  # of what the progress bar shows


class Descent:
    """One descent: the gates' parameters, and the batches that move them."""

    def __init__(self, plan: MaskPlan, journal: str | Path | None, progress: bool | None) -> None:
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
        if self.step % plan.steps == 0:
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
