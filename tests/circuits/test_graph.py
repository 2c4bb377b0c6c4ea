"""How many edges there are, which, and that their names print and read back."""

import tracemalloc

import numpy as np
import pytest
from vitcircuits.circuits.graph import compile_graph
from vitcircuits.models.config import TokenLayout, VitConfig
from vitcircuits.models.errors import GraphError


def sizes(layers, heads, *, grid=(14, 14), registers=0):
    layout = TokenLayout(True, registers, grid)
    return VitConfig(
        "sizes", layers, heads, 64 * heads, 64, 256 * heads, 10, (224, 224), (16, 16), 3, layout, (0,), "token"
    )


@pytest.mark.parametrize(
    ("layers", "heads", "ports", "count"),
    [
        (12, 12, "qkv", 32_491),
        (12, 12, "head", 11_611),
        (12, 12, "block", 2_041),
        (12, 3, "qkv", 2_845),
        (2, 4, "qkv", 110),
    ],
)
def test_counts_with_one_group(layers, heads, ports, count):
    assert len(compile_graph(sizes(layers, heads), ports=ports)) == count


def test_every_name_prints_and_reads_back(case):
    graph = case.graph
    names = list(graph.edge_names())
    assert len(set(names)) == len(names) == len(graph)
    assert [graph.index(name) for name in names] == list(range(len(graph)))
    assert names[-1] == graph.edge_names()[-1] and names[3:5] == graph.edge_names()[3:5]


def test_packed_edges_unpack_to_themselves(case):
    graph = case.graph
    values, out = np.arange(1, len(graph) + 1), np.zeros(len(graph), dtype=int)
    for block in graph.blocks:
        block.pack(block.unpack(values), out)
        for index in {block.start, (block.start + block.stop) // 2, block.stop - 1} & {*range(block.start, block.stop)}:
            assert block.index(*block.locate(index)) == index
    assert np.array_equal(values, out)
    assert [block.stop for block in graph.blocks[:-1]] == [block.start for block in graph.blocks[1:]]


def test_one_group_has_eap_igs_names_and_nothing_inside_heads(variant_named):
    graph = compile_graph(variant_named("plain"))
    names = list(graph.edge_names())
    assert {"input->a0.h1<q>", "a0.h1->a1.h0<k>", "m0->logits", "input->m1", "a1.h0->m1"} <= set(names)
    assert "a0.h0->m0" in names and "m0->m0" not in names and not any("@" in name for name in names)
    assert not any(edge.inside for edge in map(graph.edge, range(len(graph))))


def test_only_heads_connect_groups(case):
    for edge in map(case.graph.edge, range(len(case.graph))):
        assert edge.inside or edge.source.group == edge.destination.group
        assert edge.inside == (edge.source.kind == edge.destination.kind and edge.source.node == edge.destination.node)


def test_the_last_block_under_a_cls_readout(variant_named):
    graph = compile_graph(variant_named("plain"), tokens="role")
    names = set(graph.edge_names())
    assert {"input@cls->a1.h0<q>@cls", "input@patch->a1.h0<k>@patch", "a1.h0<v>@patch->a1.h0@cls"} <= names
    for absent in (
        "input@patch->a1.h0<q>@patch",
        "a1.h0<v>@patch->a1.h0@patch",
        "input@patch->m1@patch",
        "m1@patch->logits@patch",
    ):
        assert absent not in names
    assert {"input@patch->a0.h0<q>@patch", "input@patch->m0@patch", "a0.h0<v>@cls->a0.h0@patch"} <= names


@pytest.mark.parametrize(
    ("ports", "name"),
    [("qkv", "a1.h0<v>@patch->a1.h0@cls"), ("head", "a1.h0@patch->a1.h0@cls"), ("block", "a1@patch->a1@cls")],
)
def test_edges_inside_heads_are_spelled_as_the_design_says(variant_named, ports, name):
    graph = compile_graph(variant_named("plain"), tokens="role", ports=ports)
    assert graph.edge(graph.index(name)).inside


def test_every_token_of_deit_tiny_fits_into_100_megabytes():
    tracemalloc.start()
    try:
        graph = compile_graph(sizes(12, 3), tokens="each")
        assert len(graph) > 3_000_000
        assert graph.index(graph.edge(len(graph) // 2).name) == len(graph) // 2
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6


@pytest.mark.parametrize(
    "name",
    [
        "",
        "input",
        "input->",
        "input->b3",
        "input->a0.h1<z>",
        "input->a0.h1",
        "a1.h0->a0.h0<q>",
        "a0.h0->a0.h0<q>",
        "input->a9.h0<q>",
        "input->a0.h9<q>",
        "m9->logits",
        "a0.h9->logits",
        "logits->m0",
        "input->m0@cls",
        "m0<q>->logits",
        "input->m0<k>",
        "input->m00",
        "a0.h0->a1.h0<q>->logits",
        "input->input",
    ],
)
def test_names_that_are_no_edges_are_refused(variant_named, name):
    with pytest.raises(GraphError, match=r"not the name|not an edge"):
        compile_graph(variant_named("plain")).index(name)


def test_unknown_choices_and_indices_are_refused(variant_named):
    vit = variant_named("plain")
    with pytest.raises(GraphError, match="'role'"):
        compile_graph(vit, tokens="roles")
    with pytest.raises(GraphError, match="'qkv'"):
        compile_graph(vit, ports="kv")
    for index in (-1, len(compile_graph(vit))):
        with pytest.raises(GraphError, match="does not exist"):
            compile_graph(vit).edge(index)


def test_graphs_of_one_shape_have_one_signature(variant_named):
    plain, other = variant_named("plain"), variant_named("prenorm-rms-layerscale")
    assert compile_graph(plain).signature == compile_graph(plain).signature
    choices = [
        compile_graph(vit, tokens=t, ports=p)
        for vit in (plain, other)
        for t in ("all", "role")
        for p in ("qkv", "head")
    ]
    assert len({graph.signature for graph in choices}) == len(choices)
    with pytest.raises(GraphError, match="another graph"):
        choices[0].require_same(choices[1], "scores")
