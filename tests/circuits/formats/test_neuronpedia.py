"""The graph for Neuronpedia's page follows the schema that Neuronpedia publishes, and adds up to the circuit's scores.

`THEIRS` is written by hand after that schema; `follows` holds what the schema asks for, so both are under one check.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vitcircuits.circuits import Circuit, Graph
from vitcircuits.models.errors import FormatError

THEIRS: dict[str, Any] = {
    "metadata": {"slug": "hat", "scan": "gemma-2-2b", "prompt_tokens": ["The", " hat"], "prompt": "The hat"},
    "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
    "nodes": [
        {
            "node_id": "E_651_1",
            "feature": None,
            "layer": "E",
            "ctx_idx": 1,
            "feature_type": "embedding",
            "jsNodeId": "E_651-1",
            "clerp": "hat",
        },
        {
            "node_id": "0_253_1",
            "feature": 253,
            "layer": 0,
            "ctx_idx": 1,
            "feature_type": "cross layer transcoder",
            "jsNodeId": "0_253-0",
            "clerp": "",
            "influence": 0.5,
            "activation": None,
        },
    ],
    "links": [{"source": "E_651_1", "target": "0_253_1", "weight": 12.96}],
}

METADATA = {"slug": str, "scan": str, "prompt_tokens": list, "prompt": str}
NODE = {
    "node_id": str,
    "feature": int | None,
    "layer": str | int,
    "ctx_idx": int,
    "feature_type": str,
    "jsNodeId": str,
    "clerp": str,
}
QUERY = {"pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str}
LINK = {"source": str, "target": str, "weight": int | float}


def follows(table: dict[str, Any]) -> None:
    """Fails unless the table follows the schema and its links join nodes that are there, each once."""

    def has(entry: dict[str, Any], wanted: dict[str, Any]) -> None:
        for name, kind in wanted.items():
            assert isinstance(entry[name], kind) and not isinstance(entry[name], bool), (name, entry)

    assert {*table} == {"metadata", "qParams", "nodes", "links"}
    has(table["metadata"], METADATA)
    assert {type(token) for token in table["metadata"]["prompt_tokens"]} <= {str}
    assert table["qParams"].keys() <= QUERY.keys()
    has(table["qParams"], {name: QUERY[name] for name in table["qParams"]})
    for node in table["nodes"]:
        has(node, NODE)
        assert 0 <= node["ctx_idx"] < len(table["metadata"]["prompt_tokens"])
        for name in ("influence", "activation"):
            assert node.get(name) is None or isinstance(node[name], float)
    for link in table["links"]:
        has(link, LINK)
    known = [node["node_id"] for node in table["nodes"]]
    joined = [(link["source"], link["target"]) for link in table["links"]]
    assert len({*known}) == len(known) and len({*joined}) == len(joined)
    assert {*known} >= {end for pair in joined for end in pair}


def written(circuit: Circuit, folder: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    text = circuit.save(folder / "My Cats 3%.neuronpedia.json").read_text("utf-8")
    return json.loads(text, parse_constant=refuse)


def test_a_file_of_theirs_follows_what_is_checked():
    follows(json.loads(json.dumps(THEIRS)))


@pytest.mark.parametrize("entry", ["metadata", "qParams", "nodes", "links"])
def test_the_check_sees_what_is_missing(entry: str):
    for name in METADATA if entry == "metadata" else NODE if entry == "nodes" else LINK if entry == "links" else [""]:
        table = json.loads(json.dumps(THEIRS))
        one = table[entry] if entry == "metadata" else table if entry == "qParams" else table[entry][0]
        del one[name or entry]
        with pytest.raises((AssertionError, KeyError)):
            follows(table)


@pytest.mark.parametrize("tokens", ["all", "role", "each"])
@pytest.mark.parametrize("ports", ["qkv", "head", "block"])
@pytest.mark.parametrize("size", [0, 1, 9, None])
def test_ours_follows_it_and_its_weights_add_up(
    make_graph: Callable[..., Graph],
    make_circuit: Callable[..., Circuit],
    tmp_path: Path,
    tokens: str,
    ports: str,
    size: int | None,
):
    graph = make_graph(tokens, ports)
    circuit = make_circuit(graph, n=len(graph) if size is None else size)
    table = written(circuit, tmp_path)
    follows(table)
    named = {node["node_id"]: node["clerp"] for node in table["nodes"]}
    weights = {(named[link["source"]], named[link["target"]]): link["weight"] for link in table["links"]}
    multigraph = circuit.to_networkx()
    assert set(named.values()) == set(multigraph) and len(named) == len(multigraph)
    assert set(weights) == set(multigraph.edges())
    for (source, target), weight in weights.items():
        assert weight == pytest.approx(sum(a["score"] for a in multigraph[source][target].values()), rel=1e-12)


def test_nodes_say_what_they_are_and_where(make_graph: Callable[..., Graph], tmp_path: Path):
    names = ["input@patch->a0.h1<v>@patch", "a0.h1<v>@patch->a0.h1@cls", "a0.h1@cls->m1@cls", "m1@cls->logits@cls"]
    table = written(Circuit.from_edges(make_graph("role"), [*names, "input@cls->a0.h1<q>@cls"]), tmp_path)
    nodes = {node["clerp"]: (node["node_id"], node["feature_type"]) for node in table["nodes"]}
    assert nodes == {
        "input@patch": ("E_0_2", "embedding"),
        "input@cls": ("E_0_0", "embedding"),
        "a0.h1@patch": ("0_1_2", "attention head"),
        "a0.h1@cls": ("0_1_0", "attention head"),
        "m1@cls": ("1_2_0", "mlp"),
        "logits@cls": ("3_0_0", "logit"),
    }
    assert table["metadata"]["prompt_tokens"] == ["cls", "reg", "patch"]
    assert table["metadata"]["slug"] == "my-cats-3"
    assert {link["weight"] for link in table["links"]} == {1.0}  # there are no scores


def test_parallel_edges_are_added_up(make_graph: Callable[..., Graph], tmp_path: Path):
    names = ["input->a0.h1<q>", "input->a0.h1<k>", "input->a0.h1<v>", "a0.h1->logits"]
    links = written(Circuit.from_edges(make_graph(), names), tmp_path)["links"]
    assert sorted(link["weight"] for link in links) == [1.0, 3.0]


def test_class_names_and_options_are_carried(circuit: Circuit, tmp_path: Path):
    task = {
        "model": "m",
        "target_name": '</script><b>"NA"',
        "foil_name": "null \u202e\u05e9\u05dc\u05d5\u05dd",
        "loss": float("nan"),
    }
    metadata = written(replace(circuit, task=task), tmp_path)["metadata"]
    assert metadata["prompt"] == 'm: </script><b>"NA" vs null \u202e\u05e9\u05dc\u05d5\u05dd'
    assert metadata["generation_settings"]["task"] == {**task, "loss": None}


def test_a_score_that_is_no_number_is_refused(
    make_graph: Callable[..., Graph], make_circuit: Callable[..., Circuit], tmp_path: Path
):
    circuit = make_circuit(make_graph(), nan=True)
    with pytest.raises(FormatError, match=r"save a \.json"):
        Circuit.full(circuit.graph, scores=circuit.scores).save(tmp_path / "a.neuronpedia.json")
