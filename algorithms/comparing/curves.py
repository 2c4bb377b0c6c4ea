"""Faithfulness of a circuit's rankings at many sizes, pair by pair; on crossed tasks transmission.

A pair of a crossed task enters with its weight in the clean contrast (`circuits/design.py`), so that means over pairs
are differences between the classes of the clean images. Pairs are drawn again one by one, as on one-sided tasks, not
images: intervals are only about right where a clean image stands in several pairs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ...circuits.baseline import DEFAULT_MEMORY, make_baseline
from ...circuits.bootstrap import Resamples
from ...circuits.circuit import Circuit
from ...circuits.compare.pair_curve import PairCurve
from ...circuits.curves import Grid, make_grid
from ...circuits.mask_runs import run_masks
from ...circuits.pairs import Pairs
from ...circuits.plan import ranked_masks
from ...circuits.run import require_model
from ...circuits.task import Task
from ...models.errors import GraphError
from .pairs_in_common import pictures_of

FINE_POINTS = 40  # sizes, evenly over their logarithm, beside the grid's own on graphs where that is coarse


def measure_curves(
    circuit: Circuit,
    task: Task,
    *,
    pairs: Pairs | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: bool = False,
) -> dict[str, PairCurve]:
    """Faithfulness at many sizes on each pair, ranked as the circuit was and by `signed` and `abs_mean`.

    Sizes are the grid's of `evaluate` and, on large graphs, where that has ten points, 40 more. Costs one run per
    different circuit.

    Args:
        circuit: Its scores rank the edges.
        task: The model, the metric and the ablation.
        pairs: Pairs to measure on; `task.evaluation` by default.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr.

    Raises:
        GraphError: The circuit has no scores, or belongs to a graph of another model.
    """
    require_model(task.vit, circuit.graph)
    scores = circuit.scores
    if scores is None:
        raise GraphError(f"{circuit} has no scores, so there is no curve: compare it without one, or score its edges.")
    chosen = _right(task.evaluation if pairs is None else pairs)
    grid, on_grid = _fine_grid(len(circuit.graph))
    rankings = list(dict.fromkeys((circuit.provenance.get("by", "signed"), "signed", "abs_mean")))
    masks = [mask for by in rankings for mask in ranked_masks(circuit.graph, scores.ranking(by), grid)]
    baseline = make_baseline(task.vit, task.ablation, task.reference, memory=memory)
    none = np.zeros(len(circuit.graph), dtype=np.bool_)
    metric = task.metric if chosen.design is None else task.metric.response
    runs = run_masks(
        task.vit, circuit.graph, [none, *masks], metric, chosen, baseline, memory=memory, progress=progress
    )
    outputs, clean = runs.outputs * _weights(chosen), runs.clean_outputs * _weights(chosen)
    found, n = {}, len(grid.n)
    for place, by in enumerate(rankings):
        rows = slice(1 + place * n, 1 + (place + 1) * n)
        sizes = np.array([int(mask.sum()) for mask in masks[place * n : (place + 1) * n]], dtype=np.int64)
        ends = (outputs[0], clean)
        ids = chosen.pair_ids.numpy().astype(np.int64)
        which = (on_grid, grid.method, ids, pictures_of(task))
        found[by] = PairCurve(by, len(circuit.graph), grid.share, sizes, outputs[rows], *ends, *which)
    return found


def _right(pairs: Pairs) -> Pairs:
    """The pairs; of a crossed task those whose clean image the model gets right."""
    return pairs if pairs.design is None else pairs.select(torch.nonzero(pairs.design.right).flatten())


def _weights(pairs: Pairs) -> NDArray[np.float64]:
    """What makes the mean over pairs the behaviour: ones, or the weights of the clean contrast times their number."""
    return Resamples.of(pairs, 0, seed=0).behaviour_whole * len(pairs)


def _fine_grid(n_graph: int) -> tuple[Grid, np.ndarray]:
    """The grid of `evaluate` with sizes in between, and which of them are its own."""
    own = make_grid(n_graph)
    fine = np.geomspace(1, n_graph, FINE_POINTS).round().astype(np.int64)
    extra = np.setdiff1d(fine, own.n) if len(own.n) < FINE_POINTS else np.zeros(0, dtype=np.int64)
    n, share = np.concatenate([own.n, extra]), np.concatenate([own.share, extra / n_graph])
    order = np.argsort(share, kind="stable")
    return replace(own, share=share[order], n=n[order]), (np.arange(len(n)) < len(own.n))[order]
