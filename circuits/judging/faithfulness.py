"""The share of the behaviour that circuits keep, CPR and CMD, read off an evaluation's runs, and their curves.

The share is normalised faithfulness on a one-sided task and transmission on a crossed one (`bootstrap.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..report import Curve, Figure
from .bootstrap import FLOOR, Numbers, Resamples, middle, normalised, percentiles
from .control_kinds import CONTROLS, ControlKind
from .plan import Grid, JudgingPlan, area, log_area

Floats = NDArray[np.float64]

ONE_CLASS = "the clean images show one class only"


@dataclass(frozen=True, eq=False)
class Judged:
    """Outputs per pair, and faithfulness over all pairs and in each bootstrap draw.

    Args:
        outputs: Metric per mask and pair, shape (mask, pair); mask 0 is the circuit, 1 the empty one.
        full: Metric of the clean run, shape (pair,).
        resamples: Bootstrap draws of the pairs.
        one_class: Whether clean images of a crossed task show one class only, so that nothing is transmitted.
    """

    outputs: Floats
    full: Floats
    resamples: Resamples
    one_class: bool = False

    @cached_property
    def undefined(self) -> str:
        """Why faithfulness is not defined; empty where it is."""
        if self.one_class:
            return ONE_CLASS
        gap = float(self.resamples.behaviour(self.full - self.outputs[1]))
        return "" if abs(gap) >= FLOOR else f"|m(E) - m(none)| is {abs(gap):.1e}, below {FLOOR}: nothing to explain"

    @cached_property
    def values(self) -> Floats:
        """The share that each mask keeps, shape (mask,)."""
        found = np.asarray(self.resamples.behaviour(self.outputs))
        return normalised(found, found[1], np.asarray(self.resamples.behaviour(self.full)))

    @cached_property
    def drawn(self) -> Floats:
        """The same in each bootstrap draw, shape (draw, mask)."""
        found = self.resamples.behaviours(self.outputs)
        return normalised(found, found[:, 1], self.resamples.behaviours(self.full))


def faithfulness(judged: Judged) -> Figure:
    """f(C) of the circuit, not clipped."""
    method = "(m(C) - m(none)) / (m(E) - m(none)), a ratio of means, not clipped"
    if judged.undefined:
        return Figure(None, "share", reason=judged.undefined, method=method)
    return judged.resamples.figure(float(judged.values[0]), judged.drawn[:, 0], "share", method)


def random_faithfulness(plan: JudgingPlan, judged: Judged) -> Figure:
    """Mean f of random circuits of the circuit's size; the interval holds the middle 95% of the draws."""
    return _control_share(next(iter(plan.random.values()), None), plan.matched, judged)


def kind_figures(plan: JudgingPlan, judged: Judged) -> dict[str, Figure]:
    """`dealt_transmission` and `renamed_transmission`: mean T of controls that keep the circuit's structure."""
    kinds: tuple[ControlKind, ...] = ("dealt", "renamed")
    words = {kind: next(iter(CONTROLS[kind].words.values())) for kind in kinds}
    return {f"{kind}_transmission": _control_share(plan.kinds.get(kind), words[kind], judged) for kind in kinds}


def _control_share(rows: NDArray[np.intp] | None, words: str, judged: Judged) -> Figure:
    method = f"mean over {words}"
    if rows is None:
        why = "no random circuits were asked for (n_random=0), or there is no other of this kind"
        return Figure(None, "share", reason=why, method=method)
    if judged.undefined:
        return Figure(None, "share", reason=judged.undefined, method=method)
    method += f"; interval: the middle 95% of {len(rows)} draws (the spread of circuits, not the error of their mean)"
    return middle(judged.values[rows], "share", method)


def curve_figures(plan: JudgingPlan, judged: Judged, why_not: str) -> dict[str, Figure]:
    """CPR, CMD, the area over log k, and the CPR of random rankings; all with the reason where there is no curve."""
    signed, absolute = (plan.rankings.get(by) for by in ("signed", "abs_mean"))
    why_not = why_not or judged.undefined
    grid = f"trapezoid over nominal k, {plan.grid.method}"
    wanted: dict[str, tuple[NDArray[np.intp] | None, Callable[[Floats, Floats], Numbers], str]] = {
        "cpr": (signed, area, f"area under f(C_k), ranked by signed mean; {grid}"),
        "cmd": (absolute, _distance, f"area under |1 - f(C_k)|, ranked by |mean|; {grid}"),
        "cpr_log": (signed, log_area, f"area under f(C_k) over log k, over its width, signed mean; {plan.grid.method}"),
    }
    figures = {
        name: _area_figure(plan.grid, judged, rows, fold, method, why_not)
        for name, (rows, fold, method) in wanted.items()
    }
    return {**figures, "cpr_random": _random_area(plan, judged, why_not)}


def _distance(share: Floats, values: Floats) -> Numbers:
    return area(share, np.abs(1 - values))


def _area_figure(
    grid: Grid,
    judged: Judged,
    rows: NDArray[np.intp] | None,
    fold: Callable[[Floats, Floats], Numbers],
    method: str,
    why_not: str,
) -> Figure:
    if rows is None or why_not:
        return Figure(None, "share", reason=why_not, method=method)
    value = float(fold(grid.share, judged.values[rows]))
    return judged.resamples.figure(value, np.asarray(fold(grid.share, judged.drawn[:, rows])), "share", method)


def _random_area(plan: JudgingPlan, judged: Judged, why_not: str) -> Figure:
    """What a ranking by chance gets as CPR."""
    method = f"mean CPR of random rankings; {plan.random_grid.method}"
    if not plan.random_rankings or why_not:
        why = why_not or "no random circuits were asked for (n_random=0)"
        return Figure(None, "share", reason=why, method=method)
    areas = np.asarray(area(plan.random_grid.share, judged.values[np.array(plan.random_rankings)]))
    return middle(areas, "share", f"{method}; interval: the middle 95% of {len(areas)} rankings")


def curves(plan: JudgingPlan, judged: Judged) -> tuple[Curve, ...]:
    """The circuit's own ranking first, then the other rankings, then random circuits; none where f is undefined."""
    if judged.undefined:
        return ()
    found = [_ranking_curve(plan, judged, by, rows) for by, rows in plan.rankings.items()]
    return (*found, *([_random_curve(plan, judged)] if plan.random and found else []))


def _ranking_curve(plan: JudgingPlan, judged: Judged, by: str, rows: NDArray[np.intp]) -> Curve:
    label = f"{plan.label}, by {by}"
    drawn, tail = judged.drawn[:, rows], judged.resamples.tail
    low, high = map(np.asarray, percentiles(drawn, tail)) if len(drawn) else (None, None)
    return Curve(label, plan.grid.n, plan.sizes(rows), judged.values[rows], low, high)


def _random_curve(plan: JudgingPlan, judged: Judged) -> Curve:
    """Mean and middle 95% of random circuits at each size; 0 for no edge and 1 for all need no run."""
    n_graph = len(plan.masks[0])
    columns = {0: (0.0, 0.0, 0.0), n_graph: (1.0, 1.0, 1.0)}
    for size, rows in plan.random.items():
        values = judged.values[rows]
        low, high = percentiles(values)
        columns[size] = (float(values.mean()), float(low), float(high))
    sizes = np.array(sorted(columns), dtype=np.int64)
    mean, low, high = np.array([columns[int(size)] for size in sizes]).T
    return Curve("random circuits", sizes, sizes, mean, low, high)
