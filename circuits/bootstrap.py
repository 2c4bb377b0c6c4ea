"""Intervals over pairs, and normalised faithfulness.

    f(C) = (m(C) - m(none)) / (m(E) - m(none)),    m(.) = mean of the metric over pairs

It is a ratio of means, never a mean of ratios, is not clipped, and is undefined where |m(E) - m(none)| < 1e-6. Its
interval comes from drawing the pairs again with replacement, the same draws for numerator and denominator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .report import Figure

FLOOR = 1e-6
"""A ratio whose denominator is smaller than this is undefined."""

Floats = NDArray[np.float64]
Numbers = Floats | np.float64  # numpy makes arrays without axes into scalars


@dataclass(frozen=True, eq=False)
class Resamples:
    """Bootstrap draws of the pairs.

    Args:
        weights: Share of each pair in each draw, shape (draw, pair); rows add up to 1.
    """

    weights: Floats

    @classmethod
    def draw(cls, n_pairs: int, n: int, *, seed: int) -> Resamples:
        """`n` draws of `n_pairs` pairs with replacement; none with a single pair."""
        n = 0 if n_pairs < 2 else n
        counts = np.random.default_rng(seed).multinomial(n_pairs, np.full(n_pairs, 1 / n_pairs), size=n)
        return cls(counts.reshape(n, n_pairs) / n_pairs)

    def means(self, values: Floats) -> Floats:
        """Means over pairs in each draw, (..., pair) -> (draw, ...)."""
        return np.moveaxis(values @ self.weights.T, -1, 0)

    def mean(self, values: Floats, unit: str, method: str) -> Figure:
        """The mean over pairs, with its interval."""
        return self.figure(float(values.mean()), self.means(values), unit, method)

    def ratio(self, above: Floats, below: Floats, what: str, method: str) -> Figure:
        """Mean over pairs of one over the mean of the other, with its interval; `what` names the denominator."""
        if abs(below.mean()) < FLOOR:
            return Figure(None, "share", reason=f"{what} is {below.mean():.1e}, below {FLOOR}", method=method)
        drawn = divide(self.means(above), self.means(below))
        return self.figure(float(above.mean() / below.mean()), drawn, "share", method)

    def figure(self, value: float, drawn: Floats, unit: str, method: str) -> Figure:
        """A value with the interval of its draws, shape (draw,)."""
        if drawn.size == 0:
            why = "a bootstrap needs at least two pairs" if self.weights.shape[1] < 2 else "n_bootstrap is 0"
            return Figure(value, unit, reason=why, method=method)
        finite = drawn[np.isfinite(drawn)]
        if len(finite) < len(drawn) / 2:
            return Figure(value, unit, reason="undefined in most bootstrap draws", method=method)
        low, high = percentiles(finite)
        lost = len(drawn) - len(finite)
        left_out = f", {lost} undefined draws left out" if lost else ""
        text = f"{method}; interval: bootstrap over pairs, {len(drawn)} draws{left_out}"
        return Figure(value, unit, float(low), float(high), method=text)


def percentiles(drawn: Floats) -> tuple[Numbers, Numbers]:
    """Ends of the middle 95% along the first axis, leaving out NaN."""
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return low, high


def divide(above: Floats, below: Floats) -> Floats:
    """above / below, NaN where the denominator is below the floor."""
    good = np.abs(below) >= FLOOR
    return np.where(good, above / np.where(good, below, 1.0), np.nan)


def normalised(outputs: Floats, none: Numbers, full: Numbers) -> Floats:
    """Normalised faithfulness of mean outputs (..., mask), given those of the empty and the full mask (...)."""
    return divide(
        outputs - np.asarray(none)[..., None], np.broadcast_to(np.asarray(full - none)[..., None], outputs.shape)
    )


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share of n."""
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def share(hits: NDArray[np.bool_], method: str) -> Figure:
    """A share of pairs with Wilson's interval, which stays honest where all or none of them hit."""
    p = float(hits.mean())
    low, high = wilson(p, len(hits))
    return Figure(p, "share", low, high, method=f"{method}; interval: Wilson's")
