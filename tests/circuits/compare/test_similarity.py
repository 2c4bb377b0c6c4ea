"""Rankings compared: equal lists get 1, and each measure agrees with its definition written out.

The table says of each edge what its name says.

Colours are networkx' subgraph hashes up to their spelling; the kernel is 1 for a circuit and its relabelled copy.
"""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from vitcircuits.circuits import Circuit, compile_graph
from vitcircuits.circuits.compare.similarity import (
    KINDS,
    Labelled,
    edge_table,
    overlap_curve,
    places,
    rank_biased_overlap,
    rank_correlations,
    wl_colours,
    wl_kernel,
    wl_similarity,
)
from vitcircuits.circuits.nodes import node_names
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


def check(graph):
    table = edge_table(graph)
    for index in range(len(graph)):
        edge = graph.edge(index)
        assert table.nodes[table.source[index]] == edge.source.node
        assert table.nodes[table.destination[index]] == edge.destination.node
        assert graph.groups.names[table.source_group[index]] == edge.source.group
        assert graph.groups.names[table.group[index]] == edge.destination.group
        kind = edge.port or {"head": "attention"}.get(edge.destination.kind, edge.destination.kind)
        assert KINDS[table.kind[index]] == ("inside" if edge.inside else kind)
    assert tuple(np.array(table.nodes)[table.components]) == node_names(graph)


def test_every_entry_is_what_the_edges_name_spells(make_graph, tokens, ports):
    check(make_graph(3, 2, tokens=tokens, ports=ports, registers=1))


@pytest.mark.parametrize("choice", [("all", "qkv"), ("role", "head"), ("role", "block")])
def test_so_it_is_for_every_architecture(architecture, choice):
    check(compile_graph(architecture, tokens=choice[0], ports=choice[1]))


def test_depth_grows_in_equal_steps_from_input_to_logits(make_graph):
    table = edge_table(make_graph(2, 1))
    depth = dict(zip(table.nodes, table.depth, strict=True))
    order = ["input", "a0.h0", "m0", "a1.h0", "m1", "logits"]
    np.testing.assert_allclose([depth[name] for name in order], np.linspace(0, 1, 6))
    assert (table.depth[table.source] <= table.depth[table.destination]).all()


ROUNDS = 4


def random_graph(seed, n=12):
    graph = nx.gnp_random_graph(n, 0.25, seed=seed)
    rng = np.random.default_rng(seed)
    nx.set_node_attributes(graph, {node: str(rng.integers(3)) for node in graph}, "kind")
    nx.set_edge_attributes(graph, {edge: "qkv"[rng.integers(3)] for edge in graph.edges}, "port")
    return graph


def undirected(graph):
    labels = tuple(graph.nodes[node]["kind"] for node in graph)
    return Labelled(labels, tuple((a, b, d["port"]) for u, v, d in graph.edges(data=True) for a, b in ((u, v), (v, u))))


def directed(graph):
    labels = tuple(graph.nodes[node]["kind"] for node in graph)
    return Labelled(labels, tuple(arc for u, v in graph.edges for arc in ((u, v, ">"), (v, u, "<"))))


def same_classes(colours, hashes):
    """Whether two labellings of the same nodes, all graphs together, tell the same nodes apart in every round."""
    for depth in range(ROUNDS + 1):
        own = [int(colour) for found in colours for colour in found[depth]]
        theirs = [graph[node][depth] for graph in hashes for node in sorted(graph)]
        assert len(set(zip(own, theirs, strict=True))) == len(set(own)) == len(set(theirs)), depth


def kernel_of(hashes):
    counts = [{} for _ in hashes]
    for graph, count in zip(hashes, counts, strict=True):
        for found in graph.values():
            for depth, label in enumerate(found):
                count[depth, label] = count.get((depth, label), 0) + 1
    product = np.array([[sum(n * b.get(key, 0) for key, n in a.items()) for b in counts] for a in counts], float)
    return product / np.sqrt(np.outer(np.diag(product), np.diag(product)))


def test_undirected_colours_and_kernel_are_those_of_networkx():
    graphs = [random_graph(seed) for seed in range(6)]
    hashes = [
        nx.weisfeiler_lehman_subgraph_hashes(
            graph, edge_attr="port", node_attr="kind", iterations=ROUNDS, include_initial_labels=True
        )
        for graph in graphs
    ]
    labelled = [undirected(graph) for graph in graphs]
    same_classes(wl_colours(labelled, rounds=ROUNDS), hashes)
    np.testing.assert_allclose(wl_kernel(labelled, rounds=ROUNDS), kernel_of(hashes))


def test_directed_colours_are_those_of_networkx():
    graphs = []
    for seed in range(4):
        graph = nx.DiGraph()
        graph.add_nodes_from(random_graph(seed).nodes(data=True))
        graph.add_edges_from(random_graph(seed).edges)  # from the lower number to the higher
        graphs.append(graph)
    with pytest.warns(UserWarning, match="directed"):
        hashes = [
            nx.weisfeiler_lehman_subgraph_hashes(g, node_attr="kind", iterations=ROUNDS, include_initial_labels=True)
            for g in graphs
        ]
    labelled = [directed(graph) for graph in graphs]
    same_classes(wl_colours(labelled, rounds=ROUNDS), hashes)
    np.testing.assert_allclose(wl_kernel(labelled, rounds=ROUNDS), kernel_of(hashes))


def test_a_circuit_agrees_with_itself_and_with_a_copy_whose_heads_are_renamed(make_graph, make_circuit):
    graph = make_graph(2, 3)
    circuit = make_circuit(graph, share=0.3)
    renamed = [
        name.replace("a0.h0", "a0.hX").replace("a0.h2", "a0.h0").replace("a0.hX", "a0.h2")
        for name in circuit.edge_names()
    ]
    other = make_circuit(graph, 5, share=0.3)
    found = wl_similarity([circuit, circuit, Circuit.from_edges(graph, renamed), other])
    np.testing.assert_array_equal(found[:3, :3], 1)
    assert 0 < found[0, 3] < 1 and (found == found.T).all()


def test_ports_direction_and_groups_count(make_graph):
    graph = make_graph(2, 2)
    base = ["input->a0.h0<v>", "a0.h0->logits"]
    first = Circuit.from_edges(graph, base)
    query = Circuit.from_edges(graph, ["input->a0.h0<q>", "a0.h0->logits"])
    deeper = Circuit.from_edges(make_graph(4, 5), ["input->a3.h4<v>", "a3.h4->logits"])
    found = wl_similarity([first, query, deeper])
    assert found[0, 1] < 1 and found[0, 2] == 1
    chain = [Labelled(("x", "x", "x"), arcs) for arcs in (((0, 1, ">"), (1, 0, "<")), ((0, 1, "<"), (1, 0, ">")))]
    assert wl_kernel(chain)[0, 1] == pytest.approx(1)  # mirrored, an isomorphic graph
    split = Labelled(("x",) * 3, ((0, 1, ">"), (1, 0, "<"), (0, 2, ">"), (2, 0, "<")))
    joined = Labelled(("x",) * 3, ((0, 1, "<"), (1, 0, ">"), (0, 2, "<"), (2, 0, ">")))
    assert wl_kernel([split, joined])[0, 1] < 1


def test_each_end_of_an_edge_sees_the_other_with_port_and_direction(make_graph):
    names = ["input->a0.h0<q>", "input->a0.h0<v>", "a0.h0->logits"]
    found = Labelled.of(Circuit.from_edges(make_graph(), names))
    assert found.labels == ("input@", "head@", "logits@")
    assert set(found.arcs) == {(1, 0, "<q,v"), (0, 1, ">q,v"), (2, 1, "<"), (1, 2, ">")}


def test_empty_circuits_and_impossible_rounds(make_graph, make_circuit):
    graph = make_graph()
    found = wl_similarity([Circuit.empty(graph), Circuit.empty(graph), make_circuit(graph)])
    np.testing.assert_array_equal(found, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    with pytest.raises(GraphError, match="rounds=-1"):
        wl_kernel([], rounds=-1)
