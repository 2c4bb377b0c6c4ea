"""Where token groups are places, every level is a map of the image: nothing stands outside its place's cell."""

import xml.etree.ElementTree as ET
from itertools import combinations

import numpy as np
import pytest
from vitcircuits.circuits.circuit import Circuit
from vitcircuits.circuits.draw.panels import MAX_WIDTH, place
from vitcircuits.circuits.draw.route import route
from vitcircuits.circuits.draw.strokes import strokes
from vitcircuits.circuits.draw.style import HEAT
from vitcircuits.circuits.draw.svg import to_svg

from .conftest import make_circuit, make_graph, make_scores

SVG = "{http://www.w3.org/2000/svg}"
SHAPES = [(2, 4, (4, 4)), (2, 16, (2, 2)), (12, 3, (14, 14)), (4, 12, (28, 28))]


def laid_out(layers, heads, grid, ports="qkv"):
    """A layout of some edges of all kinds, and these edges."""
    graph = make_graph(layers, heads, tokens="each", grid=grid, registers=3, ports=ports)
    edges = [graph.edge(index) for index in np.random.default_rng(0).integers(len(graph), size=600).tolist()]
    return place(graph, edges), edges


def level_of(layout, end) -> int:
    return len(layout.panels) - 1 if end.kind == "logits" else end.layer + 1


@pytest.mark.parametrize("ports", ["qkv", "head", "block"])
@pytest.mark.parametrize(("layers", "heads", "grid"), SHAPES)
def test_every_node_stands_in_the_cell_of_its_place_and_level(layers, heads, grid, ports):
    layout, edges = laid_out(layers, heads, grid, ports)
    width, height = layout.cell
    for box in [*layout.boxes.values(), *layout.ports.values(), *layout.frames.values()]:
        x, y = layout.places[box.end.group]
        assert abs(box.x - x) + box.width / 2 <= width / 2 + 0.1
        assert abs(box.y - y - layout.panels[level_of(layout, box.end)].y) + box.height / 2 <= height / 2 + 0.1
    assert all(route(layout, edge).startswith("M") for edge in edges)
    named = {f"{end.node}@{end.group}" for edge in edges for end in (edge.source, edge.destination)}
    assert {f"{box.end.node}@{box.end.group}" for box in [*layout.boxes.values(), *layout.frames.values()]} == named


@pytest.mark.parametrize(("layers", "heads", "grid"), SHAPES)
def test_cells_are_the_patches_of_the_image_and_fit_the_picture(layers, heads, grid):
    layout, _ = laid_out(layers, heads, grid)
    assert layout.width <= MAX_WIDTH
    (width, height), rows, columns = layout.cell, *grid
    assert len(layout.places) == 4 + rows * columns  # CLS and three registers
    for name, (x, y) in layout.places.items():
        if name[1:].replace("c", "").isdigit() and name.startswith("r"):
            row, column = map(int, name[1:].split("c"))
            left, top = layout.places["r0c0"]
            assert np.allclose((x - left, y - top), (column * width + row * layout.lean, row * height))
        else:
            assert x + width / 2 < layout.picture[0] + row_offset(layout, y)
    uprights = sorted(x for name, (x, _) in layout.places.items() if name.startswith("r") and "c" in name)
    assert np.diff(uprights).min() > 0.5  # every patch has one of its own
    lows = [panel.y + max(layout.places[name][1] for name in panel.groups) + height / 2 for panel in layout.panels]
    tops = [panel.y + min(layout.places[name][1] for name in panel.groups) - height / 2 for panel in layout.panels]
    assert all(low < top for low, top in zip(lows[1:], tops, strict=False)) and lows[0] < layout.height


def row_offset(layout, y) -> float:
    """How far right the left end of the picture stands at a height."""
    return layout.lean * (y - layout.places["r0c0"][1]) / layout.cell[1] + layout.lean


def test_nodes_do_not_overlap():
    layout, _ = laid_out(2, 4, (4, 4))
    boxes = [*layout.boxes.values(), *layout.ports.values()]
    for a, b in combinations(boxes, 2):
        apart = a.left >= b.right or b.left >= a.right or a.top >= b.bottom or b.top >= a.bottom
        assert apart, (a.name, b.name)


def test_lanes_that_do_not_fit_become_cells_in_a_row():
    few, many = make_graph(2, 4, tokens="role", registers=2), make_graph(6, 12, tokens="role", registers=2)
    assert place(few, make_circuit(few, 20)).lanes
    layout = place(many, make_circuit(many, 20))
    assert not layout.lanes and layout.width <= MAX_WIDTH and layout.titles == ("cls", "reg", "patch")


def test_the_still_colours_each_place_by_what_its_edges_carry(exhibit):
    circuit = make_scores(make_graph(2, 3, tokens="each", grid=(3, 3))).top(60, by="abs_mean")
    root = ET.fromstring(to_svg(circuit, exhibit=exhibit(circuit)))
    layout, carried = place(circuit.graph, circuit), {}
    for stroke in strokes(circuit):
        ends = (stroke.edge.source, stroke.edge.destination)
        for where in {(level_of(layout, end), end.group) for end in ends}:
            carried[where] = carried.get(where, 0.0) + abs(stroke.score)
    wanted = sorted(
        (group, round(0.7 * (sum_ / max(carried.values())) ** 0.5, 2)) for (_, group), sum_ in carried.items()
    )
    cells = [
        path for path in root.iter(f"{SVG}path") if path.get("fill") == HEAT and path.find(f"{SVG}title") is not None
    ]
    found = sorted((path.findtext(f"{SVG}title"), round(float(path.get("fill-opacity")), 2)) for path in cells)
    assert [group for group, _ in found] == [group for group, _ in wanted]
    assert np.allclose([share for _, share in found], [share for _, share in wanted], atol=0.011)
    assert len(list(root.iter(f"{SVG}image"))) == 3  # the pair, and the clean image under the input


def test_an_empty_circuit_has_maps():
    graph = make_graph(2, 4, tokens="each")
    layout = place(graph, Circuit.empty(graph))
    assert not layout.boxes and [panel.title for panel in layout.panels] == ["input", "layer 0", "layer 1", "logits"]
    assert layout.panels[-1].groups == ("cls",)
