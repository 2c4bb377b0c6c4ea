"""The table says of each edge what its name says."""

import numpy as np
import pytest
from vitcircuits.circuits import compile_graph
from vitcircuits.circuits.compare.similarity import KINDS, edge_table
from vitcircuits.circuits.nodes import node_names


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
