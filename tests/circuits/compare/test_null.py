"""Chance: closed forms against draws, exact permutation p-values by hand, levels that are kept."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vitcircuits.circuits.compare.anatomy import describe
from vitcircuits.circuits.compare.null import (
    chance_overlap,
    distinctness_test,
    divisions,
    holm,
    overlap_p_value,
    permutation_test,
    random_figures,
)
from vitcircuits.circuits.judging.controls import random_circuits
from vitcircuits.models.errors import GraphError


@pytest.mark.parametrize("sizes", [(40, 10, 15), (200, 60, 60), (12, 9, 8)])
def test_random_sets_overlap_as_the_hypergeometric_law_says(sizes):
    n, first, second = sizes
    rng, draws = np.random.default_rng(0), 4000
    ranks = rng.random((2, draws, n)).argsort(-1)  # each row a random order of the edges
    one, other = ranks[0] < first, ranks[1] < second
    shared, union = (one & other).sum(1), (one | other).sum(1)
    law = chance_overlap(n, first, second)
    for values, mean, std in ((shared, law.mean, law.std), (shared / union, law.jaccard, law.jaccard_std)):
        assert values.mean() == pytest.approx(mean, abs=4 * std / np.sqrt(draws))
        assert values.std() == pytest.approx(std, rel=0.06)
    least = int(law.mean) + 1
    expected = overlap_p_value(n, first, second, least)
    assert (shared >= least).mean() == pytest.approx(expected, abs=4 * np.sqrt(expected / draws))


def test_the_ends_of_the_hypergeometric_law():
    assert chance_overlap(10, 10, 10).jaccard == 1 and chance_overlap(10, 10, 10).std == 0
    assert chance_overlap(10, 0, 0).jaccard == 1 and chance_overlap(10, 0, 5).jaccard == 0
    assert overlap_p_value(10, 3, 3, 0) == pytest.approx(1) and overlap_p_value(10, 3, 3, 3) == pytest.approx(1 / 120)
    with pytest.raises(GraphError, match="11"):
        chance_overlap(10, 11, 2)


def test_an_exact_p_value_counts_all_divisions():
    found = permutation_test([1.0, 2.0, 3.0], [7.0, 8.0, 12.0])
    assert found.exact and found.n_divisions == 20 and found.p_value == found.smallest == pytest.approx(0.1)
    first, second = [0.3, 1.9, 0.7], [1.1, 2.5, 0.9, 2.2]
    values = np.array(first + second)
    seen = abs(np.mean(first) - np.mean(second))
    wanted = [
        abs(values[list(c)].mean() - np.delete(values, list(c)).mean()) >= seen - 1e-12
        for c in combinations(range(7), 3)
    ]
    assert permutation_test(first, second).p_value == pytest.approx(np.mean(wanted))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6))
def test_a_group_against_itself_has_p_one(values):
    assert permutation_test(values, values).p_value == 1
    assert permutation_test(values[:1], values[:1]).smallest == 1


def test_drawn_divisions_never_give_zero():
    first, second = np.zeros(12), np.ones(12) + np.arange(12) * 1e-3
    found = permutation_test(first.tolist(), second.tolist(), n=99)
    assert not found.exact and found.p_value == 1 / 100 == found.smallest and found.n_divisions == 100
    member, exact = divisions(12, 12, n=50, seed=1)
    assert not exact and (member.sum(1) == 12).all() and member[0].tolist() == [True] * 12 + [False] * 12


def rejections(level, draw, test, trials):
    return np.mean([test(draw(np.random.default_rng([7, trial]))) <= level for trial in range(trials)])


def test_seeds_of_one_model_are_told_apart_at_the_stated_level():
    """Figures of seeds: what the seed decides plus what the drawn pairs decide, which all seeds share in part."""

    def table(rng):
        pairs = rng.normal(size=(64, 1)) + 0.5 * rng.normal(size=(64, 10))  # per pair and seed
        return (rng.normal(size=10) + pairs[rng.integers(64, size=64)].mean(0)).tolist()

    trials, level = 1500, 0.05
    rate = rejections(level, table, lambda x: permutation_test(x[:5], x[5:]).p_value, trials)
    attainable = 12 / 252  # the largest p-value of 252 divisions that is not above the level
    assert rate == pytest.approx(attainable, abs=3.5 * np.sqrt(attainable / trials))
    drawn = rejections(0.1, table, lambda x: permutation_test(x[:5], x[5:], n=199).p_value, trials)
    assert drawn == pytest.approx(0.1, abs=3.5 * np.sqrt(0.1 / trials))


def test_pairs_alone_would_take_seeds_for_kinds():
    """Why seeds are the unit: over pairs two seeds of one model nearly always differ."""

    def table(rng):
        return rng.normal(size=2)[:, None] + 0.5 * rng.normal(size=(2, 64))

    def over_pairs(x):
        difference = x[0] - x[1]
        signs = np.random.default_rng(0).choice([-1, 1], size=(199, 64))
        return (1 + (np.abs(signs @ difference) >= abs(difference.sum())).sum()) / 200

    assert rejections(0.05, table, over_pairs, 200) > 0.8


def test_with_many_comparisons_any_false_claim_stays_at_the_level():
    def smallest(rng):
        figures = rng.normal(size=(6, 10)) + rng.normal(size=(1, 10))  # six figures that go together
        return min(holm([permutation_test(x[:5].tolist(), x[5:].tolist()).p_value for x in figures]))

    trials = 400
    rate = rejections(0.1, smallest, lambda p: p, trials)
    assert rate <= 0.1 + 3 * np.sqrt(0.09 / trials)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0] and holm([]) == []


def test_kinds_that_are_distinct_and_kinds_that_are_not():
    apart = np.full((6, 6), 0.1)
    apart[:3, :3] = apart[3:, 3:] = 0.8
    found = distinctness_test(apart, 3)
    assert found is not None and found.statistic == pytest.approx(0.7) and found.p_value == pytest.approx(0.1)
    same = distinctness_test(np.ones((6, 6)), 3)
    assert same is not None and same.p_value == 1 and same.statistic == 0
    assert distinctness_test(np.ones((2, 2)), 1) is None
    three = distinctness_test(apart[2:5, 2:5], 1)  # one seed against two
    assert three is not None and three.p_value == three.smallest == pytest.approx(1 / 3)


def test_random_circuits_have_the_size_and_the_strengths_of_the_circuit(make_graph, make_circuit):
    circuit = make_circuit(make_graph(2, 3), share=0.3)
    drawn = random_circuits(circuit, 5, seed=1)
    own, found = describe(circuit).flat(), random_figures(circuit, drawn, seed=1)
    for one in found:
        assert own.keys() - one.keys() == {"edges", "share of graph", "effective edges"}
        assert one["share to q"] + one["share to k"] + one["share to v"] + one["share to mlp"] < 1
    assert len({one["path length"] for one in found}) > 1
    assert found == random_figures(circuit, drawn, seed=1)
