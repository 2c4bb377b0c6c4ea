"""Is it the model's circuit, or that of the images it was found on?

The same algorithm runs again and again on the discovery pairs

- drawn anew with replacement (bootstrap resamples),
- with other seeds, where the algorithm or the ablation draws by chance,
- on two disjoint halves of the pairs, several times divided by chance,

and always keeps a circuit of one size. On a crossed task images are drawn and divided, within their class and with all
their pairs, and the two halves share no partner either (`circuits/redraw.py`).

Circuits are compared by the Jaccard index (edges that both keep over edges that one keeps), scores by Spearman's rank
correlation. An edge's share is the part of the resamples that keep it; the consensus circuit holds the edges above a
share. What chance gets stands beside: random circuits of the same size. So does what the circuits that were found again
keep of the behaviour on the evaluation pairs: circuits of other edges can do the same, and those of nearly the same
edges can lose it.

Weak spots: resamples share about 63% of their pairs, so they overlap more than fresh images would; the halves don't,
but are half as large. The spread over resamples is not an interval of the mean; each figure says which it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..circuits.baseline import DEFAULT_MEMORY
from ..circuits.circuit import Circuit
from ..circuits.figures import told
from ..circuits.graph import Graph
from ..circuits.judging.controls import random_masks
from ..circuits.judging.judgement import Shares, shares_kept
from ..circuits.reach import prune
from ..circuits.report import Figure
from ..circuits.scores import By
from ..circuits.sizes import Size
from ..circuits.tasks.redraw import at_rows, half, halved_rows, redrawn_rows, require_halves
from ..circuits.tasks.task import Pairs, Task
from ..models.errors import TaskError
from ..models.watching import progress_bar
from .discovery import Discovery
from .estimate import say_estimate
from .stability_result import Stability, alike, correlated, recurring

if TYPE_CHECKING:
    from .discovery import Algorithm

N_RANDOM = 5  # random circuits: ten comparisons say what chance gets
N_BOOTSTRAP = 1000  # draws of the evaluation pairs


def measure_stability(
    algorithm: Discovery | Algorithm,
    graph: Graph,
    task: Task,
    *,
    size: Size | None = None,
    by: By | str = "auto",
    n_resamples: int = 10,
    n_seeds: int = 3,
    n_halvings: int = 2,
    share: float = 0.5,
    consensus_in_halves: bool = False,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
    **options: Any,
) -> Stability:
    """How much of a circuit stays when the pairs and the seeds change, and the consensus circuit.

    Costs 1 + `n_resamples` + `n_seeds` + 2 x `n_halvings` runs of the algorithm; with `consensus_in_halves`, another
    2 x `n_halvings` x `n_resamples`. Judging the circuits of all pairs and of the resamples costs one run for each, on
    the evaluation pairs.

    Args:
        algorithm: A registered name, or a function (graph, task, *, options) -> Scores or Circuit; or a `Discovery`,
            which has size, ranking and options of its own.
        graph: The graph.
        task: The task; circuits are found on its discovery pairs only.
        size: Edges of each circuit, on paths from input to logits: a count, or a share of the graph's edges below 1.
            Needed for scores; an algorithm that takes none decides itself.
        by: How scores are ranked.
        n_resamples: Bootstrap resamples of the pairs, at least 2.
        n_seeds: Other seeds, for algorithms or ablations that draw by chance.
        n_halvings: Divisions into two disjoint halves.
        share: The consensus circuit keeps edges in more than this share of the resamples.
        consensus_in_halves: Also find a consensus circuit from resamples inside each half, and compare those.
        seed: Draws resamples, halves and random circuits.
        memory: Bytes to hold at once, for registered algorithms.
        progress: Show a bar on stderr; None where somebody watches.
        **options: The algorithm's own.

    Raises:
        TaskError: There is no such algorithm or option, a size is missing, or there are too few pairs or resamples.
        GraphError: The size is not possible.
    """
    finder = _Finder(Discovery.on(graph, algorithm, options, by=by, size=size), graph, task, memory)
    _require(finder, n_resamples, n_halvings)
    plan = _plan(finder, n_resamples, n_seeds, n_halvings, consensus_in_halves, seed)
    say_estimate(task, finder.discovery, searches=plan.total, progress=progress)
    found = _searched(finder, plan, progress)
    shares = np.mean([circuit.mask for circuit in found.again], axis=0)
    masks = [prune(graph, circuit.mask) for circuit in (found.whole, *found.again)]
    kept = shares_kept(task, graph, masks, n_bootstrap=N_BOOTSTRAP, seed=seed, memory=memory)
    figures = _figures(found, finder.why_no_seeds(n_seeds))
    inner = [_consensus_pair(circuits, share) for circuits in found.inside]
    figures["jaccard_consensus_halves"] = _consensus_figure(inner, consensus_in_halves, share)
    figures["jaccard_chance"] = _chance(found.whole, seed)
    figures |= {"recurring_edges": recurring(found.whole, shares), **_kept_figures(kept, len(found.again))}
    each = tuple(kept.kept(1 + place) for place in range(len(found.again)))
    return Stability(found.whole, tuple(found.again), shares, figures, share, _method(finder, plan, seed), each)


@dataclasses.dataclass(frozen=True, eq=False)
class _Searched:
    """Circuits of all pairs, of resamples, of other seeds, of halves, and of resamples inside each half."""

    whole: Circuit
    again: list[Circuit]
    others: list[Circuit]
    halves: list[tuple[Circuit, Circuit]]
    inside: list[list[Circuit]]


def _searched(finder: _Finder, plan: _Plan, progress: bool | None) -> _Searched:
    with progress_bar("stability", plan.total, progress, "search") as bar:

        def find(draw: _Draw | None = None, task: Task = finder.task, **more: Any) -> Circuit:
            found = finder(task if draw is None else draw.on(task), **more)
            bar.update()
            return found

        return _Searched(
            find(),
            [find(draw) for draw in plan.resamples],
            [find(task=one, **more) for one, more in plan.seeded],
            [(find(first), find(second)) for first, second in plan.halvings],
            [[find(draw) for draw in drawn] for drawn in plan.inside],
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Draw:
    """Some of the discovery pairs.

    Args:
        again: Rows, some more than once: of all pairs, or of those of the half; None for the half as it is.
        half: Rows of one half of the pairs; None for all.
    """

    again: NDArray[np.intp] | None = None
    half: NDArray[np.intp] | None = None

    def of(self, pairs: Pairs) -> Pairs:
        """Those of the pairs."""
        own = pairs if self.half is None else half(pairs, self.half)
        return own if self.again is None else at_rows(own, self.again)

    def on(self, task: Task) -> Task:
        """The task with these as its discovery pairs."""
        return dataclasses.replace(task, discovery=self.of(task.discovery))


@dataclasses.dataclass(frozen=True, eq=False)
class _Plan:
    """Which searches there will be: rows of the discovery pairs, drawn before anything runs.

    Args:
        resamples: Each resample.
        halvings: The two halves of each division.
        inside: For each division, the resamples of its first half and then those of its second; empty if not wanted.
        seeded: Tasks and options with other seeds.
    """

    resamples: list[_Draw]
    halvings: list[list[_Draw]]
    inside: list[list[_Draw]]
    seeded: list[tuple[Task, dict[str, Any]]]

    @property
    def total(self) -> int:
        """Runs of the algorithm."""
        searches = 1 + len(self.resamples) + len(self.seeded) + 2 * len(self.halvings)
        return searches + sum(map(len, self.inside))


def _plan(
    finder: _Finder, n_resamples: int, n_seeds: int, n_halvings: int, consensus_in_halves: bool, seed: int
) -> _Plan:
    rng, pairs = np.random.default_rng(seed), finder.task.discovery
    resamples = [_Draw(redrawn_rows(pairs, rng)) for _ in range(n_resamples)]
    halvings = [[_Draw(half=rows) for rows in halved_rows(pairs, rng)] for _ in range(n_halvings)]
    inside = []
    for halves in halvings if consensus_in_halves else []:
        own = [(draw.of(pairs), draw.half) for draw in halves]
        inside.append([_Draw(redrawn_rows(some, rng), rows) for some, rows in own for _ in range(n_resamples)])
    return _Plan(resamples, halvings, inside, finder.seeds(n_seeds))


@dataclasses.dataclass(frozen=True, eq=False)
class _Finder:
    """A discovery that gives a circuit on any pairs, with any seed."""

    discovery: Discovery
    graph: Graph
    task: Task
    memory: int

    def __call__(self, task: Task, seed: int | None = None) -> Circuit:
        discovery = self.discovery if seed is None else self.discovery.with_seed(seed)
        found = discovery.search(task, self.graph, memory=self.memory)
        if not isinstance(found, Circuit):
            require_size(discovery, "returns scores")
        return discovery.select(found, task, memory=self.memory)

    def seeds(self, n: int) -> list[tuple[Task, dict[str, Any]]]:
        """Tasks and seeds of their own; none where nothing is drawn by chance."""
        own, ablation = self.discovery.takes("seed"), self.task.ablation
        by_chance = ablation.kind in ("another", "noise")
        if not own and not by_chance:
            return []
        base, found = int(self.discovery.options.get("seed", 0)), []
        for step in range(1, n + 1):
            other = dataclasses.replace(ablation, seed=ablation.seed + step) if by_chance else ablation
            found.append((self.task.with_ablation(other), {"seed": base + step} if own else {}))
        return found

    def why_no_seeds(self, n: int) -> str:
        """Why there are no runs with other seeds."""
        if n < 1:
            return "no other seeds were asked for (n_seeds=0)"
        name = self.discovery.name
        return f"neither {name} nor the ablation {self.task.ablation} draws by chance: every seed gives the same"


def require_size(discovery: Discovery, finds: str = "scores edges") -> None:
    """Does nothing if the circuits that a discovery finds have one size.

    Raises:
        TaskError: It scores edges, and no size is given.
    """
    if not discovery.finds_circuits and discovery.size is None:
        raise TaskError(f"{discovery.name} {finds}: pass the size of each circuit, such as size=20 or --size 20.")


def _require(finder: _Finder, n_resamples: int, n_halvings: int) -> None:
    n = len(finder.task.discovery)
    if finder.discovery.entry is not None:
        require_size(finder.discovery)
    if n_resamples < 2 or n_halvings < 1 or n < 2:
        raise TaskError(
            f"{n_resamples} resamples and {n_halvings} halvings of {n} pairs compare nothing: pass n_resamples of at "
            f"least 2, n_halvings of at least 1, and a task with two discovery pairs or more."
        )
    require_halves(finder.task.discovery)


def _consensus_pair(circuits: Sequence[Circuit], share: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The consensus masks of the first half of the circuits and of the second."""
    graph, masks = circuits[0].graph, np.array([circuit.mask for circuit in circuits])
    first, second = (prune(graph, part.mean(0) > share) for part in np.array_split(masks, 2))
    return first, second


def _figures(found: _Searched, why_no_seeds: str) -> dict[str, Any]:
    pairs, halves = list(combinations(found.again, 2)), found.halves
    of_whole = [(found.whole, one) for one in found.again]
    of_seeds = list(combinations([found.whole, *found.others], 2))
    return {
        "jaccard_resamples": alike(pairs, "two circuits found on bootstrap resamples"),
        "jaccard_with_whole": alike(of_whole, "the circuit of all pairs and one of a resample"),
        "jaccard_seeds": alike(of_seeds, "two circuits found with different seeds", why_no_seeds),
        "jaccard_halves": alike(halves, "the circuits of two disjoint halves of the pairs"),
        "rank_correlation_resamples": correlated(pairs, "two resamples"),
        "rank_correlation_seeds": correlated(of_seeds, "two seeds", why_no_seeds),
        "rank_correlation_halves": correlated(halves, "two disjoint halves"),
    }


def _consensus_figure(inner: Sequence[tuple[Any, Any]], wanted: bool, share: float) -> Any:
    what = f"the consensus circuits (share above {share:g}) of two disjoint halves, each from its own resamples"
    why = "" if wanted else "not asked for (consensus_in_halves=False)"
    return alike(inner, what, why)


def _kept_figures(kept: Shares, n: int) -> dict[str, Figure]:
    """What the circuit of all pairs keeps of the behaviour, how it reads, and what those of the resamples keep."""
    method = f"mean {kept.name} of {n} circuits found on bootstrap resamples, on {len(kept.pairs)} evaluation pairs"
    method += "; interval: the middle 95% of the circuits (their spread, not the error of the mean)"
    resamples = {f"{kept.name}_resamples": kept.spread(range(1, n + 1), method)}
    return {kept.name: kept.kept(0), **told(kept.figures(0)), **resamples}


def _chance(whole: Circuit, seed: int) -> Any:
    masks = random_masks(whole.graph, whole.mask, N_RANDOM, seed=seed)
    return alike(list(combinations(masks, 2)), "two random circuits of the same size, made of whole paths")


def _method(finder: _Finder, plan: _Plan, seed: int) -> dict[str, Any]:
    return {
        "algorithm": finder.discovery.name,
        "options": dict(finder.discovery.options),
        "granularity": finder.discovery.granularity,
        "size": finder.discovery.size,
        "by": finder.discovery.by,
        "ablation": finder.task.ablation.as_record(),
        "metric": finder.task.metric.kind,
        "tokens": finder.graph.groups.kind,
        "ports": finder.graph.ports,
        "sides": finder.task.sides,
        "n_pairs": len(finder.task.discovery),
        **({} if finder.task.discovery.design is None else {"n_images": finder.task.discovery.n_images}),
        "n_resamples": len(plan.resamples),
        "n_seeds": len(plan.seeded),
        "n_halvings": len(plan.halvings),
        "seed": seed,
    }
