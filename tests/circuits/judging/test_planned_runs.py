"""A plan's runs: all of them, save those of chance curves that lie on straight lines."""

import numpy as np
import pytest
import torch
from vitcircuits.circuits.judging.bootstrap import Resamples
from vitcircuits.circuits.judging.plan import Plan, make_grid
from vitcircuits.circuits.judging.planned_runs import STRAIGHT, chance_series, run_plan
from vitcircuits.circuits.run import MaskRuns

N_EDGES, N_PAIRS = 400, 6


def chance_plan(sizes=(4, 8, 16, 60, 120, 200)):
    """A circuit, no edge, random circuits of several sizes and two random rankings."""
    grid, rng = make_grid(N_EDGES).thinned(25), np.random.default_rng(0)
    plan = Plan("chance", grid, "signed", grid)

    def of_size(n):
        mask = np.zeros(N_EDGES, dtype=bool)
        mask[rng.permutation(N_EDGES)[:n]] = True
        return mask

    plan.add([of_size(60), of_size(0)])
    for size in sizes:
        plan.random[size] = plan.add([of_size(size) for _ in range(3)])
    plan.kinds["paths"] = plan.random[60]
    plan.random_rankings.extend(plan.add([of_size(int(n)) for n in grid.n]) for _ in range(2))
    return plan


def outputs_of(plan, kept, noise=0.0):
    """Outputs where a mask keeps a share of the behaviour that hangs on its size alone, and noise."""
    rng = np.random.default_rng(1)
    shares = np.array([kept(mask.mean()) for mask in plan.masks])
    return shares[:, None] * np.linspace(1, 3, N_PAIRS) + noise * rng.normal(size=(len(shares), N_PAIRS))


def run(plan, outputs, n_bootstrap=200):
    seen = []

    def some(rows):
        seen.extend(rows)
        none = torch.zeros(0, N_PAIRS, 2)
        return MaskRuns(outputs[rows], np.linspace(1, 3, N_PAIRS), none, none.sum(0))

    runs, told = run_plan(plan, some, Resamples.draw(N_PAIRS, n_bootstrap, seed=0))
    return runs, told, seen


@pytest.mark.parametrize("bend", [0.02, 0.3, 0.55, 0.9])
def test_a_bent_curve_is_found_and_the_rest_lies_on_lines(bend):
    plan = chance_plan()
    wanted = outputs_of(plan, lambda k: max(0.0, (k - bend) / (1 - bend)))
    runs, told, seen = run(plan, wanted, n_bootstrap=0)
    behaviour = np.linspace(1, 3, N_PAIRS).mean()
    assert np.abs(runs.outputs - wanted).mean(-1).max() < 3 * STRAIGHT * behaviour
    assert len(seen) == len(set(seen)) < len(plan.masks)
    np.testing.assert_array_equal(runs.outputs[seen], wanted[seen])
    assert told.startswith(f"{sum(row in seen for row in spared(plan))} of {len(spared(plan))} were run")


def spared(plan):
    inner = {int(row) for one in chance_series(plan) for row in one.rows[1:-1].flat}
    return inner - set(plan.kinds["paths"].tolist())


def test_of_a_straight_curve_the_middle_alone_runs():
    plan = chance_plan()
    _, _, seen = run(plan, outputs_of(plan, lambda k: k))
    first, rankings = chance_series(plan)
    assert set(plan.kinds["paths"].tolist()) <= set(seen)
    middles = {int(row) for row in rankings.rows[rankings.middle(0, len(rankings.places) - 1)]}
    assert set(seen) & {int(row) for row in rankings.rows[1:-1].flat} == middles
    assert set(seen) >= {int(row) for row in first.rows[[0, -1]].flat}


def test_noise_below_its_standard_error_bends_nothing_and_a_step_everything_around_it():
    plan = chance_plan()
    smooth = run(plan, outputs_of(plan, lambda k: k, noise=0.3))[2]
    steep = run(plan, outputs_of(plan, lambda k: float(k > 0.4), noise=0.3))[2]
    assert len(smooth) < len(steep) < len(plan.masks)


def test_undefined_shares_run_no_points_twice():
    plan = chance_plan()
    runs, _, seen = run(plan, np.ones((len(plan.masks), N_PAIRS)) * np.linspace(1, 3, N_PAIRS))
    assert len(seen) < len(plan.masks) and np.isfinite(runs.outputs).all()
