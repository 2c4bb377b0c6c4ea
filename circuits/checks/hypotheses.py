"""Hypothesis tests of a circuit (Shi et al. 2024, arXiv 2410.13032), on s: the output per pair.

- *equivalence*: P(s of the circuit > s of the model) lies within 1/2 +- epsilon, by two one-sided tests.
- *independence*: s(E without C) does not depend on s(M), by HSIC and permutations.
- *minimality*: taking out any edge of C changes s more than taking a random edge out of a randomly inflated C.
- *sufficiency*: C comes closer to the model than random circuits of the same size.
- *partial necessity*: ablating C moves the model further than ablating random circuits of the same size.

s is the target's logit less the foil's (without a foil, the target's logit), whatever the task's metric: it must be
free of labels and of the model's own run. Only independence passes by *not* rejecting; the others put the burden of
proof on the circuit. The last three draw circuits, and take the pairs as given: their p-values are over draws.

Weak spots: equivalence looks at the sign of each difference and not at its size. Independence means something only
where the partner's image is drawn independently of the clean one, and where both sides vary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ..nodes import MATCHED_BY, among, granularity, kept_nodes, matched_masks, node_names
from ..reach import prune
from ..report import Figure, Verdict
from ..walks import Walks
from .bench import Bench, Findings
from .inflate import inflate
from .statistics import Tested, beats, can_pass, equivalence, fewest_pairs, independence

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5}  # times the largest output: planted models differ by up to 3e-6
MEDIAN = 0.5  # minimality: an edge must matter more than a superfluous one does more often than not
NO_INTERVAL = "a permutation test has a p-value and no interval"


def check_equivalence(bench: Bench) -> Findings:
    """Whether the circuit's output is above the model's about as often as below."""
    settings, n = bench.settings, len(bench.pairs)
    found = equivalence(bench.kept, bench.full, epsilon=settings.epsilon, tie=rounding(bench))
    choices = {"epsilon": settings.epsilon, "level": settings.level}
    said = f"the circuit's output is above the model's in {found.statistic:.0%} of {n} pairs, ties counting half; "
    if not can_pass(n, **choices) and not _outside(found, settings.epsilon):
        passed, said = None, said + f"with so few no circuit can pass: take {fewest_pairs(**choices)} pairs or more"
    else:
        passed = found.p_value <= settings.level
        said += "that is" + " not" * (not passed) + f" shown to lie within {settings.epsilon:g} of one half"
    null = f"P(s(C) > s(M)) is at most {0.5 - settings.epsilon:g} or at least {0.5 + settings.epsilon:g}"
    method = f"two one-sided binomial tests, ties (within {rounding(bench):.0e}) as half, interval: Wilson's"
    return _verdict("equivalence", bench, passed, said, found, n, null, method)


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
    left, full = bench.outputs([~bench.own], "independence")[0], bench.full
    null, n, level = "s(E without C) and s(M) are independent", len(full), bench.settings.level
    method = f"HSIC, Gaussian kernels of median width, {bench.settings.n_permutations} permutations"
    for values, name in ((full, "the model's output"), (left, "the output without the circuit")):
        if np.ptp(values) <= rounding(bench):
            return _untested(
                "independence", bench, f"{name} is the same on all pairs, so nothing can depend", null, method
            )
    test = partial(independence, n_permutations=bench.settings.n_permutations, seed=bench.seed)
    found, own, none = (test(values, full) for values in (left, bench.kept, bench.none))
    said = f"what is left without the circuit depends on the model's output (p = {found.p_value:.3g}; "
    said += f"controls: the circuit itself p = {own.p_value:.3g}, no edge p = {none.p_value:.3g})"
    if found.p_value > level:
        said = said.replace("depends", "is not seen to depend")
    passed: bool | None = found.p_value > level
    if passed and own.p_value > level:
        passed, said = None, said + f"; with {n} pairs the test does not even see the circuit depend, so it is too weak"
    if not passed and passed is not None and none.p_value <= level:
        passed, said = None, said + "; with no edge the output depends too, so the partners resemble the clean images"
    return _verdict("independence", bench, passed, said, found, n, null, method)


def check_minimality(bench: Bench) -> Findings:
    """Whether each edge (node) of the circuit matters more than a superfluous one would.

    Costs one run per edge (at most `most_parts`, else a random sample) and two for each of `n_draws` inflated circuits.
    """
    null = f"taking the {bench.part} out moves s no more than a random one of an inflated circuit, half of the time"
    draws = _inflated(bench)
    parts = bench.parts()
    if not draws or not parts:
        return _untested("minimality", bench, "an empty or a whole circuit cannot be inflated", null, "")
    total, limit = len(parts), bench.settings.most_parts
    if total > limit:
        places = np.random.default_rng([bench.seed, 5]).choice(total, limit, replace=False)
        parts = [parts[place] for place in sorted(places)]
    means = bench.outputs([mask for pair in draws for mask in pair], "minimality, inflated").mean(-1)
    random = np.abs(means[0::2] - means[1::2])
    own = np.abs(bench.kept.mean() - bench.outputs([mask for _, mask in parts], "minimality").mean(-1))
    wins = (own[:, None] > random[None, :] + rounding(bench)).sum(-1)
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
    return _verdict("minimality", bench, not weak if able else None, said, worst, n, null, method, level)


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


def check_sufficiency(bench: Bench) -> Findings:
    """Whether the circuit comes closer to the model than most random circuits of its size."""
    said = "comes closer to the model's mean output than {} of {} random circuits"
    return _against_random(bench, "sufficiency", lambda mask: mask, lambda own, random: random - own, said)


def check_partial_necessity(bench: Bench) -> Findings:
    """Whether ablating the circuit moves the model's output further than ablating most random circuits of its size."""
    said = "moves the model's mean output further when ablated than {} of {} random circuits do"
    return _against_random(bench, "partial_necessity", lambda mask: ~mask, lambda own, random: own - random, said)


def _against_random(
    bench: Bench,
    name: str,
    what: Callable[[Bools], Bools],
    margin: Callable[[Floats, Floats], Floats],
    said: str,
) -> Findings:
    """How often the circuit beats random circuits like it, in the distance of the mean output to the model's."""
    n, quantile = bench.settings.n_draws, bench.settings.quantile
    null = f"the circuit beats at most {quantile:g} of {MATCHED_BY[bench.part]}"
    if not bench.own.any() or bench.own.all():
        return _untested(name, bench, "all circuits of this size are the same", null, "")
    masks = matched_masks(bench.circuit, n, seed=bench.seed + 7)
    own, *random = bench.outputs([what(mask) for mask in (bench.own, *masks)], name.replace("_", " "))
    own_away, random_away = (np.abs(np.mean(s, -1) - bench.full.mean()) for s in (own, np.stack(random)))
    margins = margin(own_away, random_away)
    return _judge_draws(name, bench, margins, "the circuit " + said, null)


def _judge_draws(name: str, bench: Bench, margins: Floats, said: str, null: str) -> Findings:
    """Passed on wins alone, failed if ties would not save it, and undecided in between."""
    n, quantile, level = len(margins), bench.settings.quantile, bench.settings.level
    wins, ties = int((margins > rounding(bench)).sum()), int((np.abs(margins) <= rounding(bench)).sum())
    found, at_best = (beats(won, n, quantile=quantile) for won in (wins, wins + ties))
    words = said.format(wins, n) + f", with {ties} ties ({quantile:.0%} is the claim)"
    passed: bool | None = found.p_value <= level
    if not passed and at_best.p_value <= level:
        passed, words = None, words + "; ties leave it open: random circuits do the same there"
    elif beats(n, n, quantile=quantile).p_value > level:
        passed, words = None, words + f"; with {n} draws that cannot be shown"
    method = f"one-sided binomial test over {n} {MATCHED_BY[bench.part]}; ties don't count as wins; interval: Wilson's"
    return _verdict(name, bench, passed, words, found, n, null, method)


def rounding(bench: Bench) -> float:
    """Differences of outputs that are no larger are rounding."""
    largest = float(max(np.abs(bench.full).max(), np.abs(bench.none).max()))
    return ROUNDING.get(bench.task.vit.dtype, 1e-5) * max(1.0, largest)


def _verdict(
    name: str,
    bench: Bench,
    passed: bool | None,
    words: str,
    found: Tested,
    n: int,
    null: str,
    method: str,
    level: float | None = None,
) -> Findings:
    reason = "" if found.low is not None else NO_INTERVAL
    statistic = Figure(found.statistic, "", found.low, found.high, reason)
    threshold = bench.settings.level if level is None else level
    return Findings(verdicts={name: Verdict(passed, words, statistic, found.p_value, n, threshold, null, method)})


def _untested(name: str, bench: Bench, why: str, null: str, method: str) -> Findings:
    verdict = Verdict(None, why, Figure(None, reason=why), None, len(bench.pairs), bench.settings.level, null, method)
    return Findings(verdicts={name: verdict})
