"""The judgement of a circuit on a crossed task: what it transmits first, one-sided faithfulness last.

The circuit and the empty one run on all pairs. Figures are taken over the clean images that the model classifies right,
and, beside them, over all. The curve and the controls are run on a part of the right ones, whose number is said. What
cheats and chance get stands in one table beside the circuit: a figure that they share says nothing.

The judgement of a circuit on a one-sided task, whose clean images show the target alone.

A circuit that says so whatever it is shown passes every figure here, and the report says that.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..mask_runs import MaskRuns, run_masks
from ..report import Figure, Report, Table
from ..tasks.design import Design
from ..tasks.metrics import Metric, kl_divergence
from ..tasks.pairs import Pairs
from ..tasks.task import Task
from ..words import ONE_SIDED
from .bootstrap import Resamples, percentiles, share
from .crossed_runs import FEWER_IMAGES, OF_LARGE, CrossedRuns, describe_images, fewer, image_table, other_classes, words
from .faithfulness import Judged, curve_figures, curves, faithfulness, kind_figures, random_faithfulness
from .plan import Plan
from .select import EVERY_SIZE_UP_TO
from .shares import Judging
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
    part = fewer(right.pairs, FEWER_IMAGES if len(graph) <= EVERY_SIZE_UP_TO else OF_LARGE)
    runs = run_masks(task.vit, graph, plan.masks, task.metric.response, part, baseline, **judging.options)
    judged = Judged(runs.outputs, runs.clean_outputs, judging.resamples(part))
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
    method |= {"n_curve_pairs": len(part), "aggregation": "ratio of differences of means over cells"}
    tables = {"controls": controls_table(plan, judged, runs, part, task), "images": image_table(everything)}
    found = Report(figures, curves(plan, judged), judging.size, len(graph), len(judging.pairs), method, {}, tables)
    return found, right.pairs


Floats = NDArray[np.float64]

CONTROL_COLUMNS = ("what answers", "transmission", "R^2", "offset")


def controls_table(plan: Plan, judged: Judged, runs: MaskRuns, pairs: Pairs, task: Task) -> Table:
    """The circuit, the model, no edge, equal logits, circuits that were given, and random ones, on some pairs."""
    assert pairs.design is not None
    unit = task.metric.response.unit
    equal = torch.zeros(1, task.vit.cfg.n_classes, dtype=torch.float64)
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
        found = Crossed(pairs.design, values, runs.clean_outputs, runs.outputs[1], judged.resamples)
        rows.append((name, found.transmission(), found.reproduced(), found.offset(unit)))
    for name, at in plan.controls.items():
        rows.append((name, *_chance_figures(runs.outputs[at], runs, pairs.design, judged)))
    return Table(CONTROL_COLUMNS, tuple(rows), f"on {len(pairs)} pairs that the model gets right")


def _chance_figures(outputs: Floats, runs: MaskRuns, design: Design, judged: Judged) -> list[Figure]:
    """Mean and middle 95% over circuits drawn by chance."""
    whole = judged.resamples.whole
    contrast = design.contrast(whole) if design.sided else whole
    clean = runs.clean_outputs
    spread = whole @ clean**2 - (whole @ clean) ** 2
    found = {
        "share": (outputs @ contrast) / (clean @ contrast),
        "share ": 1 - ((outputs - clean) ** 2 @ whole) / spread,
        "logits": (outputs - clean) @ whole,
    }
    figures = []
    for unit, values in found.items():
        low, high = percentiles(values)
        method = f"mean and middle 95% of {len(values)} circuits"
        figures.append(Figure(float(values.mean()), unit.strip(), float(low), float(high), method=method))
    return figures


def one_sided_report(judging: Judging, method: dict[str, Any]) -> Report:
    """Faithfulness first, with what random circuits of the same size get."""
    task, plan, graph = judging.task, judging.plan, judging.circuit.graph
    runs = run_masks(
        task.vit, graph, plan.masks, task.metric, judging.pairs, judging.baseline, n_logits=1, **judging.options
    )
    judged = Judged(runs.outputs, runs.clean_outputs, judging.resamples(judging.pairs))
    method = {"sides": "one", "sides_in_words": ONE_SIDED, **method}
    figures = _figures(judging, runs, judged)
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
