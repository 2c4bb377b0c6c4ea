"""Colours are networkx' subgraph hashes up to their spelling; the kernel is 1 for a circuit and its relabelled copy."""

import networkx as nx
import numpy as np
import pytest
from vitcircuits.circuits import Circuit
from vitcircuits.circuits.compare.similarity import Labelled, wl_colours, wl_kernel, wl_similarity
from vitcircuits.models.errors import GraphError

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
