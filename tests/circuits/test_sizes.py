"""Law 8, selection: n counts edges on paths, against a plain loop over all prefixes of the ranking."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vitcircuits.circuits.graph import compile_graph
from vitcircuits.circuits.judging import plan
from vitcircuits.circuits.judging.plan import make_grid, ranked_masks
from vitcircuits.circuits.reach import prune
from vitcircuits.circuits.scores import Scores
from vitcircuits.circuits.sizes import edges_of, entries, masks_within
from vitcircuits.models.errors import GraphError

LENIENT = settings(deadline=None, max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
BY = ("signed", "abs_mean", "mean_abs")


def _scores(graph, seed):
    generator = np.random.default_rng(seed)
    values = np.round(generator.normal(size=len(graph)), 1)  # with ties
    exact = np.zeros(len(graph), dtype=bool)
    return Scores(graph, values, np.abs(values) + 0.1, np.ones(len(graph)), exact, 4, "random")


def _prefix(graph, ranking, length):
    return np.isin(np.arange(len(graph)), ranking[:length])


@LENIENT
@given(seed=st.integers(0, 2**32 - 1), by=st.sampled_from(BY))
def test_law_8_n_counts_edges_on_paths_of_the_longest_prefix_and_a_larger_n_only_adds(
    variant_named, tokens, ports, on_paths, seed, by
):
    graph = compile_graph(variant_named("plain"), tokens=tokens, ports=ports)
    scores = _scores(graph, seed)
    ranking = scores.ranking(by)
    pruned = [prune(graph, _prefix(graph, ranking, length)) for length in range(len(graph) + 1)]
    counts = np.array([mask.sum() for mask in pruned])
    before = np.zeros(len(graph), dtype=bool)
    for n, mask in enumerate(masks_within(graph, ranking, range(len(graph) + 1))):
        longest = max(length for length, count in enumerate(counts) if count <= n)
        assert np.array_equal(mask, pruned[longest]) and mask.sum() <= n
        assert not (before & ~mask).any()
        before = mask
    for n in np.random.default_rng(seed).integers(0, len(graph) + 1, 5):
        circuit = scores.top(int(n), by=by)
        assert np.array_equal(circuit.mask, on_paths(graph, circuit.mask)[0])
        assert len(circuit) == circuit.provenance["n_edges"] == counts[counts <= n].max()


@pytest.mark.parametrize("by", BY)
def test_no_selection_holds_an_edge_that_scores_below_the_next_one_to_come(variant_named, by):
    graph = compile_graph(variant_named("plain"))
    scores = _scores(graph, 0)
    for n in range(1, len(graph) + 1):
        circuit = scores.top(n, by=by)
        if len(circuit):
            tau = float(scores.ranking_values(by)[circuit.mask].min())
            assert not (circuit.mask & ~scores.threshold(tau, by=by).mask).any()


def test_an_edge_enters_with_the_shortest_prefix_that_has_it_on_a_path(sole_case):
    graph = sole_case.graph
    ranking = np.random.default_rng(1).permutation(len(graph))
    entered = entries(graph, ranking)
    for length in np.linspace(0, len(graph), 8).astype(int):
        np.testing.assert_array_equal(entered <= length, prune(graph, _prefix(graph, ranking, length)))


def test_a_share_is_that_part_of_the_graphs_edges(variant_named):
    graph = compile_graph(variant_named("plain"))
    scores = _scores(graph, 0)
    by_share, by_count = scores.top(0.5), scores.top(round(0.5 * len(graph)))
    assert np.array_equal(by_share.mask, by_count.mask)
    assert (by_share.provenance["n"], by_count.provenance["n"]) == (0.5, round(0.5 * len(graph)))
    assert edges_of([0.1, 7, 7.0, 1e-9], graph) == [round(0.1 * len(graph)), 7, 7, 1]
    assert len(scores.top(0)) == 0 and len(scores.top(len(graph))) == len(graph)


def test_mibs_grid_counts_before_pruning_and_the_others_on_paths(variant_named, monkeypatch):
    graph = compile_graph(variant_named("plain"), tokens="each")
    ranking = _scores(graph, 0).ranking()
    mib = make_grid(len(graph), "mib")
    for n, mask in zip(mib.n, ranked_masks(graph, ranking, mib), strict=True):
        np.testing.assert_array_equal(mask, prune(graph, _prefix(graph, ranking, n)))
    assert "before" in mib.method and mib.thinned(3).before_pruning
    monkeypatch.setattr(plan, "EVERY_COUNT_UP_TO", 10)
    large = make_grid(len(graph))
    assert large.n.tolist() == mib.n.tolist() and "on paths" in large.method
    for grid in (large, large.thinned(4)):
        masks = ranked_masks(graph, ranking, grid)
        for mask, wanted in zip(masks, masks_within(graph, ranking, grid.n), strict=True):
            np.testing.assert_array_equal(mask, wanted)
    sizes = [[int(mask.sum()) for mask in ranked_masks(graph, ranking, grid)] for grid in (mib, large)]
    assert all(few <= many <= n for few, many, n in zip(*sizes, mib.n, strict=True)) and sizes[0] != sizes[1]


def test_ranking_goes_down_and_keeps_the_order_of_equals(variant_named):
    scores = _scores(compile_graph(variant_named("plain")), 0)
    ranking = scores.ranking()
    steps, places = np.diff(scores.values[ranking]), np.diff(ranking)
    assert (steps <= 0).all() and (places[steps == 0] > 0).all()


def test_impossible_selections_are_refused(variant_named, unchecked):
    scores = _scores(compile_graph(variant_named("plain")), 0)
    for n in (-1, len(scores) + 1, 1.5, -0.5, float("nan"), float("inf")):
        with pytest.raises(GraphError, match="not possible"):
            scores.top(n)
    with pytest.raises(GraphError, match="could be one edge or all of them"):
        scores.top(1.0)
    for size in (0, []):
        with pytest.raises(GraphError, match="size"):
            edges_of(size, scores.graph)
    with pytest.raises(GraphError, match="mean_abs"):
        scores.top(3, by="size")
