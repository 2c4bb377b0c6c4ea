"""The runs of a plan: every mask, save those on a chance curve's straight parts.

Random circuits of several sizes and random rankings take many runs to say little: over most sizes they keep next to
nothing. Of such a series the ends run, then the point in the middle of the nominal share, and between two that have run
again the middle one wherever the last was off the straight line by more than its standard error, and by more than
`STRAIGHT` of the behaviour. Points that were not run get outputs on the line. The circuit's own rankings and all
controls run in full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..run import MaskRuns, mask_key
from .bootstrap import FLOOR, Resamples
from .plan import Plan

STRAIGHT = 0.01
"""Share of the behaviour that a point may lie off a line beside its standard error."""

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Series:
    """Circuits drawn by chance along a curve.

    Args:
        places: Nominal share of the edges, ascending, shape (point,).
        rows: Of the plan's masks, shape (point, draw).
    """

    places: Floats
    rows: Rows

    def middle(self, first: int, last: int) -> int:
        """The point between two that stands nearest to the middle."""
        inside = self.places[first + 1 : last]
        return first + 1 + int(np.abs(inside - (self.places[first] + self.places[last]) / 2).argmin())

    def line(self, outputs: Floats, point: int, first: int, last: int) -> Floats:
        """Outputs of a point on the line between two others, shape (draw, pair)."""
        at = (self.places[point] - self.places[first]) / (self.places[last] - self.places[first])
        return (1 - at) * outputs[self.rows[first]] + at * outputs[self.rows[last]]


def chance_series(plan: Plan) -> list[Series]:
    """A plan's random circuits by size, and its random rankings."""
    sizes, found = sorted(plan.random), []
    if sizes:
        draws = min(len(rows) for rows in plan.random.values())
        places = np.array(sizes) / len(plan.masks[0])
        found.append(Series(places, np.stack([plan.random[size][:draws] for size in sizes])))
    if plan.random_rankings:
        found.append(Series(plan.random_grid.share, np.stack(plan.random_rankings, 1)))
    return [series for series in found if len(series.places) > 2]


def run_plan(plan: Plan, run: Callable[[list[int]], MaskRuns], resamples: Resamples) -> tuple[MaskRuns, str]:
    """Outputs of all masks of a plan, and how many points of its chance curves were run, in words.

    Args:
        plan: The masks.
        run: Runs those in some rows of the plan.
        resamples: Draws of the pairs, which standard errors are taken from.
    """
    series, keys = chance_series(plan), [mask_key(mask) for mask in plan.masks]
    inner = {int(row) for one in series for row in one.rows[1:-1].flat}
    inner -= {int(row) for rows in plan.kinds.values() for row in rows}
    needed = {key for row, key in enumerate(keys) if row not in inner}
    spared = [row for row in inner if keys[row] not in needed]
    at_once = sorted({*range(len(keys))} - {*spared})
    runs = run(at_once)
    outputs = np.full((len(keys), runs.outputs.shape[1]), np.nan)
    outputs[at_once] = runs.outputs
    gap = np.abs(resamples.behaviour(runs.clean_outputs - outputs[1]))
    spans, n_run = [(one, *span) for one in series for span in _spans(one, outputs)], 0
    while spans:
        middles = [one.middle(first, last) for one, first, last in spans]
        rows = np.unique(np.concatenate([one.rows[at] for (one, *_), at in zip(spans, middles, strict=True)]))
        new = [int(row) for row in rows if np.isnan(outputs[row]).any()]
        if new:
            outputs[new], n_run = run(new).outputs, n_run + len(new)
        open_spans = []
        for (one, first, last), at in zip(spans, middles, strict=True):
            off = outputs[one.rows[at]] - one.line(outputs, at, first, last)
            halves = [(one, *span) for span in ((first, at), (at, last)) if span[1] - span[0] > 1]
            open_spans += halves if _bent(off, gap, resamples) else []
        for one in series:
            _fill(one, outputs, [span[1:] for span in open_spans if span[0] is one])
        spans = open_spans
    return replace(runs, outputs=outputs), f"{n_run} of {len(spared)} were run, the others lie on straight lines"


def _spans(one: Series, outputs: Floats) -> list[tuple[int, int]]:
    """Neighbouring points that have outputs, with points between them that have none."""
    known = np.flatnonzero(np.isfinite(outputs[one.rows]).all((1, 2))).tolist()
    return [(first, last) for first, last in pairwise(known) if last - first > 1]


def _bent(off: Floats, gap: np.float64 | Floats, resamples: Resamples) -> bool:
    """Whether any of some outputs (draw, pair), less those on the line, lies off it."""
    if gap < FLOOR:
        return False
    drawn = resamples.behaviours(off)
    error = drawn.std(0) if len(drawn) else 0.0
    return bool((np.abs(resamples.behaviour(off)) > np.maximum(error, STRAIGHT * gap)).any())


def _fill(one: Series, outputs: Floats, still_open: list[tuple[int, int]]) -> None:
    """Points on the lines between their neighbours, save those where more will be run."""
    for first, last in _spans(one, outputs):
        if (first, last) not in still_open:
            for point in range(first + 1, last):
                outputs[one.rows[point]] = one.line(outputs, point, first, last)
