"""The SVG is XML, holds one path per kept edge in the ink of its sign, escapes names, and is the same twice."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from vitcircuits.circuits.circuit import Circuit
from vitcircuits.circuits.draw.strokes import NEGATIVE, POSITIVE, strokes, width_of
from vitcircuits.circuits.draw.svg import to_svg

from .conftest import make_circuit, make_graph, make_scores

SVG = "{http://www.w3.org/2000/svg}"


def edge_paths(text: str) -> list[ET.Element]:
    return [path for path in ET.fromstring(text).iter(f"{SVG}path") if "edge" in path.get("class", "").split()]


def words(text: str) -> str:
    return " ".join("".join(element.itertext()) for element in ET.fromstring(text).iter(f"{SVG}text"))


@pytest.mark.parametrize("tokens", ["all", "role", "each"])
@pytest.mark.parametrize("ports", ["qkv", "head", "block"])
def test_one_path_per_kept_edge_in_the_ink_of_its_sign(tokens, ports):
    circuit = make_circuit(make_graph(2, 3, tokens=tokens, ports=ports), 15)
    paths = edge_paths(to_svg(circuit))
    scores = dict(zip(circuit.edge_names(), circuit.scores.values[circuit.mask], strict=True))
    assert len(paths) == len(circuit)
    for path in paths:
        name = path.find(f"{SVG}title").text.split()[0]
        positive = scores.pop(name) > 0
        assert path.get("stroke") == (POSITIVE if positive else NEGATIVE)
        assert (path.get("stroke-dasharray") is None) == positive
    assert not scores


@pytest.mark.parametrize(("layers", "heads", "n"), [(2, 4, 60), (12, 12, 196), (12, 12, 400), (6, 16, 400)])
def test_at_every_size_ports_have_letters_and_edges_arrowheads(layers, heads, n):
    circuit = make_scores(make_graph(layers, heads)).top(n, by="abs_mean")
    root = ET.fromstring(to_svg(circuit))
    known = {f"url(#{marker.get('id')})" for marker in root.iter(f"{SVG}marker")}
    assert {path.get("marker-end") for path in edge_paths(to_svg(circuit))} <= known
    ports = {str(edge.destination) for edge in circuit if edge.destination.port}
    letters = {}
    for group in root.iter(f"{SVG}g"):
        if group.get("class") == "port" and (letter := group.find(f"{SVG}text")) is not None:
            letters[group.findtext(f"{SVG}title")] = letter.text
            assert float(letter.get("font-size")) == 7
    assert all(letters[port] == port[-2] for port in ports)  # a5.h3<q>


def test_width_follows_the_absolute_score(circuit):
    drawn = strokes(circuit)
    sizes = [abs(stroke.score) for stroke in drawn]
    assert sizes == sorted(sizes, reverse=True)  # this circuit was ranked by |mean|
    assert [stroke.width for stroke in drawn] == sorted((stroke.width for stroke in drawn), reverse=True)
    assert drawn[0].width == width_of(1.0)


def test_a_tooltip_says_name_score_and_rank(circuit):
    first = strokes(circuit)[0]
    titles = [path.find(f"{SVG}title").text for path in edge_paths(to_svg(circuit))]
    (found,) = [said for said in titles if said.startswith(f"{first.edge.name} ")]
    assert "score" in found and found.endswith("rank 1")


def test_the_header_says_what_it_is(circuit):
    said = words(to_svg(circuit))
    for expected in ("toy/test: 3 vs 8", f"{len(circuit)} of 110 edges", "eap", "partner", "logit difference"):
        assert expected in said


def test_names_are_escaped():
    task = {"model": '<model> & "co"', "target_name": "</text><script>", "foil_name": "café \u732b \x07 \ud800"}
    circuit = make_scores(make_graph(2, 2), task=task).top(20)
    text = to_svg(circuit)
    assert "<script" not in text
    text.encode()
    assert '<model> & "co": </text><script> vs café \u732b' in words(text)


def test_the_same_circuit_gives_the_same_bytes(circuit, exhibit):
    assert to_svg(circuit, exhibit=exhibit(circuit)) == to_svg(circuit, exhibit=exhibit(circuit))


def test_too_many_edges_are_left_out_and_counted(circuit):
    text = to_svg(circuit, max_edges=10)
    drawn = [path.find(f"{SVG}title").text.split()[0] for path in edge_paths(text)]
    assert sorted(drawn) == sorted(stroke.edge.name for stroke in strokes(circuit, limit=10))
    assert len(Circuit.from_edges(circuit.graph, drawn)) == len(drawn) <= 10  # whole paths: pruning takes none
    n = len(drawn)
    assert f"{n} strongest of {len(circuit)} edges drawn, {len(circuit) - n} left out" in words(text)


def test_images_come_with_their_patch_grid_and_chips(circuit, exhibit):
    root = ET.fromstring(to_svg(circuit, exhibit=exhibit(circuit)))
    images = list(root.iter(f"{SVG}image"))
    assert len(images) == 2
    assert all(image.get("href").startswith("data:image/png;base64,") for image in images)
    assert "CLS" in words(ET.tostring(root, encoding="unicode"))


def test_circuits_without_scores_without_edges_and_with_nan_can_be_drawn(circuit):
    graph = circuit.graph
    assert len(edge_paths(to_svg(Circuit.full(graph)))) == len(graph)
    assert len(edge_paths(to_svg(Circuit.full(graph), max_edges=7))) == 7
    assert "no edge is kept" in words(to_svg(Circuit.empty(graph)))
    broken = replace(circuit.scores, values=np.full(len(graph), np.nan))
    paths = edge_paths(to_svg(replace(circuit, scores=broken)))
    assert len(paths) == len(circuit) and all("nan" not in path.get("d") for path in paths)


def test_a_graph_of_every_token_is_drawn_from_its_strongest_edges():
    graph = make_graph(4, 6, tokens="each")
    circuit = Circuit.full(graph, scores=make_scores(graph))
    drawn = strokes(circuit, limit=50)
    assert len(edge_paths(to_svg(circuit, max_edges=50))) == len(drawn) <= 50
    kept = Circuit.from_edges(graph, [one.edge.name for one in drawn])
    assert len(kept) == len(drawn) > 40  # whole paths: pruning takes none
