"""Circuits compared: what differs in how they were found, what they share, how they are built, and what may be said.

    report = compare({"vit": [first, second, third], "clip": [fourth, fifth, sixth]})
    print(report); report.save("comparison/")

A comparison of two models is only about the models if everything else is the same. What is not is found here and said;
nothing is refused, because sometimes the difference is the question.

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
from ..circuit import Circuit
from ..figures import TESTED
from ..judging.bootstrap import TAIL, Resamples, percentiles
from ..nodes import MATCHED_BY, granularity, kept_nodes, matched_masks
from ..reach import prune
from ..report import Figure
from ..words import task_words
from .agreement import agreement, rank_curves
from .findings import compare_figures, compare_overlap, judged
from .matching import Window
from .null import random_figures
from .result import Comparison, Difference
from .similarity import RBO_P, ROUNDS
from .subject import Circuits, PairCurve, Subject, as_subjects, curve_figures

_ABOUT = "-"  # what a circuit does not record
ALIKE = 1.1  # sizes that differ by less than a tenth, as edges on no path make them, don't matter


_MATTERS = {
    "task": "These are circuits of different behaviours.",
    "data": "The images are not the same.",
    "readout": "The logits come from other heads.",
    "partners": "An edge carries what differs between an image and its partner, so partners decide what is found.",
    "clean images": "Where clean images show the target alone, one that says so whatever it sees is found faithful.",
    "ablation": "Removed edges carried different things, so sizes and what is kept are not comparable.",
    "metric": "Scores have different meanings, so sizes, CPR and CMD are not comparable.",
    "granularity": "Equal shares of nodes and of edges are different sizes.",
    "tokens": "The graphs have other edges.",
    "ports": "The graphs have other edges.",
    "budget": "Circuits of different sizes overlap less than equal ones can: read the overlap at equal rank.",
    "ranked by": "Edges were ranked by different numbers.",
    "algorithm": "Two algorithms differ on one model already.",
    "graph edges": "The models have different shapes: edges are compared only after heads are matched.",
}


def conditions(circuit: Circuit) -> dict[str, str]:
    """Everything that a circuit records about how it was found, as text; `-` where it does not."""
    task, provenance, graph = dict(circuit.task), circuit.provenance, circuit.graph
    kept = int(prune(graph, circuit.mask).sum())
    size = f"{len(kept_nodes(circuit))} nodes" if granularity(circuit) == "node" else f"{kept} edges"
    found: Mapping[str, Any] = {
        "model": task.get("model") or graph.cfg.name,
        "readout": dict(task.get("readout") or {}).get("kind") or "the model's own head",
        "task": task_words(task),
        "data": task.get("data"),
        "partners": _several(task, "corruption", "mask", "word", "mask_coordinates"),
        "clean images": {"both": "of target and foil", "one": "of the target"}.get(str(task.get("sides"))),
        "ablation": str(circuit.ablation),
        "metric": task.get("metric"),
        "granularity": granularity(circuit),
        "tokens": graph.groups.kind,
        "ports": graph.ports,
        "graph edges": len(graph),
        "algorithm": _several(provenance, "algorithm", "options"),
        "budget": size,
        "selection": _several(provenance, "selection", "level", "tau"),
        "ranked by": provenance.get("by"),
        "discovery pairs": task.get("n_discovery"),
        "seed of the pairs": task.get("seed"),
    }
    return {name: _ABOUT if value in (None, "") else str(value) for name, value in found.items()}


def _several(record: Mapping[str, Any], *names: str) -> str:
    """Some entries of a record as text: the first by itself, the others with their names."""
    said = [str(record.get(names[0]) or "")]
    for name in names[1:]:
        value = record.get(name)
        if isinstance(value, Mapping):
            said += [f"{key} {item}" for key, item in value.items()]
        elif value:
            said.append(f"{name} {value}")
    return ", ".join(filter(None, said))


def _matters(condition: str, subjects: Sequence[Subject]) -> str:
    sizes = [len(subject.circuit) for subject in subjects]
    if condition == "budget" and max(sizes) <= ALIKE * min(sizes):
        return ""
    return _MATTERS.get(condition, "")


def differences(subjects: Sequence[Subject]) -> tuple[Difference, ...]:
    """The conditions in which circuits differ, those that matter first; the model is what is compared, so not it."""
    every = [conditions(subject.circuit) for subject in subjects]
    names = tuple(subject.name for subject in subjects)
    found = []
    for condition in every[0]:
        values = tuple(one[condition] for one in every)
        if condition != "model" and len(set(values)) > 1:
            found.append(Difference(condition, values, names, _matters(condition, subjects)))
    found += _of_curves(subjects, names)
    return tuple(sorted(found, key=lambda one: not one.matters))


def _of_curves(subjects: Sequence[Subject], names: tuple[str, ...]) -> list[Difference]:
    """Areas that begin at other sizes: on large graphs at MIB's smallest share, on small ones at none."""
    every = [[float(c.share[c.on_grid].min()) for c in subject.curves.values()] for subject in subjects]
    starts = [min(some, default=-1.0) for some in every]
    if len(set(starts)) == 1 or min(starts) < 0:
        return []
    values = tuple(f"from {start:g} of the edges" for start in starts)
    return [Difference("area of CPR and CMD", values, names, "The areas leave out different parts of the curve.")]


def same_shape(subjects: Sequence[Subject]) -> bool:
    """Whether all circuits are of graphs with the same edges."""
    return len({subject.circuit.graph.signature for subject in subjects}) == 1


Floats = NDArray[np.float64]

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
        if name in subject.judged and name not in read:
            found[name] = subject.judged[name]
        elif np.isnan(value):
            found[name] = Figure(None, reason="undefined for this circuit")
        elif name in drawn and len(drawn[name]) > 1 and not np.isnan(drawn[name]).all():
            low, high = percentiles(drawn[name], tail if name in read else TAIL)
            found[name] = Figure(value, "", float(low), float(high), method=f"interval: {len(drawn[name])} resamples")
        else:
            found[name] = Figure(value, reason="its circuit was not found again on resampled pairs")
    return found
