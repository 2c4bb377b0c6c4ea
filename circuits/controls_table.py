"""What cheats and chance get, in one table beside the circuit: a figure that they share says nothing."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .bootstrap import percentiles
from .design import Design
from .faithfulness import Judged
from .mask_runs import MaskRuns
from .pairs import Pairs
from .plan import Plan
from .report import Figure, Table
from .task import Task
from .transmission import Crossed

Floats = NDArray[np.float64]

COLUMNS = ("what answers", "transmission", "R^2", "offset")


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
        rows.append((name, *_spread(runs.outputs[at], runs, pairs.design, judged)))
    return Table(COLUMNS, tuple(rows), f"on {len(pairs)} pairs that the model gets right")


def _spread(outputs: Floats, runs: MaskRuns, design: Design, judged: Judged) -> list[Figure]:
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
