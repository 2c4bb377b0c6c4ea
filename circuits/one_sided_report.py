"""The judgement of a circuit on a one-sided task, whose clean images show the target alone.

A circuit that says so whatever it is shown passes every figure here, and the report says that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bootstrap import Resamples, share
from .faithfulness import Judged, curve_figures, curves, faithfulness, random_faithfulness
from .judging import Judging
from .mask_runs import MaskRuns, run_masks
from .metrics import Metric, kl_divergence
from .report import Figure, Report
from .words import ONE_SIDED


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
