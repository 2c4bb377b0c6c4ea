"""Graphs of architectures whose blocks or readouts are built in another way than timm's standard ones."""

import numpy as np
import pytest
from vitcircuits.circuits import Circuit, compile_graph


def test_a_saved_circuit_is_loaded_equal(architecture, tmp_path):
    graph = compile_graph(architecture, tokens="role")
    circuit = Circuit(graph, np.arange(len(graph)) % 3 == 0)
    circuit.save(tmp_path / "circuit.json")
    assert Circuit.load(tmp_path / "circuit.json") == circuit


def ends(graph):
    return [(edge.source.node, edge.destination.node) for edge in map(graph.edge, range(len(graph)))]


def test_a_parallel_blocks_mlp_does_not_read_its_heads(architecture_named):
    found = ends(compile_graph(architecture_named("parallel")))
    assert ("a0.h1", "m0") not in found and ("a0.h1", "m1") in found and ("a0.h1", "a1.h0") in found


def test_blocks_write_to_the_pools_ports_and_not_to_the_logits(architecture_named):
    graph = compile_graph(architecture_named("map"), tokens="role")
    found = ends(graph)
    assert graph.groups.names == ("patch", "pool")
    assert {source for source, destination in found if destination == "logits"} == {"a2.h0", "a2.h1", "m2"}
    assert {source for source, destination in found if destination == "m2"} == {"a2.h0", "a2.h1"}
    assert ("m1", "a2.h0") in found
    assert not any("a2.h0<q>" in name for name in graph.edge_names())


def test_blocks_may_have_other_numbers_of_heads(architecture_named):
    nodes = {node for pair in ends(compile_graph(architecture_named("map-other-heads"))) for node in pair}
    assert "a2.h3" in nodes and "a0.h2" not in nodes


def test_attention_only_models_have_no_mlp_nodes(architecture_named):
    assert not any(node.startswith("m") for pair in ends(compile_graph(architecture_named("attention-only"))) for node in pair)  # fmt: skip # noqa: E501


@pytest.mark.parametrize(
    ("name", "groups"), [("distilled", ("cls", "dist", "patch")), ("eva", ("cls", "reg", "patch"))]
)
def test_special_tokens_are_groups_of_their_own(architecture_named, name, groups):
    assert compile_graph(architecture_named(name), tokens="role").groups.names == groups
