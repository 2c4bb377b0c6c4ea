"""Overlap of circuits at each rank: the mean over seeds of one kind, over two kinds, and by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..circuit import Circuit
from .edge_table import edge_table
from .null import chance_overlap
from .ranks import overlap_curve, places
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
