"""About how long a search and its judgement take, said beforehand.

One forward pass and one run under a mask are timed on the task's own images; what a search takes is told in forward
passes per pair (`passes` of its row in the registry, timed on DeiT-Tiny and toy/mnist-2l). Expect a factor of two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..circuits.baseline import make_baseline
from ..circuits.judging.crossed_runs import FEWER_IMAGES, OF_LARGE
from ..circuits.judging.plan import n_masks
from ..circuits.judging.select import EVERY_SIZE_UP_TO, n_sizes
from ..circuits.run import run_masks
from ..models import processes
from ..models.threads import is_small
from ..models.watching import say, watched
from .discovery import under_means

if TYPE_CHECKING:
    from ..circuits.graph import Graph
    from ..circuits.tasks.task import Task
    from .discovery import Discovery
    from .sweeps.plan import Cell

WORTH_SAYING = 60.0
"""Seconds from which an estimate is said."""
_TIMED_PAIRS, _OF_SMALL = 8, 64
_FOLDER, _PER_EDGE = 3e5, 2.5e3
"""Bytes of a run folder: 0.3 to 0.5 MB of toys with 33 to 336 edges, 5 to 8 of DeiT-Tiny with 2,845."""


@dataclass(frozen=True)
class MeasuredPace:
    """Seconds of one forward pass of an image, and of one pair's run under a mask."""

    forward: float
    masked: float

    @classmethod
    def of(cls, task: Task, graph: Graph) -> MeasuredPace:
        """Timed on a few pairs of a task by this process alone, the second time each, and shared by all of them."""
        shared = processes.count()
        task = under_means(task)  # learned constants come later, and cost what means do
        most = _OF_SMALL if is_small(task.vit.cfg) else _TIMED_PAIRS
        pairs = task.searched.select(list(range(min(most, len(task.searched)))))
        with processes.alone():
            baseline = make_baseline(task.vit, task.ablation, task.reference[:most])
        half = np.arange(len(graph)) % 2 == 0

        def masked() -> None:
            run_masks(task.vit, graph, [half, ~half], task.metric, pairs, baseline, progress=False)

        with torch.no_grad(), processes.alone():
            seconds = _timed(lambda: task.vit(pairs.clean)), _timed(masked) / 2
        return cls(*(one / (shared * len(pairs)) for one in seconds))


def _timed(run: Callable[[], object]) -> float:
    run()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Estimate:
    """Seconds by stage.

    Args:
        search: The algorithm.
        selection: Sizes that are tried.
        judging: The evaluation.
    """

    search: float
    selection: float
    judging: float

    @classmethod
    def of(
        cls,
        task: Task,
        discovery: Discovery,
        *,
        n_random: int | None,
        searches: int = 1,
        pace: MeasuredPace | None = None,
    ) -> Estimate:
        """For some searches of a task, and a judgement beside that many random circuits; None where none is judged."""
        graph, n_pairs = discovery.graph(task.vit), len(task.searched)
        pace = MeasuredPace.of(task, graph) if pace is None else pace
        entry = discovery.entry
        passes = 0.0 if entry is None else entry.passes(discovery.called, graph) * (n_pairs if entry.per_pair else 1)
        by_level = not discovery.finds_circuits and discovery.size is None and discovery.threshold is None
        sizes = n_sizes(len(graph)) if by_level else 0
        curve, runs = not discovery.finds_circuits, 0
        if n_random is not None:
            runs = judging_runs(task, graph, n_random=n_random, curve=curve)
        search, selection = passes * pace.forward, sizes * n_pairs * pace.masked
        return cls(searches * search, searches * selection, runs * pace.masked)

    @property
    def total(self) -> float:
        """All stages."""
        return self.search + self.selection + self.judging

    def __str__(self) -> str:
        stages = {"search": self.search, "choosing a size": self.selection, "judging": self.judging}
        parts = ", ".join(f"{name} {told(seconds)}" for name, seconds in stages.items() if seconds >= 1)
        return f"about {told(self.total)} ({parts})"

    def shorter(self) -> str:
        """What makes the longest stage shorter."""
        if self.judging >= max(self.search, self.selection):
            return "fewer random circuits (--random 0) or evaluation images (--eval-pairs 16) make it shorter"
        if self.selection > self.search:
            return "a size of your own (--size 0.4) or fewer images (--pairs 16) make it shorter"
        return "fewer images (--pairs 16) make it shorter"


def judging_runs(task: Task, graph: Graph, *, n_random: int, curve: bool) -> int:
    """Runs of a pair under a mask that a judgement takes."""
    pairs = task.evaluation.under(task.ablation)
    own = n_masks(len(graph), n_random=0, curve=curve, every_kind=False)
    chance = n_masks(len(graph), n_random=n_random, curve=curve, every_kind=pairs.design is not None) - own
    if pairs.design is None:
        return (own + chance) * len(pairs)
    small = len(graph) <= EVERY_SIZE_UP_TO
    images = FEWER_IMAGES if small else OF_LARGE
    share = 4 if pairs.design.crossed and small else 2  # a clean image's first partner of each class, or one alone
    others = 0 if task.others is None else len(task.others.under(task.ablation))
    masks = own + (chance if small else chance // 3)  # of large graphs chance runs on some of the pairs
    return masks * min(share * images, len(pairs)) + 2 * (len(pairs) + others)


def say_estimate(
    task: Task, discovery: Discovery, *, n_random: int | None = None, searches: int = 1, progress: bool | None = None
) -> None:
    """Tells whoever watches about how long it takes, where that is over a minute, and how to make it shorter."""
    if not watched(progress):
        return
    _say(Estimate.of(task, discovery, n_random=n_random, searches=searches), progress)


def _say(found: Estimate, progress: bool | None) -> None:
    if found.total > WORTH_SAYING:
        say(f"{found}; {found.shorter()}", progress)


def say_judging(
    task: Task, graph: Graph, *, n_random: int, curve: bool, runs_of_checks: int = 0, progress: bool | None = None
) -> None:
    """The same of a judgement alone.

    Args:
        task: The task.
        graph: The circuit's graph.
        n_random: Random circuits of each kind.
        curve: Whether there is one.
        runs_of_checks: Masks that further checks run.
        progress: Whether it is said; None where somebody watches.
    """
    if not watched(progress):
        return
    runs = judging_runs(task, graph, n_random=n_random, curve=curve) + runs_of_checks * len(task.evaluation)
    _say(Estimate(0.0, 0.0, runs * MeasuredPace.of(task, graph).masked), progress)


def say_runs(task: Task, graph: Graph, n_runs: int, *, progress: bool | None = None) -> None:
    """The same of patched runs, each made under a circuit and in the full model."""
    if watched(progress):
        pace = MeasuredPace.of(task, graph)
        seconds = n_runs * (pace.forward + pace.masked)
        if seconds > WORTH_SAYING:
            say(f"about {told(seconds)}; fewer pairs or larger blocks of patches make it shorter", progress)


@dataclass(frozen=True)
class SweepEstimate:
    """What the cells of a sweep take, each model timed on its first task.

    Args:
        cells: How many.
        seconds: Of the device, one cell after another.
        disk: Bytes of their folders, told from the edges of the graph.
        untimed: Cells that could not be timed, such as those of a model that is not there; they are in no sum.
    """

    cells: int
    seconds: float
    disk: float
    untimed: int

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> SweepEstimate:
        """Opens each model once and times it on a few pairs."""
        seconds, disk, untimed = 0.0, 0.0, 0
        seen: dict[str, tuple[Task, MeasuredPace] | None] = {}
        for cell in cells:
            try:
                config = cell.config
                key = repr(config.model)
                if key not in seen:
                    seen[key] = None  # in case that the next lines raise: once is enough
                    task = config.task.make(config.load_model())
                    seen[key] = task, MeasuredPace.of(task, config.discovery.graph(task.vit))
                if (found := seen[key]) is None:
                    raise LookupError(key)
                task, pace = found
                more = Estimate.of(task, config.discovery, n_random=config.random, pace=pace).total
                disk += _FOLDER + _PER_EDGE * len(config.discovery.graph(task.vit))
                seconds += more
            except Exception:  # the cell will say so: what cannot be timed must not cost the sweep
                untimed += 1
        return cls(len(cells), seconds, disk, untimed)

    def __str__(self) -> str:
        said = f"{self.cells} cells take about {told(self.seconds)} of one device and {self.disk / 1e6:,.0f} MB of disk"
        return said + f", {self.untimed} left out that cannot be timed" * bool(self.untimed)


def say_sweep(cells: Sequence[Cell], *, workers: int, progress: bool | None = None) -> None:
    """The same of several runs, where it is over a minute."""
    if cells and watched(progress) and (found := SweepEstimate.of(cells)).seconds > WORTH_SAYING:
        each = f", {told(found.seconds / workers)} with {workers} at once" if workers > 1 else ""
        say(f"{found}{each}; a smaller sweep or fewer images (pairs = 16) make it shorter", progress)


def told(seconds: float) -> str:
    """A duration in a unit that it has a few of."""
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}" if seconds >= 10 * length else f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
