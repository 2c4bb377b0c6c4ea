"""The multigraph keeps every kept edge, and GraphML gives it back.

Torch-geometric data keeps parallel edges and every number it claims to keep.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vitcircuits.circuits import Circuit, Graph
from vitcircuits.circuits.formats.graphs import EDGE_PORTS, NODE_KINDS, save_graphml, to_networkx, to_pyg
from vitcircuits.models.errors import FormatError


def comparable(attributes: dict[str, Any]) -> dict[str, Any]:
    """NaN as text, since NaN is not equal to itself."""
    return {k: "nan" if isinstance(v, float) and math.isnan(v) else v for k, v in attributes.items()}


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_graphml_reads_back_equal(data: st.DataObject, draw_circuit: Callable[[st.DataObject], Circuit], scratch: Path):
    circuit = draw_circuit(data)
    circuit = replace(circuit, task={**circuit.task, "class_names": ["NA", "<", "&", '"', "ö 猫", ""]})
    graph = to_networkx(circuit)
    again = networkx.read_graphml(save_graphml(circuit, scratch / "a.graphml"), force_multigraph=True)
    assert {k: comparable(a) for *_, k, a in again.edges(keys=True, data=True)} == {
        k: comparable(a) for *_, k, a in graph.edges(keys=True, data=True)
    }
    assert set(again.edges(keys=True)) == set(graph.edges(keys=True))
    assert dict(again.nodes(data=True)) == dict(graph.nodes(data=True))
    known = {k: v for k, v in again.graph.items() if k not in ("node_default", "edge_default")}
    assert comparable(known) == comparable(graph.graph)
    assert sorted(key for *_, key in graph.edges(keys=True)) == sorted(circuit.edge_names())


def test_parallel_ports_stay_apart(make_graph: Callable[..., Graph]):
    names = ["input->a0.h1<q>", "input->a0.h1<k>", "input->a0.h1<v>", "a0.h1->logits"]
    graph = Circuit.from_edges(make_graph(), names).to_networkx()
    assert sorted(data["port"] for data in graph["input"]["a0.h1"].values()) == ["k", "q", "v"]
    assert dict(graph.nodes["a0.h1"]) == {"kind": "head", "layer": 0, "head": 1}
    assert graph.graph["model"] == "toy/small"


def test_edges_inside_heads_join_groups(make_graph: Callable[..., Graph]):
    inside = ["a0.h1<v>@patch->a0.h1@cls", "a0.h1<k>@cls->a0.h1@cls"]
    reads = ["input@patch->a0.h1<v>@patch", "input@cls->a0.h1<k>@cls", "a0.h1@cls->logits@cls"]
    graph = to_networkx(Circuit.from_edges(make_graph("role"), [*inside, *reads]))
    assert graph.edges["a0.h1@patch", "a0.h1@cls", inside[0]]["inside"] is True
    assert graph.has_edge("a0.h1@cls", "a0.h1@cls", key=inside[1])  # a self-loop
    assert graph.edges["input@cls", "a0.h1@cls", reads[1]]["inside"] is False
    assert networkx.has_path(graph, "input@patch", "logits@cls")


def test_every_attribute_is_a_plain_scalar(circuit: Circuit):
    graph = to_networkx(circuit)
    values = [v for _, a in graph.nodes(data=True) for v in a.values()]
    values += [v for *_, a in graph.edges(data=True) for v in a.values()]
    assert {type(value) for value in [*values, *graph.graph.values()]} <= {str, int, float, bool}


def test_what_xml_cannot_hold_is_replaced(circuit: Circuit, tmp_path: Path):
    odd = replace(circuit, task={"name\0": "a\x00b\ud800c\rd\ne"})
    again = networkx.read_graphml(save_graphml(odd, tmp_path / "a.graphml"), force_multigraph=True)
    assert again.graph["task_name\ufffd"] == "a\ufffdb\ufffdc\ufffdd\ne"


def test_an_unwritable_folder_is_said(circuit: Circuit, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(FormatError, match="cannot write"):
        save_graphml(circuit, tmp_path / "file" / "a.graphml")


@pytest.mark.parametrize("tokens", ["all", "role", "each"])
@pytest.mark.parametrize("ports", ["qkv", "head", "block"])
def test_columns_are_the_kept_edges(
    make_graph: Callable[..., Graph], make_circuit: Callable[..., Circuit], tokens: str, ports: str
):
    circuit = make_circuit(make_graph(tokens, ports))
    data = circuit.to_pyg()
    multigraph = circuit.to_networkx()
    assert data.validate()
    assert data.num_edges == len(circuit)
    names = data.node_names
    joined = {
        (names[s], names[d], name) for (s, d), name in zip(data.edge_index.t().tolist(), data.edge_names, strict=True)
    }
    assert joined == set(multigraph.edges(keys=True))
    assert [circuit.graph.edge(i).name for i in data.edge_id.tolist()] == data.edge_names
    assert circuit.scores is not None
    np.testing.assert_allclose(data.edge_attr[:, 0], circuit.scores.values[data.edge_id], rtol=1e-6)
    np.testing.assert_array_equal(data.edge_exact, circuit.scores.exact[data.edge_id])


def test_parallel_edges_keep_their_ports(make_graph: Callable[..., Graph]):
    names = ["input->a0.h1<q>", "input->a0.h1<k>", "input->a0.h1<v>", "a0.h1->logits"]
    data = to_pyg(Circuit.from_edges(make_graph(), names))
    assert data.edge_index.tolist() == [[0, 0, 0, 1], [1, 1, 1, 2]]
    assert [EDGE_PORTS[port] for port in data.edge_port] == ["q", "k", "v", ""]
    assert data.edge_attr.isnan().all()
    assert [NODE_KINDS[kind] for kind in data.x[:, :5].argmax(1)] == ["input", "head", "logits"]
    assert data.x[1, 5:].tolist() == [0, 1]


def test_an_empty_circuit_has_empty_columns(make_graph: Callable[..., Graph]):
    data = to_pyg(Circuit.empty(make_graph()))
    assert data.edge_index.shape == (2, 0)
    assert data.edge_attr.shape == (0, 3)
    assert data.x.shape == (0, 7)


def test_batches_join_without_mixing(make_circuit: Callable[..., Circuit]):
    from torch_geometric.data import Batch

    first, second = to_pyg(make_circuit(seed=1)), to_pyg(make_circuit(seed=2))
    batch = Batch.from_data_list([first, second])
    last = batch.edge_index[:, first.num_edges :] - first.num_nodes
    assert torch.equal(last, second.edge_index)
    assert torch.equal(batch.edge_id[first.num_edges :], second.edge_id)
