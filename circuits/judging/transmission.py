"""Does a circuit read the image? Figures on the crossed design (`design.py`), each a sum over cells.

With m_C(x, x') the metric of the circuit on the clean image x and the partner x', m(x) the full model's, and means that
count every cell alike,

    transmission  T = (mean of m_C over x of the target - over x of the foil) / (the same of m(x))
    leakage       L = (mean of m_C over x' of the target - over x' of the foil) / (the same of m(x'))
    offset          = mean of m_C - mean of m(x), in the metric's unit
    T and L within  = slopes of m_C on m(x) and m(x'), fitted together, after each cell's means are taken off
    R^2             = 1 - sum (m_C - m(x))^2 / sum (m(x) - mean of m(x))^2

The model has T = 1, L = 0, offset 0, R^2 = 1; a constant has T = L = 0 and R^2 <= 0; with no edge kept L = 1 and, where
partners are drawn independently of x, T = 0. Partners that are made from x (or chosen for it) may show its class
themselves: with T0 and R0 those of no edge, the headlines are (T - T0) / (1 - T0), undefined where T0 > .3, and
(R^2 - R0) / (1 - R0), with a negative R0 as 0, since a constant would else gain by how far off no edge is.

Weak spots: T and L look at class means, and 97% of the metric's variance can lie between two classes, so a one-bit
answer has T = 1; that is what T within is for. A ratio whose denominator is within two standard errors of 0 is
undefined.

Intervals of all figures draw the images again in both roles, as clean images and as partners (`design.py`): what a
circuit makes of a clean image depends on its partner, so that clean images drawn alone would leave a part of T's noise
out, and partners drawn alone most of L's. What R^2 lacks to 1 is skewed, which its lower end allows for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..report import Figure
from ..tasks.design import Design
from ..words import READS_IT
from .bootstrap import FLOOR, Resamples, divide, wilson
from .faithfulness import ONE_CLASS

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MOST_SHOWN = 0.3
"""T of the empty circuit above which partners show too much for a headline."""
READS_IN_PART, READS = 0.1, 0.5
"""Lower bounds of T from which a circuit reads the image in part, and reads it."""
STANDARD_ERRORS = 2.0
LEAST_MISSED = 1e-3
"""Of what a circuit misses, what a draw misses at least; weights may be negative."""


def reads(low: float | None) -> str:
    """What the lower bound of T means, in words."""
    if low is None or not np.isfinite(low):
        return "not known to read the image: no interval"
    if low < READS_IN_PART:
        return "does not read the image"
    return "reads it in part" if low < READS else READS_IT


@dataclass(frozen=True, eq=False)
class Crossed:
    """Outputs on a crossed design, and its bootstrap draws.

    Args:
        design: Of the pairs.
        circuit: m_C, shape (pair,).
        clean: m(x), shape (pair,).
        none: Metric with no edge kept, shape (pair,): m(x') under partners, a constant under means.
        resamples: Draws of the images.
        interchange: Whether removed edges carry the partner's values, so that `none` is m(x').
    """

    design: Design
    circuit: Floats
    clean: Floats
    none: Floats
    resamples: Resamples
    interchange: bool = True

    def _rows(self, drawn: Floats) -> Floats:
        """Row 0: all pairs; the others: each draw. Shape (1 + draw, pair)."""
        return np.concatenate([self.resamples.whole[None], drawn])

    @cached_property
    def weights(self) -> Floats:
        """Of means, images drawn as clean images and as partners. Of single pairs they may be negative."""
        return self._rows(self.resamples.weights)

    def _contrasts(self, values: Floats) -> Floats:
        """The clean contrast, (1 + draw,)."""
        return np.append(self.resamples.behaviour(values), self.resamples.behaviours(values))

    def figure(self, rows: Floats, unit: str, method: str) -> Figure:
        """A value and its draws, (1 + draw,), as a figure."""
        if not np.isfinite(rows[0]):
            return Figure(None, unit, reason="a cell holds too few images", method=method)
        return self.resamples.figure(float(rows[0]), rows[1:], unit, method)

    def _ratio(self, above: Floats, below: Floats, what: str, method: str) -> Figure:
        """Ratio of two rows of sums, undefined where the denominator may be 0; `what` names it."""
        spread = float(np.nanstd(below[1:])) if len(below) > 1 else 0.0
        if abs(below[0]) < max(FLOOR, STANDARD_ERRORS * spread):
            reason = f"{what} is {below[0]:.3g}, within two standard errors ({spread:.2g}) of 0"
            return Figure(None, "share", reason=reason, method=method)
        return self.figure(divide(above, below), "share", method)

    def _one_class(self, method: str) -> Figure | None:
        if self.design.sided:
            return None
        return Figure(None, "share", reason=ONE_CLASS, method=method)

    def transmission(self) -> Figure:
        """T."""
        return self._transmitted(
            self.circuit, "mean of m_C over clean images of the target less the foil's, over the model's"
        )

    def empty_transmission(self) -> Figure:
        """T0, of no edge: what partners show of the clean image's class themselves."""
        return self._transmitted(self.none, "T with no edge kept: what partners show of the clean image's class")

    def _transmitted(self, values: Floats, method: str) -> Figure:
        return self._one_class(method) or self._ratio(
            self._contrasts(values), self._contrasts(self.clean), "the model's difference", method
        )

    def headline(self) -> Figure:
        """(T - T0) / (1 - T0); T itself where partners are independent of the clean image."""
        if not self.design.follows or not self.interchange:
            return self.transmission()
        method = "(T - T0) / (1 - T0): what the circuit transmits beyond what partners show"
        if (missing := self._one_class(method)) is not None:
            return missing
        empty = self.empty_transmission().value
        if empty is None or empty > MOST_SHOWN:
            shown = "undefined" if empty is None else f"{empty:.2f}"
            return Figure(None, "share", reason=f"T0 is {shown}, above {MOST_SHOWN}: partners show it", method=method)
        kept, full, none = (self._contrasts(values) for values in (self.circuit, self.clean, self.none))
        return self._ratio(kept - none, full - none, "the model's difference less the empty circuit's", method)

    def leakage(self) -> Figure:
        """L."""
        method = "mean of m_C over partners of the target less the foil's, over the model's on the partners"
        if not self.interchange:
            return Figure(None, "share", reason="removed edges carry no partner's values", method=method)
        if not self.design.crossed:
            return Figure(None, "share", reason="partners have no class of their own", method=method)
        weights = self.design.partner_contrast(self.weights)
        return self._ratio(weights @ self.circuit, weights @ self.none, "the model's difference over partners", method)

    def offset(self, unit: str) -> Figure:
        """Mean of m_C less mean of m(x)."""
        return self.figure(self.weights @ (self.circuit - self.clean), unit, "mean of m_C less the model's")

    @cached_property
    def _slopes(self) -> tuple[Floats, Floats, Floats]:
        """T within, L within and the correlation with m(x), each (1 + draw,).

        What the draws change as clean images and as partners is added up; a fit takes no negative weights.
        """
        assert self.resamples.roles is not None
        clean, partner = (self._fit(self._rows(drawn)) for drawn in self.resamples.roles)
        if self.design.follows:
            return clean
        slope, leak, correlation = (own + theirs - own[0] for own, theirs in zip(clean, partner, strict=True))
        return slope, leak, np.clip(correlation, -1, 1)

    def _fit(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        y, x, xy = (self._inside(*pair, weights) for pair in self._couples(self.circuit, self.clean))
        with np.errstate(invalid="ignore"):
            correlation = divide(xy, np.sqrt(np.maximum(x * y, 0)))
        if not (self.interchange and np.ptp(self.none) > FLOOR):
            return divide(xy, x), np.full(len(x), np.nan), correlation
        p, _, py = (self._inside(*pair, weights) for pair in self._couples(self.none, self.circuit))
        xp = self._inside(self.clean, self.none, weights)
        determinant = x * p - xp**2
        return divide(xy * p - py * xp, determinant), divide(py * x - xy * xp, determinant), correlation

    @staticmethod
    def _couples(first: Floats, second: Floats) -> list[tuple[Floats, Floats]]:
        return [(first, first), (second, second), (first, second)]

    def _inside(self, first: Floats, second: Floats, weights: Floats) -> Floats:
        """Covariance inside cells, every cell counting alike, (1 + draw,)."""
        cells = np.stack([inside for _, inside in self.design.cells()], 1)  # pair, cell
        total, one, other = (weights @ (values[:, None] * cells) for values in (np.ones(len(first)), first, second))
        return weights @ (first * second) - divide(one * other, total).sum(-1)

    def within(self) -> dict[str, Figure]:
        """T within, its correlation, and L within."""
        slope, leak, correlation = self._slopes
        joint = "slopes on m(x) and m(x') fitted together, each cell's means taken off"
        if self._inside(self.clean, self.clean, self.resamples.whole[None])[0] < FLOOR:
            still = Figure(None, "share", reason="the model's metric does not vary inside the cells", method=joint)
            return dict.fromkeys(("transmission_within", "correlation_within", "leakage_within"), still)
        found = {
            "transmission_within": self.figure(slope, "share", f"{joint}: that on m(x)"),
            "correlation_within": self.figure(correlation, "", "correlation of m_C with m(x), cell means taken off"),
        }
        if self._inside(self.circuit, self.circuit, self.resamples.whole[None])[0] < FLOOR:
            still = Figure(None, "", reason="the circuit's metric does not vary inside the cells", method=joint)
            found["correlation_within"] = still
        if not self.interchange or self.design.follows:
            why = "removed edges carry no partner's values" if not self.interchange else "partners follow their image"
            found["leakage_within"] = Figure(None, "share", reason=why, method=joint)
        else:
            found["leakage_within"] = self.figure(leak, "share", f"{joint}: that on m(x')")
        return found

    def reproduced(self) -> Figure:
        """R^2."""
        method = "1 - sum (m_C - m(x))^2 / sum (m(x) - mean)^2 over the cells; may be negative"
        return self._reproduced(self.circuit, method)

    def empty_reproduced(self) -> Figure:
        """R^2 of no edge."""
        return self._reproduced(self.none, "R^2 with no edge kept")

    def reproduced_headline(self) -> Figure:
        """(R^2 - R0) / (1 - R0), R0 at least 0, where partners follow the clean image, else R^2."""
        if not self.design.follows or not self.interchange:
            return self.reproduced()
        missed, below = (self.weights @ (values - self.clean) ** 2 for values in (self.circuit, self.none))
        below = np.minimum(below, self._spread)
        method = "(R^2 - R0) / (1 - R0), R0 that of no edge, at least 0"
        found = self._ratio(below - missed, below, "the empty circuit's distance", method)
        return found if found.value is None else self._but(divide(missed, below), method)

    @property
    def _spread(self) -> Floats:
        """Variance of the model's metric over the cells, (1 + draw,)."""
        return self.weights @ self.clean**2 - (self.weights @ self.clean) ** 2

    def _reproduced(self, values: Floats, method: str) -> Figure:
        missed, spread = self.weights @ (values - self.clean) ** 2, self._spread
        if spread[0] < FLOOR:
            reason = f"the model's metric varies by {spread[0]:.1e} only"
            return Figure(None, "share", reason=reason, method=method)
        return self._but(divide(missed, spread), method)

    def _but(self, missed: Floats, method: str) -> Figure:
        """1 - a share that is missed, (1 + draw,).

        A few images far off make most of it, and a sample may lack them. So its interval ends, if that is higher, where
        the draws do when their logarithm is turned about the value's (Davison and Hinkley 1997, section 5.2).
        """
        found, value = self.figure(1 - missed, "share", method), missed[0]
        if found.low is None or not value > 0:
            return found
        turned = self.figure(1 - value**2 / np.maximum(missed, LEAST_MISSED * value), "share", method)
        return found if turned.low is None else replace(found, low=min(found.low, turned.low))


def right_figures(design: Design, hits: Bools) -> dict[str, Figure]:
    """Shares of pairs whose top class is of the clean image's set: the lowest cell's first, then each cell's.

    Args:
        design: Of the pairs.
        hits: Where the circuit's highest logit is of the clean image's own classes, shape (pair,).
    """
    cells: dict[str, Figure] = {}
    for name, inside in design.cells():
        n_images = len(set(design.clean_image.numpy()[inside].tolist()))
        value = float(hits[inside].mean())
        low, high = wilson(value, n_images)
        method = f"share of {int(inside.sum())} pairs that the circuit classifies right; "
        method += f"interval: Wilson's on {n_images} images"
        cells[f"right_{name}"] = Figure(value, "share", low, high, method=method)
    worst = min(cells, key=lambda name: cells[name].value or 0.0)
    lowest = cells[worst]
    method = f"the lowest of {len(cells)} cells, {worst.removeprefix('right_').replace('_', ' ')}; {lowest.method}"
    return {"right": Figure(lowest.value, "share", lowest.low, lowest.high, method=method), **cells}
