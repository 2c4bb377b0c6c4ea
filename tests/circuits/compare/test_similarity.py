"""Rankings compared: equal lists get 1, and each measure agrees with its definition written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from vitcircuits.circuits.compare.similarity import overlap_curve, places, rank_biased_overlap, rank_correlations
from vitcircuits.models.errors import GraphError

RANDOM = np.random.default_rng(0)


def by_definition(first, second, p, depth=4000):
    """(1 - p) sum_d p^(d-1) A_d, the lists going on with the agreement that extrapolation gives them."""
    s, n = sorted((len(first), len(second)))
    shared = [len(set(first[:d]) & set(second[:d])) for d in range(1, n + 1)]
    total = 0.0
    for d in range(1, depth):
        if d <= s:
            agreement = shared[d - 1] / d
        elif d <= n:
            agreement = (shared[d - 1] + shared[s - 1] * (d - s) / s) / d
        else:
            agreement = (shared[n - 1] - shared[s - 1]) / n + shared[s - 1] / s
        total += (1 - p) * p ** (d - 1) * agreement
    return total


@pytest.mark.parametrize("p", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("lengths", [(30, 30), (12, 30), (30, 1)])
def test_rank_biased_overlap_is_its_definition(p, lengths):
    first, second = (RANDOM.permutation(40)[:length] for length in lengths)
    found = rank_biased_overlap(first, second, p=p)
    assert found == pytest.approx(by_definition(first.tolist(), second.tolist(), p))
    assert found == pytest.approx(rank_biased_overlap(second, first, p=p))


def test_a_known_value():
    # Webber et al. 2010, figure 5's idea by hand: a b c against a c b at p = 1/2:
    # agreements 1, 1/2, 1 and 1 below: 1/2 + 1/8 + 1/8 + 1/8
    assert rank_biased_overlap(np.array([0, 1, 2]), np.array([0, 2, 1]), p=0.5) == pytest.approx(0.875)


@given(st.permutations(range(12)), st.floats(0.05, 0.99))
def test_equal_lists_get_one_and_lists_without_a_common_thing_zero(order, p):
    ranking = np.array(order)
    assert rank_biased_overlap(ranking, ranking, p=p) == pytest.approx(1)
    assert rank_biased_overlap(ranking, ranking + 12, p=p) == 0
    np.testing.assert_array_equal(overlap_curve(places(ranking, 12), places(ranking, 12)), 1)


def test_the_overlap_at_each_rank_is_that_of_the_first_k():
    first, second = RANDOM.permutation(25), RANDOM.permutation(25)
    wanted = [len(set(first[:k]) & set(second[:k])) / len(set(first[:k]) | set(second[:k])) for k in range(1, 26)]
    found = overlap_curve(places(first, 25), places(second, 25))
    np.testing.assert_allclose(found, wanted)
    assert found[-1] == 1


def test_things_that_are_not_ranked_come_last_and_several_may_come_at_once():
    assert places(np.array([2, 0]), 4).tolist() == [1, 4, 0, 4]
    curve = overlap_curve(np.array([0, 0, 1, 4]), np.array([0, 1, 1, 4]))
    np.testing.assert_allclose(curve, [1 / 2, 1, 1, 1])


def test_rank_correlation_is_spearmans_and_undefined_without_a_ranking():
    values = np.round(RANDOM.normal(size=(3, 30)), 1)  # with ties
    wanted = [[spearmanr(a, b)[0] for b in values] for a in values]
    np.testing.assert_allclose(rank_correlations(values), wanted, atol=1e-9)
    flat = rank_correlations(np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [np.nan, 1.0, 2.0]]))
    assert flat[1, 1] == 1 and np.isnan(flat).sum() == 8


def test_impossible_questions_are_refused():
    with pytest.raises(GraphError, match=r"p=1\.0"):
        rank_biased_overlap(np.arange(3), np.arange(3), p=1.0)
    with pytest.raises(GraphError, match="empty"):
        rank_biased_overlap(np.arange(3), np.arange(0))
    assert rank_biased_overlap(np.arange(0), np.arange(0)) == 1
