"""Each edge has the colour of who has it; circuits of one shape stand on the same places; counts are the sets' own."""

import re

import numpy as np
import pytest
from vitcircuits.circuits.circuit import Circuit
from vitcircuits.circuits.compare.matching import Matching
from vitcircuits.circuits.draw.comparison_page import BOTH, ONLY_FIRST, ONLY_SECOND, legend_svg, side_by_side
from vitcircuits.circuits.graph import compile_graph
from vitcircuits.circuits.scores import Scores
from vitcircuits.models.config import TokenLayout, VitConfig


def graph_of(layers=2, heads=4, tokens="all"):
    layout = TokenLayout(True, 0, (2, 2))
    cfg = VitConfig("toy/test", layers, heads, 8, 4, 16, 10, (8, 8), (4, 4), 1, layout, (0,), "token")
    return compile_graph(cfg, tokens=tokens)


def circuit_of(graph, seed, n=50):
    values = np.random.default_rng(seed).standard_t(3, len(graph))
    zeros = np.zeros(len(graph))
    return Scores(graph, values, np.abs(values), zeros, zeros.astype(bool), 8, "eap").top(n, by="abs_mean")


def strokes_of(svg):
    """Edge's name -> colour."""
    found = re.findall(r'<path class="edge[^"]*"[^>]*stroke="([^"]+)"[^>]*><title>(\S+)', svg)
    return {name.replace("&gt;", ">").replace("&lt;", "<"): colour for colour, name in found}


def boxes_of(svg):
    return dict(re.findall(r'<title>([am]\d[^<]*)</title><rect x="([^"]+)"', svg))


@pytest.mark.parametrize("tokens", ["all", "role"])
def test_colours_say_who_has_an_edge(tokens):
    graph = graph_of(tokens=tokens)
    first, second = circuit_of(graph, 0, 100), circuit_of(graph, 1, 100)
    found = side_by_side(first, second, names=("A", "B"))
    sets = set(first.edge_names()), set(second.edge_names())
    assert (found.only_first, found.only_second, found.both) == (
        len(sets[0] - sets[1]),
        len(sets[1] - sets[0]),
        len(sets[0] & sets[1]),
    )
    for svg, own, only in ((found.first, sets[0], ONLY_FIRST), (found.second, sets[1], ONLY_SECOND)):
        wanted = {name: BOTH if name in sets[0] & sets[1] else only for name in own}
        assert strokes_of(svg) == wanted
    assert boxes_of(found.first) == boxes_of(found.second) and boxes_of(found.first)
    assert f"only A: {found.only_first} edges" in legend_svg(("A", "B"), found)


def test_matched_heads_share_their_edges():
    graph = graph_of()
    first = Circuit.from_edges(graph, ["input->a0.h1<v>", "a0.h1->logits", "input->a0.h2<q>", "a0.h2->logits"])
    second = Circuit.from_edges(graph, ["input->a0.h3<v>", "a0.h3->logits", "input->a0.h0<v>", "a0.h0->logits"])
    matching = Matching({"a0.h3": "a0.h1", "a0.h0": "a0.h2"}, {}, {}, {}, "by hand")
    found = side_by_side(first, second, names=("A", "B"), matching=matching)
    assert (found.only_first, found.only_second, found.both) == (1, 1, 3)
    assert strokes_of(found.second)["input->a0.h3<v>"] == BOTH
    assert strokes_of(found.second)["input->a0.h0<v>"] == ONLY_SECOND


def test_other_shapes_without_matching_are_not_compared_and_many_edges_are_left_out_with_a_note():
    first, second = circuit_of(graph_of(), 0), circuit_of(graph_of(3, 3), 1, 90)
    found = side_by_side(first, second, names=("A", "B"), limit=30)
    assert found.both is None and "not compared" in legend_svg(("A", "B"), found)
    n = len(strokes_of(found.second))
    assert 20 < n <= 30 and f"{n} strongest of {len(second)}" in " ".join(found.notes)


def test_names_are_escaped():
    circuit = circuit_of(graph_of(), 0)
    found = side_by_side(circuit, circuit, names=("<b>", "a & b"))
    assert "<b>" not in legend_svg(("<b>", "a & b"), found) + found.first and "&lt;b&gt;" in found.first
