"""The judgement of a circuit on a crossed task: what it transmits first, one-sided faithfulness last.

The circuit and the empty one run on all pairs. Figures are taken over the clean images that the model classifies right,
and, beside them, over all. The curve and the controls are run on a part of the right ones, whose number is said. What
cheats and chance get stands in one table beside the circuit: a figure that they share says nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .bootstrap import percentiles
from .crossed_runs import CrossedRuns, describe_images, fewer, image_table, other_classes, words
from .design import Design
from .faithfulness import Judged, curve_figures, curves, kind_figures, random_faithfulness
from .judging import Judging
from .mask_runs import MaskRuns, run_masks
from .pairs import Pairs
from .plan import Plan
from .report import Figure, Report, Table
from .task import Task
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
