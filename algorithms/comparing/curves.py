"""What a circuit's rankings keep of the behaviour at many sizes, pair by pair: transmission, one-sided faithfulness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...circuits.baseline import DEFAULT_MEMORY, make_baseline
from ...circuits.circuit import Circuit
from ...circuits.compare.subject import PairCurve
from ...circuits.crossed_runs import fewer
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
    """What circuits of many sizes keep, on each pair, ranked as the circuit was and by `signed` and `abs_mean`.

    Sizes are the grid's of `evaluate` and, on large graphs, where that has ten points, 40 more. Costs one run per
    different circuit.

    Args:
        circuit: Its scores rank the edges.
        task: The model, the metric and the ablation.
        pairs: Pairs to measure on; by default the evaluation's, of a crossed task those that `evaluate` takes for
            curves: the first clean images of each class that the model gets right.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr.

    Raises:
        GraphError: The circuit has no scores, or belongs to a graph of another model.
    """
    require_model(task.vit, circuit.graph)
    scores = circuit.scores
    if scores is None:
        raise GraphError(f"{circuit} has no scores, so there is no curve: compare it without one, or score its edges.")
    chosen = _pairs(task) if pairs is None else pairs
    metric = task.metric if chosen.design is None else task.metric.response
    grid, on_grid = _fine_grid(len(circuit.graph))
    rankings = list(dict.fromkeys((circuit.provenance.get("by", "signed"), "signed", "abs_mean")))
    masks = [mask for by in rankings for mask in ranked_masks(circuit.graph, scores.ranking(by), grid)]
    baseline = make_baseline(task.vit, task.ablation, task.reference, memory=memory)
    none = np.zeros(len(circuit.graph), dtype=np.bool_)
    runs = run_masks(
        task.vit, circuit.graph, [none, *masks], metric, chosen, baseline, memory=memory, progress=progress
    )
    found, n = {}, len(grid.n)
    for place, by in enumerate(rankings):
        rows = slice(1 + place * n, 1 + (place + 1) * n)
        sizes = np.array([int(mask.sum()) for mask in masks[place * n : (place + 1) * n]], dtype=np.int64)
        ends = (runs.outputs[0], runs.clean_outputs)
        which = (on_grid, grid.method, _ids(chosen), pictures_of(task), chosen.design)
        found[by] = PairCurve(by, len(circuit.graph), grid.share, sizes, runs.outputs[rows], *ends, *which)
    return found


def _pairs(task: Task) -> Pairs:
    """One pair of each cell also under ablations without partners: circuits of several ablations then share pairs."""
    pairs = task.evaluation.right
    return pairs if pairs.design is None else fewer(pairs)


def _ids(pairs: Pairs) -> NDArray[np.int64]:
    """A number for each pair, the same for all models: of a crossed task it says which two images meet."""
    design = pairs.design
    if design is None:
        return pairs.pair_ids.numpy().astype(np.int64)
    return ((design.clean_image << 32) + design.partner_image).numpy().astype(np.int64)


def _fine_grid(n_graph: int) -> tuple[Grid, np.ndarray]:
    """The grid of `evaluate` with sizes in between, and which of them are its own."""
    own = make_grid(n_graph)
    fine = np.geomspace(1, n_graph, FINE_POINTS).round().astype(np.int64)
    extra = np.setdiff1d(fine, own.n) if len(own.n) < FINE_POINTS else np.zeros(0, dtype=np.int64)
    n, share = np.concatenate([own.n, extra]), np.concatenate([own.share, extra / n_graph])
    order = np.argsort(share, kind="stable")
    return replace(own, share=share[order], n=n[order]), (np.arange(len(n)) < len(own.n))[order]
