"""Hypothesis tests of a circuit (Shi et al. 2024, arXiv 2410.13032), on s: the output per pair.

- *equivalence*: P(s of the circuit > s of the model) lies within 1/2 +- epsilon, by two one-sided tests.
- *independence*: s(E without C) does not depend on s(M), by HSIC and permutations.
- *minimality*: taking out any edge of C changes s more than taking a random edge out of a randomly inflated C.
- *sufficiency*: C comes closer to the model than random circuits like it.
- *partial necessity*: ablating C moves the model further than ablating random circuits like it.

s is the target's logit less the foil's (without a foil, the target's logit), whatever the task's metric: it must be
free of labels and of the model's own run. Only independence passes by *not* rejecting; the others put the burden of
proof on the circuit. Equivalence and independence count clean images (`Units`). Minimality draws circuits and takes the
pairs as given: its p-value is over draws, and a change is measured pair by pair, so that it cannot cancel between
pairs. No constant passes (`verdicts.py`).

Weak spots: equivalence looks at the sign of each difference and not at its size, and on a crossed task at means over
partners, which hide what leaks. Independence means something only where the partner's image is drawn independently of
the clean one, and where both sides vary.

For the last two distances are taken pair by pair, every cell of a crossed task counting alike
(`MaskEvaluator.distance`). The random circuits are of each kind that the graph has (`control_kinds.py`): whole paths,
edges dealt anew, heads renamed. The circuit has to beat every kind, and the verdict is that of the hardest. Draws that
are the circuit itself are left out, and with them a kind that holds no other circuit. p-values are over draws, and take
the pairs as given.

For minimality a circuit is made larger by chance: by one random whole path, of which a random edge is looked at. The
path starts from an edge outside the circuit, drawn evenly among all, and is completed by random walks: back until
something that the input reaches inside the circuit, on until something of the circuit that reaches the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph
from ..judging.control_kinds import CONTROLS, kinds_of, other_masks
from ..nodes import among, granularity, kept_nodes, node_names
from ..reach import Walks, prune
from .mask_evaluator import Findings, MaskEvaluator
from .verdicts import Tested, beats, can_pass, equivalence, fewest_pairs, independence, untested, verdict

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MEDIAN = 0.5  # minimality: an edge must matter more than a superfluous one does more often than not


def check_equivalence(evaluator: MaskEvaluator) -> Findings:
    """Whether the circuit's output is above the model's about as often as below.

    On a crossed task also whether it speaks for what the image shows more strongly about as often as less so: an answer
    that is the same to all images lies above the model on those of one class and below on the others, half and half.
    """
    settings, n, tie = evaluator.settings, len(evaluator.units), evaluator.rounding
    found = [
        _compare(evaluator, np.ones(n)),
        *([_compare(evaluator, evaluator.units.sign.astype(float))] if evaluator.sided else []),
    ]
    worst = max(found, key=lambda one: one.p_value)
    choices = {"epsilon": settings.epsilon, "level": settings.level}
    said = f"the circuit's output is above the model's in {found[0].statistic:.0%} of {n} {evaluator.units.words}, "
    said += f"and speaks more strongly for what is shown in {found[-1].statistic:.0%}, " * evaluator.sided
    passed: bool | None
    if not can_pass(n, **choices) and not any(_outside(one, settings.epsilon) for one in found):
        needed = f"{fewest_pairs(**choices)} {evaluator.units.words} or more"
        passed, said = None, said + f"ties counting half; with so few no circuit can pass: take {needed}"
    else:
        passed = worst.p_value <= settings.level
        shown = "is" + " not" * (not passed) + " shown to lie"
        said += f"ties counting half; that {shown} within {settings.epsilon:g} of one half"
    null = f"P(s(C) > s(M)) is at most {0.5 - settings.epsilon:g} or at least {0.5 + settings.epsilon:g}"
    null += ", or the same of s times the side that the image shows" * evaluator.sided
    method = f"two one-sided binomial tests, ties (within {tie:.0e}) as half, interval: Wilson's"
    method += "; means over partners; the worse of both comparisons" * evaluator.sided
    return verdict("equivalence", evaluator, passed, said, worst, n, null, method)


def _compare(evaluator: MaskEvaluator, sign: Floats) -> Tested:
    kept, full = (sign * evaluator.units.means(values) for values in (evaluator.kept, evaluator.full))
    return equivalence(kept, full, epsilon=evaluator.settings.epsilon, tie=evaluator.rounding)


def _outside(found: Tested, epsilon: float) -> bool:
    """Whether the whole interval lies outside 1/2 +- epsilon, so that few pairs are enough to fail."""
    assert found.low is not None and found.high is not None
    return found.high < 0.5 - epsilon or found.low > 0.5 + epsilon


def check_independence(evaluator: MaskEvaluator) -> Findings:
    """Whether what is left without the circuit still depends on what the model says.

    Two controls say what a result is worth: that the test sees the circuit's own output depend on the model's (if not,
    it is too weak to decide), and what it says of no edge at all (if that depends too, the partners resemble the clean
    images, and the test says nothing of the circuit).
    """
    left, full = evaluator.outputs([~evaluator.own], "independence")[0], evaluator.units.means(evaluator.full)
    null, n, level = "s(E without C) and s(M) are independent", len(full), evaluator.settings.level
    method = f"HSIC, Gaussian kernels of median width, {evaluator.settings.n_permutations} permutations"
    method += " of whole clean images" * evaluator.sided
    for values, name in ((full, "the model's output"), (left, "the output without the circuit")):
        if np.ptp(values) <= evaluator.rounding:
            why = f"{name} is the same on all pairs, so nothing can depend"
            return untested("independence", evaluator, why, null, method)
    where = {"unit": evaluator.units.of_pair, "place": evaluator.units.place}
    test = partial(independence, n_permutations=evaluator.settings.n_permutations, seed=evaluator.seed, **where)
    found, own, none = (test(values, full) for values in (left, evaluator.kept, evaluator.none))
    said = f"what is left without the circuit depends on the model's output (p = {found.p_value:.3g}; "
    said += f"controls: the circuit itself p = {own.p_value:.3g}, no edge p = {none.p_value:.3g})"
    if found.p_value > level:
        said = said.replace("depends", "is not seen to depend")
    passed: bool | None = found.p_value > level
    if passed and own.p_value > level:
        passed, said = (
            None,
            said
            + f"; with {n} {evaluator.units.words} the test does not even see the circuit depend, so it is too weak",
        )
    if not passed and passed is not None and none.p_value <= level:
        passed, said = None, said + "; with no edge the output depends too, so the partners resemble the clean images"
    return verdict("independence", evaluator, passed, said, found, n, null, method)


def check_minimality(evaluator: MaskEvaluator) -> Findings:
    """Whether each edge (node) of the circuit matters more than a superfluous one would.

    Costs one run per edge (at most `most_parts`, else a random sample) and two for each of `n_draws` inflated circuits.
    """
    null = f"taking the {evaluator.part} out moves s no more than a random one of an inflated circuit, half of the time"
    draws = _inflated(evaluator)
    parts = evaluator.parts()
    if not draws or not parts:
        return untested("minimality", evaluator, "an empty or a whole circuit cannot be inflated", null, "")
    total, limit = len(parts), evaluator.settings.most_parts
    if total > limit:
        places = np.random.default_rng([evaluator.seed, 5]).choice(total, limit, replace=False)
        parts = [parts[place] for place in sorted(places)]
    drawn = evaluator.outputs([mask for pair in draws for mask in pair], "minimality, inflated")
    random = evaluator.distance(drawn[0::2], drawn[1::2])
    own = evaluator.distance(evaluator.kept, evaluator.outputs([mask for _, mask in parts], "minimality"))
    wins = (own[:, None] > random[None, :] + evaluator.rounding).sum(-1)
    return _judge_parts(evaluator, [name for name, _ in parts], total, wins, null)


def _judge_parts(evaluator: MaskEvaluator, names: list[str], total: int, wins: NDArray[np.intp], null: str) -> Findings:
    n, level = evaluator.settings.n_draws, evaluator.settings.level / total
    tested = [beats(int(won), n, quantile=MEDIAN) for won in wins]
    weak = [name for name, found in zip(names, tested, strict=True) if found.p_value > level]
    worst = max(tested, key=lambda found: found.p_value)
    able = beats(n, n, quantile=MEDIAN).p_value <= level
    said = (
        f"{len(names) - len(weak)} of {len(names)} {evaluator.part}s matter more than random ones of inflated circuits"
    )
    said += f" ({len(names)} of {total} tested)" * (len(names) < total)
    said += f"; not shown for {', '.join(weak[:10])}{' and others' * (len(weak) > 10)}" * bool(weak)
    said += "" if able else f"; with {n} draws no {evaluator.part} of {total} can be shown to"
    method = f"one-sided binomial test over {n} draws, Bonferroni over {total} {evaluator.part}s; "
    method += f"statistic and p-value are those of the weakest {evaluator.part}; interval: Wilson's"
    return verdict("minimality", evaluator, not weak if able else None, said, worst, n, null, method, level)


def _inflated(evaluator: MaskEvaluator) -> list[tuple[Bools, Bools]]:
    """Inflated circuits, each with and without a random part of what was added; none where nothing can be added."""
    rng, graph = np.random.default_rng([evaluator.seed, 6]), evaluator.graph
    if not evaluator.own.any() or evaluator.own.all():
        return []
    if granularity(evaluator.circuit) == "node":
        kept = kept_nodes(evaluator.circuit)
        others = [name for name in node_names(graph) if name not in kept]
        drawn = rng.choice(others, evaluator.settings.n_draws).tolist() if others else []
        return [(prune(graph, among(graph, [*kept, name])), evaluator.own) for name in drawn]
    walks, found = Walks.of(graph), []
    for _ in range(evaluator.settings.n_draws):
        larger, edge = random_superset(graph, walks, evaluator.own, rng)
        without = larger.copy()
        without[edge] = False
        found.append((larger, without))
    return found


Judged = tuple[bool | None, str, Tested, int]
"""Whether it passed, what was found, the test, and how many circuits it rests on."""


def check_sufficiency(evaluator: MaskEvaluator) -> Findings:
    """Whether the circuit comes closer to the model than most random circuits of its size."""
    said = "comes closer to the model's outputs than {} of {} random circuits"
    return _against_random(evaluator, "sufficiency", lambda mask: mask, lambda own, random: random - own, said)


def check_partial_necessity(evaluator: MaskEvaluator) -> Findings:
    """Whether ablating the circuit moves the model's outputs further than ablating most random circuits of its size."""
    said = "moves the model's outputs further when ablated than {} of {} random circuits do"
    return _against_random(evaluator, "partial_necessity", lambda mask: ~mask, lambda own, random: own - random, said)


def _against_random(
    evaluator: MaskEvaluator,
    name: str,
    what: Callable[[Bools], Bools],
    margin: Callable[[Floats, Floats], Floats],
    said: str,
) -> Findings:
    """How often the circuit beats random circuits like it, of the kind that is hardest to beat."""
    drawn = {kind: others(evaluator, kind) for kind in kinds_of(evaluator.circuit)}
    drawn = {kind: masks for kind, masks in drawn.items() if masks}
    null = f"of some kind of random circuits, the circuit beats at most {evaluator.settings.quantile:g}"
    if not drawn or not evaluator.own.any() or evaluator.own.all():
        return untested(name, evaluator, "all circuits of this size are the same", null, "")
    judged = {}
    for kind, masks in drawn.items():
        own, *random = evaluator.outputs([what(mask) for mask in (evaluator.own, *masks)], name.replace("_", " "))
        away = evaluator.distance(np.stack([own, *random]), evaluator.full)
        judged[kind] = _judge_draws(evaluator, margin(away[0], away[1:]), "the circuit " + said)
    order = {True: 0, None: 1, False: 2}  # failed is harder than undecided, undecided than passed
    hardest = max(judged, key=lambda kind: (order[judged[kind][0]], judged[kind][2].p_value))
    passed, words, found, n = judged[hardest]
    kind = CONTROLS[hardest].words[granularity(evaluator.circuit)]
    words += f"; against the hardest of {len(judged)} kinds, {hardest}: {kind}"
    method = f"one-sided binomial test over {n} random circuits; ties don't count as wins; interval: Wilson's; "
    method += f"distance: root mean square over pairs; kinds: {', '.join(judged)}"
    return verdict(name, evaluator, passed, words, found, n, null, method)


def others(evaluator: MaskEvaluator, kind: str) -> list[Bools]:
    """Masks of random circuits of a kind, none of which is the circuit itself."""
    return other_masks(evaluator.circuit, kind, evaluator.settings.n_draws, seed=evaluator.seed + 7)


def _judge_draws(evaluator: MaskEvaluator, margins: Floats, said: str) -> Judged:
    """Passed on wins alone, failed if ties would not save it, and undecided in between."""
    n, quantile, level = len(margins), evaluator.settings.quantile, evaluator.settings.level
    wins, ties = int((margins > evaluator.rounding).sum()), int((np.abs(margins) <= evaluator.rounding).sum())
    found, at_best = (beats(won, n, quantile=quantile) for won in (wins, wins + ties))
    words = said.format(wins, n) + f", with {ties} ties ({quantile:.0%} is the claim)"
    passed: bool | None = found.p_value <= level
    if not passed and at_best.p_value <= level:
        passed, words = None, words + "; ties leave it open: random circuits do the same there"
    elif beats(n, n, quantile=quantile).p_value > level:
        passed, words = None, words + f"; with {n} draws that cannot be shown"
    return passed, words, found, n


def random_superset(graph: Graph, walks: Walks, mask: Bools, rng: np.random.Generator) -> tuple[Bools, int]:
    """The mask with a random path more, shape (edge,), and one of the added edges, drawn evenly.

    Args:
        graph: The graph.
        walks: Its links.
        mask: A circuit's edges, all on paths, and not all edges.
        rng: Draws the path and the edge.
    """
    edge = int(rng.choice(np.flatnonzero(~mask)))
    reached, needed = _touched(walks, mask)
    path = [edge, *walks.wander(edge, reached, rng, back=True), *walks.wander(edge, needed, rng, back=False)]
    added = [link for link in path if link < walks.n_edges and not mask[link]]
    larger = mask.copy()
    larger[added] = True
    return larger, int(rng.choice(added))


def _touched(walks: Walks, mask: Bools) -> tuple[Bools, Bools]:
    """Nodes that the input reaches, and nodes that reach the logits, by kept edges."""
    on_path = np.zeros(walks.logits + 1, dtype=bool)
    kept = np.flatnonzero(mask)
    on_path[walks.start[kept]] = on_path[walks.end[kept]] = True
    reached, needed = on_path.copy(), on_path.copy()
    reached[walks.inputs], needed[walks.logits] = True, True
    return reached, needed
