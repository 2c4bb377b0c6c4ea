"""What circuits of many sizes keep, pair by pair, and what is read off it: size at an equal share, CPR, CMD.

    edges needed for s = the smallest measured size that keeps at least the share s of the behaviour

The share is transmission on a crossed task and normalised faithfulness on a one-sided one (`bootstrap.py`). Outputs
are held by pair, with the design of the pairs, so that every figure can be had on any resample, the same one for all
models. Sizes are those that were measured, without interpolation; the share need not rise with size, and the first
that reaches the level counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..bootstrap import NAMES, Resamples, normalised, percentiles
from ..curves import area
from ..report import Curve

if TYPE_CHECKING:
    from ..design import Design

Floats = NDArray[np.float64]

LEVELS = (0.5, 0.8, 0.9)


@dataclass(frozen=True, eq=False)
class PairCurve:
    """One ranking's curve on some pairs; `measure_curves` in `algorithms/comparing` makes it.

    Args:
        by: What edges were ranked by.
        n_graph: Edges of the graph.
        share: Nominal share of the edges, rising, shape (point,).
        n_edges: Edges left on paths, shape (point,).
        outputs: Metric per size and pair, shape (point, pair).
        none: Metric with no edge kept, shape (pair,).
        full: Metric with all edges, shape (pair,).
        on_grid: Points that areas are taken over, shape (point,); the others only refine sizes.
        grid: Which points these are, in words.
        ids: A number for each pair, the same for all models, shape (pair,).
        pictures: Where the pairs come from, in words: ids mean the same pictures only where these are equal.
        design: Classes and images of the pairs of a crossed task; None of a one-sided one.
    """

    by: str
    n_graph: int
    share: Floats
    n_edges: NDArray[np.int64]
    outputs: Floats
    none: Floats
    full: Floats
    on_grid: NDArray[np.bool_]
    grid: str
    ids: NDArray[np.int64]
    pictures: str = ""
    design: Design | None = None

    @property
    def n_pairs(self) -> int:
        """Number of pairs."""
        return self.outputs.shape[1]

    @property
    def name(self) -> str:
        """What the share is called: `transmission` or `faithfulness`."""
        return NAMES["one" if self.design is None else "both"]

    def resamples(self, n: int, *, seed: int) -> Resamples:
        """Bootstrap draws of its pairs, of a crossed task of its images."""
        return Resamples.of_design(self.design, self.n_pairs, n, seed=seed)

    def kept(self, resamples: Resamples | None = None) -> Floats:
        """The share kept at each size, shape (point,); or in each draw, (draw, point). NaN where it is undefined."""
        behaviour = self.resamples(0, seed=0).behaviour if resamples is None else resamples.behaviours
        none, full = (np.asarray(behaviour(values)) for values in (self.none, self.full))
        return normalised(np.asarray(behaviour(self.outputs)), none, full)

    def edges_needed(self, level: float, resamples: Resamples | None = None) -> Floats:
        """The smallest measured size that reaches a level: a number (), or one in each draw, (draw,); NaN for never."""
        reached = self.kept(resamples) >= level
        found = self.n_edges[reached.argmax(-1)].astype(np.float64)
        return np.where(reached.any(-1), found, np.nan)

    def cpr(self, resamples: Resamples | None = None) -> Floats:
        """Area under f over the nominal share: () or (draw,)."""
        return np.asarray(area(self.share[self.on_grid], self.kept(resamples)[..., self.on_grid]))

    def cmd(self, resamples: Resamples | None = None) -> Floats:
        """Area under |1 - f| over the nominal share: () or (draw,)."""
        distance = np.abs(1 - self.kept(resamples)[..., self.on_grid])
        return np.asarray(area(self.share[self.on_grid], distance))

    def at(self, rows: NDArray[np.integer]) -> PairCurve:
        """The curve on some of its pairs."""
        of_pair = {name: getattr(self, name)[rows] for name in ("none", "full", "ids")}
        design = None if self.design is None else self.design.select(rows.tolist())
        return replace(self, outputs=self.outputs[:, rows], design=design, **of_pair)

    def to_curve(self, label: str, resamples: Resamples) -> Curve:
        """For drawing, with a 95% interval over the pairs."""
        nominal = np.round(self.share * self.n_graph).astype(np.int64)
        drawn = self.kept(resamples)
        low, high = map(np.asarray, percentiles(drawn, resamples.tail)) if len(drawn) else (None, None)
        return Curve(label, nominal, self.n_edges, self.kept(), low, high)


def curve_figures(curves: Mapping[str, PairCurve], by: str, resamples: Resamples | None = None) -> dict[str, Floats]:
    """Everything that is read off a circuit's curves, each () or (draw,).

    Args:
        curves: Ranking -> curve; sizes are read off the circuit's own ranking, CPR off `signed`, CMD off `abs_mean`.
        by: The circuit's own ranking.
        resamples: Draws of the pairs.
    """
    found: dict[str, Floats] = {}
    if by in curves:
        for level in LEVELS:
            needed = curves[by].edges_needed(level, resamples)
            found[f"edges for {curves[by].name} {level:g}"] = needed
            found[f"share of edges for {curves[by].name} {level:g}"] = needed / curves[by].n_graph
    if "signed" in curves:
        found["CPR"] = curves["signed"].cpr(resamples)
    if "abs_mean" in curves:
        found["CMD"] = curves["abs_mean"].cmd(resamples)
    return found
