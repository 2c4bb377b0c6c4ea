"""A circuit's anatomy against paths walked one by one and sums written out."""

import networkx as nx
import numpy as np
import pytest
from vitcircuits.circuits import Circuit
from vitcircuits.circuits.compare.anatomy import describe, effective_number, modularity, path_lengths
from vitcircuits.circuits.names import parse_edge


def walked(circuit):
    """Lengths of all paths and of walks back from the logits, by recursion over edge names (one token group)."""
    graph, strength = circuit.graph, np.abs(circuit.scores.values)
    entering = {}
    for index in circuit.indices.tolist():
        source, destination = parse_edge(graph.edge(index).name)
        entering.setdefault(destination.node, []).append((source, strength[index]))
    counts, weighted = np.zeros((2, 40))

    def go(node, length, chance):
        if node == "input":
            counts[length] += 1
            weighted[length] += chance
            return
        reads = entering[node if node in entering else node.split(".")[0]]  # heads read together at block ports
        total = sum(weight for _, weight in reads)
        for source, weight in reads:
            go(source.node, length + 1, chance * weight / total)

    go("logits", 0, 1.0)
    return counts, weighted


@pytest.mark.parametrize("seed", range(3))
def test_paths_are_those_walked_one_by_one(make_graph, make_circuit, ports, seed):
    circuit = make_circuit(make_graph(2, 2, ports=ports), seed, share=0.5)
    found = describe(circuit).paths
    for got, wanted in zip((found.counts, found.weighted), walked(circuit), strict=True):
        padded = np.zeros(40)
        padded[: len(got)] = got
        np.testing.assert_allclose(padded, wanted, atol=1e-12)
    assert found.weighted.sum() == pytest.approx(1)
    assert found.mean == pytest.approx(np.arange(40) @ walked(circuit)[1])


def test_walks_end_at_the_input_at_every_choice_of_tokens(make_graph, make_circuit, tokens, ports):
    circuit = make_circuit(make_graph(2, 2, tokens=tokens, ports=ports, registers=1), share=0.6)
    paths = describe(circuit).paths
    assert paths.weighted.sum() == pytest.approx(1)
    assert paths.n_paths >= 1 and (paths.counts == np.round(paths.counts)).all()


def test_a_chain_has_one_path_and_parts_that_are_plain(make_graph):
    names = ["input->a0.h0<v>", "a0.h0->m0", "m0->a1.h1<q>", "a1.h1->logits"]
    found = describe(Circuit.from_edges(make_graph(), names))
    assert found.paths.counts.tolist() == [0, 0, 0, 0, 1] and found.paths.mean == 4
    assert found.by_kind == {"q": 0.25, "k": 0, "v": 0.25, "mlp": 0.25, "logits": 0.25}
    assert found.figures["effective edges"] == pytest.approx(4) and found.figures["heads"] == 2
    assert not found.weighted and "counts alike" in str(found)


def test_edges_on_no_path_count_for_nothing(make_graph):
    graph = make_graph()
    names = ["input->m0", "m0->logits"]
    clean = Circuit.from_edges(graph, names)
    mask = clean.mask.copy()
    mask[[graph.index("a0.h0->m0"), graph.index("input->a1.h0<k>")]] = True
    dangling, wanted = describe(Circuit(graph, mask)), describe(clean)
    assert dangling.flat() == pytest.approx(wanted.flat(), nan_ok=True)


def test_shares_add_up_and_follow_the_scores(make_graph, make_circuit, tokens, ports):
    circuit = make_circuit(make_graph(3, 2, tokens=tokens, ports=ports, registers=1), share=0.6)
    found = describe(circuit)
    for shares in (found.by_kind, found.by_depth, found.by_group):
        assert sum(shares.values()) == pytest.approx(1)
    strength = np.abs(circuit.scores.values) * circuit.mask
    into_logits = [parse_edge(name)[1].kind == "logits" for name in circuit.graph.edge_names()]
    assert found.by_kind["logits"] == pytest.approx(strength[into_logits].sum() / strength.sum())


def test_the_effective_number_of_n_equal_edges_is_n_and_of_one_strong_one_is_one():
    assert effective_number(np.full(7, 1 / 7)) == pytest.approx(7)
    assert effective_number(np.array([1.0, 0.0, 0.0])) == pytest.approx(1)
    shares = np.array([0.5, 0.25, 0.25])
    assert effective_number(shares) == pytest.approx(2**1.5)


def test_modularity_is_networkxs_of_two_clusters():
    joined = [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (2, 3)]
    source, destination = np.array(joined).T
    found = modularity(source, destination, np.ones(7))
    wanted = nx.community.modularity(nx.Graph(joined), [{0, 1, 2}, {3, 4, 5}])
    assert found == pytest.approx(wanted)


def test_a_circuit_of_nothing_is_said_to_be_nothing(make_graph):
    found = describe(Circuit.empty(make_graph()))
    assert found.figures["edges"] == 0 and np.isnan(found.paths.mean) and np.isnan(found.figures["modularity"])
    assert path_lengths(make_graph(), np.zeros(len(make_graph()), bool), np.ones(len(make_graph()))).n_paths == 0
