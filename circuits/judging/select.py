"""The smallest circuit that keeps a level of the behaviour, chosen on the discovery pairs.

The behaviour is what a circuit transmits of the clean image's class on a crossed task, and faithfulness on a one-sided
one (`bootstrap.py`).

Sizes, in edges on paths from input to logits, are tried from small to large, and the first that reaches the level is
taken. On graphs of up to 300 edges every size is tried. On larger ones sizes grow by half until the level is reached,
and then the gap below is searched again in four steps until no size is left between the last that misses and the first
that reaches. Faithfulness need not rise with size, so there a smaller circuit between two tried sizes can
be overlooked. What every tried size keeps is recorded: where none reaches the level, that is the finding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ...models.errors import GraphError, TaskError
from ..baseline import DEFAULT_MEMORY, Baseline, make_baseline
from ..circuit import Circuit
from ..run import require_model, run_masks
from ..scores import By, Scores
from ..sizes import masks_within
from ..tasks.metrics import Metric
from ..tasks.task import Pairs, Task
from .bootstrap import FLOOR, Resamples, normalised

EVERY_SIZE_UP_TO = 300
GROWTH = 1.5
TOGETHER, TOGETHER_OF_LARGE = 16, 4  # sizes that are run together, sharing the ablated values


def smallest_faithful(
    scores: Scores,
    task: Task,
    *,
    level: float = 0.8,
    by: By = "auto",
    pairs: Pairs | None = None,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> Circuit:
    """The smallest `scores.top(n, by=by)` that keeps at least `level` of the behaviour.

    That is transmission on a crossed task (`selection: smallest_transmitting`), and normalised faithfulness on a
    one-sided one (`smallest_faithful`). If no size reaches the level, the best one that was tried. `provenance` says
    which: `reached`, the size `n`, the `transmission` or `faithfulness` on the pairs it was chosen on (optimistic:
    report that of other pairs), and as `frontier` the same for every size that was tried, as [edges, share].

    Args:
        scores: What edges are ranked by.
        task: The model, the metric and the ablation.
        level: Share of the behaviour to keep, above 0.
        by: How edges are ranked.
        pairs: Pairs to choose on; `task.discovery` by default.
        memory: Bytes to hold at once.
        progress: Show bars on stderr; None where somebody watches.

    Raises:
        GraphError: The level is not above 0, or the scores belong to a graph of another model.
        TaskError: The share is not defined on these pairs.
    """
    if not 0 < level < float("inf"):
        raise GraphError(f"level={level} is not possible: pass a share above 0, such as level=0.8.")
    require_model(task.vit, scores.graph)
    chosen = (task.discovery if pairs is None else pairs).under(task.ablation)
    baseline = make_baseline(task.vit, task.ablation, task.reference, memory=memory)
    search = _Search(scores, task, by, chosen, baseline, memory, progress)
    size, value = _scan(search, level)
    circuit = scores.top(size, by=by)
    kept = "faithfulness" if chosen.design is None else "transmission"
    found = {
        "selection": "smallest_faithful" if chosen.design is None else "smallest_transmitting",
        "level": level,
        "reached": value >= level,
        kept: value,
        "n_pairs": len(chosen),
        "frontier": [[edges, search.tried[edges]] for edges in sorted(search.tried)],
    }
    return dataclasses.replace(circuit, ablation=task.ablation, provenance={**circuit.provenance, **found})


@dataclass(frozen=True, eq=False)
class _Search:
    """What measuring a few sizes needs, and what has been measured: edges -> share of the behaviour."""

    scores: Scores
    task: Task
    by: By
    pairs: Pairs
    baseline: Baseline
    memory: int
    progress: bool | None
    tried: dict[int, float] = field(default_factory=dict)

    @property
    def metric(self) -> Metric:
        """What the behaviour is taken in."""
        return self.task.metric if self.pairs.design is None else self.task.metric.response

    def measure(self, sizes: list[int]) -> list[float]:
        """What the circuits of these sizes keep."""
        graph, task = self.scores.graph, self.task
        masks = [np.zeros(len(graph), dtype=bool), *masks_within(graph, self.scores.ranking(self.by), sizes)]
        runs = run_masks(
            task.vit, graph, masks, self.metric, self.pairs, self.baseline, memory=self.memory, progress=self.progress
        )
        behaviour = Resamples.of(self.pairs, 0, seed=0).behaviour
        means, full = np.asarray(behaviour(runs.outputs)), float(behaviour(runs.clean_outputs))
        if abs(full - means[0]) < FLOOR:
            raise TaskError(
                f"the share of the behaviour is not defined on these {len(self.pairs)} pairs: {full:.6g} with all "
                f"edges and {means[0]:.6g} with none, less than {FLOOR} apart. Choose another corruption or ablation."
            )
        kept = normalised(means, means[0], np.asarray(full))[1:].tolist()
        self.tried.update(zip((int(mask.sum()) for mask in masks[1:]), kept, strict=True))
        return kept

    def first(self, sizes: list[int], level: float) -> tuple[int, int, float]:
        """The last size before the first that reaches the level, that one, and what it keeps (else the best)."""
        best, before = (0, 0, -float("inf")), 0
        together = TOGETHER if len(self.scores) <= EVERY_SIZE_UP_TO else TOGETHER_OF_LARGE
        for start in range(0, len(sizes), together):
            some = sizes[start : start + together]
            for size, value in zip(some, self.measure(some), strict=True):
                if value >= level:
                    return before, size, value
                best, before = max(best, (before, size, value), key=lambda found: found[2]), size
        return best


def _scan(search: _Search, level: float) -> tuple[int, float]:
    n_graph = len(search.scores)
    if n_graph <= EVERY_SIZE_UP_TO:
        return search.first(list(range(1, n_graph + 1)), level)[1:]
    below, size, value = search.first(list(_geometric(n_graph)), level)
    while value >= level and size - below > 1:
        steps = sorted({*np.linspace(below + 1, size, TOGETHER_OF_LARGE).round().astype(int).tolist()})
        below, size, value = search.first([*steps[:-1], size], level) if len(steps) > 1 else (size - 1, size, value)
        below = max(below, steps[0] - 1)
    return size, value


def n_sizes(n_graph: int) -> int:
    """About how many sizes a graph with so many edges takes; half of all where every one is tried, from small up."""
    if n_graph <= EVERY_SIZE_UP_TO:
        return n_graph // 2
    return int(len(list(_geometric(n_graph))) + TOGETHER_OF_LARGE * np.log(n_graph / 3) / np.log(TOGETHER_OF_LARGE))


def _geometric(n_graph: int) -> Iterator[int]:
    """1, 2, 3, ... and then each half as large again as the last, up to the whole graph."""
    size = 1
    while size < n_graph:
        yield size
        size = max(size + 1, int(size * GROWTH))
    yield n_graph
