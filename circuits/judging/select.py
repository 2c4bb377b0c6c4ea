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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...models.errors import GraphError, TaskError
from ..baseline import DEFAULT_MEMORY, Baseline, make_baseline
from ..circuit import Circuit
from ..graph import Graph
from ..run import require_model, run_masks
from ..scores import By, Scores
from ..sizes import masks_within
from ..tasks.metrics import Metric
from ..tasks.task import Pairs, Task
from .bootstrap import FLOOR, Resamples, normalised
from .transmission import MOST_SHOWN

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
        TaskError: The share is not defined on these pairs, or partners show too much of the clean image's class.
    """
    if not 0 < level < float("inf"):
        raise GraphError(f"level={level} is not possible: pass a share above 0, such as level=0.8.")
    require_model(task.vit, scores.graph)
    chosen = (task.discovery if pairs is None else pairs).under(task.ablation)
    baseline = make_baseline(task.vit, task.ablation, task.reference, memory=memory)
    search = _Search(scores.graph, task, chosen, baseline, memory, progress, scores, by)
    size, value = _scan(search, level)
    return search.told(scores.top(size, by=by), value, level)


def smallest_of(
    circuits: Sequence[Circuit],
    task: Task,
    *,
    level: float = 0.8,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> Circuit:
    """The smallest of some circuits of one graph that keeps at least `level` of the behaviour on discovery pairs.

    If none does, the one that keeps most. Its provenance says what `smallest_faithful` says.

    Args:
        circuits: Such as those that one descent leaves at several sizes.
        task: The model, the metric and the ablation.
        level: Share of the behaviour to keep.
        memory: Bytes to hold at once.
        progress: Show bars on stderr; None where somebody watches.

    Raises:
        TaskError: The share is not defined on these pairs, or partners show too much of the clean image's class.
    """
    graph, pairs = circuits[0].graph, task.discovery.under(task.ablation)
    baseline = make_baseline(task.vit, task.ablation, task.reference, memory=memory)
    search, ordered = _Search(graph, task, pairs, baseline, memory, progress), sorted(circuits, key=len)
    kept = search.kept([circuit.mask for circuit in ordered])
    place = next((place for place, value in enumerate(kept) if value >= level), int(np.argmax(kept)))
    return search.told(ordered[place], kept[place], level)


@dataclass(frozen=True, eq=False)
class _Search:
    """What measuring a few circuits needs, and what has been measured: edges -> share of the behaviour."""

    graph: Graph
    task: Task
    pairs: Pairs
    baseline: Baseline
    memory: int
    progress: bool | None
    scores: Scores | None = None
    by: By = "auto"
    tried: dict[int, float] = field(default_factory=dict)

    @property
    def metric(self) -> Metric:
        """What the behaviour is taken in."""
        return self.task.metric if self.pairs.design is None else self.task.metric.response

    def measure(self, sizes: list[int]) -> list[float]:
        """What the circuits of these sizes keep."""
        assert self.scores is not None
        return self.kept(masks_within(self.graph, self.scores.ranking(self.by), sizes))

    def kept(self, circuits: Sequence[NDArray[np.bool_]]) -> list[float]:
        """What these circuits keep."""
        graph, task, masks = self.graph, self.task, [np.zeros(len(self.graph), dtype=np.bool_), *circuits]
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
        self._require_hidden(float(means[0]), full)
        kept = normalised(means, means[0], np.asarray(full))[1:].tolist()
        self.tried.update(zip((int(mask.sum()) for mask in masks[1:]), kept, strict=True))
        return kept

    def _require_hidden(self, none: float, full: float) -> None:
        """Does nothing unless partners show the clean image's class themselves."""
        design = self.pairs.design
        if (
            design is None
            or not (design.sided and design.follows)
            or self.task.ablation.kind != "partner"
            or none <= MOST_SHOWN * full
        ):
            return
        raise TaskError(
            f"partners show the clean image's class themselves: with no edge kept T0 is {none / full:.2f}, above "
            f"{MOST_SHOWN}, so that what a circuit transmits is not defined. Choose another corruption, such as "
            f"class_swap, or ablation, such as mean; or say how large the circuit is, such as size=0.2."
        )

    def first(self, sizes: list[int], level: float) -> tuple[int, int, float]:
        """The last size before the first that reaches the level, that one, and what it keeps (else the best)."""
        best, before = (0, 0, -float("inf")), 0
        together = TOGETHER if len(self.graph) <= EVERY_SIZE_UP_TO else TOGETHER_OF_LARGE
        for start in range(0, len(sizes), together):
            some = sizes[start : start + together]
            for size, value in zip(some, self.measure(some), strict=True):
                if value >= level:
                    return before, size, value
                best, before = max(best, (before, size, value), key=lambda found: found[2]), size
        return best

    def told(self, circuit: Circuit, value: float, level: float) -> Circuit:
        """The circuit that is taken, with what was measured in its provenance."""
        one_sided = self.pairs.design is None or not self.pairs.design.sided
        found = {
            "selection": "smallest_faithful" if one_sided else "smallest_transmitting",
            "level": level,
            "reached": value >= level,
            "faithfulness" if one_sided else "transmission": value,
            "n_pairs": len(self.pairs),
            "frontier": [[edges, self.tried[edges]] for edges in sorted(self.tried)],
        }
        provenance = {**circuit.provenance, **found}
        return dataclasses.replace(circuit, ablation=self.task.ablation, provenance=provenance)


def _scan(search: _Search, level: float) -> tuple[int, float]:
    n_graph = len(search.graph)
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
