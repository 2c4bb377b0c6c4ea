"""What checks stand on: masks of one circuit on one set of pairs, run once each, and what a test on outputs counts.

Counted are the pairs of a one-sided task, and the clean images of a crossed one. On a crossed task a clean image stands
in several pairs, and these are not independent: counted one by one they would make few images look like many. So an
image counts once, by its mean over its partners, those of either class alike. Images that meet the same partners are
still tied together as far as the circuit leaks; where images are shuffled, those at one place (`design.py`) stay
together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ...models.errors import TaskError
from ...models.settings import brief
from ..baseline import DEFAULT_MEMORY, Baseline
from ..circuit import Circuit
from ..graph import Graph
from ..judging.bootstrap import FLOOR, Numbers, Resamples, divide
from ..judging.transmission import Crossed
from ..nodes import among, granularity, kept_nodes
from ..reach import prune
from ..report import Figure, Report, Table, Verdict
from ..run import mask_key, run_masks
from ..tasks.design import Design
from ..tasks.metrics import Metric
from ..tasks.task import Pairs, Task
from . import CHECKS

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5}  # times the largest output: planted models differ by up to 3e-6


@dataclass(frozen=True)
class CheckSettings:
    """How thoroughly a circuit is checked.

    Args:
        tolerance: Largest loss of normalised faithfulness that counts as none.
        most_parts: Edges (of a node circuit: nodes) that are taken out one by one; of more, a random sample.
        most_nodes: Likewise, nodes whose edges are taken out for completeness.
        n_random: Random subsets for completeness.
        greedy_steps: Nodes that the greedy search for incompleteness takes out.
        greedy_candidates: Nodes that it tries at each step, drawn by chance.
        n_draws: Random circuits behind minimality, sufficiency and partial necessity.
        epsilon: Equivalence: how far P(circuit's output > model's) may lie from 1/2.
        quantile: Sufficiency and partial necessity: share of random circuits that the circuit must beat.
        level: Largest p-value that rejects a null hypothesis.
        n_permutations: Behind the test of independence.
        ablations: Of the spread; at least three.
        metrics: Of the spread, at least two; the task's and another by default.
    """

    tolerance: float = 0.01
    most_parts: int = 300
    most_nodes: int = 50
    n_random: int = 20
    greedy_steps: int = 5
    greedy_candidates: int = 10
    n_draws: int = 50
    epsilon: float = 0.1
    quantile: float = 0.9
    level: float = 0.05
    n_permutations: int = 2000
    ablations: tuple[str, ...] = ("partner", "another", "mean")
    metrics: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return brief(self)


@dataclass(frozen=True)
class Findings:
    """What a check adds to a report."""

    figures: dict[str, Figure] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class MaskEvaluator:
    """A circuit, pairs and what removed edges carry; `outputs` runs masks and remembers them.

    Args:
        circuit: The circuit; edges on no path from input to logits don't count as part of it.
        task: The task.
        metric: Logits -> one number per pair.
        pairs: The pairs.
        baseline: What removed edges carry.
        resamples: Bootstrap draws of the pairs.
        settings: How thoroughly.
        seed: Draws what is drawn by chance.
        memory: Bytes to hold at once.
        progress: Show bars on stderr; None where somebody watches.
        known: Outputs of masks that ran before.
        every_partner: The pairs with all their partners, where the ablation takes none and `pairs` lacks them.
    """

    circuit: Circuit
    task: Task
    metric: Metric
    pairs: Pairs
    baseline: Baseline
    resamples: Resamples
    settings: CheckSettings = CheckSettings()
    seed: int = 0
    memory: int = DEFAULT_MEMORY
    progress: bool | None = None
    known: dict[bytes, Floats] = field(default_factory=dict)
    every_partner: Pairs | None = None

    @property
    def sided(self) -> bool:
        """Whether clean images show both classes, so that a circuit can be told from a constant."""
        return self.pairs.design is not None and self.pairs.design.sided

    @property
    def letter(self) -> str:
        """The share of the behaviour: T where clean images show both classes, else f."""
        return "T" if self.sided else "f"

    @cached_property
    def units(self) -> Units:
        """What tests on outputs count."""
        return Units.of(self.pairs)

    @cached_property
    def transmission(self) -> Figure:
        """The circuit's, on pairs that are sided."""
        assert self.pairs.design is not None
        interchange = self.baseline.ablation.kind == "partner"
        return Crossed(self.pairs.design, self.kept, self.full, self.none, self.resamples, interchange).headline()

    def distance(self, first: Floats, second: Floats) -> Floats:
        """How far outputs lie apart, (..., pair) -> (...), in the metric's unit: the root of the mean square.

        Taken pair by pair, every cell of a crossed task counting alike: means that agree say nothing of the images.
        """
        return np.sqrt(np.asarray(self.resamples.mean_of((first - second) ** 2)))

    @property
    def graph(self) -> Graph:
        """The circuit's graph."""
        return self.circuit.graph

    @cached_property
    def own(self) -> Bools:
        """The circuit's edges that are on a path, shape (edge,)."""
        return prune(self.graph, self.circuit.mask)

    @cached_property
    def full(self) -> Floats:
        """The metric of the clean run, shape (pair,)."""
        return self.outputs([np.ones_like(self.own)], "whole model")[0]

    @cached_property
    def none(self) -> Floats:
        """The metric with no edge kept, shape (pair,)."""
        return self.outputs([np.zeros_like(self.own)], "no edge")[0]

    @cached_property
    def kept(self) -> Floats:
        """The metric of the circuit, shape (pair,)."""
        return self.outputs([self.own], "circuit")[0]

    @cached_property
    def rounding(self) -> float:
        """Differences of outputs that are no larger are rounding."""
        largest = float(max(np.abs(self.full).max(), np.abs(self.none).max()))
        return ROUNDING.get(self.task.vit.dtype, 1e-5) * max(1.0, largest)

    def outputs(self, masks: Sequence[Bools], label: str) -> Floats:
        """The metric of each mask on each pair, shape (mask, pair); `label` names the progress bar."""
        keys = [mask_key(mask) for mask in masks]
        new = {key: mask for key, mask in zip(keys, masks, strict=True) if key not in self.known}
        if new:
            runs = run_masks(
                self.task.vit,
                self.graph,
                list(new.values()),
                self.metric,
                self.pairs,
                self.baseline,
                memory=self.memory,
                progress=self.progress,
                label=label,
            )
            self.known.update(zip(new, runs.outputs, strict=True))
        return np.stack([self.known[key] for key in keys]) if keys else np.zeros((0, len(self.pairs)))

    @cached_property
    def undefined(self) -> str:
        """Why shares of the behaviour are not defined; empty where they are."""
        gap = float(self.resamples.behaviour(self.full - self.none))
        what = "the clean contrast of m(E) - m(none)" if self.sided else "|m(E) - m(none)|"
        return "" if abs(gap) >= FLOOR else f"{what} is {abs(gap):.1e}, below {FLOOR}: nothing to explain"

    def shares(self, differences: Floats) -> tuple[Floats, Floats]:
        """Mean differences over m(E) - m(none): (..., pair) -> (...) and, in each bootstrap draw, (draw, ...)."""
        gap = self.full - self.none
        above = np.asarray(self.resamples.behaviour(differences))
        value = np.asarray(divide(above, np.asarray(self.resamples.behaviour(gap))))
        drawn = self.resamples.behaviours(differences)
        below = self.resamples.behaviours(gap).reshape(-1, *[1] * (drawn.ndim - 1))
        return value, np.asarray(divide(drawn, np.broadcast_to(below, drawn.shape)))

    def share(self, value: Numbers, drawn: Floats, method: str) -> Figure:
        """A figure in shares of the behaviour, with the interval of its draws, shape (draw,)."""
        if self.undefined:
            return Figure(None, "share", reason=self.undefined, method=method)
        return self.resamples.figure(float(value), drawn, "share", method)

    def parts(self) -> list[tuple[str, Bools]]:
        """The circuit's edges (of a node circuit: nodes) by name, each with the circuit's mask without it."""
        if granularity(self.circuit) == "node":
            names = kept_nodes(self.circuit)
            rest = [[other for other in names if other != name] for name in names]
            return [
                (name, prune(self.graph, among(self.graph, others))) for name, others in zip(names, rest, strict=True)
            ]
        found = []
        for edge in np.flatnonzero(self.own):
            mask = self.own.copy()
            mask[edge] = False
            found.append((self.graph.edge(int(edge)).name, mask))
        return found

    @property
    def part(self) -> str:
        """What the circuit is made of: `edge` or `node`."""
        return granularity(self.circuit)


Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Units:
    """The units of some pairs.

    Args:
        of_pair: The unit of each pair, 0, 1, ..., shape (pair,).
        weights: Of each pair in each unit's mean, shape (unit, pair).
        sign: 1 where a higher output speaks for what the unit's image shows, -1 where a lower one does, shape (unit,).
        place: Where each unit's image stands, shape (unit,).
        words: What they are.
    """

    of_pair: Ints
    weights: Floats
    sign: Ints
    place: Ints
    words: str

    @classmethod
    def of(cls, pairs: Pairs) -> Units:
        """Those of a task's pairs."""
        if pairs.design is None:
            each = np.arange(len(pairs))
            return cls(each, np.eye(len(pairs)), np.ones(len(pairs), dtype=np.int64), each, "pairs")
        design = pairs.design
        _, first, unit = np.unique(design.clean_image.numpy(), return_index=True, return_inverse=True)
        sign, place = design.sign.numpy()[first], design.clean_place.numpy()[first]
        return cls(unit.astype(np.int64), _weights(design, unit), sign, place, "clean images")

    def __len__(self) -> int:
        return len(self.sign)

    def means(self, values: Floats) -> Floats:
        """The mean of each unit, (..., pair) -> (..., unit)."""
        return values @ self.weights.T


def _weights(design: Design, unit: NDArray[np.intp]) -> Floats:
    """Partners of a class add up to the same for every class that the image meets."""
    inside = unit == np.arange(unit.max() + 1)[:, None]
    found = np.zeros(inside.shape)
    for side in set(design.partner_side.tolist()):
        own = inside & (design.partner_side.numpy() == side)
        found += own / np.maximum(own.sum(-1, keepdims=True), 1)
    return found / found.sum(-1, keepdims=True)


Checks = Sequence[str] | Literal["all"]
"""Names of `CHECKS`, or all of them."""
ON_OUTPUTS = ("equivalence", "independence", "minimality", "sufficiency", "partial_necessity")
"""Checks that look at the target's logit (less the foil's), whatever the task's metric."""


def check_names(checks: Checks) -> list[str]:
    """The checks that are meant, in the order in which they run.

    Raises:
        TaskError: A name is not known.
    """
    wanted = list(CHECKS) if checks == "all" else [checks] if isinstance(checks, str) else list(checks)
    unknown = [name for name in wanted if name not in CHECKS]
    if unknown:
        raise TaskError(f'there is no check {unknown[0]!r}: pass checks="all", or some of {", ".join(CHECKS)}.')
    return [name for name in CHECKS if name in wanted]


def add_checks(report: Report, evaluator: MaskEvaluator, names: Sequence[str]) -> Report:
    """The report with the figures, verdicts and tables of these checks."""
    figures, verdicts, tables = dict(report.figures), dict(report.verdicts), dict(report.tables)
    on_outputs = _on_outputs(evaluator)
    for name in names:
        found = _check(name)(on_outputs if name in ON_OUTPUTS else evaluator)
        figures |= found.figures
        verdicts |= found.verdicts
        tables |= found.tables
    method = {**report.method, "checks": dataclasses.asdict(evaluator.settings)} if names else report.method
    return dataclasses.replace(report, figures=figures, verdicts=verdicts, tables=tables, method=method)


def _check(name: str) -> Callable[[MaskEvaluator], Findings]:
    module, _, function = CHECKS[name].partition(".")
    return getattr(import_module(f".{module}", __package__), function)


def _on_outputs(evaluator: MaskEvaluator) -> MaskEvaluator:
    """The same evaluator under the logit difference; it shares what ran before if that is the metric already."""
    metric = Metric(
        "logit_difference" if evaluator.metric.foil else "logit", evaluator.metric.target, evaluator.metric.foil
    )
    return evaluator if metric == evaluator.metric else dataclasses.replace(evaluator, metric=metric, known={})
