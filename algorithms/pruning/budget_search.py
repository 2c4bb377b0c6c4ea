"""The search of budgeted pruning: steps from mask to mask, each written down, so that a killed run goes on.

Every step is decided by the mask before it and by what it measures, never by the clock or by chance. A journal holds
the mask after each step; a run that goes on takes the masks from there and computes only what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...circuits.circuit import Circuit
from ...circuits.reach import prune
from ...circuits.scores import Scores
from ...models.errors import FormatError
from ...models.watching import progress_bar
from ..attribution.accumulate import scores_of, spread
from ..engines.edge_mask import Bools
from ..registry import run_algorithm
from .budget_loss import BudgetPlan, Floats, LossMeter
from .journal import Journal

SLACK = 2.0  # a batch may cost so many times what its edges cost one by one, and more for larger batches
FLOOR = 0.005  # and so much of the empty circuit's loss, since that sum can be 0
GAIN = 1e-4  # of the empty circuit's loss: less is no improvement
GROW = 0.5  # of a circuit's size is taken back in by a breath
WORTH = 0.02  # of the loss: a breath that brings less is the last
START_FACTOR = 8  # a start by scores holds so many times the largest size
FEW = 4  # edges that a circuit lacks are added one by one, each the best of those measured
FORESEEN = 16  # absent edges of large graphs that are measured when a circuit is filled up


class BudgetSearch:
    """One descent.

    Args:
        plan: The options.
        journal: Where steps are written; None for nowhere.
        progress: Show a bar on stderr; None where somebody watches.
    """

    def __init__(self, plan: BudgetPlan, journal: str | Path | None, progress: bool | None) -> None:
        self.plan, self.graph, self.progress = plan, plan.graph, progress
        self.steps: dict[str, int] = {}
        self.pace = len(self.graph), -np.inf  # edges that a drop tries first, and the loss below which twice as many
        self.measure = LossMeter(plan)
        self.journal = Journal(journal, plan.config())  # last, so that nothing can fail while it is open
        self._past: Iterator[dict[str, Any]] = iter(self.journal.steps)

    def circuits(self) -> list[Circuit]:
        """One for each size, in the order in which they were asked for; one alone for a level of faithfulness."""
        plan = self.plan
        with self.journal, progress_bar("budgeted_pruning", len(self.graph), self.progress, "edge") as self.bar:
            mask = self._start()
            if plan.chosen.faithfulness > 0:
                return [self._circuit(self._to_level(mask, plan.chosen.faithfulness))]
            found = {}
            for size in sorted(set(plan.sizes), reverse=True):
                mask = self._refine(self._descend(mask, size), size)
                found[size] = self._circuit(mask)
        return [found[size] for size in plan.sizes]

    def refined(self, mask: Bools, size: int) -> Bools:
        """A mask that another search found, filled up to a size and swapped until no swap helps."""
        with self.journal, progress_bar("swaps", len(self.graph), self.progress, "edge") as self.bar:
            return self._refine(mask, size)

    def _step(self, kind: str, mask: Bools, compute: Callable[[Bools], Bools | None]) -> Bools | None:
        """A step's mask, from the journal or computed; None if it found nothing better."""
        self.steps[kind] = self.steps.get(kind, 0) + 1
        step = next(self._past, None)
        if step is None:
            found = compute(mask)
            step = {"step": kind, "kept": None if found is None else np.flatnonzero(found).tolist()}
            step |= {"exact": self.measure.n_exact, "slopes": self.measure.n_slopes, "pace": list(self.pace)}
            self.journal.append(step)
        elif step.get("step") != kind or "pace" not in step:
            raise FormatError(
                "the journal does not fit this search: it was edited, or written by another version. Remove it to "
                "start anew."
            )
        self.measure.n_exact, self.measure.n_slopes, self.pace = step["exact"], step["slopes"], tuple(step["pace"])
        if step["kept"] is None:
            return None
        after = np.zeros(len(self.graph), dtype=bool)
        after[step["kept"]] = True
        self.bar.set_postfix_str(f"{kind}, {int(after.sum())} kept", refresh=False)
        self.bar.update(max(0, len(self.graph) - int(after.sum()) - self.bar.n))
        return after

    def _start(self) -> Bools:
        plan, everything = self.plan, np.ones(len(self.graph), dtype=bool)
        if plan.chosen.start == "full":
            return everything
        largest = max(plan.sizes)

        def by_scores(mask: Bools) -> Bools:
            scores = run_algorithm(plan.chosen.start, self.graph, plan.task, memory=plan.memory, progress=self.progress)
            assert isinstance(scores, Scores)
            return scores.top(
                min(START_FACTOR * largest, len(self.graph)), by="mean_abs" if plan.task.sides == "both" else "abs_mean"
            ).mask.copy()

        found = self._step("start", everything, by_scores)
        assert found is not None
        return found

    # Down.

    def _descend(self, mask: Bools, size: int) -> Bools:
        while mask.sum() > size:
            found = self._step("drop", mask, lambda now: self._drop(now, size))
            assert found is not None
            mask = found
        return mask

    def _to_level(self, mask: Bools, level: float) -> Bools:
        """Drops and refines in turn while faithfulness stays at a level."""
        while True:
            found = self._step("drop", mask, lambda now: self._drop(now, 0, level))
            if found is not None:
                mask = found
                continue
            refined = self._refine(mask, int(mask.sum()))
            if np.array_equal(refined, mask):
                return mask
            mask = refined

    def _drop(self, mask: Bools, size: int, level: float | None = None) -> Bools | None:
        """The mask without a batch of its least harmful edges, as many of them as do no more harm together.

        With slopes as many as went last are tried first, foreseen in either way; the fewest go whatever harm they do:
        how much the next slopes say.
        """
        kept, exact = np.flatnonzero(mask), self.plan.exact
        now, ways = self.measure.without(mask, kept)
        orders = [np.argsort(losses, kind="stable") for losses in ways]
        harm = np.maximum(ways[0][orders[0]] - now, 0)
        share, room = int(self.plan.chosen.share * len(kept)), len(kept) - size
        most = max(1, min(share, room))
        least = 1 if exact or level is not None else max(1, min(share // 8, room))
        (last, bound), n = self.pace, most
        if not exact:
            n = max(least, min(most, 2 * last if now <= bound else last))
        while True:
            found, loss, faithful = self._best_without(mask, [kept[order[:n]] for order in orders])
            allowed = now + max(SLACK, n**0.5) * harm[:n].sum() + FLOOR * self.measure.scale
            self.pace = n, float(allowed)
            if n <= least and not exact and level is None and (found.sum() >= size or n == 1):
                return found
            if loss <= allowed and found.sum() >= size and (level is None or faithful >= level):
                self.pace = 2 * n, -np.inf
                return found
            if n == 1:
                return None if level is not None and faithful < level else found
            n = max(least if n > least else 1, n // 2)

    def _best_without(self, mask: Bools, batches: Sequence[NDArray[np.intp]]) -> tuple[Bools, float, float]:
        """The mask without the batch of edges that leaves the lowest loss; that loss, and the share that is kept."""
        tried = []
        for edges in batches:
            found = mask.copy()
            found[edges] = False
            found = prune(self.graph, found)
            tried.append((found, *self.measure.judge(found)))
        return min(tried, key=lambda one: one[1])

    # At a size.

    def _refine(self, mask: Bools, size: int) -> Bools:
        """Fills up, takes edges back in that came to matter, and swaps until no swap helps."""
        mask = self._fill(mask, size)
        for _ in range(0 if self.plan.exact else self.plan.chosen.regrow_rounds):
            grown = mask
            for _ in range(2):
                grown = self._step("grow", grown, lambda now: self._grow(now, size))
                assert grown is not None
            shrunk = self._fill(self._descend(grown, size), size)
            before, after = self.measure.loss(mask), self.measure.loss(shrunk)
            if after < before:
                mask = shrunk
            if after >= before - max(GAIN * self.measure.scale, WORTH * before):
                break
        swaps = 0
        while swaps < self.plan.chosen.swaps or (self.plan.exact and self.plan.chosen.swaps):
            found = self._step("swap", mask, lambda now: self._swap(now, size))
            if found is None:
                break
            mask, swaps = self._fill(found, size), swaps + 1
        return mask

    def _fill(self, mask: Bools, size: int) -> Bools:
        """Adds edges up to a size; on large graphs many at once, as long as they are foreseen right."""
        many = not self.plan.exact
        while mask.sum() < size:
            add = self._add_many if many and size - mask.sum() > FEW else self._add
            found = self._step("fill", mask, lambda now, add=add: add(now, size))
            if found is None and add == self._add:
                break
            many = many and found is not None
            mask = mask if found is None else found
        return mask

    def _add_many(self, mask: Bools, size: int) -> Bools | None:
        """The mask with up to half of what is missing: absent edges that are foreseen to lower the loss most."""
        now, absent = self._strongest(mask, (size - int(mask.sum())) // 2)
        while len(absent) > 1:
            found = self._with(mask, absent, size)
            if found is not None and self.measure.loss(found) < now - GAIN * self.measure.scale:
                return found
            absent = absent[: len(absent) // 2]
        return None

    def _add(self, mask: Bools, size: int) -> Bools | None:
        """The mask with the absent edge that lowers the loss most, or with several if they do better; None if none."""
        absent = np.flatnonzero(~mask) if self.plan.exact else self._strongest(mask, FORESEEN)[1]
        now, losses = self.measure.exact(mask, absent)
        order = np.argsort(losses, kind="stable")
        better = absent[order[losses[order] < now - GAIN * self.measure.scale]]
        if not self.plan.exact and len(better) > 1:
            found = self._with(mask, better[: size - int(mask.sum())], size)
            if found is not None and self.measure.loss(found) < losses.min():
                return found
        one_more = (self._with(mask, better[at : at + 1], size) for at in range(len(better)))
        return next((found for found in one_more if found is not None), None)

    def _with(self, mask: Bools, edges: NDArray[np.intp], size: int) -> Bools | None:
        """The mask with some more edges; None if they are on no path, or more than fit."""
        found = mask.copy()
        found[edges] = True
        found = prune(self.graph, found)
        return found if mask.sum() < found.sum() <= size else None

    def _strongest(self, mask: Bools, n: int) -> tuple[float, NDArray[np.intp]]:
        """The loss, and the absent edges that are foreseen to lower it most."""
        now, losses = self.measure.foreseen(mask)
        return now, _lowest(losses, ~mask)[:n]

    def _grow(self, mask: Bools, size: int) -> Bools:
        """The mask with the absent edges that lower the loss most, one by one, half a breath of them."""
        _, losses = self.measure.foreseen(mask)
        found = mask.copy()
        found[_lowest(losses, ~mask)[: max(1, int(GROW * size / 2))]] = True
        return found

    def _swap(self, mask: Bools, size: int) -> Bools | None:
        """The first swap that lowers the loss, weakest kept edges first, each with its best partner."""
        if not self.plan.exact:
            return self._exchange(mask, size)
        kept, absent = np.flatnonzero(mask), np.flatnonzero(~mask)
        now, losses = self.measure.exact(mask, kept)
        for gone in kept[np.argsort(losses, kind="stable")]:
            without = mask.copy()
            without[gone] = False
            _, losses = self.measure.exact(without, absent)
            best = int(np.argmin(losses))
            without[absent[best]] = True
            found = prune(self.graph, without)
            if losses[best] < now - GAIN * self.measure.scale and found.sum() <= size:
                return found
        return None

    def _exchange(self, mask: Bools, size: int) -> Bools | None:
        """The mask with its weakest edges exchanged for the strongest absent ones, as many as lower the loss."""
        now, losses = self.measure.foreseen(mask)
        weakest, strongest, n = _lowest(losses, mask), _lowest(losses, ~mask), self.plan.chosen.swaps
        while n:
            found = mask.copy()
            found[weakest[:n]], found[strongest[:n]] = False, True
            found = prune(self.graph, found)
            if found.sum() <= size and self.measure.loss(found) < now - GAIN * self.measure.scale:
                return found
            n //= 2
        return None

    # The result.

    def _circuit(self, mask: Bools) -> Circuit:
        plan, (loss, faithful) = self.plan, self.measure.judge(mask)
        counts = {"flips_measured": self.measure.n_exact, "slopes_measured": self.measure.n_slopes}
        provenance = {
            "algorithm": "budgeted_pruning",
            "options": plan.options,
            "measured": "every candidate exactly" if plan.exact else "screened by slopes, swaps and fills exactly",
            "steps": dict(self.steps),
            "loss": loss,
            "faithfulness_on_discovery": faithful,
            **counts,
        }
        scores = self._scores(mask, counts)
        return Circuit(self.graph, mask, scores, plan.task.ablation, dict(plan.task.info), provenance)

    def _scores(self, mask: Bools, counts: dict[str, int]) -> Scores:
        """Effects of the kept edges around the circuit on the task's metric, exact or slopes; 0 for the others."""
        plan, found = self.plan, spread(self.measure.effects(mask))
        said = {"exact": mask & plan.exact, "diagnostics": {name: float(count) for name, count in counts.items()}}
        return scores_of(self.graph, plan.task, "budgeted_pruning", plan.options, found, **said)


def _lowest(losses: Floats, among: Bools) -> NDArray[np.intp]:
    """Edges among some, that with the lowest loss first."""
    edges = np.flatnonzero(among)
    return edges[np.argsort(losses[edges], kind="stable")]
