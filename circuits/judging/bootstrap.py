"""Intervals, and the share of a behaviour that a circuit keeps.

    kept(C) = (b(C) - b(none)) / (b(E) - b(none))

with b(.) the *behaviour*, a weighted sum of the metric over pairs. On a one-sided task it is the mean, and the share is
normalised faithfulness. On a crossed task it is the difference between the means over clean images of the target and of
the foil, and the share is transmission, with what partners show of the clean image's class taken off (`design.py`).

A ratio of sums, never a mean of ratios; not clipped; undefined where |b(E) - b(none)| < 1e-6. Intervals come from
drawing again with replacement, the same draws for numerator and denominator: the pairs of a one-sided task, the images
of a crossed one, in both their roles (`design.py`). There the ends are widened as Student's t asks with so few images
(Hesterberg 2015, section 3.3: percentiles of a small sample are too narrow by sqrt(n / (n - 1)) and the normal tail).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..report import Figure

if TYPE_CHECKING:
    from ..tasks.design import Design
    from ..tasks.task import Pairs

TAIL = 0.025
FEWEST_IMAGES = 6
"""Of each class that an interval needs: with fewer, images that serve in both roles hide part of their spread. Those
of a made-up circuit (T = .8, L = .1) held the truth in 92% with six of each, 91% with five, 52% with three, 0% with
two."""
FLOOR = 1e-6
"""A ratio whose denominator is smaller than this is undefined."""

_Z = NormalDist().inv_cdf(0.975)
NAMES = {"both": "transmission", "one": "faithfulness"}
"""What the share is called, by the sides of a task."""

Floats = NDArray[np.float64]
Numbers = Floats | np.float64  # numpy makes arrays without axes into scalars


@dataclass(frozen=True, eq=False)
class Resamples:
    """Bootstrap draws of the pairs, and what is taken over them.

    Args:
        weights: Of each pair in each draw, shape (draw, pair); rows add up to 1. Of a crossed task the sum of both
            `roles` less `whole`, which may be negative.
        behaviour_weights: Of each pair in the behaviour; the same on a one-sided task.
        whole: Weights of all pairs without drawing, shape (pair,).
        behaviour_whole: Likewise in the behaviour.
        unit: What is drawn again, in a word.
        tail: Share of draws beyond each end of an interval.
        roles: Of a crossed task, weights with clean images drawn alone, and with partners drawn alone, never negative.
        enough: Whether there are images enough for an interval.
    """

    weights: Floats
    behaviour_weights: Floats
    whole: Floats
    behaviour_whole: Floats
    unit: str = "pairs"
    tail: float = TAIL
    roles: tuple[Floats, Floats] | None = None
    enough: bool = True

    @classmethod
    def draw(cls, n_pairs: int, n: int, *, seed: int) -> Resamples:
        """`n` draws of `n_pairs` pairs with replacement; none with a single pair."""
        n = 0 if n_pairs < 2 else n
        counts = np.random.default_rng(seed).multinomial(n_pairs, np.full(n_pairs, 1 / n_pairs), size=n)
        weights, whole = counts.reshape(n, n_pairs) / n_pairs, np.full(n_pairs, 1 / n_pairs)
        return cls(weights, weights, whole, whole)

    @classmethod
    def of(cls, pairs: Pairs, n: int, *, seed: int) -> Resamples:
        """`n` draws of a task's pairs: of images where they are crossed."""
        return cls.of_design(pairs.design, len(pairs), n, seed=seed)

    @classmethod
    def of_design(cls, design: Design | None, n_pairs: int, n: int, *, seed: int) -> Resamples:
        """The same for whoever holds outputs without their images."""
        if design is None:
            return cls.draw(n_pairs, n, seed=seed)
        smallest = min((design.clean_image[design.clean_side == side].unique().numel()) for side in design.sides)
        clean, partner = design.place_counts(n if smallest > 1 else 0, seed)
        whole, roles = design.balanced(np.ones(n_pairs)), (design.balanced(clean), design.balanced(partner))
        # what each image adds to a mean, as clean image and as partner, to first order
        weights = roles[0] if design.follows else roles[0] + roles[1] - whole
        behaviour = [design.contrast(some) if design.sided else some for some in (weights, whole)]
        enough = smallest >= FEWEST_IMAGES
        return cls(weights, behaviour[0], whole, behaviour[1], "images", widened_tail(smallest), roles, enough)

    def means(self, values: Floats) -> Floats:
        """Means over pairs in each draw, (..., pair) -> (draw, ...)."""
        return np.moveaxis(values @ self.weights.T, -1, 0)

    def mean_of(self, values: Floats) -> Numbers:
        """The mean over pairs, (..., pair) -> (...)."""
        return values @ self.whole

    def behaviour(self, values: Floats) -> Numbers:
        """The behaviour, (..., pair) -> (...)."""
        return values @ self.behaviour_whole

    def behaviours(self, values: Floats) -> Floats:
        """The same in each draw, (..., pair) -> (draw, ...)."""
        return np.moveaxis(values @ self.behaviour_weights.T, -1, 0)

    def mean(self, values: Floats, unit: str, method: str) -> Figure:
        """The mean over pairs, with its interval."""
        return self.figure(float(self.mean_of(values)), self.means(values), unit, method)

    def ratio(self, above: Floats, below: Floats, what: str, method: str) -> Figure:
        """Mean over pairs of one over the mean of the other, with its interval; `what` names the denominator."""
        over, under = float(self.mean_of(above)), float(self.mean_of(below))
        if abs(under) < FLOOR:
            return Figure(None, "share", reason=f"{what} is {under:.1e}, below {FLOOR}", method=method)
        drawn = divide(self.means(above), self.means(below))
        return self.figure(over / under, drawn, "share", method)

    def figure(self, value: float, drawn: Floats, unit: str, method: str) -> Figure:
        """A value with the interval of its draws, shape (draw,)."""
        if drawn.size == 0 or not self.enough:
            least = f"{FEWEST_IMAGES} images of each class" if self.unit == "images" else "two pairs"
            few = not self.enough or len(self.whole) < 2
            why = f"an interval needs at least {least}" if few else "n_bootstrap is 0"
            return Figure(value, unit, reason=why, method=method)
        finite = drawn[np.isfinite(drawn)]
        if len(finite) < len(drawn) / 2:
            return Figure(value, unit, reason="undefined in most bootstrap draws", method=method)
        low, high = percentiles(finite, self.tail)
        lost = len(drawn) - len(finite)
        left_out = f", {lost} undefined draws left out" if lost else ""
        text = f"{method}; interval: bootstrap over {self.unit}, {len(drawn)} draws{left_out}"
        return Figure(value, unit, float(low), float(high), method=text)


def widened_tail(n: int) -> float:
    """The tail of a percentile interval over n images that covers as Student's t would."""
    from scipy.stats import norm, t

    if n < 2:
        return TAIL
    return float(norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf(1 - TAIL, n - 1)))


def percentiles(drawn: Floats, tail: float = TAIL) -> tuple[Numbers, Numbers]:
    """Ends of the middle 95% along the first axis, leaving out NaN, or of another middle part."""
    low, high = np.nanquantile(drawn, [tail, 1 - tail], axis=0)
    return low, high


def middle(values: Floats, unit: str, method: str) -> Figure:
    """The mean of several numbers; the interval holds the middle 95% of them."""
    low, high = percentiles(values)
    return Figure(float(values.mean()), unit, float(low), float(high), method=method)


def divide(above: Floats, below: Floats) -> Floats:
    """above / below, NaN where the denominator is below the floor."""
    good = np.abs(below) >= FLOOR
    return np.where(good, above / np.where(good, below, 1.0), np.nan)


def normalised(outputs: Floats, none: Numbers, full: Numbers) -> Floats:
    """Normalised faithfulness of mean outputs (..., mask), given those of the empty and the full mask (...)."""
    return divide(
        outputs - np.asarray(none)[..., None], np.broadcast_to(np.asarray(full - none)[..., None], outputs.shape)
    )


def standard_error(values: Floats) -> Floats:
    """Of means over pairs, (pair, ...) -> (...); NaN where a single pair has no spread."""
    n = len(values)
    return values.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.full(values.shape[1:], np.nan)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share of n.

    SciPy's `binomtest(hits, n).proportion_ci(method="wilson")` where hits = share n is whole. It need not be: a share
    of pairs is counted on images, of which there are fewer.
    """
    centre = (share + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
    half = _Z / (1 + _Z * _Z / n) * math.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def share(hits: NDArray[np.bool_], method: str) -> Figure:
    """A share of pairs with Wilson's interval, which stays honest where all or none of them hit."""
    p = float(hits.mean())
    low, high = wilson(p, len(hits))
    return Figure(p, "share", low, high, method=f"{method}; interval: Wilson's")
