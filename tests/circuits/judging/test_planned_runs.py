"""A plan's runs: all of them, save those of chance curves that lie on straight lines."""

import numpy as np
import pytest
import torch
from vitcircuits.circuits.judging.bootstrap import Resamples
from vitcircuits.circuits.judging.plan import JudgingPlan, make_grid
from vitcircuits.circuits.judging.planned_runs import LEAST, STRAIGHT, chance_series, run_plan
from vitcircuits.circuits.run import MaskRuns
from vitcircuits.circuits.tasks.crossing import in_circles
from vitcircuits.circuits.tasks.design import FOIL, TARGET, Design

N_EDGES, N_PAIRS = 400, 6


def circle(n, n_partners):
    """A crossed design of n images a side."""
    pools = {TARGET: torch.arange(n), FOIL: torch.arange(n, 2 * n)}
    columns = zip(*in_circles(list(pools.items()), pools, n_partners), strict=True)
    clean, side, partner, partner_side = (torch.tensor(column) for column in columns)
    right = torch.ones(len(clean), dtype=torch.bool)
    return Design(side, partner_side, clean, partner, right, clean % n, partner % n)


def chance_plan(sizes=(4, 8, 16, 60, 120, 200)):
    """A circuit, no edge, random circuits of several sizes and two random rankings."""
    grid, rng = make_grid(N_EDGES).thinned(25), np.random.default_rng(0)
    plan = JudgingPlan("chance", grid, "signed", grid)

    def of_size(n):
        mask = np.zeros(N_EDGES, dtype=bool)
        mask[rng.permutation(N_EDGES)[:n]] = True
        return mask

    plan.add([of_size(60), of_size(0)])
    for size in sizes:
        plan.random[size] = plan.add([of_size(size) for _ in range(3)])
    plan.controls["paths"] = plan.random[60]
    plan.random_rankings.extend(plan.add([of_size(int(n)) for n in grid.n]) for _ in range(2))
    return plan


def outputs_of(plan, kept, noise=0.0):
    """Outputs where a mask keeps a share of the behaviour that hangs on its size alone, and noise."""
    rng = np.random.default_rng(1)
    shares = np.array([kept(mask.mean()) for mask in plan.masks])
    return shares[:, None] * np.linspace(1, 3, N_PAIRS) + noise * rng.normal(size=(len(shares), N_PAIRS))


def run(plan, outputs, n_bootstrap=200):
    seen = []

    def some(rows, which, known):
        seen.extend(rows)
        which = np.arange(N_PAIRS) if which is None else which
        none = torch.zeros(0, len(which), 2)
        return MaskRuns(outputs[rows][:, which], np.linspace(1, 3, N_PAIRS)[which], none, none.sum(0))

    planned = run_plan(plan, some, None, lambda which: Resamples.draw(len(which), n_bootstrap, seed=0))
    return planned.runs, planned.told, seen


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
    return inner - set(plan.controls["paths"].tolist())


def test_of_a_straight_curve_two_points_alone_run():
    plan = chance_plan()
    _, _, seen = run(plan, outputs_of(plan, lambda k: k))
    first, rankings = chance_series(plan)
    assert set(plan.controls["paths"].tolist()) <= set(seen)
    thirds = [int(np.abs(rankings.places - share).argmin()) for share in (1 / 3, 2 / 3)]
    inner, expected = ({int(row) for row in rankings.rows[at].flat} for at in (slice(1, -1), thirds))
    assert set(seen) & inner == expected
    assert set(seen) >= {int(row) for row in first.rows[[0, -1]].flat}


@pytest.mark.parametrize("kept", [lambda k: k * k * (3 - 2 * k), lambda k: k + 4 * k * (1 - k) * (0.5 - k)])
def test_a_curve_symmetrical_about_its_middle_is_not_taken_for_straight(kept):
    plan = chance_plan()
    assert kept(0) == 0 and kept(0.5) == 0.5 and kept(1) == 1
    wanted = outputs_of(plan, kept)
    runs, _, _ = run(plan, wanted, n_bootstrap=0)
    behaviour = np.linspace(1, 3, N_PAIRS).mean()
    assert np.abs(runs.outputs - wanted).mean(-1).max() < 3 * STRAIGHT * behaviour


def test_noise_below_its_standard_error_bends_nothing_and_a_step_everything_around_it():
    plan = chance_plan()
    smooth = run(plan, outputs_of(plan, lambda k: k, noise=0.3))[2]
    steep = run(plan, outputs_of(plan, lambda k: float(k > 0.4), noise=0.3))[2]
    assert len(smooth) < len(steep) < len(plan.masks)


def test_undefined_shares_run_no_points_twice():
    plan = chance_plan()
    runs, _, seen = run(plan, np.ones((len(plan.masks), N_PAIRS)) * np.linspace(1, 3, N_PAIRS))
    assert len(seen) < len(plan.masks) and np.isfinite(runs.outputs).all()


def run_in_parts(plan, design, outputs, clean, known=None):
    """A plan on crossed pairs, chance on few of them first, and the pairs that each mask ran on, in order."""
    seen = dict[int, list[int]]()

    def some(rows, which, known):
        which = np.arange(len(clean)) if which is None else which
        for row in rows:
            seen.setdefault(row, []).extend(which.tolist())
        none = torch.zeros(0, len(which), 2)
        return MaskRuns(outputs[rows][:, which], clean[which], none, none.sum(0))

    def resample(which):
        return Resamples.of_design(design.select(which.tolist()), len(which), 200, seed=0)

    planned = run_plan(plan, some, design, resample, known)
    assert all(len(seen[row]) == len(set(seen[row])) for row in seen)
    return planned, seen, resample(np.arange(len(clean))).behaviour_whole


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.3])
def test_chance_runs_on_more_pairs_only_where_the_first_leave_it_open(spread):
    plan, design, rng = chance_plan((60,)), circle(16, 1), np.random.default_rng(1)
    clean = 4.0 * design.clean_side.numpy() - 2
    kept = np.linspace(0.1, 0.3, len(plan.masks))[:, None]
    outputs = kept * clean + spread * 4 * rng.normal(size=(len(plan.masks), len(clean)))
    outputs[1] = 0.0
    planned, seen, whole = run_in_parts(plan, design, outputs, clean)
    controls = plan.controls["paths"]
    assert all(sorted(seen[row]) == list(range(len(clean))) for row in (0, 1))
    assert planned.ran.sum() == sum(map(len, seen.values()))
    ran = planned.ran[controls]
    assert (ran == ran[0]).all(), "one kind runs on the same pairs"
    cells = [int((ran[0] & inside).sum()) for _, inside in design.cells()]
    assert cells == [{0.0: LEAST, 0.1: 2 * LEAST, 0.3: 4 * LEAST}[spread]] * len(cells)
    expected = np.mean([outputs[controls] * (ran * inside) @ whole / ran.mean() for _, inside in design.cells()], 0)
    np.testing.assert_allclose(planned.runs.outputs[controls] @ whole, len(cells) * expected, atol=1e-12)


def test_noise_on_few_pairs_bends_no_straight_curve():
    """Pairs that were not run stand at their cell's mean and would make standard errors half as large as they are."""
    plan, design, rng = chance_plan(), circle(64, 1), np.random.default_rng(0)
    clean = 4.0 * design.clean_side.numpy() - 2
    shares = np.array([mask.mean() for mask in plan.masks])[:, None]
    outputs = shares * clean + 0.15 * rng.normal(size=(len(plan.masks), len(clean)))
    outputs[1] = 0.0
    planned, seen, _ = run_in_parts(plan, design, outputs, clean)
    rankings = chance_series(plan)[-1]
    inner = rankings.rows[1:-1]
    assert not planned.ran[inner].all(2).any()
    assert np.isin(inner, list(seen)).all(1).sum() == 2


def test_runs_that_are_there_are_not_made_again():
    plan, design = chance_plan((60,)), circle(16, 1)
    clean = 4.0 * design.clean_side.numpy() - 2
    outputs = np.linspace(0.1, 0.3, len(plan.masks))[:, None] * clean
    none = torch.zeros(2, len(clean), 2)
    known = MaskRuns(outputs[:2], clean, none, none[0])
    planned, seen, _ = run_in_parts(plan, design, outputs, clean, known)
    again, _, _ = run_in_parts(plan, design, outputs, clean)
    assert not {0, 1} & set(seen)
    np.testing.assert_array_equal(planned.runs.outputs, again.runs.outputs)
    np.testing.assert_array_equal(planned.ran, again.ran)
