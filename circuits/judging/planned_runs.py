"""The runs of a plan: every mask, save those on a chance curve's straight parts.

Random circuits of several sizes and random rankings take many runs to say little: over most sizes they keep next to
nothing. Of such a series the ends run, then the point in the middle of the nominal share, and between two that have run
again the middle one wherever the last was off the straight line by more than its standard error, and by more than
`STRAIGHT` of the behaviour. Points that were not run get outputs on the line.

Where it is asked for, what is drawn by chance, controls too, runs on half of each cell's pairs first, and on the others
where the standard error of the share that it keeps is above `PRECISE`; pairs that were not run get the mean of their
cell. The circuit, its rankings and circuits that were given run on all pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..run import MaskRuns, mask_key
from ..tasks.design import Design
from .bootstrap import FLOOR, Resamples
from .plan import Plan

STRAIGHT = 0.01
"""Share of the behaviour that a point may lie off a line beside its standard error."""
PRECISE = 0.02
"""Standard error of the share of the behaviour that is small enough for what chance keeps."""
LEAST = 4  # pairs in half of a cell that a standard error is taken from

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Run = Callable[[list[int], Rows | None], MaskRuns]
"""Runs the masks in some rows of a plan on some pairs, or on all."""


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


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan's outputs.

    Args:
        runs: Of all masks, with what stands for what was not run.
        ran: What was run, shape (mask, pair).
        told: How many points of the chance curves were run, in words.
    """

    runs: MaskRuns
    ran: NDArray[np.bool_]
    told: str


def run_plan(plan: Plan, run: Run, design: Design | None, resample: Callable[[Rows], Resamples]) -> Planned:
    """Outputs of all masks of a plan.

    Args:
        plan: The masks.
        run: Runs some of them on some pairs.
        design: Of the pairs, if chance is to run on half of them first.
        resample: Draws of some pairs, which standard errors are taken from.
    """
    series, keys = chance_series(plan), [mask_key(mask) for mask in plan.masks]
    controls = {int(row) for rows in plan.controls.values() for row in rows}
    inner = {int(row) for one in series for row in one.rows[1:-1].flat} - controls
    by_chance = controls | {int(row) for one in series for row in one.rows.flat}
    needed = {key for row, key in enumerate(keys) if row not in inner}
    spared = [row for row in inner if keys[row] not in needed]
    measured = _Measured(plan, run, design, resample, sorted({*range(len(keys))} - by_chance))
    measured.add(sorted(by_chance - {*spared}))
    spans, n_run = [(one, *span) for one in series for span in measured.gaps(one)], 0
    while spans:
        middles = [one.middle(first, last) for one, first, last in spans]
        rows = np.unique(np.concatenate([one.rows[at] for (one, *_), at in zip(spans, middles, strict=True)]))
        n_run += measured.add(rows.tolist())
        open_spans = []
        for (one, first, last), at in zip(spans, middles, strict=True):
            halves = [(one, *span) for span in ((first, at), (at, last)) if span[1] - span[0] > 1]
            open_spans += halves if measured.bent(one, first, at, last) else []
        for one in series:
            measured.fill(one, [span[1:] for span in open_spans if span[0] is one])
        spans = open_spans
    told = f"{n_run} of {len(spared)} were run, the others lie on straight lines"
    return Planned(replace(measured.runs, outputs=measured.outputs), measured.ran, told)


class _Measured:
    """Outputs of a plan's masks, NaN where they are not known yet, (mask, pair)."""

    def __init__(
        self,
        plan: Plan,
        run: Run,
        design: Design | None,
        resample: Callable[[Rows], Resamples],
        whole: list[int],
    ) -> None:
        self._plan, self._run, self._design, self._resample = plan, run, design, resample
        self.runs = run(whole, None)
        self._pairs = np.arange(self.runs.outputs.shape[1])
        self.outputs = np.full((len(plan.masks), len(self._pairs)), np.nan)
        self.outputs[whole] = self.runs.outputs
        self.ran = np.isfinite(self.outputs)
        self._draws = resample(self._pairs)
        self._half = None if design is None else _half(design)

    def _gap(self, draws: Resamples, pairs: Rows) -> float:
        """The behaviour that there is to keep."""
        return abs(float(draws.behaviour(self.runs.clean_outputs[pairs] - self.outputs[1, pairs])))

    def add(self, rows: list[int]) -> int:
        """Runs those masks that have no outputs; how many."""
        rows = [row for row in rows if np.isnan(self.outputs[row]).any()]
        half = self._half
        if rows and half is None:
            self._take(rows, self._pairs)
        elif rows and half is not None:
            self._take(rows, half)
            draws = self._resample(half)
            drawn, least = draws.behaviours(self.outputs[rows][:, half]), PRECISE * self._gap(draws, half)
            error = drawn.std(0) if len(drawn) else np.full(len(rows), np.inf)
            again = [row for row, own in zip(rows, error, strict=True) if not own <= least]
            if again:
                self._take(again, np.setdiff1d(self._pairs, half))
            for row in set(rows) - set(again):
                self._complete(row)
        return len(rows)

    def _take(self, rows: list[int], pairs: Rows) -> None:
        at = np.ix_(np.array(rows, dtype=np.intp), pairs)
        self.outputs[at], self.ran[at] = self._run(rows, pairs).outputs, True

    def _complete(self, row: int) -> None:
        """Pairs that were not run get the mean of their cell."""
        assert self._design is not None
        for _, inside in self._design.cells():
            known = inside & self.ran[row]
            self.outputs[row, inside & ~known] = self.outputs[row, known].mean()

    def gaps(self, one: Series) -> list[tuple[int, int]]:
        """Neighbouring points that have outputs, with points between them that have none."""
        known = np.flatnonzero(np.isfinite(self.outputs[one.rows]).all((1, 2))).tolist()
        return [(first, last) for first, last in pairwise(known) if last - first > 1]

    def bent(self, one: Series, first: int, at: int, last: int) -> bool:
        """Whether any draw of a point lies off the line between two others."""
        off, gap = (
            self.outputs[one.rows[at]] - one.line(self.outputs, at, first, last),
            self._gap(self._draws, self._pairs),
        )
        if gap < FLOOR:
            return False
        drawn = self._draws.behaviours(off)
        error = drawn.std(0) if len(drawn) else 0.0
        return bool((np.abs(self._draws.behaviour(off)) > np.maximum(error, STRAIGHT * gap)).any())

    def fill(self, one: Series, still_open: list[tuple[int, int]]) -> None:
        """Points on the lines between their neighbours, save those where more will be run."""
        for first, last in self.gaps(one):
            if (first, last) not in still_open:
                for point in range(first + 1, last):
                    self.outputs[one.rows[point]] = one.line(self.outputs, point, first, last)


def _half(design: Design) -> Rows | None:
    """The first half of each cell's pairs; None where that is too few."""
    cells = [np.flatnonzero(inside) for _, inside in design.cells()]
    few = min(len(cell) for cell in cells) < 2 * LEAST
    return None if few else np.sort(np.concatenate([cell[: (len(cell) + 1) // 2] for cell in cells]))
