"""Sufficiency and partial necessity (Shi et al. 2024): does the circuit do better than circuits drawn by chance?

- *sufficiency*: C comes closer to the model than random circuits like it.
- *partial necessity*: ablating C moves the model further than ablating random circuits like it.

Distances are taken pair by pair, every cell of a crossed task counting alike (`Bench.distance`). The random circuits
are of each kind that the graph has (`control_kinds.py`): whole paths, edges dealt anew, heads renamed. The circuit has
to beat every kind, and the verdict is that of the hardest. Draws that are the circuit itself are left out, and with
them a kind that holds no other circuit. p-values are over draws, and take the pairs as given.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..control_kinds import CONTROLS, kinds_of, other_masks
from ..nodes import granularity
from .bench import Bench, Findings
from .statistics import Tested, beats
from .verdicts import untested, verdict

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

Judged = tuple[bool | None, str, Tested, int]
"""Whether it passed, what was found, the test, and how many circuits it rests on."""


def check_sufficiency(bench: Bench) -> Findings:
    """Whether the circuit comes closer to the model than most random circuits of its size."""
    said = "comes closer to the model's outputs than {} of {} random circuits"
    return _against_random(bench, "sufficiency", lambda mask: mask, lambda own, random: random - own, said)


def check_partial_necessity(bench: Bench) -> Findings:
    """Whether ablating the circuit moves the model's outputs further than ablating most random circuits of its size."""
    said = "moves the model's outputs further when ablated than {} of {} random circuits do"
    return _against_random(bench, "partial_necessity", lambda mask: ~mask, lambda own, random: own - random, said)


def _against_random(
    bench: Bench,
    name: str,
    what: Callable[[Bools], Bools],
    margin: Callable[[Floats, Floats], Floats],
    said: str,
) -> Findings:
    """How often the circuit beats random circuits like it, of the kind that is hardest to beat."""
    drawn = {kind: others(bench, kind) for kind in kinds_of(bench.circuit)}
    drawn = {kind: masks for kind, masks in drawn.items() if masks}
    null = f"of some kind of random circuits, the circuit beats at most {bench.settings.quantile:g}"
    if not drawn or not bench.own.any() or bench.own.all():
        return untested(name, bench, "all circuits of this size are the same", null, "")
    judged = {}
    for kind, masks in drawn.items():
        own, *random = bench.outputs([what(mask) for mask in (bench.own, *masks)], name.replace("_", " "))
        away = bench.distance(np.stack([own, *random]), bench.full)
        judged[kind] = _judge_draws(bench, margin(away[0], away[1:]), "the circuit " + said)
    hardest = max(judged, key=lambda kind: (_order(judged[kind]), judged[kind][2].p_value))
    passed, words, found, n = judged[hardest]
    kind = CONTROLS[hardest].words[granularity(bench.circuit)]
    words += f"; against the hardest of {len(judged)} kinds, {hardest}: {kind}"
    method = f"one-sided binomial test over {n} random circuits; ties don't count as wins; interval: Wilson's; "
    method += f"distance: root mean square over pairs; kinds: {', '.join(judged)}"
    return verdict(name, bench, passed, words, found, n, null, method)


def _order(judged: Judged) -> int:
    """Failed is harder than undecided, undecided than passed."""
    return {True: 0, None: 1, False: 2}[judged[0]]


def others(bench: Bench, kind: str) -> list[Bools]:
    """Masks of random circuits of a kind, none of which is the circuit itself."""
    return other_masks(bench.circuit, kind, bench.settings.n_draws, seed=bench.seed + 7)


def _judge_draws(bench: Bench, margins: Floats, said: str) -> Judged:
    """Passed on wins alone, failed if ties would not save it, and undecided in between."""
    n, quantile, level = len(margins), bench.settings.quantile, bench.settings.level
    wins, ties = int((margins > bench.rounding).sum()), int((np.abs(margins) <= bench.rounding).sum())
    found, at_best = (beats(won, n, quantile=quantile) for won in (wins, wins + ties))
    words = said.format(wins, n) + f", with {ties} ties ({quantile:.0%} is the claim)"
    passed: bool | None = found.p_value <= level
    if not passed and at_best.p_value <= level:
        passed, words = None, words + "; ties leave it open: random circuits do the same there"
    elif beats(n, n, quantile=quantile).p_value > level:
        passed, words = None, words + f"; with {n} draws that cannot be shown"
    return passed, words, found, n
