"""Hybrid attribution: gradients first, exact runs where their word is in doubt.

Gradients rank most edges well and fail in known ways: a saturated softmax or a step gives zeros to edges that matter, a
norm's radial part or an even function gives slopes to edges that don't. So

1. Sources that write the same on clean and ablated runs of every pair leave edges of exactly zero effect: no run.
2. Edges are measured alone (as `exact_effects` does) from the highest gradient score down, until a stretch of them
   turns out not to matter.
3. The rest, which gradients hold for nothing, is tested in groups: those into one layer's heads, one MLP or the logits
   are ablated at once in one run (`engines/flips`; none of them lies behind another, which would hide it). What does
   not move the metric on any pair is settled as 0; a group that does is halved, the strongest first, down to single
   edges, which are measured alone. (Group testing: Dorfman 1943.)
4. Where groups settle nothing (trained models), what is left of the runs goes to the highest gradient scores.
5. When the runs are spent, the edges that are left keep their gradient score, times the median ratio of measured to
   gradient score, and no more than what their group moves.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ...circuits.baseline import DEFAULT_MEMORY, Baseline, make_baseline, source_values
from ...circuits.graph import Graph
from ...circuits.memory import chunk_size, require_memory
from ...circuits.run import masked_at_once, masks_sizes, require_model
from ...circuits.scores import Scores
from ...circuits.tasks.task import Pairs, Task
from ...circuits.token_parts import groups_of
from ...models import processes
from ...models.watching import progress_bar
from ..engines.flips import flips_sizes, measure_flips
from ..registry import Range, algorithm, chosen, least_memory, run_algorithm
from .accumulate import EffectStatistics, scores_of, spread
from .exact import single_effects

QUIET = 1e-4
"""Of the largest effect: what moves the metric by less, on average over pairs, counts as nothing."""
STRETCH = 4
"""So many edges in a row must turn out not to matter before the rest is tested in groups."""
PATIENCE = 16
"""So many groups in a row that settle nothing: then this is no model for groups, and single edges are measured."""
TOGETHER = 4  # groups that are halved at once: their tests share the runs that they start from
CHUNK = 8  # edges measured at first from the top, then twice as many: those of one chunk share the clean run


@algorithm
def hybrid(
    graph: Graph,
    task: Task,
    *,
    first: Literal["eap_ig", "eap"] = "eap_ig",
    budget: Annotated[float, Range(above=0, most=1)] = 0.5,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> Scores:
    """Gradient scores, with exact effects for the edges whose place is in doubt.

    `exact` says which edges were measured alone (or are known to be 0 without a run); `diagnostics` counts the runs:
    `measured` single edges, `group_tests`, edges `settled` as 0 by a group, `zero_sources` settled without a run, and
    the `calibration` factor of the edges that are left. A single edge costs what it costs `exact_effects`, a group test
    at most a run of all that lies behind its edges, so on a model of a few edges the gradients alone can cost more than
    all exact effects.

    Weak spots: exact effects are of single edges, blind under redundancy. A group whose members cancel on every pair is
    settled as 0. On trained models hardly any group moves nothing, so groups settle little there: the runs go to the
    edges of high gradient score, and the ranking of the rest stays the gradient's.

    Args:
        graph: The graph.
        task: Its discovery pairs are used.
        first: The algorithm of the gradient scores.
        budget: Runs, single edges and group tests together, as a share of the graph's edges.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        TaskError: An option makes no sense, the metric has no gradient, or the memory is too little.
        GraphError: The graph was compiled for another model.
    """
    require_model(task.vit, graph)
    asked = flips_sizes(task.vit, graph, task.ablation, len(task.searched)) + masks_sizes(task.vit, task.ablation)
    require_memory(memory, f"hybrid of {graph.cfg.name}", *asked, least=least_memory(first, graph, task))
    scores = run_algorithm(first, graph, task, memory=memory, progress=progress)
    assert isinstance(scores, Scores)
    with progress_bar("hybrid", int(budget * len(graph)), progress, "run") as bar:
        doubts = _Doubts(graph, task, scores, int(budget * len(graph)), memory, bar)
        doubts.settle()
    return doubts.scores(chosen("hybrid", locals()).record())


class _Doubts:
    """Which edges are settled, and by what."""

    def __init__(self, graph: Graph, task: Task, first: Scores, budget: int, memory: int, bar: Any) -> None:
        self.graph, self.task, self.first, self.memory, self.bar = graph, task, first, memory, bar
        self.left = budget
        self.baseline: Baseline = make_baseline(task.vit, task.ablation, task.reference, memory=memory)
        self.exact = np.zeros(len(graph), dtype=bool)  # measured alone
        self.settled = np.zeros(len(graph), dtype=bool)  # as 0, together with others
        self.bound = np.full(len(graph), np.inf)  # what an edge's group moves
        self.found = EffectStatistics(*np.zeros((3, len(graph))))
        self.n_tests = self.n_zero = 0

    def settle(self) -> None:
        """Everything that the budget allows."""
        self._zero_sources()
        self._from_the_top()
        self._in_groups()

    def _zero_sources(self) -> None:
        """Edges whose source writes what it carries when it is removed, on every pair, have no effect."""
        vit, graph = self.task.vit, self.graph
        if self.baseline.images(self.task.searched.select(slice(0, 1))) is None:
            return  # cutting a source off changes what it writes, whatever its inputs differ by

        def one(batch: Pairs) -> NDArray[np.float64]:
            moved = source_values(vit, vit.check_images(batch.clean)) - self.baseline(batch)
            largest = moved.abs_().amax(-1).double().cpu().numpy()  # source, pair, token
            at = [(groups_of(graph, batch) == group).numpy() for group in range(len(graph.groups))]
            return np.stack([np.where(own, largest, 0).max((1, 2), initial=0) for own in at], 1)

        pairs = self.task.searched
        size = chunk_size(vit, len(pairs), masked_at_once(vit, self.task.ablation, self.memory))
        with torch.no_grad(), vit.borrowed():
            largest = np.max(list(processes.in_order(one, list(pairs.batches(size)))), 0)
        for block in graph.blocks:
            if block.kind != "inside":
                still = np.broadcast_to((largest[: block.width] == 0).T[None], block.dense_shape)
                block.pack(still, self.exact)
        self.n_zero = int(self.exact.sum())

    def _from_the_top(self) -> None:
        ranked = [edge for edge in self.first.ranking("mean_abs").tolist() if not self.exact[edge]]
        most, size, quiet = self.left, CHUNK, False
        while ranked and self.left > most // 4 and not quiet:
            size = min(size, max(1, self.left - most // 8))
            chunk, ranked, size = ranked[:size], ranked[size:], 2 * size
            self._measure(chunk)
            quiet = all(self._is_quiet(float(self.found.mean_abs[edge])) for edge in chunk[-STRETCH:])

    def _is_quiet(self, moved: float) -> bool:
        return bool(moved <= QUIET * self.found.mean_abs.max())

    def _measure(self, edges: Sequence[int]) -> None:
        """Single edges, each by its own run."""
        chosen = list(edges)
        effects = single_effects(self.graph, self.task, chosen, baseline=self.baseline, memory=self.memory)
        for ours, measured in zip(self.found, spread(effects), strict=True):
            ours[chosen] = measured
        self.exact[chosen] = True
        self._spend(len(chosen))

    def _spend(self, runs: int) -> None:
        self.left -= runs
        self.bar.update(runs)

    def _test(self, groups: Sequence[NDArray[np.intp]]) -> NDArray[np.float64]:
        """How much the metric moves, on average over pairs, when each group's edges are ablated together; (group,)."""
        task, whole = self.task, np.ones(len(self.graph), dtype=bool)
        found = measure_flips(
            task.vit, self.graph, whole, groups, task.metric, task.searched, self.baseline, memory=self.memory
        )
        self.n_tests += len(groups)
        self._spend(len(groups))
        return np.abs(found.now - found.flipped).mean(-1)

    def _in_groups(self) -> None:
        """Halves what moves the metric, the strongest first, until the budget is spent or nothing is settled so."""
        rest = np.flatnonzero(~self.exact)
        heap: list[tuple[float, int, NDArray[np.intp]]] = []
        groups = np.split(rest, np.searchsorted(rest, [block.start for block in self.graph.blocks[1:]]))
        todo, in_vain = [group for group in groups if len(group)], 0
        while todo and self.left > 0 and in_vain < PATIENCE:
            single = [int(group[0]) for group in todo if len(group) == 1][: self.left]
            if single:
                self._measure(single)
            several = [group for group in todo if len(group) > 1][: self.left]
            for group, moved in zip(several, self._test(several) if several else (), strict=True):
                quiet = self._is_quiet(float(moved))
                in_vain = 0 if quiet else in_vain + 1
                if quiet:
                    self.settled[group] = True
                else:
                    self.bound[group] = moved
                    heapq.heappush(heap, (-float(moved), int(group[0]), group))
            strongest = [heapq.heappop(heap)[2] for _ in range(min(TOGETHER, len(heap)))]
            todo = [half for group in strongest for half in np.array_split(group, 2)]
        self._most_likely()

    def _most_likely(self) -> None:
        """What is left of the budget goes to the edges of the highest gradient scores."""
        ranked = [edge for edge in self.first.ranking("mean_abs").tolist() if not (self.exact | self.settled)[edge]]
        if ranked and self.left > 0:
            self._measure(ranked[: self.left])

    def scores(self, options: dict[str, Any]) -> Scores:
        """Measured where measured, 0 where settled, calibrated gradient scores elsewhere."""
        first, estimated = self.first, ~self.exact & ~self.settled
        factor = self._calibration()
        size = np.maximum(factor * first.mean_abs, 1e-300)
        shrink = factor * np.minimum(1, self.bound / size)
        for ours, theirs in zip(self.found, (first.values, first.mean_abs, first.std_err), strict=True):
            ours[estimated] = (shrink * theirs)[estimated]
        diagnostics = {
            "measured": float(self.exact.sum() - self.n_zero),
            "group_tests": float(self.n_tests),
            "settled": float(self.settled.sum()),
            "zero_sources": float(self.n_zero),
            "estimated": float(estimated.sum()),
            "calibration": factor,
        }
        found = self.found
        return scores_of(self.graph, self.task, "hybrid", options, found, exact=self.exact, diagnostics=diagnostics)

    def _calibration(self) -> float:
        """Median ratio of measured to gradient score, over measured edges with a gradient; 1 without any."""
        told = self.exact & (self.first.mean_abs > 0)
        ratios = self.found.mean_abs[told] / self.first.mean_abs[told]
        return float(np.median(ratios)) if len(ratios) else 1.0
