"""Nothing in a layout overlaps, every drawn edge finds both its ends, and lanes keep token groups apart."""

from functools import cache
from itertools import combinations, pairwise

import numpy as np
import pytest
from vitcircuits.circuits.circuit import Circuit
from vitcircuits.circuits.draw.layout import Box, Layout
from vitcircuits.circuits.draw.panels import place
from vitcircuits.circuits.draw.route import route

from .conftest import make_circuit, make_graph

CASES = [
    *((2, 4, tokens, ports) for tokens in ("all", "role", "each") for ports in ("qkv", "head", "block")),
    *((6, 12, "role", ports) for ports in ("qkv", "head", "block")),
    (12, 12, "all", "qkv"),
]


def overlapping(boxes: list[Box]) -> list[tuple[str, str]]:
    return [
        (a.name, b.name)
        for a, b in combinations(boxes, 2)
        if a.left < b.right and b.left < a.right and a.top < b.bottom and b.top < a.bottom
    ]


@cache
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


def test_a_node_stands_in_the_lane_of_its_group():
    _, layout = laid_out(2, 4, "role", "qkv")
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


@pytest.mark.parametrize(("layers", "heads", "tokens", "ports"), CASES)
def test_no_edge_runs_behind_a_node_that_it_does_not_touch(layers, heads, tokens, ports):
    circuit, layout = laid_out(layers, heads, tokens, ports)
    if layout.panels:
        pytest.skip("on maps uprights cross the cells of places above them; lighting one place tells them apart")
    nodes = [box for box in layout.boxes.values() if box.end.kind in ("head", "mlp") and box.state != "unused"]
    left, top, wide, high = np.array([(box.x, box.y, box.width, box.height) for box in nodes]).T[..., None]
    for edge in circuit:
        x, y = sampled(route(layout, edge))
        behind = ((abs(x - left) < wide / 2 - 1) & (abs(y - top) < high / 2 - 1)).any(1)
        touched = (edge.source.node, edge.destination.node)
        for box in (nodes[at] for at in np.flatnonzero(behind)):
            beside = box.end.group != edge.source.group or box.end.node in touched
            assert edge.inside or beside, f"{edge} runs behind {box.name}"


def sampled(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Points along a path of lines and cubics."""
    numbers = np.array(path.replace("M", "").replace("C", " ").replace("L", " ").split(), dtype=float).reshape(-1, 2)
    if len(numbers) == 2:
        return numbers[:, 0], numbers[:, 1]
    t = np.linspace(0, 1, 25)[:, None]
    cubics = [numbers[place : place + 4] for place in range(0, len(numbers) - 1, 3)]
    weights = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    return tuple(np.concatenate([weights @ cubic for cubic in cubics]).T)


def test_an_empty_circuit_has_a_layout():
    graph = make_graph(2, 4, tokens="role")
    layout = place(graph, [])
    assert set(layout.lanes) == {"cls"}
    assert "logits@cls" in layout.boxes
