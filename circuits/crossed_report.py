"""The judgement of a circuit on a crossed task: what it transmits first, one-sided faithfulness last.

The circuit and the empty one run on all pairs. Figures are taken over the clean images that the model classifies right,
and, beside them, over all. The curve and the controls are run on a part of the right ones, whose number is said.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from .controls_table import controls_table
from .crossed_runs import CrossedRuns, describe_images, fewer, image_table, other_classes, words
from .faithfulness import Judged, curve_figures, curves, kind_figures, random_faithfulness
from .judging import Judging
from .mask_runs import run_masks
from .pairs import Pairs
from .report import Report


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
    part = fewer(right.pairs)
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
