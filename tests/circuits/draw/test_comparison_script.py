"""Two circuits side by side in a real browser: one slider, one selection, and each edge in the ink of who has it."""

import dataclasses

import pytest
from vitcircuits.circuits.compare import Subject, compare
from vitcircuits.circuits.compare.matching import Matching, named_edge
from vitcircuits.circuits.draw.comparison_page import comparison_page
from vitcircuits.circuits.draw.page_data import pair_data
from vitcircuits.circuits.sizes import largest_within

from .conftest import canvas, choose, drawn, lit, make_graph, make_scores, said, saved_paths

BLUE, ORANGE, DARK = "#2b6cb0", "#c2511d", "#111827"
"""Ink of what only the first has, only the second, and both."""


@pytest.fixture
def two():
    graph = make_graph(2, 4)
    return tuple(make_scores(graph, seed=seed).top(50, by="abs_mean") for seed in (0, 1))


@pytest.fixture
def page(shown, two):
    return shown(comparison_page(compare({"A": [Subject(two[0])], "B": [Subject(two[1])]}, n_random=1)))


def sides(page):
    return page.locator(".two figure").all()


def figures(page):
    """Each diagram as if it were a page, so that what is asked of pages can be asked of it."""
    for side in sides(page):
        yield dataclasses.make_dataclass("Figure", ["expect_download", "get_by_role"])(
            page.expect_download, side.get_by_role
        )


def names_within(circuit, n):
    mask = largest_within(circuit.graph, circuit.scores.ranking("abs_mean"), n)
    return {circuit.graph.edge(index).name for index in mask.nonzero()[0].tolist()}


def test_both_are_cut_at_one_rank_and_inks_say_who_has_an_edge(page, two):
    for n in (50, 21):
        choose(page, n)
        sets = [names_within(circuit, n) for circuit in two]
        for figure, own, other, only in zip(figures(page), sets, sets[::-1], (BLUE, ORANGE), strict=True):
            inks = {path.findtext("{*}title"): path.get("stroke") for path in saved_paths(figure)}
            assert inks == {name: DARK if name in other else only for name in own}
        counts = len(sets[0] - sets[1]), len(sets[1] - sets[0]), len(sets[0] & sets[1])
        assert said(page, ".bar .said") == "{} only in A, {} only in B, {} in both".format(*counts)


def test_only_one_only_the_other_or_both_can_be_lit(page, two):
    sets = [set(circuit.edge_names()) for circuit in two]
    wanted = {
        "only A": (sets[0] - sets[1], set()),
        "only B": (set(), sets[1] - sets[0]),
        "both": (sets[0] & sets[1],) * 2,
    }
    for button, expected in wanted.items():
        page.get_by_role("button", name=button, exact=True).click()
        assert tuple(lit(figure) for figure in figures(page)) == expected
    page.get_by_role("button", name="all edges").click()
    assert [lit(figure) for figure in figures(page)] == sets


def test_a_node_is_chosen_in_both(page, two):
    canvas(sides(page)[0]).focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    name = said(page, ".tip >> nth=0").split(":")[0]
    page.keyboard.press("Enter")
    for figure, circuit in zip(figures(page), two, strict=True):
        assert lit(figure) == {e.name for e in circuit if name in (e.source.node, e.destination.node)}
    canvas(sides(page)[1]).press("Escape")
    assert [lit(figure) for figure in figures(page)] == [set(circuit.edge_names()) for circuit in two]


def test_diagrams_of_one_shape_move_together(page):
    first, second = sides(page)
    pixels = "one => one.querySelector('canvas').toDataURL().length"
    before = second.evaluate(pixels)
    canvas(first).focus()
    box = canvas(first).bounding_box()
    page.mouse.move(box["x"] + 90, box["y"] + 90)
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(600)
    assert second.evaluate(pixels) != before


def test_on_a_phone_nothing_is_cut_off(shown, two):
    html = comparison_page(compare({"A": [Subject(two[0])], "B": [Subject(two[1])]}, n_random=1))
    assert shown(html, viewport={"width": 420, "height": 800}).evaluate("document.documentElement.scrollWidth") == 420


def test_matched_heads_share_a_key_whatever_they_are_called():
    graph = make_graph(2, 2)
    first, second = (make_scores(graph, seed=seed).top(20, by="abs_mean") for seed in (0, 1))
    matching = Matching({"a0.h1": "a0.h0"}, {"m0": "m0"}, {}, {}, "by hand")
    data = pair_data(first, second, ("A", "B"), matching=matching, limit=100)
    keys = {box["name"]: box["key"] for box in data["circuits"][1]["boxes"]}
    assert keys["a0.h1"] == "a0.h0@" and keys["m0"] == "m0@" and keys["logits"] == "logits@"
    assert "unmatched" in keys["a0.h0"]
    edges = data["circuits"][1]["edges"]
    wanted = {edge.name: "|".join(named_edge(edge, matching)) for edge in second}
    assert dict(zip(edges["name"], edges["key"], strict=True)) == wanted


def test_graphs_of_other_shapes_stand_side_by_side_without_being_compared(shown, two):
    other = make_scores(make_graph(3, 2)).top(30, by="abs_mean")
    data = pair_data(two[0], other, ("A", "B"), limit=100)
    assert not data["comparable"] and not data["linked"]
    page = shown(comparison_page(compare({"A": [Subject(two[0])], "B": [Subject(other)]}, n_random=1)))
    assert [set(drawn(figure)) for figure in figures(page)] == [set(one.edge_names()) for one in (two[0], other)]
    assert "edges are not compared" in said(page, ".side-by-side")
