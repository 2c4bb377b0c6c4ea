"""The runs of a plan: every mask, save those on a chance curve's straight parts.

Random circuits of several sizes and random rankings take many runs to say little: over most sizes they keep next to
nothing. Of such a series the ends run, then the points at a third and two thirds of the nominal share between them, and
so on between neighbours that have run, as long as one of the two lies off the straight line: in root mean square over
its circuits by more than `STRAIGHT` of the behaviour and `NOISE` standard errors. (The middle alone would take a curve
that is symmetrical about it for straight.) Points that were not run get outputs on the line.

Where it is asked for, what is drawn by chance, controls too, runs on a few pairs of each cell first, and on twice as
many as long as the pairs leave open what is told of the circuits of one kind, or at one point. Their mean is known when
its standard error over images is at most `PRECISE`, or what having drawn no more circuits adds (spread over the square
root of their number); their spread when each has one of at most `EACH`, or half of it. Pairs that were not run get the
mean of their cell. The circuit, its rankings and circuits that were given run on all pairs.
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
from .plan import JudgingPlan

STRAIGHT, NOISE = 0.01, 1.5
"""Share of the behaviour, and standard errors, that a point may lie off a line."""
PRECISE, EACH = 0.02, 0.04
"""Standard errors of the share of the behaviour that are small enough for the mean of what chance keeps, which is told,
and for each of the circuits whose spread is told with it."""
LEAST = 4  # pairs of a cell that a standard error is taken from

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Run = Callable[[list[int], Rows | None, MaskRuns | None], MaskRuns]
"""Runs the masks in some rows of a plan on some pairs, or on all, given runs on all pairs that are there already."""


@dataclass(frozen=True, eq=False)
class Series:
    """Circuits drawn by chance along a curve.

    Args:
        places: Nominal share of the edges, ascending, shape (point,).
        rows: Of the plan's masks, shape (point, draw).
    """

    places: Floats
    rows: Rows

    def thirds(self, first: int, last: int) -> list[int]:
        """The points between two that stand nearest to a third and two thirds of the way."""
        thirds = np.interp([1 / 3, 2 / 3], [0, 1], self.places[[first, last]])
        inside = np.abs(self.places[first + 1 : last] - thirds[:, None])
        return np.unique(first + 1 + inside.argmin(1)).tolist()

    def line(self, outputs: Floats, point: int, first: int, last: int) -> Floats:
        """Outputs of a point on the line between two others, shape (draw, pair)."""
        at = (self.places[point] - self.places[first]) / (self.places[last] - self.places[first])
        return (1 - at) * outputs[self.rows[first]] + at * outputs[self.rows[last]]


def chance_series(plan: JudgingPlan) -> list[Series]:
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


def run_plan(
    plan: JudgingPlan,
    run: Run,
    design: Design | None,
    resample: Callable[[Rows], Resamples],
    known: MaskRuns | None = None,
) -> Planned:
    """Outputs of all masks of a plan.

    Args:
        plan: The masks.
        run: Runs some of them on some pairs.
        design: Of the pairs, if chance is to run on a part of them first.
        resample: Draws of some pairs, which standard errors are taken from.
        known: Runs of the circuit and the empty mask on all pairs, where they are there already.
    """
    series, keys = chance_series(plan), [mask_key(mask) for mask in plan.masks]
    controls = {int(row) for rows in plan.controls.values() for row in rows}
    inner = {int(row) for one in series for row in one.rows[1:-1].flat} - controls
    by_chance = controls | {int(row) for one in series for row in one.rows.flat}
    needed = {key for row, key in enumerate(keys) if row not in inner}
    spared = {row for row in inner if keys[row] not in needed}
    measured = _Measured(plan, run, design, resample, sorted({*range(len(keys))} - by_chance), known)
    ends = [one.rows[at] for one in series for at in (0, -1)]
    measured.add([*plan.controls.values(), *ends, np.array(sorted(inner - spared), dtype=np.intp)])
    spans, n_run = [(one, *span) for one in series for span in measured.gaps(one)], 0
    while spans:
        points = [one.thirds(first, last) for one, first, last in spans]
        n_run += measured.add([one.rows[at] for (one, *_), own in zip(spans, points, strict=True) for at in own])
        open_spans = []
        for (one, first, last), own in zip(spans, points, strict=True):
            parts = [(one, *part) for part in pairwise([first, *own, last]) if part[1] - part[0] > 1]
            open_spans += parts if any(measured.bent(one, first, at, last) for at in own) else []
        for one in series:
            measured.fill(one, [span[1:] for span in open_spans if span[0] is one])
        spans = open_spans
    told = f"{n_run} of {len(spared)} were run, the others lie on straight lines"
    return Planned(replace(measured.runs, outputs=measured.outputs), measured.ran, told)


class _Measured:
    """Outputs of a plan's masks, NaN where they are not known yet, (mask, pair)."""

    def __init__(
        self,
        plan: JudgingPlan,
        run: Run,
        design: Design | None,
        resample: Callable[[Rows], Resamples],
        whole: list[int],
        known: MaskRuns | None,
    ) -> None:
        self._run, self._design, self._resample = run, design, resample
        self._drawn: dict[int, Resamples] = {}  # by how many pairs they are of, each time the first of each cell
        first = whole if known is None else whole[:2]
        self.runs = run(first, None, None) if known is None else known
        n_pairs = self.runs.outputs.shape[1]
        self.outputs = np.full((len(plan.masks), n_pairs), np.nan)
        self.outputs[first] = self.runs.outputs
        if rest := whole[len(first) :]:
            self.outputs[rest] = run(rest, None, self.runs).outputs
        self.ran = np.isfinite(self.outputs)
        self._stages = [np.arange(n_pairs)] if design is None else _stages(design)

    def _shares(self, values: Floats, pairs: Rows) -> tuple[Floats, Floats]:
        """Values (circuit, pair) on some pairs as shares of the behaviour, (circuit,) and (draw, circuit)."""
        draws = self._drawn.get(len(pairs)) or self._resample(pairs)
        self._drawn[len(pairs)] = draws
        gap = abs(float(draws.behaviour(self.runs.clean_outputs[pairs] - self.outputs[1, pairs])))
        gap = gap if gap >= FLOOR else np.inf  # nothing to explain
        return np.asarray(draws.behaviour(values)) / gap, draws.behaviours(values) / gap

    def add(self, groups: list[Rows]) -> int:
        """Runs those masks of some groups that have no outputs; how many. What is told of a group is its mean."""
        unknown = np.flatnonzero(np.isnan(self.outputs).any(1))
        new = np.intersect1d(unknown, [row for rows in groups for row in rows])
        for done, pairs in pairwise([self._stages[0][:0], *self._stages]):
            rows = np.intersect1d(new, [row for rows in groups for row in rows])
            if len(rows):
                more = np.setdiff1d(pairs, done)
                at = np.ix_(rows, more)
                self.outputs[at], self.ran[at] = self._run(rows.tolist(), more, self.runs).outputs, True
            groups = [rows for rows in groups if len(rows) and not self._precise(rows, pairs)]
        for row in new.tolist():
            self._complete(row)
        return len(new)

    def _precise(self, rows: Rows, pairs: Rows) -> bool:
        """Whether masks need no further pairs for what is told of them: their mean and their spread."""
        values, drawn = self._shares(self.outputs[rows][:, pairs], pairs)
        if not len(drawn):
            return False
        spread = values.std()
        of_mean, of_each = drawn.mean(1).std(), np.sqrt(drawn.var(0).mean())
        return bool(of_mean <= max(PRECISE, spread / np.sqrt(len(rows))) and of_each <= max(EACH, spread / 2))

    def _complete(self, row: int) -> None:
        """Pairs that were not run get the mean of their cell."""
        for _, inside in () if self._design is None else self._design.cells():
            known = inside & self.ran[row]
            self.outputs[row, inside & ~known] = self.outputs[row, known].mean()

    def gaps(self, one: Series) -> list[tuple[int, int]]:
        """Neighbouring points that have outputs, with points between them that have none."""
        known = np.flatnonzero(np.isfinite(self.outputs[one.rows]).all((1, 2))).tolist()
        return [(first, last) for first, last in pairwise(known) if last - first > 1]

    def bent(self, one: Series, first: int, at: int, last: int) -> bool:
        """Whether the draws of a point lie off the lines between two others, on the pairs that all of them ran on."""
        pairs = np.flatnonzero(self.ran[one.rows[[first, at, last]]].all((0, 1)))
        off = self.outputs[one.rows[at]] - one.line(self.outputs, at, first, last)
        values, drawn = self._shares(off[:, pairs], pairs)
        error = drawn.var(0).mean() if len(drawn) else 0.0
        return bool((values**2).mean() > max(NOISE**2 * error, STRAIGHT**2))

    def fill(self, one: Series, still_open: list[tuple[int, int]]) -> None:
        """Points on the lines between their neighbours, save those where more will be run."""
        for first, last in self.gaps(one):
            if (first, last) not in still_open:
                for point in range(first + 1, last):
                    self.outputs[one.rows[point]] = one.line(self.outputs, point, first, last)


def _stages(design: Design) -> list[Rows]:
    """The first pairs of each cell, twice as many each time, from `LEAST` or more up to all."""
    cells = [np.flatnonzero(inside) for _, inside in design.cells()]
    halvings = max(0, int(np.log2(min(len(cell) for cell in cells) / LEAST)))
    return [
        np.sort(np.concatenate([cell[: -(-len(cell) // 2**times)] for cell in cells]))
        for times in range(halvings, -1, -1)
    ]
