"""EAP-IG's JSON holds the same nodes, edges, scores and flags, and is read back; what it cannot hold is refused.

`THEIRS` is written by hand after the schema that EAP-IG documents: `cfg`, `nodes` with `in_graph`, `edges` with `score`
and `in_graph`. `as_eap_ig_reads` is what its `Graph.from_json` does with such a file: it makes the whole graph from
`cfg`, nothing kept, all scores 0, and then looks each node and edge of the file up by name.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vitcircuits.circuits import Circuit, Graph, compile_graph
from vitcircuits.circuits.formats.mib import mib_table
from vitcircuits.models.config import VitConfig
from vitcircuits.models.errors import FormatError, GraphError

THEIRS = """
{"cfg": {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": false, "d_model": 8},
 "nodes": {"input": {"in_graph": true}, "a0.h0": {"in_graph": false}, "a0.h1": {"in_graph": true},
           "m0": {"in_graph": true}, "logits": {"in_graph": true}},
 "edges": {"input->a0.h0<q>": {"score": 0.125, "in_graph": false}, "input->a0.h0<k>": {"score": 0.0, "in_graph": false},
           "input->a0.h0<v>": {"score": -1.5, "in_graph": false}, "input->a0.h1<q>": {"score": 2e-07, "in_graph": true},
           "input->a0.h1<k>": {"score": -0.25, "in_graph": true}, "input->a0.h1<v>": {"score": 3.0, "in_graph": true},
           "input->m0": {"score": 0.5, "in_graph": false}, "a0.h0->m0": {"score": 0.75, "in_graph": false},
           "a0.h1->m0": {"score": 4.0, "in_graph": true}, "input->logits": {"score": 0.0, "in_graph": false},
           "a0.h0->logits": {"score": 1.0, "in_graph": false}, "a0.h1->logits": {"score": -2.0, "in_graph": true},
           "m0->logits": {"score": 1.25, "in_graph": true}}}
"""


def as_eap_ig_reads(table: dict[str, Any]) -> tuple[dict[str, bool], dict[str, tuple[float, bool]]]:
    cfg = table["cfg"]
    assert {name: type(value) for name, value in cfg.items()} == {
        "n_layers": int,
        "n_heads": int,
        "d_model": int,
        "parallel_attn_mlp": bool,
    }
    nodes, edges, written = {"input": False}, {}, ["input"]
    for layer in range(cfg["n_layers"]):
        heads = [f"a{layer}.h{head}" for head in range(cfg["n_heads"])]
        edges |= {f"{one}->{head}<{port}>": (0.0, False) for one in written for head in heads for port in "qkv"}
        read = written if cfg["parallel_attn_mlp"] else [*written, *heads]
        edges |= {f"{one}->m{layer}": (0.0, False) for one in read}
        written += [*heads, f"m{layer}"]
    edges |= {f"{one}->logits": (0.0, False) for one in written}
    nodes = {**dict.fromkeys(written, False), "logits": True}
    for name, node in table["nodes"].items():
        assert name in nodes and type(node["in_graph"]) is bool
        assert name != "logits" or node["in_graph"]
        nodes[name] = node["in_graph"]
    for name, edge in table["edges"].items():
        assert name in edges and type(edge["score"]) is float and type(edge["in_graph"]) is bool
        edges[name] = (edge["score"], edge["in_graph"])
    return nodes, edges


def changed(graph: Graph, **sizes: Any) -> Graph:
    return compile_graph(replace(graph.cfg, **sizes))


@pytest.fixture
def one_layer(make_graph: Callable[..., Graph]) -> Graph:
    return changed(make_graph(), n_layers=1)


def test_a_file_of_theirs_is_read_and_written_again_equal(one_layer: Graph, tmp_path: Path):
    theirs = tmp_path / "importances.json"
    theirs.write_text(THEIRS)
    circuit = Circuit.load(theirs, graph=one_layer)
    table = json.loads(THEIRS)
    assert set(circuit.edge_names()) == {name for name, edge in table["edges"].items() if edge["in_graph"]}
    assert {edge.name: edge.score for edge in circuit.scores} == {n: e["score"] for n, e in table["edges"].items()}
    assert circuit.ablation.kind == "partner"
    again = circuit.save(tmp_path / "again.mib.json")
    assert json.loads(again.read_text()) == table
    assert as_eap_ig_reads(json.loads(again.read_text())) == as_eap_ig_reads(table)
    assert Circuit.load(circuit.save(tmp_path / "own.json")) == circuit


SHAPES = {
    "plain": {},
    "parallel": {"parallel": (True, True)},
    "without an mlp": {"mlps": (True, False)},
    "fewer heads": {"heads": (2, 1)},
    "one parallel": {"parallel": (True, False)},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [0, 9, None])
def test_eap_ig_finds_the_same_nodes_edges_scores_and_flags(
    make_graph: Callable[..., Graph], make_circuit: Callable[..., Circuit], tmp_path: Path, shape: str, size: int | None
):
    graph = changed(make_graph(), **SHAPES[shape])
    circuit = make_circuit(graph, n=len(graph) if size is None else size)
    path = circuit.save(tmp_path / "circuit.mib.json")
    nodes, edges = as_eap_ig_reads(json.loads(path.read_text()))
    for index, name in enumerate(graph.edge_names()):
        assert edges.pop(name) == (circuit.scores.values[index], bool(circuit.mask[index]))
    assert set(edges.values()) == (set() if shape in ("plain", "parallel") else {(0.0, False)})  # of parts we lack
    touched = {end.node for edge in circuit for end in (edge.source, edge.destination)}
    assert {name for name, kept in nodes.items() if kept} == touched | {"logits"}
    again = Circuit.load(path, graph=graph)
    assert np.array_equal(again.mask, circuit.mask) and np.array_equal(again.scores.values, circuit.scores.values)
    assert np.isnan(again.scores.std_err).all() and not again.scores.exact.any()


def test_without_scores_there_are_zeros_which_are_no_scores(make_graph: Callable[..., Graph], tmp_path: Path):
    circuit = Circuit.from_edges(make_graph(), ["input->m0", "m0->logits"])
    path = circuit.save(tmp_path / "a.mib.json")
    assert {edge["score"] for edge in json.loads(path.read_text())["edges"].values()} == {0.0}
    again = Circuit.load(path, graph=circuit.graph)
    assert again.scores is None and again.edge_names() == circuit.edge_names()


@pytest.mark.parametrize("choice", [("role", "qkv"), ("each", "qkv"), ("all", "head"), ("all", "block")])
def test_names_that_would_be_ambiguous_are_refused(
    make_graph: Callable[..., Graph], make_circuit: Callable[..., Circuit], tmp_path: Path, choice: tuple[str, str]
):
    circuit = make_circuit(make_graph(*choice))
    with pytest.raises(FormatError, match=r"save a \.json"):
        circuit.save(tmp_path / "a.mib.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "theirs.json").write_text(json.dumps(mib_table(make_circuit(make_graph()))))
    with pytest.raises(FormatError, match='ports="qkv"'):
        Circuit.load(tmp_path / "theirs.json", graph=circuit.graph)


def test_a_score_that_is_no_number_is_refused(
    make_graph: Callable[..., Graph], make_circuit: Callable[..., Circuit], tmp_path: Path
):
    with pytest.raises(FormatError, match=r"the score of input->a0.h0<q> is nan"):
        make_circuit(make_graph(), nan=True).save(tmp_path / "a.mib.json")


def without(table: dict[str, Any], *path: str) -> None:
    for name in path[:-1]:
        table = table[name]
    del table[path[-1]]


WRONG: dict[str, tuple[type[Exception], str, Callable[[dict[str, Any]], Any]]] = {
    "other model": (FormatError, "n_heads 12", lambda d: d["cfg"].update(n_heads=12)),
    "other edge": (GraphError, "m7->logits", lambda d: d["edges"].update({"m7->logits": {}})),
    "no flag": (FormatError, "lacks 'in_graph'", lambda d: without(d, "edges", "m0->logits", "in_graph")),
    "no score": (FormatError, "lacks 'score'", lambda d: without(d, "edges", "m0->logits", "score")),
    "a number": (FormatError, "true or false", lambda d: d["edges"]["m0->logits"].update(in_graph=1)),
    "text": (FormatError, "cannot be read", lambda d: d["edges"]["m0->logits"].update(score="high")),
    "neurons": (FormatError, "single neurons", lambda d: d["nodes"]["m0"].update(neurons=[True])),
    "no edges": (FormatError, "schema", lambda d: d.pop("edges")),
    "lists": (FormatError, "cannot be read", lambda d: d.update(edges=[])),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_refused_in_a_sentence(one_layer: Graph, tmp_path: Path, wrong: str):
    error, said, change = WRONG[wrong]
    table = json.loads(THEIRS)
    change(table)
    (tmp_path / "a.json").write_text(json.dumps(table))
    with pytest.raises(error, match=said):
        Circuit.load(tmp_path / "a.json", graph=one_layer)


def test_the_graph_is_asked_for_and_older_files_are_read(one_layer: Graph, tmp_path: Path):
    path = tmp_path / "theirs.json"
    path.write_text(THEIRS)
    with pytest.raises(FormatError, match=r"graph=compile_graph\(vit\)\).*vitcircuits export"):
        Circuit.load(path)
    older = json.loads(THEIRS)
    older["nodes"] = {name: node["in_graph"] for name, node in older["nodes"].items()}
    older["cfg"] = {"n_layers": 1, "n_heads": 2}
    older["edges"]["m0->logits"]["score"] = None
    path.write_text(json.dumps(older))
    assert "m0->logits" in Circuit.load(path, graph=one_layer)


def test_a_circuit_of_our_own_has_to_have_the_graph_that_is_given(circuit: Circuit, one_layer: Graph, tmp_path: Path):
    path = circuit.save(tmp_path / "circuit.json")
    assert Circuit.load(path, graph=circuit.graph) == circuit
    with pytest.raises(GraphError, match="another graph"):
        Circuit.load(path, graph=one_layer)


def test_the_sizes_are_the_models(make_graph: Callable[..., Graph], make_circuit: Callable[..., Circuit]):
    cfg: VitConfig = make_graph().cfg
    assert mib_table(make_circuit(make_graph()))["cfg"] == {
        **{name: getattr(cfg, name) for name in ("n_layers", "n_heads", "d_model")},
        "parallel_attn_mlp": False,
    }
