"""Reachability against a search over single nodes, and the strength of paths against reachability at each level."""

import numpy as np
from vitcircuits.circuits.reach import path_strengths, prune, reach


def test_prune_is_what_a_search_over_nodes_finds(standard_case, on_paths):
    graph, generator = standard_case.graph, np.random.default_rng(0)
    for share in (0, 0.05, 0.1, 0.3):
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


def test_every_edge_of_a_full_graph_is_on_a_path(case):
    graph = case.graph
    assert prune(graph, np.ones(len(graph), dtype=bool)).all()


def test_a_path_is_as_strong_as_its_weakest_edge(case):
    graph = case.graph
    strengths = np.random.default_rng(0).integers(1, 12, len(graph))
    found = path_strengths(graph, strengths)
    for level in range(1, 13):
        np.testing.assert_array_equal(found >= level, prune(graph, strengths >= level))
