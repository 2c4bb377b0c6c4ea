"""What is measured about each circuit before circuits are compared: curves pair by pair, and what heads do.

What a circuit's rankings keep of the behaviour at many sizes, pair by pair: transmission, one-sided faithfulness.

Circuits found again: by the search that their record describes, on bootstrap resamples of the discovery pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...circuits.baseline import DEFAULT_MEMORY, make_baseline
from ...circuits.circuit import Circuit
from ...circuits.compare.matching import HeadFeatures
from ...circuits.compare.subject import PairCurve, Subject
from ...circuits.figure_data import gather_heads, in_turn
from ...circuits.judging.crossed_runs import fewer
from ...circuits.judging.curves import Grid, make_grid
from ...circuits.judging.plan import ranked_masks
from ...circuits.mask_runs import run_masks
from ...circuits.run import require_model
from ...circuits.tasks.pairs import Pairs
from ...circuits.tasks.redraw import at_rows, redrawn_rows
from ...circuits.tasks.task import Task
from ...models.errors import GraphError, TaskError
from ...models.watching import progress_bar
from ..discovery import Discovery
from .pairs_in_common import pictures_of

HEAD_IMAGES = 32
MOST_CLASSES = 16


def measure_subjects(
    circuits: Mapping[str, Sequence[tuple[Circuit, Task]]],
    *,
    curves: bool = True,
    heads: bool = True,
    resampled: Mapping[str, Sequence[Sequence[Circuit]]] | None = None,
    head_images: int = HEAD_IMAGES,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> dict[str, list[Subject]]:
    """Kinds of model with their seeds' circuits -> the same with everything that `compare` can use.

    Args:
        circuits: Kind -> (circuit, task) of each seed; tasks on common pairs (see `common_pairs`).
        curves: Measure what is kept by size, for circuits with scores.
        heads: Gather what heads do on the evaluation images, for matching.
        resampled: Kind -> for each seed, the circuits found on resamples of its discovery pairs.
        head_images: Images for matching, at most.
        memory: Bytes to hold at once.
        progress: Show bars on stderr; None where somebody watches.

    Raises:
        TaskError: There is nothing to measure.
    """
    every = [task for seeds in circuits.values() for _, task in seeds]
    if not every:
        raise TaskError('there are no circuits to measure: pass {"vit": [(circuit, task), ...], "clip": [...]}.')
    grid = _coarsest(every)
    found: dict[str, list[Subject]] = {}
    with progress_bar("measuring", len(every), progress, "circuit") as bar:
        for kind, seeds in circuits.items():
            found[kind] = []
            for place, (circuit, task) in enumerate(seeds):
                measured = (
                    measure_curves(circuit, task, memory=memory, progress=progress)
                    if curves and circuit.scores is not None
                    else {}
                )
                done = heads_of(task, grid, n=head_images) if heads else None
                again = tuple(resampled[kind][place]) if resampled else ()
                name = kind if len(seeds) == 1 else f"{kind} {place + 1}"
                found[kind].append(Subject(circuit, name, kind, measured, done, again))
                bar.update()
    return found


def heads_of(task: Task, grid: tuple[int, int] | None = None, *, n: int = HEAD_IMAGES) -> HeadFeatures:
    """What the heads do on the first evaluation images, of a crossed task of both classes, and towards the metric's."""
    classes = list(dict.fromkeys((*task.metric.target, *task.metric.foil)))[:MOST_CLASSES]
    return gather_heads(task.vit, in_turn(task.evaluation.right, n).clean, classes=classes, grid=grid)


def _coarsest(tasks: Sequence[Task]) -> tuple[int, int]:
    """The fewest patch rows and columns of any model."""
    rows, columns = zip(*(task.vit.cfg.tokens.grid for task in tasks), strict=True)
    return min(rows), min(columns)


FINE_POINTS = 40  # sizes, evenly over their logarithm, beside the grid's own on graphs where that is coarse


def measure_curves(
    circuit: Circuit,
    task: Task,
    *,
    pairs: Pairs | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
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
        progress: Show a bar on stderr; None where somebody watches.

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


def finder_of(circuit: Circuit, *, memory: int = DEFAULT_MEMORY) -> Callable[[Task], Circuit]:
    """The search that found a circuit, from its record: task -> circuit, by the same algorithm and selection.

    Args:
        circuit: The circuit.
        memory: Bytes to hold at once.

    Raises:
        TaskError: The circuit does not record an algorithm and a selection that can be run again.
    """
    discovery = Discovery.again(circuit)
    return lambda task: discovery.find(task, circuit.graph, memory=memory)


def resampled_circuits(
    find: Callable[[Task], Circuit], task: Task, n: int, *, seed: int = 0, progress: bool | None = None
) -> tuple[Circuit, ...]:
    """Circuits found on `n` bootstrap resamples of the discovery pairs, of a crossed task of its images in each class.

    The draws depend on the seed and the number of pairs only, so models with common pairs get the same resamples.

    Args:
        find: Task -> circuit, such as `lambda task: eap_ig(graph, task).top(40)`.
        task: The task.
        n: How many.
        seed: Draws them.
        progress: Show a bar on stderr; None where somebody watches.
    """
    rng, pairs, found = np.random.default_rng(seed), task.discovery, []
    with progress_bar("resamples", n, progress, "search") as bar:
        for _ in range(n):
            found.append(find(dataclasses.replace(task, discovery=at_rows(pairs, redrawn_rows(pairs, rng)))))
            bar.update()
    return tuple(found)
