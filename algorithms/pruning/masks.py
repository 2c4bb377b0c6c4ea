"""Learned masks (Edge Pruning, Bhaskar et al. 2024, arXiv 2406.16778): a gate on every edge, learned by descent.

    minimise over gates    E[ distance(run under the gates, full model) ]    with the gates' density held at a target

On a crossed task the distance is taken on clean images of both classes, so that no constant is near: to (m - m_full)^2
over the variance of m_full KL over all classes is added, which tells images of one class apart (distillation).
Measured on DeiT-Tiny, cats against dogs, held-out photographs, 300 steps a size: 60, 40 and 20% of the edges transmit
.94, .95 and .71 under means, .96, .83 and .25 under class swap (docs/faithfulness.md tells apart what brought it).

1. Every edge has a hard-concrete gate (`gates`), all open at first, or opened by scores (HAP: attribution first).
2. At every step a few pairs are run, every two of them under a draw of the gates, and the loss's derivative by every
   gate is taken: through the gates, or on small graphs by flipping each edge under one draw for all.
3. The gates move against the gradient; then all are shifted by one number that brings their density to the target.
4. The target goes down from the largest size to the smallest and rests at each: one descent gives all of them.
5. A circuit is what stays of the gates that are most often open, as many as leave the size that was asked for once
   edges on no path are gone.
6. On small graphs it is polished: a kept edge is swapped for an absent one as long as that brings the run measurably
   closer to the full model (`budget_search`).

Everything drawn by chance depends on the seed and the step alone, so that a descent goes on from a state as if it had
never been interrupted.

Which way every gate should move: two ways to tell, of a few pairs under gates drawn by chance.

pathwise    the loss is differentiated through hard-concrete gates (`engines/gated_run`): one forward and one backward
            pass for all edges. It sees nothing where a softmax is saturated or an MLP is a step.
measured    gates are drawn open or shut, and every edge is flipped by itself (`engines/flips`):
            L(gate open) - L(gate shut), the others as drawn, is the loss's derivative by P(open), whatever the model's
            slopes are. A run of the rest of the model for each edge, so for small graphs.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, overload, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY, Baseline, constants, make_baseline
from ...circuits.circuit import Circuit
from ...circuits.graph import Graph
from ...circuits.judging.bootstrap import FLOOR
from ...circuits.memory import bytes_of_pair, chunk_size, require_memory
from ...circuits.run import masks_sizes, require_model, run_masks
from ...circuits.scores import Scores
from ...circuits.sizes import Size, edges_of, largest_within
from ...circuits.tasks.metrics import Metric, kl_divergence
from ...circuits.tasks.task import Pairs, Task
from ...circuits.token_parts import Part, parts_of
from ...models import processes
from ...models.errors import TaskError
from ...models.settings import COUNTS, SEEDS, Range
from ...models.watching import progress_bar
from ..attribution.accumulate import Spread, scores_of
from ..engines.flips import flips_sizes, measure_flips
from ..engines.gated_run import GatedResult, GatedRunner
from ..registry import algorithm, chosen, least_memory, scored_by
from .budget_search import EXACT_UP_TO, BudgetSearch
from .gates import Edges, MirrorDescent, draw_gates, draw_masks, open_probability, with_density
from .journal import Journal
from .mask_plan import VIEWS, MaskPlan, Objective, augmented


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


def step_pairs(task: Task, graph: Graph, memory: int) -> int:
    """Pairs of a step that are run at once, beside ablated values that are kept; at least 1."""
    left = int((1 - CACHE_SHARE) * (memory - constants(task.vit, task.ablation)))
    return GatedRunner.pairs_within(task.vit, graph, left)


def _circuit(plan: MaskPlan, n: int, probability: NDArray[np.float64], progress: bool | None) -> Circuit:
    task = plan.task
    told = Spread(probability, probability.copy(), np.full(len(probability), np.nan))
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


Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


ALIKE = 2  # pairs that meet the same gates, at least: one by one they take 8% longer and tell hardly more
CACHE_SHARE = 0.3  # of the memory, for ablated values that would be computed again at every step


@dataclass(frozen=True, eq=False)
class Goal:
    """The loss of a run under gates.

    Args:
        metric: What distances are told from: the task's, or kl.
        blended: Whether KL over all classes is added to the squared difference of the metric over its variance.
        full: Logits of the full model on the clean images, or those taught instead, (pair, class), float64 on the CPU.
        none: With no edge kept, likewise.
        signs: 1 where a higher metric speaks for the clean image's class, -1 where a lower one does.
    """

    metric: Metric
    blended: bool
    full: Float[Tensor, "pair class"]
    none: Float[Tensor, "pair class"]
    signs: Float[Tensor, " pair"]

    @classmethod
    def of(cls, graph: Graph, task: Task, objective: Objective, baseline: Baseline, *, memory: int) -> Goal:
        """From one clean run and one with no edge kept.

        Raises:
            TaskError: The two say the same.
        """
        metric = replace(task.metric, kind="kl") if objective == "kl" else task.metric
        nothing = np.zeros(len(graph), dtype=bool)
        pairs = task.searched
        runs = run_masks(task.vit, graph, [nothing], task.metric, pairs, baseline, n_logits=1, memory=memory)
        full = pairs.wanted(runs.clean_logits)
        goal = cls(metric, objective == "both", full, runs.logits[0], task.signs(pairs))
        if goal.scale < FLOOR:
            raise TaskError(
                f"the outputs with all edges and with none are {goal.scale:.1e} apart on these pairs: there is nothing "
                f"to explain. Choose another corruption or ablation."
            )
        return goal

    def distance(self, logits: Tensor, full: Tensor) -> Float[Tensor, " pair"]:
        """Per pair: the squared difference of the metric, KL(full || logits), or both, with a gradient."""
        if self.metric.kind == "kl":
            return kl_divergence(full, logits)
        squared = (self.metric(logits) - self.metric(full)).square()
        return squared / self.variance + kl_divergence(full, logits) if self.blended else squared

    @cached_property
    def variance(self) -> float:
        """Of the full model's metric over the pairs."""
        return max(float(self._outputs[0].var()), FLOOR)

    def distances(self, outputs: Floats, pairs: Rows) -> Floats:
        """The same from what the metric said, (..., pair)."""
        return -outputs if self.metric.kind == "kl" else np.square(outputs - self._outputs[0][pairs])

    def faithfulness(self, outputs: Floats, pairs: Rows) -> float:
        """The share of the behaviour on some pairs, for the eye, from what the metric said, (pair,)."""
        signs = self.signs[pairs].numpy()
        full, none = ((signs * found[pairs]).mean() for found in self._outputs)
        return float(((signs * outputs).mean() - none) / (full - none)) if abs(full - none) > FLOOR else float("nan")

    @cached_property
    def scale(self) -> float:
        """Mean distance with no edge kept."""
        return float(self.distance(self.none, self.full).mean())

    @cached_property
    def _outputs(self) -> tuple[Floats, Floats]:
        return self.metric(self.full, self.full).numpy(), self.metric(self.none, self.full).numpy()


class StepGradient(NamedTuple):
    """Of one step: the loss, faithfulness, and the loss's derivative by every gate's parameter."""

    loss: float
    faithfulness: float
    gradient: Edges


@runtime_checkable
class GateGradient(Protocol):
    """Draws gates and tells which way they should move."""

    def __call__(self, log_alpha: Edges, generator: torch.Generator, clean: Rows, partners: Rows) -> StepGradient:
        """On the clean images of some pairs, each with the ablated values of a pair among `partners`."""
        ...


class Reparameterized:
    """Tells by differentiating through hard-concrete gates; call it under `vit.borrowed()`."""

    def __init__(self, plan: MaskPlan, goal: Goal, baseline: Baseline) -> None:
        self.plan, self.task, self.goal, self.baseline = plan, plan.task, goal, baseline
        self.runner: GatedRunner | None = None
        self.at_once = step_pairs(plan.task, plan.graph, plan.memory)
        self._cached = None if plan.augments else self._cache()
        self._answers: dict[tuple[int, int], Tensor] = {}  # the full model's, to each view of a photograph

    def _cache(self) -> Float[Tensor, "source pair token model"] | None:
        """Ablated values of all pairs, where they fit."""
        pairs = self.task.searched
        size = bytes_of_pair(self.task.vit, residuals=self.plan.graph.n_sources)
        if len(pairs) * size > CACHE_SHARE * self.plan.memory:
            return None
        return torch.cat([self.baseline(batch) for batch in pairs.batches(self.at_once)], 1)

    def _drawn(self, clean: Rows, partners: Rows, generator: torch.Generator) -> tuple[Tensor, list[int], Pairs]:
        """A step's clean images, which of their views they are, and some pairs, whose ablated values they meet."""
        pairs, views = self.task.searched, [0] * len(clean)
        images, met = pairs.clean[clean], pairs.select(partners.tolist())
        if self.plan.augments:
            views = torch.randint(VIEWS, (len(clean),), generator=generator).tolist()
            chance = [self.plan.view_generator(row, view) for row, view in zip(clean.tolist(), views, strict=True)]
            images = torch.cat([augmented(images[[at]], own) for at, own in enumerate(chance)])
            if self.task.ablation.kind == "partner":
                met = replace(met, corrupt=augmented(met.corrupt, generator))
        return images, views, met

    def __call__(self, log_alpha: Edges, generator: torch.Generator, clean: Rows, partners: Rows) -> StepGradient:
        """In chunks of pairs; what chance decides is drawn before, the same on all processes.

        Every two pairs, of small models more, have gates of their own: the gradient then varies less from draw to draw.
        """
        n_pairs = len(clean)
        alike = max(ALIKE, chunk_size(self.task.vit, n_pairs, n_pairs))
        drawn = [draw_gates(log_alpha, generator) for _ in range(0, n_pairs, alike)]
        distinct, place = np.unique(partners, return_inverse=True)
        images, views, met = self._drawn(clean, distinct, generator)
        graph, pairs = self.plan.graph, self.task.searched
        parts = parts_of(graph, pairs.met(clean, partners) if graph.groups.per_pair else pairs)
        size, every = min(alike, self.at_once), np.arange(n_pairs)
        chunks = [
            (part, rows[start : start + size])
            for part in parts
            for draw in range(len(drawn))
            for rows in [every[part.rows][every[part.rows] // alike == draw]]
            for start in range(0, len(rows), size)
        ]

        def one(chunk: tuple[Part, Rows]) -> tuple[NDArray[np.float64], Tensor, float]:
            part, rows = chunk
            (gates, slope), which = drawn[rows[0] // alike], [(int(clean[row]), views[row]) for row in rows]
            ablated = self._ablated(met, place[rows]) if self._cached is None else self._cached[:, partners[rows]]
            found, full = self._run(part.graph, gates[part.edges], images[rows], which, ablated, n_pairs)
            return (
                self.goal.metric(found.logits.double().cpu(), full).numpy(),
                found.gradient.double().cpu() * slope[part.edges],
                float(found.loss),
            )

        gradient, outputs, loss = torch.zeros_like(log_alpha), [], 0.0
        for (part, _), (told, own, value) in zip(chunks, processes.at_once(one, chunks), strict=True):
            outputs.append(told)
            gradient[part.edges] += own
            loss += value
        seen = np.concatenate([clean[rows] for _, rows in chunks])
        return StepGradient(loss, self.goal.faithfulness(np.concatenate(outputs), seen), gradient)

    def _ablated(self, met: Pairs, places: Rows) -> Float[Tensor, "source pair token model"]:
        """Ablated values of some of the pairs, each computed once."""
        needed, place = np.unique(places, return_inverse=True)
        if len(needed) == len(places):
            return self.baseline(met.select(places.tolist()))
        return self.baseline(met.select(needed.tolist()))[:, place]

    def _run(
        self, graph: Graph, gates: Edges, images: Tensor, which: list[tuple[int, int]], ablated: Tensor, n_pairs: int
    ) -> tuple[GatedResult, Tensor]:
        """A chunk's run, and what the full model says to its images, in float64 on the CPU."""
        vit, goal = self.task.vit, self.goal
        if self.runner is None or self.runner.graph is not graph:
            self.runner = GatedRunner(vit, graph)
        images, full = vit.check_images(images), self._full(images, which)
        wanted = full.to(device=vit.device, dtype=vit.sum_dtype)

        def loss(logits: Tensor) -> Tensor:
            return goal.distance(logits, wanted).sum() / (n_pairs * goal.scale)

        return self.runner(gates, vit.embed(images), ablated, loss), full

    def _full(self, images: Tensor, which: list[tuple[int, int]]) -> Tensor:
        """What the full model says; of a view it is computed once, by itself, whatever else is in the step."""
        if not self.plan.augments:
            return self.goal.full[[row for row, _ in which]]
        for at, key in enumerate(which):
            if key not in self._answers:
                self._answers[key] = self.task.vit(images[[at]]).double().cpu()
        return torch.cat([self._answers[key] for key in which])


class FiniteDifference:
    """Tells by opening and shutting every gate; call it under `vit.borrowed()`."""

    def __init__(self, plan: MaskPlan, goal: Goal, baseline: Baseline) -> None:
        self.plan, self.goal, self.baseline = plan, goal, baseline
        self._edges = np.arange(len(plan.graph))

    def __call__(self, log_alpha: Edges, generator: torch.Generator, clean: Rows, partners: Rows) -> StepGradient:
        """Every edge flipped around one draw."""
        task, goal = self.plan.task, self.goal
        met, mask = task.searched.met(clean, partners), draw_masks(log_alpha, generator)
        found = measure_flips(
            task.vit, self.plan.graph, mask, self._edges, goal.metric, met, self.baseline, memory=self.plan.memory
        )
        now = goal.distances(found.now, clean).mean()
        flipped = goal.distances(found.flipped, clean).mean(-1)
        gain = np.where(mask, now - flipped, flipped - now) / goal.scale
        return StepGradient(float(now / goal.scale), goal.faithfulness(found.now, clean), torch.from_numpy(gain))
