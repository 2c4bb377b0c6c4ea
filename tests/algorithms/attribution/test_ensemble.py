"""Mean ranks: from scores at hand, and from algorithms by name."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import rankdata
from vitcircuits.algorithms import eap, mean_ranks, rank_ensemble, relp, run_algorithm
from vitcircuits.circuits import Scores, compile_graph
from vitcircuits.models.errors import GraphError, TaskError


@pytest.fixture
def graph(variant_named):
    return compile_graph(variant_named("plain"))


def scores_of(graph, values, exact=False):
    values = np.array(values, dtype=float)
    blank = np.zeros(len(values))
    return Scores(graph, values, np.abs(values), blank, np.full(len(values), exact), 3, "made-up")


def share_below(values):
    return (rankdata(np.abs(values)) - 1) / (len(values) - 1)


def test_ranks_keep_the_sign_and_ties_share_theirs(graph):
    values = np.arange(len(graph)) % 7 - 3.0
    found = mean_ranks([scores_of(graph, values)])
    np.testing.assert_allclose(found.values, np.sign(values) * share_below(values))
    np.testing.assert_allclose(found.mean_abs, share_below(values))
    assert np.isnan(found.std_err).all() and found.n_pairs == 3
    one_by_one = mean_ranks([scores_of(graph, np.arange(len(graph)))]).values
    assert one_by_one.min() == 0 and one_by_one.max() == 1


def test_scale_does_not_matter_and_order_does(graph):
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, len(graph)))
    alone = mean_ranks([scores_of(graph, first)])
    assert np.array_equal(alone.ranking(), scores_of(graph, first).ranking())
    plain = mean_ranks([scores_of(graph, first), scores_of(graph, second)])
    scaled = mean_ranks([scores_of(graph, 1000 * first), scores_of(graph, np.arctan(second))])
    np.testing.assert_allclose(scaled.values, plain.values)
    wanted = (np.sign(first) * share_below(first) + np.sign(second) * share_below(second)) / 2
    np.testing.assert_allclose(plain.values, wanted)


def test_an_edge_is_exact_where_all_measured_it(graph):
    values = np.arange(len(graph))
    assert mean_ranks([scores_of(graph, values, True)]).exact.all()
    assert not mean_ranks([scores_of(graph, values, True), scores_of(graph, values)]).exact.any()


def test_the_ensemble_is_the_mean_rank_of_what_it_names(graph, variant_named, task_on):
    task = task_on(variant_named("plain"))
    found = run_algorithm("rank_ensemble", graph, task, of="eap, relp")
    wanted = mean_ranks([eap(graph, task), relp(graph, task)])
    assert np.array_equal(found.values, wanted.values) and np.array_equal(found.mean_abs, wanted.mean_abs)
    assert (found.algorithm, dict(found.options)) == ("rank_ensemble", {"of": "eap, relp"})
    assert len(found.top(5)) <= 5


def test_what_cannot_be_ranked_together_is_refused(graph, variant_named, task_on):
    task = task_on(variant_named("plain"))
    for wrong in ("acdc", "rank_ensemble", "eap,epa", " "):
        with pytest.raises(TaskError, match="eap_ig"):
            rank_ensemble(graph, task, of=wrong)
    with pytest.raises(TaskError, match="at least one"):
        mean_ranks([])
    other = scores_of(graph, np.zeros(len(graph)))
    with pytest.raises(TaskError, match="ablation"):
        mean_ranks([other, eap(graph, dataclasses.replace(task, ablation=task_on(task.vit, "zero").ablation))])
    with pytest.raises(GraphError, match="graph"):
        mean_ranks([other, eap(compile_graph(task.vit, ports="head"), task)])
