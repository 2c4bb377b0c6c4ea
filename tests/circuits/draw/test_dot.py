"""Graphviz reads the DOT text and finds every edge; where Graphviz is missing, one sentence says what to do."""

import json
import shutil
import subprocess
import sys
from ast import literal_eval

import pytest
from vitcircuits.circuits.draw import draw_circuit
from vitcircuits.circuits.draw.dot import quoted, render, to_dot
from vitcircuits.models.errors import FormatError

from .conftest import make_circuit, make_graph, make_scores

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz' dot is not on the path")


def read_back(text: str, layout: str = "dot") -> dict:
    done = subprocess.run(["dot", f"-K{layout}", "-Tjson"], input=text.encode(), capture_output=True, timeout=120)
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()
    return json.loads(done.stdout)


@needs_dot
@pytest.mark.parametrize("tokens", ["all", "role", "each"])
@pytest.mark.parametrize("ports", ["qkv", "head", "block"])
def test_graphviz_finds_every_edge_under_its_name(tokens, ports):
    graph = make_graph(2, 3, tokens=tokens, ports=ports, registers=1)
    circuit = make_circuit(graph, 15)
    read = read_back(to_dot(circuit))
    assert sorted(edge["name"] for edge in read["edges"]) == sorted(circuit.edge_names())
    nodes = {end.node for edge in circuit for end in (edge.source, edge.destination)}
    names = {node["name"].split("@")[0] for node in read["objects"] if "nodes" not in node}
    assert names == nodes


@needs_dot
def test_signs_are_colour_and_dash(circuit):
    for edge in read_back(to_dot(circuit))["edges"]:
        assert (edge.get("style") == "dashed") == (float(edge["score"]) < 0)


@needs_dot
def test_names_from_outside_do_no_harm():
    task = {"model": 'a\\N"b', "target_name": "<b>&lt;\n\\", "foil_name": "c\0d\ud800"}
    circuit = make_scores(make_graph(2, 2), task=task).top(20)
    assert len(read_back(to_dot(circuit))["edges"]) == len(circuit)


@needs_dot
@pytest.mark.parametrize("ending", ["png", "pdf"])
def test_pictures_are_drawn(circuit, tmp_path, ending):
    start = {"png": b"\x89PNG", "pdf": b"%PDF"}[ending]
    assert draw_circuit(circuit, tmp_path / f"circuit.{ending}").read_bytes().startswith(start)


@needs_dot
def test_a_time_limit_and_a_failure_are_said(circuit):
    with pytest.raises(FormatError, match=r"scores\.top"):
        render(to_dot(circuit), "png", time_limit=1e-6)
    with pytest.raises(FormatError, match="could not draw"):
        render("digraph {", "png")


def test_without_graphviz_the_text_is_written_and_a_picture_is_refused_in_a_sentence(circuit, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert draw_circuit(circuit, tmp_path / "circuit.dot").read_text() == to_dot(circuit)
    with pytest.raises(FormatError, match="apt install graphviz"):
        draw_circuit(circuit, tmp_path / "circuit.png")
    assert not (tmp_path / "circuit.png").exists()


FAKE = """#!{python}
import pathlib, sys
folder = pathlib.Path(__file__).parent
(folder / "said").write_text(repr(sys.argv[1:]))
(folder / "asked").write_bytes(sys.stdin.buffer.read())
{then}
"""


@pytest.fixture
def fake_dot(tmp_path, monkeypatch):
    """A `dot` that writes down what it is given, and then does what it is told."""

    def make(then):
        (tmp_path / "dot").write_text(FAKE.format(python=sys.executable, then=then))
        (tmp_path / "dot").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path

    return make


@pytest.mark.parametrize("ending", ["png", "pdf"])
def test_dot_is_given_the_text_and_its_places_and_what_it_draws_is_the_file(circuit, fake_dot, ending):
    folder = fake_dot("sys.stdout.buffer.write(b'drawn\\r\\n\\x00')")
    path = draw_circuit(circuit, folder / f"circuit.{ending}", max_edges=3)
    assert path.read_bytes() == b"drawn\r\n\x00"
    assert (folder / "asked").read_text(encoding="utf-8") == to_dot(circuit, max_edges=3)
    assert {"-Kneato", f"-T{ending}", "-n2"} <= set(literal_eval((folder / "said").read_text()))


def test_what_goes_wrong_in_dot_is_a_sentence_and_no_file(circuit, fake_dot):
    folder = fake_dot("sys.exit('no such font')")
    with pytest.raises(FormatError, match=r"could not draw the circuit: no such font\. Draw an \.svg"):
        draw_circuit(circuit, folder / "circuit.pdf")
    fake_dot("import time; time.sleep(60)")
    with pytest.raises(FormatError, match=r"more than 0\.5 s.*scores\.top"):
        render(to_dot(circuit), "png", time_limit=0.5)
    (folder / "dot").write_bytes(b"\x7fELF")
    with pytest.raises(FormatError, match="cannot be run"):
        draw_circuit(circuit, folder / "circuit.png")
    assert not [*folder.glob("circuit.*")]


def test_strings_are_escaped():
    assert quoted('a"b\\N&') == '"a\\"b\\\\N&amp;"'
    assert quoted(["a", "b"]) == '"a\\lb\\l"'
