"""Nothing in a layout overlaps, every drawn edge finds both its ends, and lanes keep token groups apart."""

from itertools import combinations, pairwise

import pytest
from vitcircuits.circuits.circuit import Circuit
from vitcircuits.circuits.draw.layout import Box, Layout, place
from vitcircuits.circuits.draw.route import route

from .conftest import make_circuit, make_graph

CASES = [
    *((2, 4, tokens, ports) for tokens in ("all", "role", "each") for ports in ("qkv", "head", "block")),
    *((12, 12, tokens, ports) for tokens in ("all", "role") for ports in ("qkv", "head", "block")),
]


def overlapping(boxes: list[Box]) -> list[tuple[str, str]]:
    return [
        (a.name, b.name)
        for a, b in combinations(boxes, 2)
        if a.left < b.right and b.left < a.right and a.top < b.bottom and b.top < a.bottom
    ]


def laid_out(layers: int, heads: int, tokens: str, ports: str) -> tuple[Circuit, Layout]:
    graph = make_graph(layers, heads, tokens=tokens, ports=ports, registers=2)
    circuit = make_circuit(graph, 20)
    return circuit, place(graph, circuit)


@pytest.mark.parametrize(("layers", "heads", "tokens", "ports"), CASES)
def test_no_two_nodes_overlap_and_all_lie_in_the_picture(layers, heads, tokens, ports):
    _, layout = laid_out(layers, heads, tokens, ports)
    boxes = [*layout.boxes.values(), *layout.ports.values()]
    assert overlapping(boxes) == []
    for box in boxes:
        assert box.left >= 0 and box.top >= 0
        assert box.right <= layout.width and box.bottom <= layout.height


@pytest.mark.parametrize(("layers", "heads", "tokens", "ports"), CASES)
def test_every_edge_has_a_path_and_only_what_it_touches_has_ink(layers, heads, tokens, ports):
    circuit, layout = laid_out(layers, heads, tokens, ports)
    for edge in circuit:
        assert route(layout, edge).startswith("M")
    touched = {f"{end.node}@{end.group}" for edge in circuit for end in (edge.source, edge.destination)}
    inked = {f"{box.end.node}@{box.end.group}" for box in layout.boxes.values() if box.state != "unused"}
    assert inked == {name for name in touched if ports != "block" or ".h" in name or not name.startswith("a")}


@pytest.mark.parametrize("tokens", ["role", "each"])
def test_a_node_stands_in_the_lane_of_its_group(tokens):
    _, layout = laid_out(2, 4, tokens, "qkv")
    lanes = sorted(layout.lanes.values(), key=lambda lane: lane.x)
    assert all(a.x + a.width <= b.x for a, b in pairwise(lanes))
    for box in [*layout.boxes.values(), *layout.ports.values()]:
        lane = layout.lanes[box.end.group]
        assert lane.x <= box.left and box.right <= lane.x + lane.width


def test_the_input_is_below_and_the_logits_on_top():
    _, layout = laid_out(12, 12, "all", "qkv")
    heights = [box.y for name, box in layout.boxes.items() if name not in ("input", "logits")]
    assert layout.boxes["input"].top > max(heights)
    assert layout.boxes["logits"].bottom < min(heights)
    assert list(layout.rows) == sorted(layout.rows, reverse=True)


def test_ports_stand_under_their_head_in_the_order_q_k_v():
    _, layout = laid_out(2, 4, "all", "qkv")
    q, k, v = (layout.ports[f"a1.h2<{port}>"] for port in "qkv")
    assert q.x < k.x < v.x
    assert layout.boxes["a1.h2"].bottom <= q.top


def test_an_edge_goes_around_the_heads_on_its_way():
    graph = make_graph(3, 1)
    names = ["input->a0.h0<q>", "a0.h0->a1.h0<q>", "a0.h0->a2.h0<k>", "a1.h0->a2.h0<q>", "a2.h0->logits"]
    circuit = Circuit.from_edges(graph, names)
    layout = place(graph, circuit)
    passed = layout.boxes["a1.h0"]
    skipping = route(layout, graph.edge(graph.index("a0.h0->a2.h0<k>")))
    points = [tuple(map(float, pair.split())) for pair in _points(skipping)]
    beside = [x for x, y in points if passed.top <= y <= passed.bottom + 20]
    assert beside and all(not passed.left < x < passed.right for x in beside)


def _points(path: str) -> list[str]:
    numbers = path.replace("M", "").replace("C", " ").split()
    return [f"{x} {y}" for x, y in zip(numbers[::2], numbers[1::2], strict=True)]


def test_an_empty_circuit_has_a_layout():
    graph = make_graph(2, 4, tokens="each")
    layout = place(graph, [])
    assert set(layout.lanes) == {"cls"}
    assert "logits@cls" in layout.boxes
