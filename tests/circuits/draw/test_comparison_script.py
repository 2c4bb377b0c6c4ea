"""Two circuits side by side in a real browser: one slider, one selection, and each edge in the ink of who has it."""

import dataclasses
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from vitcircuits.circuits.circuit import Circuit
from vitcircuits.circuits.compare import Subject, compare
from vitcircuits.circuits.compare.matching import Matching, named_edge
from vitcircuits.circuits.draw.comparison_page import comparison_page
from vitcircuits.circuits.draw.page_data import pair_data
from vitcircuits.circuits.formats.tables import edge_rows
from vitcircuits.circuits.sizes import largest_within

from .conftest import NASTY, SVG, canvas, choose, drawn, lit, make_graph, make_scores, said, saved_paths, until

BLUE, ORANGE, DARK = "#2b6cb0", "#c2511d", "#111827"
"""Ink of what only the first has, only the second, and both."""


@pytest.fixture(scope="module")
def two():
    graph = make_graph(2, 4)
    return tuple(make_scores(graph, seed=seed).top(50, by="abs_mean") for seed in (0, 1))


@pytest.fixture(scope="module")
def html(two):
    return comparison_page(compare({"A": [Subject(two[0])], "B": [Subject(two[1])]}, n_random=1))


@pytest.fixture
def page(shown, html):
    return shown(html)


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


def told(page) -> list[list[str]]:
    """The rows of what is known of the chosen node or edge in both."""
    return [row.locator("td").all_inner_texts() for row in page.locator(".details tbody tr").all()]


def test_what_was_chosen_is_told_of_both(shown, html, two):
    page = shown(html, "#of=0&node=m0%40")
    rows = {row[0]: row[1:] for row in told(page)}
    touching = [{e.name for e in circuit if "m0" in (e.source.node, e.destination.node)} for circuit in two]
    assert set(rows) == touching[0] | touching[1] and said(page, ".details h3") == "m0"
    for at, (circuit, own) in enumerate(zip(two, touching, strict=True)):
        ranked = {row.edge.name: row for row in edge_rows(circuit)}
        for name, cells in rows.items():
            score, rank = cells[2 * at : 2 * at + 2]
            if name in own:
                wanted = f"{ranked[name].score:+.3g} ± {ranked[name].std_err:.3g}".replace("-", "\N{MINUS SIGN}")
                assert (score, rank) == (wanted, str(ranked[name].rank))
            else:
                assert (score, rank) == ("\N{EN DASH}", "\N{EN DASH}")
    common = next(iter(touching[0] & touching[1]))
    page.locator(".details td button", has_text=common).first.click()
    assert said(page, ".details h3") == common and [row[0] for row in told(page)] == [common]
    assert [lit(figure) for figure in figures(page)] == [{common}, {common}]


def test_a_view_of_both_reopens_from_its_address_and_from_its_file(shown, html, tmp_path):
    page = shown(html)
    choose(page, 30)
    canvas(sides(page)[0]).focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    until(page, "location.hash.includes('node=')", True)
    seen = told(page), [drawn(figure) for figure in figures(page)]
    again = shown(html, page.evaluate("location.hash"))
    assert (told(again), [drawn(figure) for figure in figures(again)]) == seen and seen[0]
    with page.expect_download() as download:
        page.get_by_role("button", name="View as JSON").click()
    download.value.save_as(tmp_path / "view.json")
    fresh = shown(html)
    fresh.get_by_label("Open a view").set_input_files(tmp_path / "view.json")
    until(fresh, "location.hash.includes('node=')", True)
    assert (told(fresh), [drawn(figure) for figure in figures(fresh)]) == seen
    other = shown(html, page.evaluate("location.hash").replace("of=0", "of=1"))  # of another pair on the page
    assert told(other) == []


def test_both_are_saved_in_one_picture(page, two):
    with page.expect_download() as download:
        page.get_by_role("button", name="Both as SVG").click()
    root = ET.parse(download.value.path()).getroot()
    names = [path.findtext(f"{SVG}title") for path in root.iter(f"{SVG}path")]
    assert sorted(names) == sorted([*two[0].edge_names(), *two[1].edge_names()])
    assert [text.text[0] for text in root.findall(f"{SVG}text")] == ["A", "B"]
    with page.expect_download() as download:
        page.get_by_role("button", name="Both as PNG").click()
    data = download.value.path().read_bytes()
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    assert data.startswith(b"\x89PNG")
    assert (width, height) == tuple(int(np.ceil(2 * float(root.get(side)))) for side in ("width", "height"))


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


def test_on_a_phone_nothing_is_cut_off(shown, html):
    assert shown(html, viewport={"width": 420, "height": 800}).evaluate("document.documentElement.scrollWidth") == 420


NAMES = [one for one in NASTY if one != "\x00"]


@pytest.mark.parametrize("names", list(zip(NAMES[::2], [*NAMES[1::2], "B"], strict=True)))
def test_names_of_any_kind_are_text(shown, two, names):
    pair = {name: [Subject(circuit)] for name, circuit in zip(names, two, strict=True)}
    page = shown(comparison_page(compare(pair, n_random=1)), "#of=0&node=m0%40")
    captions = page.locator(".two figcaption").all_text_contents()
    for name, which, caption in zip(names, ("first", "second"), captions, strict=True):
        assert page.locator(f"button.{which}").text_content() == f"only {name}"
        assert name in page.locator(".details thead th").all_text_contents()
        assert name in caption
    assert page.locator("#x, i, img[src=x]").count() == 0


def test_circuits_without_edges_can_be_compared(shown):
    empty = Circuit.empty(make_graph(2, 4, tokens="each"))
    page = shown(comparison_page(compare({"A": [Subject(empty)], "B": [Subject(empty)]}, n_random=1)))
    assert said(page, ".bar .said") == "0 only in A, 0 only in B, 0 in both" and len(sides(page)) == 2


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
