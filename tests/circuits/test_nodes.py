"""Node circuits: their edges by name, their scores by hand, and no comparison with edge circuits."""

import numpy as np
import pytest
from vitcircuits.circuits import Circuit, NodeScores, Scores, compile_graph, jaccard, node_circuit
from vitcircuits.circuits.names import parse_edge
from vitcircuits.circuits.nodes import among, granularity, leaving, matched_masks, node_names
from vitcircuits.circuits.reach import prune
from vitcircuits.models.errors import GraphError


@pytest.fixture(scope="module")
def graph_of(tiny_vit):
    vit = tiny_vit(reg_tokens=1)
    return lambda tokens, ports: compile_graph(vit, tokens=tokens, ports=ports)


def kept_by_name(graph, nodes):
    """Edges whose two ends are kept; a layer's attention is, if one of its heads is."""
    layers = {name.split(".")[0] for name in nodes if name.startswith("a")}
    whole = {"input", "logits", *nodes, *(layers if graph.ports == "block" else ())}
    return np.array([all(end.node in whole for end in parse_edge(name)) for name in graph.edge_names()])


def test_the_edges_among_nodes_and_those_that_leave_one(graph_of, tokens, ports):
    graph, nodes = graph_of(tokens, ports), ["a0.h1", "m0", "a1.h0"]
    np.testing.assert_array_equal(among(graph, nodes), kept_by_name(graph, nodes))
    np.testing.assert_array_equal(among(graph, node_names(graph)), np.ones(len(graph), bool))
    for name in node_names(graph):
        ends = [parse_edge(edge) for edge in graph.edge_names()]
        wanted = [source.node == name and source.node != end.node for source, end in ends]
        np.testing.assert_array_equal(leaving(graph, name), wanted)


def test_a_node_circuit_is_pruned_and_says_what_it_is(graph_of, tokens, ports):
    circuit = node_circuit(graph_of(tokens, ports), ["m1", "a0.h1"], provenance={"algorithm": "by hand"})
    np.testing.assert_array_equal(circuit.mask, prune(circuit.graph, among(circuit.graph, ["m1", "a0.h1"])))
    assert circuit.provenance == {"algorithm": "by hand", "granularity": "node", "nodes": ["a0.h1", "m1"]}
    with pytest.raises(GraphError, match=r"a9\.h0"):
        node_circuit(circuit.graph, ["a9.h0"])


def test_it_survives_saving_and_is_drawn(graph_of, tmp_path):
    circuit = node_circuit(graph_of("all", "qkv"), ["m1", "a0.h1"])
    again = Circuit.load(circuit.save(tmp_path / "c.json"))
    assert again == circuit and granularity(again) == "node"
    assert "2 heads and MLPs kept whole" in circuit.draw(tmp_path / "c.svg").read_text()


def test_node_circuits_and_edge_circuits_are_not_compared(graph_of):
    graph = graph_of("all", "qkv")
    nodes, others = node_circuit(graph, ["m1", "a0.h1"]), node_circuit(graph, ["m1", "m0", "a0.h0"])
    assert jaccard(nodes, others) == 1 / 4  # over nodes
    edges = Circuit(graph, nodes.mask.copy())
    assert jaccard(edges, Circuit(graph, others.mask.copy())) == pytest.approx(
        (nodes.mask & others.mask).sum() / (nodes.mask | others.mask).sum()
    )
    with pytest.raises(GraphError, match="never compared"):
        jaccard(nodes, edges)


def test_random_node_circuits_hold_as_many_heads_and_mlps(graph_of):
    circuit = node_circuit(graph_of("all", "qkv"), ["m1", "a0.h1", "a1.h0"])
    found = matched_masks(circuit, 6, seed=0)
    names = node_names(circuit.graph)
    for mask in found:
        kept = [name for name in names if (mask & leaving(circuit.graph, name)).any()]
        assert sorted(name[0] for name in kept) == ["a", "a", "m"]
    assert len({mask.tobytes() for mask in found}) > 1


def test_summed_edge_scores_and_the_highest_nodes(graph_of, unchecked):
    graph = graph_of("role", "qkv")
    values = np.random.default_rng(0).normal(size=len(graph))
    n = len(graph)
    scores = Scores(graph, values, np.abs(values), np.zeros(n), np.zeros(n, bool), 4, "eap")
    nodes = NodeScores.from_edges(scores)
    for name, value in zip(nodes.names, nodes.values, strict=True):
        wanted = sum(
            values[index]
            for index, edge in enumerate(graph.edge_names())
            if parse_edge(edge)[0].node == name != parse_edge(edge)[1].node
        )
        assert value == pytest.approx(wanted)
    best = nodes.names[int(nodes.values.argmax())]
    circuit = nodes.top(1)
    assert circuit.provenance["nodes"] == [best] and circuit.provenance["algorithm"] == "eap"
    assert np.isnan(nodes.std_err).all() and not nodes.exact
    for n in (99, 1.5):
        with pytest.raises(GraphError, match="0 to"):
            nodes.top(n)
