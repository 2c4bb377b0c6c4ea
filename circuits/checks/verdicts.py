"""Tests on plain arrays, their verdicts in words, and the gate that each verdict passes: a constant may win none.

- `equivalence`: two one-sided tests (TOST) that P(x > y) lies within 1/2 +- epsilon.
- `independence`: HSIC with a permutation test (Gretton et al. 2007).
- `beats`: a one-sided binomial test that wins are more frequent than a quantile.

Distributions are SciPy's.

What every test claims is that the circuit does the model's work. On a crossed task that is void for a circuit that does
not read the image: its transmission (`transmission.py`) is undefined or its 95% interval reaches below .1. What would
have passed then fails, and says so. On a one-sided task no test can tell a circuit from a constant, and says that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..judging.bootstrap import wilson
from ..judging.transmission import READS_IN_PART
from ..report import Figure, Verdict
from .mask_evaluator import Findings, MaskEvaluator

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tested:
    """A statistic with its 95% interval, where it has one, and a p-value.

    Args:
        statistic: What was looked at.
        low: Lower end.
        high: Upper end.
        p_value: Chance of a statistic at least as extreme under the null hypothesis.
    """

    statistic: float
    low: float | None
    high: float | None
    p_value: float


def equivalence(first: Floats, second: Floats, *, epsilon: float, tie: float) -> Tested:
    """TOST of P(first > second) against 1/2 - epsilon and 1/2 + epsilon, over pairs of numbers.

    A difference of at most `tie` counts as half a win, in a binomial whose trials are all pairs: so pairs that always
    tie say no more than as many fair coins, and few of them cannot pass. Half wins are rounded away from 1/2 in each of
    the two tests, which keeps its size at or below the level. The p-value is the larger of the two.
    """
    from scipy.stats import binom

    difference, n = first - second, len(first)
    wins = float((difference > tie).sum() + 0.5 * (np.abs(difference) <= tie).sum())
    too_many = binom.cdf(math.ceil(wins), n, 0.5 + epsilon)
    too_few = binom.sf(math.floor(wins) - 1, n, 0.5 - epsilon)
    low, high = wilson(wins / n, n)
    return Tested(wins / n, low, high, float(max(too_many, too_few)))


def can_pass(n: int, *, epsilon: float, level: float) -> bool:
    """Whether `equivalence` of n pairs can pass at all: with few of them not even ties throughout do."""
    zeros = np.zeros(n)
    return equivalence(zeros, zeros, epsilon=epsilon, tie=0.0).p_value <= level


def fewest_pairs(*, epsilon: float, level: float) -> int:
    """The smallest number of pairs, counted in tens, that lets `equivalence` pass."""
    return next(n for n in range(10, 1_000_000, 10) if can_pass(n, epsilon=epsilon, level=level))


def independence(
    first: Floats,
    second: Floats,
    *,
    n_permutations: int,
    seed: int,
    unit: Ints | None = None,
    place: Ints | None = None,
) -> Tested:
    """HSIC of two columns of numbers, shape (pair,), and how often shuffled ones reach it.

        HSIC = trace(K H L H) / n^2

    K and L are Gaussian kernels whose width is the median distance; H centres. A permutation test has the level
    exactly for any number of pairs: p = (1 + draws at least as large) / (1 + draws). There is no interval.

    Where several entries of the first column belong to one image, the images are shuffled as wholes; where images
    stand at places (`design.py`), places are shuffled, and the images at each, so that every draw is one that the
    design could have been. (Freely shuffled, images of both classes that meet the same partners, as the design has
    them, would look more independent than chance.)

    Args:
        first: One column.
        second: The other: one number per unit.
        n_permutations: Draws.
        seed: Of the draws.
        unit: For each entry of the first column its row in the second; by default its own.
        place: For each entry of the second column where it stands; by default each alone.
    """
    unit = np.arange(len(first)) if unit is None else unit
    member = (unit == np.arange(len(second))[:, None]).astype(float)  # unit, pair
    kernel, other = _kernel(first), _kernel(second)
    centred = kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
    summed = member @ centred @ member.T  # over the pairs of two units, whose L is the same
    rows, rng = _rows(np.arange(len(second)) if place is None else place), np.random.default_rng(seed)
    found = float((summed * other).sum()) / len(first) ** 2
    reached = 0
    for _ in range(n_permutations):
        order = _shuffled(rows, rng)
        shuffled = float((summed * other[np.ix_(order, order)]).sum()) / len(first) ** 2
        reached += shuffled >= found * (1 - 1e-12)
    return Tested(found, None, None, (1 + reached) / (1 + n_permutations))


def _rows(place: Ints) -> list[NDArray[np.intp]]:
    """Entries at places of one size each, shape (place, entry at it)."""
    found: dict[int, list[NDArray[np.intp]]] = {}
    for one in np.unique(place):
        inside = np.flatnonzero(place == one)
        found.setdefault(len(inside), []).append(inside)
    return [np.stack(inside) for inside in found.values()]


def _shuffled(rows: list[NDArray[np.intp]], rng: np.random.Generator) -> NDArray[np.intp]:
    """Which entry comes to stand where each stood: places of one size change, and entries at each."""
    order = np.empty(sum(inside.size for inside in rows), dtype=np.intp)
    for inside in rows:
        moved = inside[rng.permutation(len(inside))]
        order[inside] = rng.permuted(moved, axis=1) if moved.shape[1] > 1 else moved
    return order


def _kernel(values: Floats) -> Floats:
    distance = np.abs(values[:, None] - values[None, :])
    width = float(np.median(distance[distance > 0])) if (distance > 0).any() else 1.0
    return np.exp(-np.square(distance) / (2 * width**2))


def beats(wins: int, n: int, *, quantile: float) -> Tested:
    """One-sided binomial test that the chance of a win is above `quantile`, over n independent draws."""
    from scipy.stats import binom

    low, high = wilson(wins / n, n)
    return Tested(wins / n, low, high, float(binom.sf(wins - 1, n, quantile)))


CANNOT_TELL = "one-sided pairs: a constant cannot be told from a circuit here"
NO_INTERVAL = "a permutation test has a p-value and no interval"


def verdict(
    name: str,
    evaluator: MaskEvaluator,
    passed: bool | None,
    words: str,
    found: Tested,
    n: int,
    null: str,
    method: str,
    level: float | None = None,
) -> Findings:
    """What a test found, behind the gate."""
    reason = "" if found.low is not None else NO_INTERVAL
    statistic = Figure(found.statistic, "", found.low, found.high, reason)
    threshold = evaluator.settings.level if level is None else level
    passed, words = gated(evaluator, passed, words)
    return Findings(verdicts={name: Verdict(passed, words, statistic, found.p_value, n, threshold, null, method)})


def untested(name: str, evaluator: MaskEvaluator, why: str, null: str, method: str) -> Findings:
    """A test that nothing was to be tested by."""
    passed, words = gated(evaluator, None, why)
    statistic, n = Figure(None, reason=why), len(evaluator.units)
    return Findings(verdicts={name: Verdict(passed, words, statistic, None, n, evaluator.settings.level, null, method)})


def gated(evaluator: MaskEvaluator, passed: bool | None, words: str) -> tuple[bool | None, str]:
    """The verdict and its words once it is known whether the circuit reads the image.

    What passed fails unless the circuit is shown to read; what is undecided fails where it is shown not to.
    """
    if not evaluator.sided:
        return passed, f"{words}; {CANNOT_TELL}"
    found = evaluator.transmission
    if passed is False or (found.low is not None and found.low >= READS_IN_PART):
        return passed, words
    if passed is None and (found.high is None or found.high >= READS_IN_PART):
        return None, words
    if found.value is None:
        return False, f"{words}; void all the same: transmission is undefined ({found.reason})"
    if found.low is None:
        return None, f"{words}; left open: whether the circuit reads the image is not known (T = {found})"
    return False, f"{words}; void all the same: the circuit does not read the image (T = {found})"
