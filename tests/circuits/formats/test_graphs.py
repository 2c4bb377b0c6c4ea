"""The multigraph keeps every kept edge, and GraphML and GEXF give it back."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vitcircuits.circuits import Circuit, Graph
from vitcircuits.circuits.formats.graphs import save_gexf, save_graphml, to_networkx
from vitcircuits.models.errors import FormatError


def comparable(attributes: dict[str, Any]) -> dict[str, Any]:
    """NaN as text, since NaN is not equal to itself."""
    return {k: "nan" if isinstance(v, float) and math.isnan(v) else v for k, v in attributes.items()}


@given(data=st.data())
@settings(deadline=None, max_examples=15)
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


@given(data=st.data())
@settings(deadline=None, max_examples=15)
def test_gexf_reads_back_equal(data: st.DataObject, draw_circuit: Callable[[st.DataObject], Circuit], scratch: Path):
    circuit = draw_circuit(data)
    circuit = replace(circuit, task={"target_name": '<\0&"', "foil_name": "</gexf>ö 猫"})
    path, graph = save_gexf(circuit, scratch / "a.gexf"), to_networkx(circuit)
    again, ours = networkx.read_gexf(path), {"id", "label", "networkx_key"}
    read = {(u, v, a["label"]): comparable({k: a[k] for k in {*a} - ours}) for u, v, a in again.edges(data=True)}
    assert read == {(u, v, k): comparable(a) for u, v, k, a in graph.edges(keys=True, data=True)}
    assert {name: {k: a[k] for k in {*a} - ours} for name, a in again.nodes(data=True)} == dict(graph.nodes(data=True))
    assert len(again.edges) == len(circuit) and "lastmodified" not in path.read_text()


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
