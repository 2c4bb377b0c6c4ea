"""Faithfulness against size, and the area under it.

C_k is the circuit of the highest-ranked edges, as many as leave at most the share k of all edges on paths from input to
logits (`sizes`). MIB (Mueller et al. 2025) judges a ranking by

    CPR = area under f(C_k), ranked by the signed mean score       (higher is better)
    CMD = area under |1 - f(C_k)|, ranked by |mean score|          (lower is better)

both by the trapezoid rule over the nominal k. MIB's grid has ten points from .001 to 1, with n = floor(k |E|), and is
too coarse for a small graph; there every count from 0 to |E| is used, and the area starts at k = 0. MIB counts edges
before those on no path are dropped, so its circuits are smaller than k says; `mib` does the same, to be compared with
MIB's tables, and only there does k mean that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...models.errors import GraphError

GridName = Literal["auto", "mib"]
"""Where the curve is measured: every count on graphs of up to 2,000 edges and MIB's shares above; or MIB's own points,
counted before edges on no path are dropped."""

MIB_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
EVERY_COUNT_UP_TO = 2_000  # edges; beyond it each point costs more than the finer curve tells
MOST_POINTS = 150

Floats = NDArray[np.float64]
Numbers = Floats | np.float64


@dataclass(frozen=True, eq=False)
class Grid:
    """Sizes at which a curve is measured; arrays have shape (point,).

    Args:
        share: Nominal share k of the edges.
        n: Edges asked for.
        method: Which grid it is, in a few words.
        before_pruning: n counts edges of the ranking, those on no path as well, as MIB does.
    """

    share: Floats
    n: NDArray[np.int64]
    method: str
    before_pruning: bool = False

    def thinned(self, most: int) -> Grid:
        """At most so many of the points, the first and the last among them."""
        at = np.unique(np.linspace(0, len(self.n) - 1, min(most, len(self.n))).round().astype(int))
        return replace(self, share=self.share[at], n=self.n[at], method=f"{len(at)} points of: {self.method}")


def make_grid(n_graph: int, grid: GridName | str = "auto") -> Grid:
    """The grid of a graph with so many edges.

    Raises:
        GraphError: The choice is not known.
    """
    if grid not in get_args(GridName):
        raise GraphError(f"grid={grid!r} is not known: pass one of {', '.join(map(repr, get_args(GridName)))}.")
    if grid == "mib" or n_graph > EVERY_COUNT_UP_TO:
        n = np.array([int(share * n_graph) for share in MIB_SHARES])  # as MIB rounds, in floating point
        counted = "before those on no path are dropped" if grid == "mib" else "on paths"
        method = f"MIB's ten shares from .001 to 1, n = floor(k |E|) edges, {counted}"
        return Grid(np.array(MIB_SHARES), n, method, before_pruning=grid == "mib")
    n, method = np.arange(n_graph + 1), "every count of edges on paths from 0 to |E|"
    if len(n) > MOST_POINTS:
        half = MOST_POINTS // 2
        spread = np.concatenate([np.linspace(0, n_graph, half), np.geomspace(1, n_graph, half)])
        n = np.unique(spread.round().astype(np.int64))
        method = f"{len(n)} of {n_graph + 1} counts of edges on paths, spread evenly over k and over log k"
    return Grid(n / n_graph, n, method)


def area(share: Floats, values: Floats) -> Numbers:
    """Trapezoid area of values (..., point) over the nominal share."""
    return (np.diff(share) * (values[..., 1:] + values[..., :-1]) / 2).sum(-1)


def log_area(share: Floats, values: Floats) -> Numbers:
    """Area of values (..., point) over log k, divided by the width, so that a curve that is 1 everywhere gets 1."""
    positive = share > 0
    logs = np.log(share[positive])
    if len(logs) < 2:
        return values[..., -1]
    return area(logs, values[..., positive]) / (logs[-1] - logs[0])
