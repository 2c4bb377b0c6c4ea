"""Patterns made over positions are named after themselves; R^2 is a squared correlation; noise is named nothing."""

import numpy as np
import pytest
from vitcircuits.algorithms.interpretability.templates import (
    FAMILIES,
    fit_templates,
    name_of,
    offset_counts,
    offset_sums,
    ordinal,
    shuffled_fits,
)

GRIDS = ((5, 6), (7, 7), (14, 14))


def cells(grid):
    """Row and column of target and of source, each (target, source)."""
    row, column = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    return row[:, None], column[:, None], row[None], column[None]


def shown(member, sharpness=30.0):
    """A pattern that prefers some cells, rows adding up to 1."""
    weights = 1 + sharpness * member
    return weights / weights.sum(1, keepdims=True)


def made(grid):
    """Label -> the cells it names."""
    r, c, rr, cc = cells(grid)
    rows, columns = grid
    place = rr * columns + cc + 0 * r
    own = r * columns + c + 0 * rr
    return {
        "same patch": (r == rr) & (c == cc),
        "offset: 1 left": (rr == r) & (cc == c - 1),
        "offset: 2 down 1 right": (rr == r + 2) & (cc == c + 1),
        "near: within 1": (abs(rr - r) <= 1) & (abs(cc - c) <= 1),
        "row": (rr == r) & (cc >= 0 * c),
        "column": (cc == c) & (rr >= 0 * r),
        "corner: top left": place == 0,
        "corners": ((rr % (rows - 1) == 0) & (cc % (columns - 1) == 0)) | (place < 0),
        "edge: top": (rr == 0) | (place < 0),
        "edges": (rr == 0) | (rr == rows - 1) | (cc == 0) | (cc == columns - 1) | (place < 0),
        "modulus: every 4th patch, from 1": place % 4 == 1,
        "modulus: every 4th patch, from 3 behind its own": (place - own) % 4 == 3,
    }


def judged(mean, grid, n=20):
    fits, null = fit_templates(mean, grid), shuffled_fits(mean, grid, n, seed=0)
    name = name_of(fits, null, 0.5, 0.1)
    return name, fits[name].label if name else ""


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("label", list(made((5, 6))))
def test_a_pattern_is_named_after_what_it_was_made_of(grid, label):
    member = made(grid)[label]
    assert judged(shown(member, 200.0), grid)[1] == label
    family = judged(shown(member, 200.0), grid)[0]
    assert label.split(":")[0].split(" ")[0].rstrip("s") == family.rstrip("s")


@pytest.mark.parametrize("grid", GRIDS)
def test_r2_is_the_squared_correlation_with_the_template(grid):
    rng = np.random.default_rng(1)
    for label, member in made(grid).items():
        mean = rng.random(member.shape) + 2 * member
        fits = fit_templates(mean, grid)
        found = next(fit for fit in fits.values() if fit.label == label)
        assert found.r2 == pytest.approx(np.corrcoef(mean.ravel(), member.ravel())[0, 1] ** 2, rel=1e-9)
        held = (mean * member).sum(1).mean()
        assert found.attention == pytest.approx(held)
        assert found.beyond == pytest.approx(held - member.mean() * mean.sum(1).mean())


def test_place_and_relative_are_what_means_over_targets_and_offsets_account_for():
    grid, rng = (4, 5), np.random.default_rng(2)
    mean = rng.random((20, 20))
    r, c, rr, cc = cells(grid)
    offset = (rr - r) * 100 + (cc - c)
    fits, total = fit_templates(mean, grid), np.square(mean - mean.mean()).sum()
    by_place = np.square(mean - mean.mean(0)).sum()
    by_offset = sum(np.square(mean[offset == one] - mean[offset == one].mean()).sum() for one in np.unique(offset))
    assert fits["place"].r2 == pytest.approx(1 - by_place / total)
    assert fits["relative"].r2 == pytest.approx(1 - by_offset / total)
    counted = {one: (offset == one).sum() for one in np.unique(offset)}
    assert offset_counts(grid)[3 - 2, 4 + 1] == counted[-2 * 100 + 1]
    assert offset_sums(mean, grid)[3 - 2, 4 + 1] == pytest.approx(mean[offset == -2 * 100 + 1].sum())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("grid", [(4, 4), (7, 7)])
def test_a_pattern_drawn_at_random_is_named_nothing(grid, seed):
    n = grid[0] * grid[1]
    mean = np.random.default_rng(seed).dirichlet(np.full(n, 0.5), size=n)
    assert judged(mean, grid) == ("", "")
    one = np.random.default_rng(seed).dirichlet(np.full(n, 0.5), size=1)
    assert judged(one, grid) == ("", "")


@pytest.mark.parametrize("label", ["offset: 1 left", "corners", "modulus: every 4th patch, from 1", "row"])
def test_positions_that_are_dealt_out_anew_lose_their_name(label):
    mean = shown(made((7, 7))[label], 200.0)
    rng = np.random.default_rng(0)
    dealt = mean[rng.permutation(49)][:, rng.permutation(49)]
    assert judged(dealt, (7, 7))[0] not in FAMILIES
    assert (
        max(values.max() for name, values in shuffled_fits(mean, (7, 7), 20, seed=0).items() if name in FAMILIES) < 0.5
    )


def test_an_even_pattern_and_a_faint_one_have_no_name():
    fits = fit_templates(np.full((16, 16), 1 / 16), (4, 4))
    assert all(np.isnan(fit.r2) for fit in fits.values()) and judged(np.full((16, 16), 1 / 16), (4, 4))[0] == ""
    faint = shown(made((7, 7))["row"], 0.1)
    assert fit_templates(faint, (7, 7))["row"].r2 > 0.99 and judged(faint, (7, 7))[0] == ""


def test_looking_away_from_a_place_is_no_template():
    away = shown(~made((7, 7))["same patch"], 30.0)
    assert fit_templates(away, (7, 7))["same"].r2 == 0


def test_fixed_places_that_are_no_family_are_places():
    grid = (7, 7)
    member = np.isin(np.arange(49), [10, 17, 30])[None].repeat(49, 0)
    assert judged(shown(member, 200.0), grid) == ("place", "other places")


def test_from_one_token_only_places_are_asked_for():
    corner = np.full((1, 196), 0.002)
    corner[0, 0] = 0.5
    fits = fit_templates(corner, (14, 14))
    assert set(fits) == {"corner", "edge", "modulus"} and judged(corner, (14, 14), 50)[1] == "corner: top left"
    assert judged(corner[:, :16], (4, 4), 50)[1] == ""  # one patch of 16 is a corner by chance


def test_ordinals():
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 21, 112)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "21st", "112th"
    ]  # fmt: skip
