"""Hypothesis tests of a circuit (Shi et al. 2024, arXiv 2410.13032), on s: the output per pair.

- *equivalence*: P(s of the circuit > s of the model) lies within 1/2 +- epsilon, by two one-sided tests.
- *independence*: s(E without C) does not depend on s(M), by HSIC and permutations.
- *minimality*: taking out any edge of C changes s more than taking a random edge out of a randomly inflated C.

(*Sufficiency* and *partial necessity* stand in `by_chance.py`.) s is the target's logit less the foil's (without a
foil, the target's logit), whatever the task's metric: it must be free of labels and of the model's own run. Only
independence passes by *not* rejecting; the others put the burden of proof on the circuit. Equivalence and independence
count clean images (`units.py`). Minimality draws circuits and takes the pairs as given: its p-value is over draws, and
a change is measured pair by pair, so that it cannot cancel between pairs. No constant passes (`verdicts.py`).

Weak spots: equivalence looks at the sign of each difference and not at its size, and on a crossed task at means over
partners, which hide what leaks. Independence means something only where the partner's image is drawn independently of
the clean one, and where both sides vary.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..nodes import among, granularity, kept_nodes, node_names
from ..reach import prune
from ..walks import Walks
from .bench import Bench, Findings
from .inflate import inflate
from .statistics import Tested, beats, can_pass, equivalence, fewest_pairs, independence
from .verdicts import untested, verdict

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MEDIAN = 0.5  # minimality: an edge must matter more than a superfluous one does more often than not


def check_equivalence(bench: Bench) -> Findings:
    """Whether the circuit's output is above the model's about as often as below.

    On a crossed task also whether it speaks for what the image shows more strongly about as often as less so: an answer
    that is the same to all images lies above the model on those of one class and below on the others, half and half.
    """
    settings, n, tie = bench.settings, len(bench.units), bench.rounding
    found = [_compare(bench, np.ones(n)), *([_compare(bench, bench.units.sign.astype(float))] if bench.sided else [])]
    worst = max(found, key=lambda one: one.p_value)
    choices = {"epsilon": settings.epsilon, "level": settings.level}
    said = f"the circuit's output is above the model's in {found[0].statistic:.0%} of {n} {bench.units.words}, "
    said += f"and speaks more strongly for what is shown in {found[-1].statistic:.0%}, " * bench.sided
    passed: bool | None
    if not can_pass(n, **choices) and not any(_outside(one, settings.epsilon) for one in found):
        needed = f"{fewest_pairs(**choices)} {bench.units.words} or more"
        passed, said = None, said + f"ties counting half; with so few no circuit can pass: take {needed}"
    else:
        passed = worst.p_value <= settings.level
        shown = "is" + " not" * (not passed) + " shown to lie"
        said += f"ties counting half; that {shown} within {settings.epsilon:g} of one half"
    null = f"P(s(C) > s(M)) is at most {0.5 - settings.epsilon:g} or at least {0.5 + settings.epsilon:g}"
    null += ", or the same of s times the side that the image shows" * bench.sided
    method = f"two one-sided binomial tests, ties (within {tie:.0e}) as half, interval: Wilson's"
    method += "; means over partners; the worse of both comparisons" * bench.sided
    return verdict("equivalence", bench, passed, said, worst, n, null, method)


def _compare(bench: Bench, sign: Floats) -> Tested:
    kept, full = (sign * bench.units.means(values) for values in (bench.kept, bench.full))
    return equivalence(kept, full, epsilon=bench.settings.epsilon, tie=bench.rounding)


def _outside(found: Tested, epsilon: float) -> bool:
    """Whether the whole interval lies outside 1/2 +- epsilon, so that few pairs are enough to fail."""
    assert found.low is not None and found.high is not None
    return found.high < 0.5 - epsilon or found.low > 0.5 + epsilon


def check_independence(bench: Bench) -> Findings:
    """Whether what is left without the circuit still depends on what the model says.

    Two controls say what a result is worth: that the test sees the circuit's own output depend on the model's (if not,
    it is too weak to decide), and what it says of no edge at all (if that depends too, the partners resemble the clean
    images, and the test says nothing of the circuit).
    """
    left, full = bench.outputs([~bench.own], "independence")[0], bench.units.means(bench.full)
    null, n, level = "s(E without C) and s(M) are independent", len(full), bench.settings.level
    method = f"HSIC, Gaussian kernels of median width, {bench.settings.n_permutations} permutations"
    method += " of whole clean images" * bench.sided
    for values, name in ((full, "the model's output"), (left, "the output without the circuit")):
        if np.ptp(values) <= bench.rounding:
            why = f"{name} is the same on all pairs, so nothing can depend"
            return untested("independence", bench, why, null, method)
    where = {"unit": bench.units.of_pair, "place": bench.units.place}
    test = partial(independence, n_permutations=bench.settings.n_permutations, seed=bench.seed, **where)
    found, own, none = (test(values, full) for values in (left, bench.kept, bench.none))
    said = f"what is left without the circuit depends on the model's output (p = {found.p_value:.3g}; "
    said += f"controls: the circuit itself p = {own.p_value:.3g}, no edge p = {none.p_value:.3g})"
    if found.p_value > level:
        said = said.replace("depends", "is not seen to depend")
    passed: bool | None = found.p_value > level
    if passed and own.p_value > level:
        passed, said = (
            None,
            said + f"; with {n} {bench.units.words} the test does not even see the circuit depend, so it is too weak",
        )
    if not passed and passed is not None and none.p_value <= level:
        passed, said = None, said + "; with no edge the output depends too, so the partners resemble the clean images"
    return verdict("independence", bench, passed, said, found, n, null, method)


def check_minimality(bench: Bench) -> Findings:
    """Whether each edge (node) of the circuit matters more than a superfluous one would.

    Costs one run per edge (at most `most_parts`, else a random sample) and two for each of `n_draws` inflated circuits.
    """
    null = f"taking the {bench.part} out moves s no more than a random one of an inflated circuit, half of the time"
    draws = _inflated(bench)
    parts = bench.parts()
    if not draws or not parts:
        return untested("minimality", bench, "an empty or a whole circuit cannot be inflated", null, "")
    total, limit = len(parts), bench.settings.most_parts
    if total > limit:
        places = np.random.default_rng([bench.seed, 5]).choice(total, limit, replace=False)
        parts = [parts[place] for place in sorted(places)]
    drawn = bench.outputs([mask for pair in draws for mask in pair], "minimality, inflated")
    random = bench.distance(drawn[0::2], drawn[1::2])
    own = bench.distance(bench.kept, bench.outputs([mask for _, mask in parts], "minimality"))
    wins = (own[:, None] > random[None, :] + bench.rounding).sum(-1)
    return _judge_parts(bench, [name for name, _ in parts], total, wins, null)


def _judge_parts(bench: Bench, names: list[str], total: int, wins: NDArray[np.intp], null: str) -> Findings:
    n, level = bench.settings.n_draws, bench.settings.level / total
    tested = [beats(int(won), n, quantile=MEDIAN) for won in wins]
    weak = [name for name, found in zip(names, tested, strict=True) if found.p_value > level]
    worst = max(tested, key=lambda found: found.p_value)
    able = beats(n, n, quantile=MEDIAN).p_value <= level
    said = f"{len(names) - len(weak)} of {len(names)} {bench.part}s matter more than random ones of inflated circuits"
    said += f" ({len(names)} of {total} tested)" * (len(names) < total)
    said += f"; not shown for {', '.join(weak[:10])}{' and others' * (len(weak) > 10)}" * bool(weak)
    said += "" if able else f"; with {n} draws no {bench.part} of {total} can be shown to"
    method = f"one-sided binomial test over {n} draws, Bonferroni over {total} {bench.part}s; "
    method += f"statistic and p-value are those of the weakest {bench.part}; interval: Wilson's"
    return verdict("minimality", bench, not weak if able else None, said, worst, n, null, method, level)


def _inflated(bench: Bench) -> list[tuple[Bools, Bools]]:
    """Inflated circuits, each with and without a random part of what was added; none where nothing can be added."""
    rng, graph = np.random.default_rng([bench.seed, 6]), bench.graph
    if not bench.own.any() or bench.own.all():
        return []
    if granularity(bench.circuit) == "node":
        kept = kept_nodes(bench.circuit)
        others = [name for name in node_names(graph) if name not in kept]
        drawn = rng.choice(others, bench.settings.n_draws).tolist() if others else []
        return [(prune(graph, among(graph, [*kept, name])), bench.own) for name in drawn]
    walks, found = Walks.of(graph), []
    for _ in range(bench.settings.n_draws):
        larger, edge = inflate(graph, walks, bench.own, rng)
        without = larger.copy()
        without[edge] = False
        found.append((larger, without))
    return found
