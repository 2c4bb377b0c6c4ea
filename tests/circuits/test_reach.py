"""Reachability against a search over single nodes, and law 8: selection."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vitcircuits.circuits.graph import compile_graph
from vitcircuits.circuits.reach import prune, reach
from vitcircuits.circuits.scores import Scores
from vitcircuits.models.errors import GraphError

NAMES = ("plain", "registers-layerscale", "no-class", "average-tokennorm")
LENIENT = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", NAMES)
def test_prune_is_what_a_search_over_nodes_finds(variant_named, name, tokens, ports, on_paths):
    graph = compile_graph(variant_named(name), tokens=tokens, ports=ports)
    generator = np.random.default_rng(0)
    for share in (0, 0.02, 0.05, 0.1, 0.3, 1):
        mask = generator.random(len(graph)) < share
        wanted, alive = on_paths(graph, mask)
        found = reach(graph, mask)
        assert np.array_equal(found.mask, wanted)
        assert np.array_equal(prune(graph, wanted), wanted)
        live = graph.live_targets(graph.cfg.n_layers - 1)
        for source, node in enumerate(graph.source_names()):
            for group, where in enumerate(graph.groups.names):
                if live[group] or source < graph.first_head(graph.cfg.n_layers - 1):
                    assert found.alive[source, group] == ((node, where) in alive)


def test_every_edge_of_a_full_graph_is_on_a_path(variant, tokens, ports):
    graph = compile_graph(variant, tokens=tokens, ports=ports)
    assert prune(graph, np.ones(len(graph), dtype=bool)).all()


def _scores(graph, seed):
    generator = np.random.default_rng(seed)
    values = np.round(generator.normal(size=len(graph)), 1)  # with ties
    exact = np.zeros(len(graph), dtype=bool)
    return Scores(graph, values, np.abs(values) + 0.1, np.ones(len(graph)), exact, 4, "random")


@LENIENT
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1), by=st.sampled_from(["signed", "abs_mean", "mean_abs"]))
def test_law_8_selection_never_leaves_paths_never_refills_and_only_grows(
    variant_named, tokens, ports, on_paths, seed, share, by
):
    graph = compile_graph(variant_named("plain"), tokens=tokens, ports=ports)
    scores = _scores(graph, seed)
    n = int(share * len(graph))
    chosen = np.zeros(len(graph), dtype=bool)
    chosen[scores.ranking(by)[:n]] = True
    circuit = scores.top(n, by=by)
    assert np.array_equal(circuit.mask, on_paths(graph, chosen)[0])  # on paths, and not refilled
    smaller = scores.top(n // 2, by=by)
    assert not (smaller.mask & ~circuit.mask).any()
    tau = float(scores.ranking_values(by)[scores.ranking(by)[n - 1]]) if n else np.inf
    assert not (circuit.mask & ~scores.threshold(tau, by=by).mask).any()


def test_ranking_goes_down_and_keeps_the_order_of_equals(variant_named):
    scores = _scores(compile_graph(variant_named("plain")), 0)
    ranking = scores.ranking()
    steps, places = np.diff(scores.values[ranking]), np.diff(ranking)
    assert (steps <= 0).all() and (places[steps == 0] > 0).all()


def test_impossible_selections_are_refused(variant_named, unchecked):
    scores = _scores(compile_graph(variant_named("plain")), 0)
    for n in (-1, len(scores) + 1):
        with pytest.raises(GraphError, match="not possible"):
            scores.top(n)
    with pytest.raises(GraphError, match="mean_abs"):
        scores.top(3, by="size")
