"""The share of a task's behaviour that each of several circuits keeps, on pairs that they were not found on.

It is transmission on a crossed task, with what partners show taken off, and normalised faithfulness on a one-sided one
(`bootstrap.py`); tables call it by that name. Crossed, it is taken over the clean images that the model gets right.

What a circuit is judged on: handed as one to whoever makes the report of a one-sided or of a crossed task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..baseline import DEFAULT_MEMORY, Baseline, make_baseline
from ..circuit import Circuit
from ..graph import Graph
from ..mask_runs import run_masks
from ..report import Figure
from ..tasks.pairs import Pairs
from ..tasks.task import Task
from .bootstrap import NAMES, Resamples, percentiles
from .faithfulness import Judged
from .plan import Plan
from .transmission import Crossed

Bools = NDArray[np.bool_]

FAITHFULNESS = "(m(C) - m(none)) / (m(E) - m(none)) on evaluation pairs, a ratio of means, not clipped"


def judged_pairs(task: Task, pairs: Pairs | None = None) -> Pairs:
    """The pairs that circuits are judged on: by default the evaluation's, those that the model gets right."""
    return (task.evaluation if pairs is None else pairs).under(task.ablation).right


@dataclass(frozen=True, eq=False)
class Shares:
    """Circuits on some pairs.

    Args:
        pairs: The pairs.
        judged: Outputs: row 0 is the first circuit, row 1 no edge, then the other circuits.
        interchange: Whether removed edges carry the partner's values.
    """

    pairs: Pairs
    judged: Judged
    interchange: bool

    def _row(self, place: int) -> int:
        return place + (place > 0)

    @property
    def name(self) -> str:
        """What the share is called."""
        return NAMES["one" if self.pairs.design is None else "both"]

    @cached_property
    def _draws(self) -> Resamples:
        return self.judged.resamples

    def _crossed(self, place: int) -> Crossed | None:
        design, outputs = self.pairs.design, self.judged.outputs
        if design is None:
            return None
        return Crossed(design, outputs[self._row(place)], self.judged.full, outputs[1], self._draws, self.interchange)

    def kept(self, place: int) -> Figure:
        """What a circuit keeps: T, or (T - T0) / (1 - T0) where partners follow their image; one-sided f."""
        crossed = self._crossed(place)
        if crossed is not None:
            return crossed.headline()
        if self.judged.undefined:
            return Figure(None, "share", reason=self.judged.undefined, method=FAITHFULNESS)
        row = self._row(place)
        return self._draws.figure(float(self.judged.values[row]), self.judged.drawn[:, row], "share", FAITHFULNESS)

    def leakage(self, place: int) -> Figure:
        """L of a circuit."""
        crossed = self._crossed(place)
        return _one_sided("L") if crossed is None else crossed.leakage()

    def empty(self) -> Figure:
        """T0, what partners show of the clean image's class themselves."""
        crossed = self._crossed(0)
        return _one_sided("T0") if crossed is None else crossed.empty_transmission()

    def spread(self, places: Sequence[int], method: str) -> Figure:
        """Mean of what several circuits keep; the interval holds the middle 95% of them."""
        figures = [self.kept(place) for place in places]
        values = np.array([figure.value for figure in figures if figure.value is not None])
        if len(values) < len(figures) or not len(values):
            reason = next((figure.reason for figure in figures if figure.value is None), "there is no circuit")
            return Figure(None, "share", reason=reason, method=method)
        low, high = percentiles(values)
        return Figure(float(values.mean()), "share", float(low), float(high), method=method)


def _one_sided(what: str) -> Figure:
    return Figure(None, "share", reason=f"{what} needs clean images of both classes", method=what)


def shares_kept(
    task: Task,
    graph: Graph,
    masks: Sequence[Bools],
    *,
    pairs: Pairs | None = None,
    n_bootstrap: int = 0,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
    label: str = "circuits",
) -> Shares:
    """What circuits keep of a task's behaviour. Costs two runs, and one for each different mask.

    Args:
        task: The model, the metric and the ablation.
        graph: The graph of the masks.
        masks: Kept edges of each circuit, at least one.
        pairs: Pairs to judge on; `judged_pairs(task)` by default.
        n_bootstrap: Draws for the intervals.
        seed: Of the draws.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.
        label: What the bar is called.
    """
    pairs = judged_pairs(task) if pairs is None else pairs
    metric = task.metric if pairs.design is None else task.metric.response
    baseline = make_baseline(task.vit, task.ablation, task.reference, memory=memory)
    ordered = [masks[0], np.zeros(len(graph), dtype=np.bool_), *masks[1:]]
    runs = run_masks(task.vit, graph, ordered, metric, pairs, baseline, memory=memory, progress=progress, label=label)
    draws = Resamples.of(pairs, n_bootstrap, seed=seed)
    return Shares(pairs, Judged(runs.outputs, runs.clean_outputs, draws), task.ablation.kind == "partner")


@dataclass(frozen=True, eq=False)
class Judging:
    """A circuit, the masks that are run beside it, and the pairs.

    Args:
        circuit: The circuit.
        task: The model and the metric.
        plan: Masks to run.
        pairs: Pairs to judge on, as the ablation needs them.
        baseline: What removed edges carry.
        curve: Whether there is a curve.
        n_bootstrap: Draws for the intervals.
        seed: Of the draws.
        memory: Bytes to hold at once.
        progress: Show bars on stderr; None where somebody watches.
    """

    circuit: Circuit
    task: Task
    plan: Plan
    pairs: Pairs
    baseline: Baseline
    curve: bool
    n_bootstrap: int
    seed: int
    memory: int
    progress: bool | None

    @property
    def options(self) -> dict[str, Any]:
        """What every run is told."""
        return {"memory": self.memory, "progress": self.progress}

    def resamples(self, pairs: Pairs) -> Resamples:
        """Draws of some pairs, or of their images."""
        return Resamples.of(pairs, self.n_bootstrap, seed=self.seed)

    @property
    def size(self) -> int:
        """Edges of the circuit that are on a path."""
        return int(self.plan.masks[0].sum())

    @property
    def why_no_curve(self) -> str:
        """Why there is no curve; empty where there is one."""
        why = "" if self.circuit.scores is not None else "the circuit has no scores to rank edges by"
        return why if self.curve else "the curve was not asked for (curve=False)"
