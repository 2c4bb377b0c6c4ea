"""Which masks an evaluation has to run, planned before anything is run.

Row 0 is the circuit and row 1 the empty mask; the others are found by name in `rows`.

Faithfulness against size, and the area under it.

C_k is the circuit of the highest-ranked edges, as many as leave at most the share k of all edges on paths from input to
logits (`sizes`). MIB (Mueller et al. 2025) judges a ranking by

    CPR = area under f(C_k), ranked by the signed mean score       (higher is better)
    CMD = area under |1 - f(C_k)|, ranked by |mean score|          (lower is better)

both by the trapezoid rule over the nominal k. MIB's grid has ten points from .001 to 1, with n = floor(k |E|), and is
too coarse for a small graph; there every count from 0 to |E| is used, and the area starts at k = 0. MIB counts edges
before those on no path are dropped, so its circuits are smaller than k says; `mib` does the same, to be compared with
MIB's tables, and only there does k mean that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...models.errors import GraphError
from ..circuit import Circuit
from ..graph import Graph
from ..nodes import MATCHED_BY, granularity, matched_masks
from ..reach import prune
from ..scores import By, Scores
from ..sizes import masks_within
from .control_kinds import CONTROLS, ControlKind, kinds_of, other_masks
from .controls import random_masks

Bools = NDArray[np.bool_]

RANDOM_SIZES = 5  # at which random circuits are drawn for the curve, beside the circuit's own size
RANDOM_DRAWS = 5  # at each of them
RANDOM_RANKINGS = 3
RANDOM_RANKING_POINTS = 25


@dataclass(frozen=True, eq=False)
class JudgingPlan:
    """Masks and what they are for.

    Args:
        label: What the curve is called: the algorithm's name.
        grid: Sizes of the curve.
        by: The ranking that the circuit was selected by.
        masks: Pruned masks, each of shape (edge,); mask 0 is the circuit, 1 the empty one.
        rankings: Ranking -> rows of its curve, shape (point,).
        random: Size -> rows of random circuits of that size.
        random_grid: Sizes of the random rankings' curves.
        matched: How random circuits are like the circuit, in words.
        random_rankings: Rows of random rankings' curves, shape (ranking, point).
        controls: What a set of control circuits is like, in words -> its rows.
        kinds: Kind of control (`control_kinds.py`) -> its rows.
        named: Circuits that were given to be held against, by name -> row.
    """

    label: str
    grid: Grid
    by: By
    random_grid: Grid
    matched: str = MATCHED_BY["edge"]
    masks: list[Bools] = field(default_factory=list)
    rankings: dict[str, NDArray[np.intp]] = field(default_factory=dict)
    random: dict[int, NDArray[np.intp]] = field(default_factory=dict)
    random_rankings: list[NDArray[np.intp]] = field(default_factory=list)
    controls: dict[str, NDArray[np.intp]] = field(default_factory=dict)
    kinds: dict[ControlKind, NDArray[np.intp]] = field(default_factory=dict)
    named: dict[str, int] = field(default_factory=dict)

    def add(self, masks: list[Bools]) -> NDArray[np.intp]:
        """Appends masks and returns their rows."""
        self.masks.extend(masks)
        return np.arange(len(self.masks) - len(masks), len(self.masks))

    def sizes(self, rows: NDArray[np.intp]) -> NDArray[np.int64]:
        """Edges of the masks in these rows."""
        return np.array([int(self.masks[row].sum()) for row in rows], dtype=np.int64)


def make_plan(
    circuit: Circuit,
    grid: Grid,
    *,
    curve: bool,
    n_random: int,
    seed: int,
    every_kind: bool = False,
    named: Mapping[str, Circuit] = MappingProxyType({}),
) -> JudgingPlan:
    """The masks for a circuit, its curve and what chance gets.

    Args:
        circuit: The circuit.
        grid: Sizes of the curve.
        curve: Whether there is one.
        n_random: Random circuits of each kind.
        seed: Draws them.
        every_kind: Beside those made of whole paths also edges dealt anew and heads renamed.
        named: Further circuits by name.

    Raises:
        GraphError: One of these belongs to another graph.
    """
    graph, scores = circuit.graph, circuit.scores
    own = prune(graph, circuit.mask)
    by = circuit.provenance.get("by", "signed")
    label, matched = "circuit" if scores is None else scores.algorithm, MATCHED_BY[granularity(circuit)]
    plan = JudgingPlan(label, grid, by, grid.thinned(RANDOM_RANKING_POINTS), matched)
    plan.add([own, np.zeros_like(own)])
    if n_random:
        plan.random[int(own.sum())] = plan.add(matched_masks(circuit, n_random, seed=seed))
        plan.controls[matched] = plan.kinds["paths"] = plan.random[int(own.sum())]
    if n_random and every_kind:
        _add_kinds(plan, circuit, n_random, seed)
    for name, other in named.items():
        graph.require_same(other.graph, "circuits")
        plan.named[name] = int(plan.add([prune(graph, other.mask)])[0])
    if curve and scores is not None:
        for ranking in dict.fromkeys((by, "signed", "abs_mean")):
            plan.rankings[ranking] = plan.add(ranked_masks(graph, scores.ranking(ranking), grid))
        if n_random:
            _add_random(plan, scores, min(n_random, RANDOM_DRAWS), seed)
    return plan


def n_masks(n_graph: int, *, n_random: int, curve: bool, every_kind: bool) -> int:
    """About how many masks a plan for a graph with so many edges has; see `make_plan`."""
    found = 2 + n_random * (3 if every_kind else 1)
    if not curve:
        return found
    grid = make_grid(n_graph)
    random = RANDOM_SIZES * min(n_random, RANDOM_DRAWS) + min(n_random, RANDOM_RANKINGS) * RANDOM_RANKING_POINTS
    return found + 2 * len(grid.n) + (random if len(grid.n) > RANDOM_RANKING_POINTS else random // 2)


def _add_kinds(plan: JudgingPlan, circuit: Circuit, n: int, seed: int) -> None:
    """Controls of the other kinds that the circuit has."""
    for kind in kinds_of(circuit):
        masks = [] if kind == "paths" else other_masks(circuit, kind, n, seed=seed)
        if masks:
            plan.kinds[kind] = plan.add(masks)
            plan.controls[CONTROLS[kind].words[granularity(circuit)]] = plan.kinds[kind]


def ranked_masks(graph: Graph, ranking: NDArray[np.intp], grid: Grid) -> list[Bools]:
    """The circuits of a ranking at the sizes of a grid, as masks."""
    return masks_within(graph, ranking, grid.n, before_pruning=grid.before_pruning)


def _add_random(plan: JudgingPlan, scores: Scores, draws: int, seed: int) -> None:
    """Random circuits at a few sizes of the circuit's own curve, and random rankings."""
    rows = plan.rankings[plan.by]
    sizes = plan.sizes(rows)
    for wanted in np.geomspace(1, len(scores), RANDOM_SIZES + 2)[1:-1]:
        row = int(rows[np.abs(sizes - wanted).argmin()])
        size = int(plan.masks[row].sum())
        if 0 < size < len(scores) and size not in plan.random:
            plan.random[size] = plan.add(random_masks(scores.graph, plan.masks[row], draws, seed=seed))
    for draw in range(min(draws, RANDOM_RANKINGS)):
        ranking = np.random.default_rng([seed, draw, 1]).permutation(len(scores))
        plan.random_rankings.append(plan.add(ranked_masks(scores.graph, ranking, plan.random_grid)))


GridName = Literal["auto", "mib"]
"""Where the curve is measured: every count on graphs of up to 2,000 edges and MIB's shares above; or MIB's own points,
counted before edges on no path are dropped."""

MIB_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
EVERY_COUNT_UP_TO = 2_000  # edges; beyond it each point costs more than the finer curve tells
MOST_POINTS = 150

Floats = NDArray[np.float64]
Numbers = Floats | np.float64


@dataclass(frozen=True, eq=False)
class Grid:
    """Sizes at which a curve is measured; arrays have shape (point,).

    Args:
        share: Nominal share k of the edges.
        n: Edges asked for.
        method: Which grid it is, in a few words.
        before_pruning: n counts edges of the ranking, those on no path as well, as MIB does.
    """

    share: Floats
    n: NDArray[np.int64]
    method: str
    before_pruning: bool = False

    def thinned(self, most: int) -> Grid:
        """At most so many of the points, the first and the last among them."""
        at = np.unique(np.linspace(0, len(self.n) - 1, min(most, len(self.n))).round().astype(int))
        return replace(self, share=self.share[at], n=self.n[at], method=f"{len(at)} points of: {self.method}")


def make_grid(n_graph: int, grid: GridName | str = "auto") -> Grid:
    """The grid of a graph with so many edges.

    Raises:
        GraphError: The choice is not known.
    """
    if grid not in get_args(GridName):
        raise GraphError(f"grid={grid!r} is not known: pass one of {', '.join(map(repr, get_args(GridName)))}.")
    if grid == "mib" or n_graph > EVERY_COUNT_UP_TO:
        n = np.array([int(share * n_graph) for share in MIB_SHARES])  # as MIB rounds, in floating point
        counted = "before those on no path are dropped" if grid == "mib" else "on paths"
        method = f"MIB's ten shares from .001 to 1, n = floor(k |E|) edges, {counted}"
        return Grid(np.array(MIB_SHARES), n, method, before_pruning=grid == "mib")
    n, method = np.arange(n_graph + 1), "every count of edges on paths from 0 to |E|"
    if len(n) > MOST_POINTS:
        half = MOST_POINTS // 2
        spread = np.concatenate([np.linspace(0, n_graph, half), np.geomspace(1, n_graph, half)])
        n = np.unique(spread.round().astype(np.int64))
        method = f"{len(n)} of {n_graph + 1} counts of edges on paths, spread evenly over k and over log k"
    return Grid(n / n_graph, n, method)


def area(share: Floats, values: Floats) -> Numbers:
    """Trapezoid area of values (..., point) over the nominal share."""
    return (np.diff(share) * (values[..., 1:] + values[..., :-1]) / 2).sum(-1)


def log_area(share: Floats, values: Floats) -> Numbers:
    """Area of values (..., point) over log k, divided by the width, so that a curve that is 1 everywhere gets 1."""
    positive = share > 0
    logs = np.log(share[positive])
    if len(logs) < 2:
        return values[..., -1]
    return area(logs, values[..., positive]) / (logs[-1] - logs[0])
