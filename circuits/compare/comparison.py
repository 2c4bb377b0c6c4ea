"""Circuits compared: what differs in how they were found, what they share, how they are built, and what may be said.

    report = compare({"vit": [first, second, third], "clip": [fourth, fifth, sixth]})
    print(report); report.save("comparison/")

A circuit alone can be compared in its structure. `measure_subjects` of `algorithms/comparing` adds what needs models:
what is kept by size, on pairs that are valid for all, and what heads do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import GraphError
from ..bootstrap import TAIL, Resamples, percentiles
from ..circuit import Circuit
from ..nodes import MATCHED_BY, matched_masks
from ..report import Figure
from .agreement import agreement
from .conditions import conditions, differences, same_shape
from .findings import compare_figures, compare_overlap, judged
from .matching import Window
from .null import random_figures
from .pair_curve import PairCurve, curve_figures
from .rank_curves import rank_curves
from .ranks import RBO_P
from .result import Comparison
from .subject import Circuits, Subject, as_subjects
from .weisfeiler_lehman import ROUNDS

Floats = NDArray[np.float64]

TESTED = ("edges for faithfulness 0.8", "CPR", "effective edges", "depth read", "path length", "modularity")
"""Figures that are tested by default: is it smaller, deeper, more modular? Few, because each costs the others power.

Where curves are of crossed tasks, the first is the size for a transmission."""

_METHOD = {
    "random_circuits": f"{MATCHED_BY['edge']} (node circuits: {MATCHED_BY['node']}); the own strengths dealt out anew",
    "correction": "Holm, over all findings",
    "interval": "95%, bootstrap over evaluation pairs (curves) or over discovery pairs (circuits found again), "
    "of crossed tasks over their images",
}
_OVERLAPS = ("edges, heads matched", "edges", "Weisfeiler-Lehman")
"""Measures of overlap, of which the first that is known between all is tested; the last always is."""


def compare(
    circuits: Circuits,
    *,
    figures: Sequence[str] | None = None,
    level: float = 0.05,
    rbo_p: float = RBO_P,
    rounds: int = ROUNDS,
    window: Window = "block",
    n_random: int = 20,
    n_bootstrap: int = 1000,
    pairs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Comparison:
    """Circuits of one behaviour in several models, tasks or seeds, compared.

    Args:
        circuits: Circuits, each a kind of its own; or kind -> the circuits of its seeds. Subjects bring what was
            measured about a circuit.
        figures: Figures to test; decide before looking at them. By default whether circuits are smaller, deeper and
            more modular (`TESTED`), as far as they were measured.
        level: Chance of any false claim that "differs" may have.
        rbo_p: Of rank-biased overlap: 1 / (1 - p) ranks are looked at on average.
        rounds: Of Weisfeiler-Lehman: how many edges deep neighbourhoods are compared.
        window: Between which depths heads are matched (see `match_heads`).
        n_random: Random circuits like each.
        n_bootstrap: Draws of the evaluation pairs for intervals of what is read off curves.
        pairs: What is to be said of the pairs, such as `CommonPairs.as_dict()`.
        seed: Draws random circuits, resamples and divisions.

    Raises:
        GraphError: There is no circuit, a figure is not known, or an option is out of range.
    """
    _require(level, n_random)
    subjects, kept = _aligned(as_subjects(circuits))
    like = [_random_like(subject.circuit, n_random, seed) for subject in subjects]
    chance = [_mean(random_figures(one.circuit, own, seed=seed)) for one, own in zip(subjects, like, strict=True)]
    resamples = _resamples(subjects, n_bootstrap, seed)
    drawn = [subject.drawn(draws) for subject, draws in zip(subjects, resamples, strict=True)]
    shared, names = agreement(subjects, like, p=rbo_p, rounds=rounds, window=window), _tested(subjects, figures)
    tail = min((draws.tail for draws in resamples if draws is not None), default=TAIL)
    found = compare_figures(subjects, names, drawn=drawn, chance=chance, seed=seed, tail=tail)
    measure = next(name for name in _OVERLAPS if not np.isnan(shared.values[name]).any())
    found += compare_overlap(subjects, measure, shared.values[measure], seed=seed)
    method = {"level": level, "tested": list(names), "rbo_p": rbo_p, "weisfeiler_lehman_rounds": rounds}
    method |= {"heads_matched": window, "n_random": n_random, "n_bootstrap": n_bootstrap, "seed": seed}
    return Comparison(
        subjects=tuple(subjects),
        conditions=tuple(conditions(subject.circuit) for subject in subjects),
        differences=differences(subjects),
        agreement=shared,
        rank_curves=rank_curves(subjects),
        figures=tuple(_figures(subject, one, tail) for subject, one in zip(subjects, drawn, strict=True)),
        chance=tuple(chance),
        findings=judged(found, level),
        pairs={**(pairs or {}), **kept},
        method={**method, "one_shape": same_shape(subjects), **_METHOD},
    )


def _require(level: float, n_random: int) -> None:
    if not 0 < level < 1 or n_random < 0:
        raise GraphError(f"level={level}, n_random={n_random}: pass a level between 0 and 1 and n_random of 0 or more.")


def _aligned(subjects: list[Subject]) -> tuple[list[Subject], dict[str, Any]]:
    """All curves on the pairs that every one of them has, and what that dropped.

    Curves of other pictures (another task) stay on their own pairs.
    """
    every = _curves(subjects)
    if not every:
        return subjects, {}
    if len({curve.pictures for curve in every}) > 1:
        return subjects, {"compared": {"each_on_its_own_pairs": [curve.n_pairs for curve in every]}}
    shared = set.intersection(*(set(curve.ids.tolist()) for curve in every))
    either = set.union(*(set(curve.ids.tolist()) for curve in every))
    if not shared:
        raise GraphError(
            "no pair was measured for every circuit: measure the curves on common pairs, such as "
            "common_pairs([first_task, second_task])."
        )
    wanted = np.array(sorted(shared))
    found = []
    for subject in subjects:
        curves = {by: curve.at(_rows(curve.ids, wanted)) for by, curve in subject.curves.items()}
        _require_sides(subject, curves)
        found.append(dataclasses.replace(subject, curves=curves))
    return found, {"compared": {"pairs": len(shared), "share_dropped": 1 - len(shared) / len(either)}}


def _curves(subjects: Sequence[Subject]) -> list[PairCurve]:
    return [curve for subject in subjects for curve in subject.curves.values()]


def _require_sides(subject: Subject, shared: Mapping[str, PairCurve]) -> None:
    """Does nothing if the shared pairs of a crossed task still show both classes."""
    for by, curve in shared.items():
        before = subject.curves[by].design
        if before is not None and curve.design is not None and before.sides != curve.design.sides:
            raise GraphError(
                f"the pairs that {subject.name} shares with the other circuits show one class only: measure the curves "
                f"on common pairs, such as common_pairs([first_task, second_task])."
            )


def _rows(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    order = np.argsort(ids, kind="stable")
    return order[np.searchsorted(ids[order], wanted)].astype(np.int64)


def _random_like(circuit: Circuit, n: int, seed: int) -> list[Circuit]:
    return [Circuit(circuit.graph, mask, provenance={}) for mask in matched_masks(circuit, n, seed=seed)]


def _mean(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in found])) for name in (found[0] if found else {})}


def _resamples(subjects: Sequence[Subject], n: int, seed: int) -> list[Resamples | None]:
    """Draws of each subject's pairs: one and the same for all on common pairs, independent ones otherwise."""
    common = len({curve.pictures for curve in _curves(subjects)}) <= 1
    found: list[Resamples | None] = []
    for place, subject in enumerate(subjects):
        curve = next(iter(subject.curves.values()), None)
        found.append(None if curve is None else curve.resamples(n, seed=seed + (0 if common else place)))
    return found


def _tested(subjects: Sequence[Subject], figures: Sequence[str] | None) -> tuple[str, ...]:
    known = {name for subject in subjects for name in subject.figures}
    if figures is None:
        alike = len({len(subject.circuit.graph) for subject in subjects}) == 1
        called = {curve.name for curve in _curves(subjects)}
        named = (name.replace("faithfulness", called.copy().pop()) if len(called) == 1 else name for name in TESTED)
        wanted = (name if alike else name.replace("edges for", "share of edges for") for name in named)
        return tuple(name for name in wanted if name in known)
    for name in figures:
        if name not in known:
            raise GraphError(f"there is no figure {name!r}: pass some of {', '.join(map(repr, sorted(known)))}.")
    return tuple(figures)


def _figures(subject: Subject, drawn: Mapping[str, Floats], tail: float) -> dict[str, Figure]:
    """The figures with their intervals; `tail` is the share of draws beyond each end of what is read off curves."""
    read = curve_figures(subject.curves, subject.by)
    found = {}
    for name, value in subject.figures.items():
        if np.isnan(value):
            found[name] = Figure(None, reason="undefined for this circuit")
        elif name in drawn and len(drawn[name]) > 1 and not np.isnan(drawn[name]).all():
            low, high = percentiles(drawn[name], tail if name in read else TAIL)
            found[name] = Figure(value, "", float(low), float(high), method=f"interval: {len(drawn[name])} resamples")
        else:
            found[name] = Figure(value, reason="its circuit was not found again on resampled pairs")
    return found
