"""The judgement of a circuit on a crossed task: what it transmits first, one-sided faithfulness last.

The circuit and the empty one run on all pairs. Figures are taken over the clean images that the model classifies right,
and, beside them, over all. The curve and the controls are run on a part of the right ones, whose number is said; on
graphs of over 2,000 edges each image meets one partner there, and chance runs on few of them first
(`planned_runs.py`). What cheats and chance get stands in one table beside the circuit: a figure that they share says
nothing.

The judgement of a circuit on a one-sided task, whose clean images show the target alone.

A circuit that says so whatever it is shown passes every figure here, and the report says that.

The share of a task's behaviour that each of several circuits keeps, on pairs that they were not found on.

It is transmission on a crossed task, with what partners show taken off, and normalised faithfulness on a one-sided one
(`bootstrap.py`); tables call it by that name. Crossed, it is taken over the clean images that the model gets right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...models.watching import progress_bar
from ..baseline import DEFAULT_MEMORY, Baseline, make_baseline
from ..circuit import Circuit
from ..graph import Graph
from ..report import Figure, Report, Table
from ..run import MaskRuns, run_masks
from ..tasks.metrics import Metric, kl_divergence
from ..tasks.task import Pairs, Task
from ..words import ONE_SIDED
from .bootstrap import NAMES, Resamples, middle, share
from .crossed_runs import OF_LARGE, CrossedRuns, describe_images, fewer_rows, image_table, other_classes, words
from .faithfulness import Judged, curve_figures, curves, faithfulness, kind_figures, random_faithfulness
from .plan import JudgingPlan
from .planned_runs import Planned, run_plan
from .select import EVERY_SIZE_UP_TO
from .transmission import Crossed


def crossed_report(judging: Judging, method: dict[str, Any]) -> tuple[Report, Pairs]:
    """Transmission first, one-sided faithfulness last; and the pairs that checks run on, which the model gets right."""
    task, plan, graph, baseline = judging.task, judging.plan, judging.circuit.graph, judging.baseline
    measure = partial(
        CrossedRuns.of,
        task,
        graph,
        plan.masks[0],
        baseline=baseline,
        n_bootstrap=judging.n_bootstrap,
        seed=judging.seed,
        **judging.options,
    )
    everything = measure(judging.pairs)
    right = everything.right or everything
    small = len(graph) <= EVERY_SIZE_UP_TO
    design = right.crossed.design
    part = right.select(fewer_rows(design) if small else fewer_rows(design, OF_LARGE, one_partner=True))
    planned, judged = judging.run(task.metric.response, part.pairs, part.runs, few=not small)
    others = None if task.others is None else measure(task.others.under(baseline.ablation), label="others")
    means, unit = right.crossed.resamples.mean, task.metric.response.unit
    figures = {
        **right.figures(),
        "other_classes": other_classes(others),
        **everything.figures("_all_images"),
        "random_transmission": random_faithfulness(plan, judged),
        **kind_figures(plan, judged),
        **curve_figures(plan, judged, judging.why_no_curve),
        "m_clean": means(right.crossed.clean, unit, "mean of m(x)"),
        "m_circuit": means(right.crossed.circuit, unit, "mean of m_C"),
        **right.one_sided(),
    }
    method = {"sides": "both", "verdict": words(figures["transmission"]), **describe_images(everything), **method}
    method |= {
        "n_curve_pairs": len(part.pairs),
        "random_points": planned.told,
        "aggregation": "ratio of differences of means over cells",
    }
    tables = {"controls": controls_table(judging, judged, planned, part.pairs), "images": image_table(everything)}
    found = Report(figures, curves(plan, judged), judging.size, len(graph), len(judging.pairs), method, {}, tables)
    return found, right.pairs


Floats = NDArray[np.float64]

CONTROL_COLUMNS = ("what answers", "transmission", "R^2", "offset")


def controls_table(judging: Judging, judged: Judged, planned: Planned, pairs: Pairs) -> Table:
    """The circuit, the model, no edge, equal logits, circuits that were given, and random ones, on some pairs."""
    assert pairs.design is not None
    plan, task, interchange = judging.plan, judging.task, judging.baseline.ablation.kind == "partner"
    unit, runs = task.metric.response.unit, planned.runs
    equal = torch.zeros(1, task.vit.cfg.n_classes, dtype=torch.float64, device="cpu")
    constant = np.full(len(pairs), float(task.metric.response(equal)))
    answers = {
        "the circuit": runs.outputs[0],
        "the full model": runs.clean_outputs,
        "no edge kept": runs.outputs[1],
        "equal logits for all classes": constant,
        **{name: runs.outputs[row] for name, row in plan.named.items()},
    }
    rows: list[tuple[str | Figure, ...]] = []
    for name, values in answers.items():
        found = Crossed(pairs.design, values, runs.clean_outputs, runs.outputs[1], judged.resamples, interchange)
        rows.append((name, found.headline(), found.reproduced_headline(), found.offset(unit)))
    for name, at in plan.controls.items():
        ran = np.flatnonzero(planned.ran[at].all(0))
        outputs, design = runs.outputs[:, ran], pairs.design.select(ran.tolist())
        draws = Resamples.of_design(design, len(ran), 0, seed=0)
        every = [Crossed(design, own, runs.clean_outputs[ran], outputs[1], draws, interchange) for own in outputs[at]]
        rows.append((name, *_chance_figures(every, unit)))
    scale = ", on the scale of the headlines" if pairs.design.follows and interchange else ""
    return Table(CONTROL_COLUMNS, tuple(rows), f"on {len(pairs)} pairs that the model gets right{scale}")


def _chance_figures(every: Sequence[Crossed], unit: str) -> list[Figure]:
    """Mean and middle 95% over circuits drawn by chance, on the pairs that all of them ran on."""
    method = f"mean and middle 95% of {len(every)} circuits on {len(every[0].clean)} pairs"
    found = []
    for figures in zip(*((one.headline(), one.reproduced_headline(), one.offset(unit)) for one in every), strict=True):
        values = np.array([np.nan if one.value is None else one.value for one in figures])
        unknown = np.isnan(values).any()
        found.append(replace(figures[0], method=method) if unknown else middle(values, figures[0].unit, method))
    return found


def one_sided_report(judging: Judging, method: dict[str, Any]) -> Report:
    """Faithfulness first, with what random circuits of the same size get."""
    plan, graph = judging.plan, judging.circuit.graph
    planned, judged = judging.run(judging.task.metric, judging.pairs)
    method = {"sides": "one", "sides_in_words": ONE_SIDED, "random_points": planned.told, **method}
    figures = _figures(judging, planned.runs, judged)
    return Report(figures, curves(plan, judged), judging.size, len(graph), len(judging.pairs), method)


def _figures(judging: Judging, runs: MaskRuns, judged: Judged) -> dict[str, Figure]:
    plan, metric = judging.plan, judging.task.metric
    return {
        "faithfulness": faithfulness(judged),
        "random_faithfulness": random_faithfulness(plan, judged),
        **_accuracy_figures(metric, runs, judged.resamples),
        "kl": _kl(runs, judged.resamples),
        "logit_difference_retained": _logit_difference(metric, runs, judged.resamples),
        **curve_figures(plan, judged, judging.why_no_curve),
        **_means(metric, judged),
    }


def _accuracy_figures(metric: Metric, runs: MaskRuns, resamples: Resamples) -> dict[str, Figure]:
    right, right_clean = _hits(metric.correct(runs.logits[0])), _hits(metric.correct(runs.clean_logits))
    same = _hits(runs.logits[0].argmax(-1) == runs.clean_logits.argmax(-1))
    retained = resamples.ratio(
        right.astype(float),
        right_clean.astype(float),
        "the full model's accuracy",
        "the circuit's accuracy over the full model's",
    )
    return {
        "accuracy": share(right, "pairs where the circuit gives a target class the highest logit"),
        "accuracy_retained": retained,
        "agreement": share(same, "pairs where circuit and full model give one class the highest logit"),
    }


def _hits(values: Any) -> NDArray[np.bool_]:
    return values.numpy().astype(bool)


def _kl(runs: MaskRuns, resamples: Resamples) -> Figure:
    values = kl_divergence(runs.clean_logits, runs.logits[0]).numpy()
    return resamples.mean(values, "nats", "mean KL(p of the full model || p of the circuit), 0 is best")


def _logit_difference(metric: Metric, runs: MaskRuns, resamples: Resamples) -> Figure:
    method = "mean logit difference of the circuit over the full model's"
    if not metric.foil:
        return Figure(None, "share", reason="the metric has no foil", method=method)
    difference = Metric("logit_difference", metric.target, metric.foil)
    kept, full = difference(runs.logits[0]).numpy(), difference(runs.clean_logits).numpy()
    return resamples.ratio(kept, full, "the full model's mean logit difference", method)


def _means(metric: Metric, judged: Judged) -> dict[str, Figure]:
    return {
        "m_clean": judged.resamples.mean(judged.full, metric.unit, "mean metric of the clean run, m(E)"),
        "m_none": judged.resamples.mean(judged.outputs[1], metric.unit, "mean metric with no edge kept, m(none)"),
        "m_circuit": judged.resamples.mean(judged.outputs[0], metric.unit, "mean metric of the circuit, m(C)"),
    }


Bools = NDArray[np.bool_]

FAITHFULNESS = "(m(C) - m(none)) / (m(E) - m(none)) on evaluation pairs, a ratio of means, not clipped"


@dataclass(frozen=True, eq=False)
class Shares:
    """Circuits on some pairs.

    Args:
        task: The model and the metric.
        pairs: The pairs.
        judged: Outputs: row 0 is the first circuit, row 1 no edge, then the other circuits.
        runs: The same, with logits of the first rows.
        interchange: Whether removed edges carry the partner's values.
        n_bootstrap: Draws for the intervals.
        seed: Of the draws.
    """

    task: Task
    pairs: Pairs
    judged: Judged
    runs: MaskRuns
    interchange: bool
    n_bootstrap: int
    seed: int

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

    def figures(self, place: int) -> dict[str, Figure]:
        """What a report says of reading the image, of one of the `n_told` first circuits; none on one-sided tasks."""
        if self.pairs.design is None:
            return {}
        rows, runs = [self._row(place), 1], self.runs
        own = MaskRuns(runs.outputs[rows], runs.clean_outputs, runs.logits[rows], runs.clean_logits)
        return CrossedRuns(self.task, self.pairs, own, self.interchange, self.n_bootstrap, self.seed).figures()

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
        return middle(values, "share", method)


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
    n_told: int = 1,
) -> Shares:
    """What circuits keep of a task's behaviour. Costs two runs, and one for each different mask.

    Args:
        task: The model, the metric and the ablation.
        graph: The graph of the masks.
        masks: Kept edges of each circuit, at least one.
        pairs: Pairs to judge on; by default the evaluation's, those that the model gets right.
        n_bootstrap: Draws for the intervals.
        seed: Of the draws.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.
        label: What the bar is called.
        n_told: Of how many circuits, from the first, the other figures can be asked for; their logits are kept.
    """
    pairs = task.evaluation.under(task.ablation).right if pairs is None else pairs
    metric = task.metric if pairs.design is None else task.metric.response
    baseline = make_baseline(task.vit, task.ablation, task.reference, memory=memory)
    ordered = [masks[0], np.zeros(len(graph), dtype=np.bool_), *masks[1:]]
    how: dict[str, Any] = {"memory": memory, "progress": progress, "label": label, "n_logits": 1 + n_told}
    runs = run_masks(task.vit, graph, ordered, metric, pairs, baseline, **how)
    judged = Judged(runs.outputs, runs.clean_outputs, Resamples.of(pairs, n_bootstrap, seed=seed))
    return Shares(task, pairs, judged, runs, task.ablation.kind == "partner", n_bootstrap, seed)


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
    plan: JudgingPlan
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

    def run(
        self, metric: Metric, pairs: Pairs, known: MaskRuns | None = None, *, few: bool = False
    ) -> tuple[Planned, Judged]:
        """The plan on some pairs, with the circuit's logits.

        Args:
            metric: What is read off.
            pairs: The pairs.
            known: Runs of the circuit and the empty mask on them, where they are there already.
            few: Whether chance runs on a few of them at first.
        """
        vit, graph, masks = self.task.vit, self.circuit.graph, self.plan.masks

        def some(rows: list[int], which: NDArray[np.intp] | None, known: MaskRuns | None) -> MaskRuns:
            at = slice(None) if which is None else which.tolist()
            chosen, own = [masks[row] for row in rows], pairs if which is None else pairs.select(at)
            told = {} if known is None else {"clean_logits": known.clean_logits[at]}
            return run_masks(vit, graph, chosen, metric, own, self.baseline, n_logits=1, **told, **self.options)

        def resample(which: NDArray[np.intp]) -> Resamples:
            design = None if pairs.design is None else pairs.design.select(which.tolist())
            return Resamples.of_design(design, len(which), self.n_bootstrap, seed=self.seed)

        with progress_bar("judging", None, self.progress):  # whose clock goes on between many short runs
            planned = run_plan(self.plan, some, pairs.design if few else None, resample, known)
        runs = planned.runs
        one_class = pairs.design is not None and not pairs.design.sided
        return planned, Judged(runs.outputs, runs.clean_outputs, self.resamples(pairs), one_class)

    @property
    def size(self) -> int:
        """Edges of the circuit that are on a path."""
        return int(self.plan.masks[0].sum())

    @property
    def why_no_curve(self) -> str:
        """Why there is no curve; empty where there is one."""
        why = "" if self.circuit.scores is not None else "the circuit has no scores to rank edges by"
        return why if self.curve else "the curve was not asked for (curve=False)"
