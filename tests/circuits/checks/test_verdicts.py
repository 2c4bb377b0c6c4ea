"""The tests' statistics: by their definitions on small numbers, and by simulation of the null hypothesis."""

from math import comb, sqrt

import numpy as np
import pytest
from vitcircuits.circuits.checks.verdicts import beats, can_pass, equivalence, fewest_pairs, independence

LEVEL = 0.05


def most(n_draws):
    """What a rejection rate of at most LEVEL stays below, but once in a thousand times."""
    return LEVEL + 3.1 * sqrt(LEVEL * (1 - LEVEL) / n_draws)


def least(n_draws):
    """The other side, for tests whose rate is LEVEL exactly."""
    return LEVEL - 3.1 * sqrt(LEVEL * (1 - LEVEL) / n_draws)


def tail(n, p, at_least):
    return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(at_least, n + 1))


def test_tost_is_the_larger_of_two_binomial_tails():
    first = np.array([1.0, 2, 0, 5, 5, 5, 5, 0, 1, 9])  # 5 wins, 3 ties, 2 losses
    second = np.array([0.0, 2, 1, 4, 4, 4, 5, 0, 3, 0])
    found = equivalence(first, second, epsilon=0.3, tie=0.0)
    assert found.statistic == pytest.approx(0.65)
    assert found.p_value == pytest.approx(max(1 - tail(10, 0.8, 8), tail(10, 0.2, 6)))  # 6.5 rounded to 7 and to 6


def test_a_tie_is_what_lies_within_rounding():
    first, second = np.array([0.0, 1e-7, 1.0]), np.zeros(3)
    assert equivalence(first, second, epsilon=0.1, tie=1e-6).statistic == pytest.approx(2 / 3)
    assert equivalence(first, second, epsilon=0.1, tie=0.0).statistic == pytest.approx(2.5 / 3)


def test_few_pairs_cannot_pass_for_free():
    assert equivalence(np.zeros(20), np.zeros(20), epsilon=0.1, tie=0.0).p_value > 0.1
    needed = fewest_pairs(epsilon=0.1, level=LEVEL)
    assert 60 <= needed <= 100
    assert can_pass(needed, epsilon=0.1, level=LEVEL) and not can_pass(needed - 11, epsilon=0.1, level=LEVEL)


@pytest.mark.parametrize("chances", [(0.6, 0.0, 0.4), (0.4, 0.0, 0.6), (0.3, 0.6, 0.1), (0.1, 0.6, 0.3)])
def test_the_size_of_tost_at_the_edge_of_its_null_hypothesis(chances):
    rng, n_draws = np.random.default_rng(0), 400
    differences = rng.choice([1.0, 0.0, -1.0], size=(n_draws, 150), p=chances)  # won, tied, lost
    rejected = [equivalence(row, np.zeros(150), epsilon=0.1, tie=0.0).p_value <= LEVEL for row in differences]
    assert np.mean(rejected) <= most(n_draws)


def test_tost_finds_what_is_equivalent():
    rng = np.random.default_rng(0)
    found = [equivalence(rng.normal(size=600), np.zeros(600), epsilon=0.1, tie=0.0) for _ in range(50)]
    assert np.mean([one.p_value <= LEVEL for one in found]) > 0.9


def test_hsic_is_its_trace():
    rng = np.random.default_rng(1)
    x, y, n = rng.normal(size=7), rng.normal(size=7), 7

    def kernel(v):
        distance = np.abs(v[:, None] - v[None])
        return np.exp(-(distance**2) / (2 * np.median(distance[distance > 0]) ** 2))

    centre = np.eye(n) - 1 / n
    wanted = np.trace(kernel(x) @ centre @ kernel(y) @ centre) / n**2
    assert independence(x, y, n_permutations=5, seed=0).statistic == pytest.approx(wanted)


def test_hsic_shuffles_whole_images():
    """Pairs of one image alike: counted one by one they find a dependence that few images don't show."""
    rng, n_images, n_each, n_draws = np.random.default_rng(4), 12, 6, 200
    unit = np.repeat(np.arange(n_images), n_each)
    by_image, by_pair = [], []
    for draw in range(n_draws):
        first, second = rng.normal(size=n_images)[unit] + 0.1 * rng.normal(size=len(unit)), rng.normal(size=n_images)
        by_image.append(independence(first, second, n_permutations=99, seed=draw, unit=unit).p_value)
        if draw < 20:
            by_pair.append(independence(first, second[unit], n_permutations=99, seed=draw).p_value)
    assert least(n_draws) <= np.mean(np.array(by_image) <= LEVEL) <= most(n_draws)
    assert np.mean(np.array(by_pair) <= LEVEL) > 0.5
    each = np.arange(n_images)
    assert independence(second, second, n_permutations=99, seed=0, unit=each) == independence(
        second, second, n_permutations=99, seed=0
    )


def test_hsic_shuffles_places_where_both_classes_meet_the_same_partners():
    """The output hangs on the partner alone, and an image of each class meets it: rejected as often as the level."""
    rng, n_places, n_draws = np.random.default_rng(5), 12, 300
    place = np.repeat(np.arange(n_places), 2)
    side = np.tile([1.0, -1.0], n_places)
    size, power = [], []
    for draw in range(n_draws):
        first, second = rng.normal(size=n_places)[place], 3 * side + rng.normal(size=len(side))
        first = first + 0.01 * rng.normal(size=len(side))
        size.append(independence(first, second, n_permutations=99, seed=draw, place=place).p_value)
        if draw < 40:
            power.append(independence(first + second, second, n_permutations=99, seed=draw, place=place).p_value)
    assert least(n_draws) <= np.mean(np.array(size) <= LEVEL) <= most(n_draws)
    assert np.mean(np.array(power) <= LEVEL) > 0.9


def test_the_size_and_the_power_of_hsic():
    rng, n_draws = np.random.default_rng(2), 300
    p_values = [
        independence(rng.normal(size=25), rng.normal(size=25), n_permutations=99, seed=draw).p_value
        for draw in range(n_draws)
    ]
    assert least(n_draws) <= np.mean(np.array(p_values) <= LEVEL) <= most(n_draws)
    x = rng.normal(size=60)
    dependent = independence(x, x**2 + 0.3 * rng.normal(size=60), n_permutations=199, seed=0)  # uncorrelated
    assert dependent.p_value <= 0.01


def test_the_size_of_the_binomial_test():
    rng, n_draws = np.random.default_rng(3), 2000
    wins = rng.binomial(50, 0.9, size=n_draws)
    rejected = [beats(int(won), 50, quantile=0.9).p_value <= LEVEL for won in wins]
    exact = tail(50, 0.9, 49)  # the largest rejection rate that whole numbers of wins allow: .034
    assert abs(np.mean(rejected) - exact) <= 3.1 * sqrt(exact * (1 - exact) / n_draws)
    assert beats(45, 50, quantile=0.9).p_value == pytest.approx(tail(50, 0.9, 45))
