"""Law 9: a circuit saved as JSON and loaded is equal; what contradicts itself is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vitcircuits.circuits import Ablation, Circuit, Graph
from vitcircuits.circuits.formats.json import circuit_from_dict, circuit_to_dict, load_circuit, save_circuit_json
from vitcircuits.models.errors import FormatError, GraphError, VitCircuitsError


@given(data=st.data())
@settings(deadline=None, max_examples=30)
def test_law_9_saved_and_loaded_is_equal(
    data: st.DataObject, draw_circuit: Callable[[st.DataObject], Circuit], scratch: Path
):
    circuit = draw_circuit(data)
    path = save_circuit_json(circuit, scratch / "circuit.json")
    again = load_circuit(path)
    assert again == circuit
    assert again.graph == circuit.graph
    assert save_circuit_json(again, scratch / "again.json").read_bytes() == path.read_bytes()
    assert circuit_from_dict(circuit_to_dict(circuit)) == circuit


@pytest.mark.parametrize("field", ["mask", "scores", "ablation", "task", "provenance", "graph"])
def test_equality_sees_every_field(circuit: Circuit, make_graph: Callable[..., Graph], field: str):
    """The law above would be empty if equality overlooked a field."""
    other = {
        "mask": ~circuit.mask,
        "scores": None,
        "ablation": Ablation("zero"),
        "task": {},
        "provenance": {},
        "graph": replace(circuit.graph, cfg=replace(circuit.graph.cfg, name="another")),
    }[field]
    assert replace(circuit, **{field: other}) != circuit


def test_scores_of_a_graph_with_another_name_stay_apart(circuit: Circuit, tmp_path: Path):
    assert circuit.scores is not None
    renamed = replace(circuit.scores, graph=replace(circuit.graph, cfg=replace(circuit.graph.cfg, name="retrained")))
    mixed = replace(circuit, scores=renamed)
    assert load_circuit(save_circuit_json(mixed, tmp_path / "a.json")) == mixed


def test_text_is_strict_json_and_lists_edges_from_the_highest(circuit: Circuit, tmp_path: Path):
    def refuse(name: str) -> None:
        raise AssertionError(name)

    data = json.loads(circuit.save(tmp_path / "a.json").read_text("utf-8"), parse_constant=refuse)
    assert data["schema"] == "vitcircuits.circuit/1"
    assert {edge["name"] for edge in data["edges"]} == set(circuit.edge_names())
    sizes = [abs(edge["score"]) for edge in data["edges"]]
    assert sizes == sorted(sizes, reverse=True)  # selected by the absolute value of the mean
    assert Circuit.load(tmp_path / "a.json") == circuit


def test_a_circuit_written_by_hand_needs_names_only(make_graph: Callable[..., Graph]):
    graph = make_graph()
    data = circuit_to_dict(Circuit.empty(graph))
    data["edges"] = [{"name": "input->m0"}, {"name": "m0->logits"}]
    assert circuit_from_dict(data) == Circuit.from_edges(graph, ["input->m0", "m0->logits"])


def edit(circuit: Circuit, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    data = circuit_to_dict(circuit)
    change(data)
    return data


CHANGES: dict[str, tuple[type[VitCircuitsError], str, Callable[[dict[str, Any]], Any]]] = {
    "no schema": (FormatError, "schema", lambda d: d.pop("schema")),
    "newer": (FormatError, "Update vitcircuits", lambda d: d.update(schema="vitcircuits.circuit/2")),
    "a report": (FormatError, "something else", lambda d: d.update(schema="vitcircuits.report/1")),
    "no scores entry": (FormatError, "lacks 'scores'", lambda d: d.pop("scores")),
    "no edges": (FormatError, "lacks 'edges'", lambda d: d.pop("edges")),
    "unknown edge": (GraphError, "not an edge", lambda d: d["edges"][0].update(name="m7->logits@cls")),
    "no edge name": (GraphError, "not the name", lambda d: d["edges"][0].update(name="m0")),
    "wrong index": (FormatError, "index", lambda d: d["edges"][0].update(index=10_000)),
    "wrong score": (FormatError, "scores.values", lambda d: d["edges"][0].update(score=1.5)),
    "twice": (FormatError, "twice", lambda d: d["edges"].append(d["edges"][0])),
    "edges are text": (FormatError, "cannot be read", lambda d: d.update(edges=["m0->logits"])),
    "bad ablation": (VitCircuitsError, "ablation", lambda d: d["ablation"].update(kind="magic")),
    "unknown field": (FormatError, "cannot be read", lambda d: d["ablation"].update(strength=1)),
    "other size": (FormatError, "edges but compiles", lambda d: d["graph"]["model"].update(n_layers=3)),
    "other ports": (FormatError, "ports", lambda d: d["graph"].update(ports="kv")),
    "tokens don't fit": (FormatError, "token groups", lambda d: d["graph"]["groups"]["of_token"].pop()),
    "group out of range": (FormatError, "token groups", lambda d: d["graph"]["groups"].update(of_token=[9] * 6)),
    "short scores": (GraphError, "one entry per edge", lambda d: d["scores"]["values"].pop()),
    "scores are text": (FormatError, "cannot be read", lambda d: d["scores"].update(std_err="many")),
    "exact out of range": (FormatError, "cannot be read", lambda d: d["scores"].update(exact=[10_000])),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_contradicts_itself_is_refused(circuit: Circuit, tmp_path: Path, name: str):
    error, words, change = CHANGES[name]
    data = edit(circuit, change)
    with pytest.raises(error, match=words):
        circuit_from_dict(data)
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(error, match=words):
        load_circuit(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema": NaN}', "[" * 100_000, '{"a": {"$float": "x"}}'])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(FormatError):
        load_circuit(tmp_path / "a.json")


def test_a_file_cut_off_anywhere_is_refused(circuit: Circuit, tmp_path: Path):
    text = save_circuit_json(circuit, tmp_path / "a.json").read_text("utf-8").rstrip()
    for stop in range(0, len(text), len(text) // 50):
        (tmp_path / "a.json").write_text(text[:stop], "utf-8")
        with pytest.raises(FormatError):
            load_circuit(tmp_path / "a.json")


def test_no_file_and_no_folder(circuit: Circuit, tmp_path: Path):
    with pytest.raises(FormatError, match="there is no file"):
        load_circuit(tmp_path / "missing.json")
    (tmp_path / "file").touch()
    with pytest.raises(FormatError, match="cannot write"):
        circuit.save(tmp_path / "file" / "a.json")


def test_what_is_not_plain_is_refused_when_it_is_made(make_graph: Callable[..., Graph]):
    with pytest.raises(FormatError, match="cannot be written"):
        Circuit.full(make_graph(), task={"model": object()})


def test_arrays_come_back_read_only(circuit: Circuit):
    again = circuit_from_dict(circuit_to_dict(circuit))
    assert again.scores is not None
    assert again.scores.values.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        again.scores.values[0] = 1
