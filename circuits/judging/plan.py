"""Which masks an evaluation has to run, planned before anything is run.

Row 0 is the circuit and row 1 the empty mask; the others are found by name in `rows`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ..circuit import Circuit
from ..graph import Graph
from ..nodes import MATCHED_BY, granularity, matched_masks
from ..reach import prune
from ..scores import By, Scores
from ..sizes import masks_within
from .control_kinds import CONTROLS, ControlKind, kinds_of, other_masks
from .controls import random_masks
from .curves import Grid, make_grid

Bools = NDArray[np.bool_]

RANDOM_SIZES = 5  # at which random circuits are drawn for the curve, beside the circuit's own size
RANDOM_DRAWS = 5  # at each of them
RANDOM_RANKINGS = 3
RANDOM_RANKING_POINTS = 25


@dataclass(frozen=True, eq=False)
class Plan:
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
) -> Plan:
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
    plan = Plan(label, grid, by, grid.thinned(RANDOM_RANKING_POINTS), matched)
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


def _add_kinds(plan: Plan, circuit: Circuit, n: int, seed: int) -> None:
    """Controls of the other kinds that the circuit has."""
    for kind in kinds_of(circuit):
        masks = [] if kind == "paths" else other_masks(circuit, kind, n, seed=seed)
        if masks:
            plan.kinds[kind] = plan.add(masks)
            plan.controls[CONTROLS[kind].words[granularity(circuit)]] = plan.kinds[kind]


def ranked_masks(graph: Graph, ranking: NDArray[np.intp], grid: Grid) -> list[Bools]:
    """The circuits of a ranking at the sizes of a grid, as masks."""
    return masks_within(graph, ranking, grid.n, before_pruning=grid.before_pruning)


def _add_random(plan: Plan, scores: Scores, draws: int, seed: int) -> None:
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
