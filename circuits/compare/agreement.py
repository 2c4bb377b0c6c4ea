"""How much each two circuits have in common, by several measures and at each rank, and what random ones would have.

| measure | between | what it says | by chance |
| --- | --- | --- | --- |
| edges | graphs of one shape | Jaccard index of the edges | random circuits of whole paths |
| nodes | one shape | Jaccard index of the heads and MLPs | the same |
| edges at equal rank | one shape, scores | Jaccard index of the first n edges, n the smaller size | hypergeometric |
| rank-biased overlap | one shape, scores | agreement of rankings from the top | random rankings |
| rank correlation | one shape, scores | Spearman, over all edges | 0 |
| Weisfeiler-Lehman | any | graph similarity, heads and layers without names | random circuits of whole paths |
| edges, heads matched | any, head features | Jaccard index once heads are matched by what they do | random circuits |
| nodes, heads matched | any, head features | the same for heads and MLPs | random circuits |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..circuit import Circuit
from ..nodes import granularity, kept_nodes, node_names, overlap
from ..reach import prune
from .matching import Matching, Window, match_heads, matched_overlap
from .null import chance_overlap
from .similarity import edge_table, overlap_curve, places, rank_biased_overlap, rank_correlations, wl_similarity
from .subject import Subject

Floats = NDArray[np.float64]


def ranking_of(circuit: Circuit) -> NDArray[np.intp]:
    """All edges, best first by what the circuit was selected by; it has scores."""
    assert circuit.scores is not None
    return circuit.scores.ranking(str(circuit.provenance.get("by", "signed")))  # type: ignore[arg-type]


def rank_curves(subjects: Sequence[Subject]) -> dict[str, tuple[NDArray[np.int64], dict[str, Floats]]]:
    """Overlap at each rank: `edges` and `nodes` -> ranks, and mean curves within kinds, between kinds and by chance.

    Empty unless all circuits have scores over graphs of one shape.
    """
    circuits = [subject.circuit for subject in subjects]
    pairs = [(i, j) for i in range(len(circuits)) for j in range(i + 1, len(circuits))]
    one_shape = len({circuit.graph.signature for circuit in circuits}) == 1
    if not pairs or not one_shape or any(circuit.scores is None for circuit in circuits):
        return {}
    n, ranks = len(circuits[0].graph), _ranks(len(circuits[0].graph))
    appear = {"edges": [places(ranking_of(circuit), n) for circuit in circuits]}
    appear["nodes"] = [_first_seen(circuit, seen) for circuit, seen in zip(circuits, appear["edges"], strict=True)]
    found = {}
    for what, seen in appear.items():
        curves = {(i, j): _at(overlap_curve(*_padded(seen[i], seen[j], n)), ranks) for i, j in pairs}
        found[what] = (ranks, _grouped(subjects, curves))
    found["edges"][1]["by chance"] = np.array([chance_overlap(n, int(k), int(k)).jaccard for k in ranks])
    return found


def _ranks(n: int) -> NDArray[np.int64]:
    return np.unique(np.geomspace(1, n, 60).round().astype(np.int64))


def _at(curve: Floats, ranks: NDArray[np.int64]) -> Floats:
    return curve[np.minimum(ranks, len(curve)) - 1]


def _padded(first: NDArray, second: NDArray, n: int) -> tuple[NDArray, NDArray]:
    """Places of fewer things than there are ranks, made up with things that never appear."""
    more = n - len(first)
    pad = np.full(max(0, more), n)
    return np.concatenate([first, pad]), np.concatenate([second, pad])


def _first_seen(circuit: Circuit, place: NDArray[np.integer]) -> NDArray[np.int64]:
    """The rank at which each head and MLP first appears at an end of an edge."""
    table = edge_table(circuit.graph)
    seen = np.full(len(table.nodes), len(place), dtype=np.int64)
    np.minimum.at(seen, table.source, place)
    np.minimum.at(seen, table.destination, place)
    return seen[table.components]


def _grouped(subjects: Sequence[Subject], curves: Mapping[tuple[int, int], Floats]) -> dict[str, Floats]:
    groups: dict[str, list[Floats]] = {}
    for (i, j), curve in curves.items():
        one, other = subjects[i].kind, subjects[j].kind
        groups.setdefault(f"two seeds of {one}" if one == other else f"{one} and {other}", []).append(curve)
    return {name: np.mean(some, axis=0) for name, some in groups.items()}


Drawn = Sequence[Sequence[Circuit]]
"""Random circuits like each of the subjects' circuits."""
Measure = Callable[[Circuit, Circuit], float]


@dataclass(frozen=True, eq=False)
class Agreement:
    """Similarities of each two circuits.

    Args:
        values: Measure -> shape (circuit, circuit); NaN where it is not defined.
        chance: Measure -> what random circuits like the two would have, same shape; NaN where nothing was drawn.
        matchings: (place of the first, place of the second) -> heads matched.
        why_not: Measure -> why it is missing everywhere, where it is.
    """

    values: Mapping[str, Floats]
    chance: Mapping[str, Floats]
    matchings: Mapping[tuple[int, int], Matching]
    why_not: Mapping[str, str]


def agreement(subjects: Sequence[Subject], drawn: Drawn, *, p: float, rounds: int, window: Window) -> Agreement:
    """All measures between each two of some circuits.

    Args:
        subjects: The circuits.
        drawn: Random circuits like each.
        p: Of rank-biased overlap.
        rounds: Of Weisfeiler-Lehman.
        window: Relative depth within which heads are matched (see `match_heads`).
    """
    table, circuits = _Pairs(subjects, drawn), [subject.circuit for subject in subjects]
    values, chance = _of_one_shape(table, p)
    alike = wl_similarity([*circuits, *table.random], rounds=rounds)
    values["Weisfeiler-Lehman"] = alike[: len(circuits), : len(circuits)]
    chance["Weisfeiler-Lehman"] = _wl_by_chance(alike, len(circuits), drawn)
    matchings = _matchings(subjects, window)
    for place, what in enumerate(("edges, heads matched", "nodes, heads matched")):
        values[what], chance[what] = np.full((2, len(circuits), len(circuits)), np.nan)
        for (i, j), matching in matchings.items():
            measure = partial(_after_matching, matching=matching, place=place)
            values[what][i, j] = values[what][j, i] = measure(circuits[i], circuits[j])
            chance[what][i, j] = chance[what][j, i] = table.by_chance(measure, circuits[i], circuits[j])
    return Agreement(values, chance, matchings, _why_not(subjects, table, matchings))


def _of_one_shape(table: _Pairs, p: float) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """The measures of circuits of graphs of one shape, and what chance gets."""
    every = [*(subject.circuit for subject in table.subjects), *table.random]
    kept = {id(circuit): prune(circuit.graph, circuit.mask) for circuit in every}
    used = {id(circuit): used_nodes(circuit) for circuit in every}

    def edges(first: Circuit, second: Circuit) -> float:
        return overlap(kept[id(first)], kept[id(second)])

    def nodes(first: Circuit, second: Circuit) -> float:
        return overlap(used[id(first)], used[id(second)])

    def biased(first: Circuit, second: Circuit) -> float:
        return rank_biased_overlap(ranking_of(first), ranking_of(second), p=p)

    ranked: dict[str, tuple[Measure, Measure]] = {
        "edges at equal rank": (_at_equal_rank, _equal_rank_by_chance),
        "rank-biased overlap": (biased, lambda first, second: _rbo_by_chance(len(first.graph), p)),
        "rank correlation": (_correlation, lambda first, second: 0.0),
    }
    values, chance = {}, {}
    for name, measure in (("edges", edges), ("nodes", nodes)):
        values[name] = table.each(measure, table.same)
        chance[name] = table.each(partial(table.by_chance, measure), table.same)
    for name, (measure, by_chance) in ranked.items():
        values[name], chance[name] = table.each(measure, table.ranked), table.each(by_chance, table.ranked)
    return values, chance


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Which two circuits can be compared in which way."""

    subjects: Sequence[Subject]
    drawn: Drawn

    @property
    def random(self) -> list[Circuit]:
        """All random circuits."""
        return [circuit for draws in self.drawn for circuit in draws]

    def same(self, first: Circuit, second: Circuit) -> bool:
        """Whether they are of graphs of one shape, and both of edges or both of nodes."""
        return first.graph.signature == second.graph.signature and granularity(first) == granularity(second)

    def ranked(self, first: Circuit, second: Circuit) -> bool:
        """Whether both have scores as well."""
        return self.same(first, second) and first.scores is not None and second.scores is not None

    def each(self, measure: Measure, fits: Callable[[Circuit, Circuit], bool]) -> Floats:
        """The measure of each two circuits that it fits."""
        circuits = [subject.circuit for subject in self.subjects]
        found = np.full((len(circuits), len(circuits)), np.nan)
        for i, first in enumerate(circuits):
            for j, second in enumerate(circuits[i:], i):
                if fits(first, second):
                    found[i, j] = found[j, i] = measure(first, second)
        return found

    def by_chance(self, measure: Measure, first: Circuit, second: Circuit) -> float:
        """A measure's mean between each of two circuits and random ones like the other; NaN where none were drawn."""
        like = {id(subject.circuit): draws for subject, draws in zip(self.subjects, self.drawn, strict=True)}
        ways = [measure(first, draw) for draw in like[id(second)]] + [measure(draw, second) for draw in like[id(first)]]
        return float(np.mean(ways)) if ways else np.nan


def used_nodes(circuit: Circuit) -> NDArray[np.bool_]:
    """Which heads and MLPs a circuit uses, in the order in which they write; of a node circuit, those that it keeps."""
    names = node_names(circuit.graph)
    if granularity(circuit) == "node":
        return np.isin(names, kept_nodes(circuit))
    table, kept = edge_table(circuit.graph), prune(circuit.graph, circuit.mask)
    touched = np.zeros(len(table.nodes), dtype=bool)
    touched[table.source[kept]] = touched[table.destination[kept]] = True
    return touched[table.components]


def _equal_size(first: Circuit, second: Circuit) -> int:
    return max(1, min(len(first), len(second)))


def _at_equal_rank(first: Circuit, second: Circuit) -> float:
    n = _equal_size(first, second)
    one, other = (set(ranking_of(circuit)[:n].tolist()) for circuit in (first, second))
    return len(one & other) / len(one | other)


def _equal_rank_by_chance(first: Circuit, second: Circuit) -> float:
    n = _equal_size(first, second)
    return chance_overlap(len(first.graph), n, n).jaccard


def _rbo_by_chance(n_edges: int, p: float) -> float:
    """Mean rank-biased overlap of two random rankings of all edges: their first d share d^2 / N."""
    depth = np.arange(1, n_edges + 1)
    return float((1 - p) / p * (depth / n_edges * p**depth).sum() + p**n_edges)


def _correlation(first: Circuit, second: Circuit) -> float:
    assert first.scores is not None and second.scores is not None
    by = [str(circuit.provenance.get("by", "signed")) for circuit in (first, second)]
    values = [circuit.scores.ranking_values(how) for circuit, how in zip((first, second), by, strict=True)]  # type: ignore[union-attr,arg-type]
    return float(rank_correlations(np.array(values))[0, 1])


def _wl_by_chance(alike: Floats, n: int, drawn: Drawn) -> Floats:
    """Mean similarity between each circuit and random ones like the other, both ways, out of one kernel of all."""
    ends = n + np.cumsum([0, *map(len, drawn)])
    found = np.full((n, n), np.nan)
    for i in range(n):
        for j in range(n):
            ways = [alike[i, ends[j] : ends[j + 1]], alike[j, ends[i] : ends[i + 1]]]
            if all(map(len, ways)):
                found[i, j] = float(np.concatenate(ways).mean())
    return found


def _matchings(subjects: Sequence[Subject], window: Window) -> dict[tuple[int, int], Matching]:
    """Heads of each later circuit's model in the names of each earlier one's."""
    found = {}
    for i, first in enumerate(subjects):
        for j, second in enumerate(subjects[i:], i):
            fits = first.circuit.graph.groups.names == second.circuit.graph.groups.names
            fits &= first.circuit.graph.ports == second.circuit.graph.ports
            if fits and first.heads is not None and second.heads is not None:
                found[i, j] = match_heads(first.heads, second.heads, window=window)
    return found


def _after_matching(first: Circuit, second: Circuit, matching: Matching, place: int) -> float:
    return matched_overlap(first, second, matching)[place]


def _why_not(
    subjects: Sequence[Subject], table: _Pairs, matchings: Mapping[tuple[int, int], Matching]
) -> dict[str, str]:
    """Why a measure is missing between all circuits, or between some."""
    circuits = [subject.circuit for subject in subjects]
    two = [(a, b) for i, a in enumerate(circuits) for b in circuits[i + 1 :]]
    found = {}
    if any(not table.same(a, b) for a, b in two):
        why = "not between graphs of different shapes, nor between edge and node circuits"
        found |= dict.fromkeys(("edges", "nodes"), why)
    if any(not table.ranked(a, b) for a, b in two):
        why = "only between circuits with scores whose graphs have one shape"
        found |= dict.fromkeys(("edges at equal rank", "rank-biased overlap", "rank correlation"), why)
    if any((i, j) not in matchings for i in range(len(circuits)) for j in range(i + 1, len(circuits))):
        why = "heads are matched where head features are given and token groups and ports are the same"
        found |= dict.fromkeys(("edges, heads matched", "nodes, heads matched"), why)
    return found
