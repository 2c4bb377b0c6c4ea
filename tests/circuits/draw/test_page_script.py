"""The page's script does what its labels say, in a real browser, without network, requests and complaints."""

import json
import re
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from vitcircuits.circuits.circuit import Circuit
from vitcircuits.circuits.draw.pages import to_html
from vitcircuits.circuits.draw.panels import place
from vitcircuits.circuits.formats.tables import edge_rows
from vitcircuits.circuits.report import Curve, Figure, Report
from vitcircuits.circuits.sizes import largest_within

from .conftest import NASTY, canvas, choose, drawn, lit, make_graph, make_scores, said, saved_paths, until


@pytest.fixture(scope="module")
def html(circuit, exhibit) -> str:
    return to_html(circuit, exhibit=with_patterns(exhibit(circuit)))


def with_patterns(made):
    n = made.attention.shape[-1]
    pattern = np.random.default_rng(1).random((*made.attention.shape[1:3], n, n))
    return replace(made, patterns=(pattern / pattern.sum(-1, keepdims=True)).astype(np.float16)[None])


def at(page, name: str) -> dict[str, float]:
    """Where a node's middle is in the canvas, of a page whose diagram stands at its own size."""
    boxes = json.loads(page.locator("#page-data").text_content())["boxes"]
    box = next(box for box in boxes if box["name"] == name)
    return {"x": box["x"], "y": box["y"]}


UNMOVED = "#at=0%2C0%2C1"


@pytest.mark.parametrize("tokens", ["all", "role", "each"])
def test_every_size_is_drawn_whole(shown, tokens):
    graph = make_graph(2, 3, tokens=tokens)
    scores = make_scores(graph)
    circuit = scores.top(40, by="abs_mean")
    page = shown(to_html(circuit))
    for n in (0, 1, 7, 20, 33, len(circuit)):
        choose(page, n)
        wanted = largest_within(graph, scores.ranking("abs_mean"), n)
        assert set(drawn(page)) == {graph.edge(index).name for index in np.flatnonzero(wanted).tolist()}
        assert said(page, ".size .said") == f"{wanted.sum()} of {len(circuit)} drawn"


def test_what_was_stepped_to_is_drawn_as_what_is_opened(shown):
    circuit = make_scores(make_graph(4, 4)).top(200, by="abs_mean")
    pixels = "document.querySelector('.frame canvas').toDataURL()"
    page, other = shown(to_html(circuit), f"{UNMOVED}&n=150"), shown(to_html(circuit), UNMOVED)
    assert page.evaluate(pixels) != other.evaluate(pixels)
    choose(other, 160)
    choose(other, 150)
    until(other, f"{pixels} === {json.dumps(page.evaluate(pixels))}", True)
    arrows = len(drawn(page))
    with page.expect_download() as download:
        page.get_by_role("button", name="SVG").click()
    assert download.value.path().read_text(encoding="utf-8").count("<polygon") == arrows


@pytest.mark.parametrize("tokens", ["all", "each"])
def test_the_slider_goes_on_beyond_the_circuit(shown, tokens):
    graph = make_graph(2, 3, tokens=tokens)
    scores = make_scores(graph)
    circuit = scores.top(20, by="abs_mean")
    page = shown(to_html(circuit))
    ranking = scores.ranking("abs_mean")
    for n in (len(circuit) + 3, 50, len(graph)):
        choose(page, n)
        wanted = {graph.edge(index).name for index in np.flatnonzero(largest_within(graph, ranking, n)).tolist()}
        assert set(drawn(page)) == wanted
        more = len(wanted) - len(circuit)
        told = f"{len(wanted)} drawn, {more} of them not in the circuit" if more else f"{len(wanted)} of {len(circuit)}"
        assert said(page, ".size .said").startswith(told)
        assert set(rows(page)) == set(circuit.edge_names())
    beyond = next(one for one in drawn(page) if one not in set(circuit.edge_names()))
    name = beyond.replace("<", "%3C").replace(">", "%3E").replace("@", "%40")
    again = shown(to_html(circuit), f"#n={len(graph)}&edge={name}")
    assert "not in the circuit" in said(again, ".about dl")
    page.get_by_role("button", name="the circuit: ").click()
    assert set(drawn(page)) == set(circuit.edge_names())


def test_of_a_circuit_that_no_ranking_made_its_own_edges_come_first(shown):
    graph = make_graph(2, 3)
    chosen = Circuit.from_edges(graph, list(graph.edge_names())[5::3], scores=make_scores(graph))
    page = shown(to_html(chosen))
    assert set(drawn(page)) == set(chosen.edge_names())
    choose(page, len(chosen) + 6)
    assert set(drawn(page)) > set(chosen.edge_names())


def test_arrows_on_the_slider_step_by_one_edge(shown, html, circuit):
    page = shown(html)
    slider = page.get_by_role("slider")
    slider.press("ArrowLeft")
    slider.press("ArrowLeft")
    assert page.get_by_label("Number of edges, exactly").input_value() == str(len(circuit) - 2)
    slider.press("ArrowRight")
    assert page.get_by_label("Number of edges, exactly").input_value() == str(len(circuit) - 1)


def test_the_curve_has_a_mark_where_the_slider_is(shown, circuit):
    sizes = np.array([1, 10, 40, 110])
    curve = Curve("eap", sizes, sizes, np.array([0.1, 0.25, 0.5, np.nan]))
    report = Report({"faithfulness": Figure(0.5, "share")}, (curve,), len(circuit), len(circuit.graph), 40)
    page = shown(to_html(circuit, report=report))
    places = []
    for n in (len(circuit), 12):
        choose(page, n)
        places.append(float(page.locator(".rule").get_attribute("x1")))
    assert places[0] > places[1]
    assert said(page, ".lines") == "eap: 0.25 at 10 edges"


def test_a_head_shows_its_edges_its_layer_and_its_attention(shown, html, circuit):
    page = shown(html, UNMOVED)
    name = busiest(circuit)
    canvas(page).click(position=at(page, name))
    about = said(page, ".about")
    reads = {edge.name for edge in circuit if edge.destination.node == name}
    writes = {edge.name for edge in circuit if edge.source.node == name}
    assert f"Reads ({len(reads)})" in about and f"Is read by ({len(writes)})" in about
    assert lit(page) == reads | writes
    assert page.locator(".same button").count() == circuit.graph.cfg.n_heads
    assert page.locator(".same button[aria-pressed=true] span").inner_text() == name
    score = circuit.scores.values[circuit.graph.index(f"{name}->logits")]
    assert f"straight to the logits\n{score:+.3g}".replace("-", "\N{MINUS SIGN}") in about
    assert f"{name} from CLS" in said(page, ".image")


def busiest(circuit) -> str:
    """A head of layer 1 that the circuit feeds and reads."""
    reads = {edge.source.node for edge in circuit}
    return next(e.destination.node for e in circuit if e.destination.layer == 1 and e.destination.node in reads)


def test_pointing_at_a_patch_shows_where_the_head_looks_from_there(shown, circuit, exhibit):
    made = with_patterns(exhibit(circuit))
    page = shown(to_html(circuit, exhibit=made), f"#node={(name := busiest(circuit))}")
    layer, head = (int(part[1:]) for part in name.split("."))
    heat = page.locator(".shot canvas")
    rows, columns = made.grid
    box = heat.bounding_box()
    for patch in range(rows * columns):
        row, column = divmod(patch, columns)
        heat.hover(position={"x": box["width"] * (column + 0.5) / columns, "y": box["height"] * (row + 0.5) / rows})
        weights = made.patterns[0, layer, head, made.n_prefix + patch, made.n_prefix :].astype(float)
        assert f"{name} from r{row}c{column}: {round(100 * weights.sum())}%" in said(page, ".image")
        opacities = heat.evaluate(
            """(canvas, [rows, columns]) => Array.from({length: rows * columns}, (_, at) => {
              const wide = canvas.width / columns, high = canvas.height / rows;
              const x = (at % columns + .5) * wide, y = (Math.floor(at / columns) + .5) * high;
              return canvas.getContext("2d").getImageData(x, y, 1, 1).data[3];
            })""",
            [rows, columns],
        )
        assert np.allclose(np.array(opacities) / 255, 0.85 * weights / weights.max(), atol=0.02)


def test_a_head_is_told_by_its_scores_and_by_what_it_writes_too(shown, circuit, exhibit):
    made = with_patterns(exhibit(circuit))
    random = np.random.default_rng(2)
    scores = random.normal(size=made.attention.shape).astype(np.float32)
    made = replace(made, kinds={"score": scores, "value_weighted": 3 * made.attention})
    page = shown(to_html(circuit, exhibit=made), f"#node={(name := busiest(circuit))}")
    layer, head = (int(part[1:]) for part in name.split("."))
    assert page.locator(".kinds span").all_inner_texts() == ["attention", "scores", "written"]
    page.get_by_role("button", name="scores").click()
    patches = scores[0, layer, head, made.n_prefix :]
    numbers = re.search("scores of patches from (.*) to (.*), before", said(page, ".image")).groups()
    for got, wanted in zip(numbers, (patches.min(), patches.max()), strict=True):
        assert abs(float(got.replace("\N{MINUS SIGN}", "-")) - wanted) < np.ptp(scores) / 255
    page.get_by_role("button", name="written").click()
    most = 3 * made.attention[0, layer, head, made.n_prefix :].max()
    assert abs(float(re.search("at most (.*)[.]", said(page, ".image")).group(1)) - most) < 0.02 * most
    until(page, "location.hash.includes('kind=value_weighted')", True)


def test_full_patterns_of_other_pairs_where_they_were_asked_for(shown, circuit, exhibit):
    made = with_patterns(exhibit(circuit))
    made = replace(made, patterns=np.concatenate([made.patterns, made.patterns[..., ::-1]]))
    page = shown(to_html(circuit, exhibit=made), f"#pair=1&node={(name := busiest(circuit))}")
    layer, head = (int(part[1:]) for part in name.split("."))
    box = page.locator(".shot canvas").bounding_box()
    page.locator(".shot canvas").hover(position={"x": box["width"] * 0.25, "y": box["height"] * 0.25})
    weights = made.patterns[1, layer, head, made.n_prefix, made.n_prefix :].astype(float)
    share = re.search(f"{name} from r0c0: (.*)% of its attention", said(page, ".image")).group(1)
    assert abs(int(share) - 100 * weights.sum()) < 1.5  # bytes


def test_where_lanes_are_places_the_image_is_their_map(shown, exhibit):
    circuit = make_scores(make_graph(2, 3, tokens="each")).top(60, by="abs_mean")
    page = shown(to_html(circuit, exhibit=exhibit(circuit)))
    heat = page.locator(".shot canvas")
    box = heat.bounding_box()
    lower_left = {"x": box["width"] * 0.25, "y": box["height"] * 0.75}
    touching = {edge.name for edge in circuit if "r1c0" in (edge.source.group, edge.destination.group)}
    heat.hover(position=lower_left)
    assert f"{len(touching)} drawn edges touch r1c0." in said(page, ".image")
    heat.click(position=lower_left)
    assert lit(page) == touching
    again = shown(to_html(circuit, exhibit=exhibit(circuit)), "#place=cls")
    assert lit(again) == {edge.name for edge in circuit if "cls" in (edge.source.group, edge.destination.group)}
    canvas(again).press("Escape")
    assert lit(again) == set(circuit.edge_names())


def test_on_a_map_of_places_each_is_coloured_named_and_chosen(shown, exhibit):
    circuit = make_scores(make_graph(2, 3, tokens="each")).top(60, by="abs_mean")
    page = shown(to_html(circuit, exhibit=exhibit(circuit)), UNMOVED)
    layout = place(circuit.graph, circuit)
    (x, y), panel, (width, height) = layout.places["r1c0"], layout.panels[1], layout.cell
    corner = {"x": x - 0.4 * width, "y": panel.y + y + 0.4 * height}
    touching = [edge for edge in circuit if "r1c0" in (edge.source.group, edge.destination.group)]
    heat = sum(
        abs(circuit.scores.values[edge.index])
        for edge in touching
        if any(end.group == "r1c0" and end.layer == 0 for end in (edge.source, edge.destination))
    )
    canvas(page).hover(position=corner)
    told = f"{len(touching)} drawn edges touch the place; sum of |score|: {heat:.3g} at this level"
    assert said(page, ".tip") == f"r1c0, layer 0\n{told}"
    canvas(page).click(position=corner)
    assert lit(page) == {edge.name for edge in touching}
    canvas(page).click(position=corner)
    assert lit(page) == set(circuit.edge_names())
    head = next(edge.destination for edge in circuit if edge.destination.kind == "head")
    once = shown(to_html(circuit, exhibit=exhibit(circuit)), f"#node={head.node}%40{head.group}")
    assert once.locator(".same button span").all_inner_texts() == [f"a{head.layer}.h{n}" for n in range(3)]
    with page.expect_download() as download:
        page.get_by_role("button", name="SVG").click()
    saved = download.value.path().read_text(encoding="utf-8")
    assert page.locator(".shot img").get_attribute("src") in saved  # under the input


def test_another_pair_shows_its_own_image_and_attention(shown, html):
    page = shown(html, "#node=a1.h0")
    first = page.locator(".shot img").get_attribute("src"), said(page, ".image")
    page.locator(".choices button").nth(1).click()
    assert page.locator(".shot img").get_attribute("src") != first[0] and said(page, ".image") != first[1]
    assert "Full patterns are kept for the circuit" in said(page, ".image")
    assert [one.get_attribute("aria-pressed") for one in page.locator(".choices button").all()] == ["false", "true"]


def test_an_edge_says_what_is_known_of_it(shown, circuit):
    row = edge_rows(circuit)[3]
    page = shown(to_html(circuit), "#at=0%2C0%2C1&only=drawn")
    place_of_edge = page.evaluate(
        """name => {
          const {edges} = JSON.parse(document.getElementById("page-data").textContent), at = edges.name.indexOf(name);
          const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
          path.setAttribute("d", edges.path[at]);
          const {x, y} = path.getPointAtLength(path.getTotalLength() * .06);
          return {x, y};
        }""",
        row.edge.name,
    )
    canvas(page).hover(position=place_of_edge)
    assert said(page, ".tip").startswith(row.edge.name) and f"rank {row.rank}" in said(page, ".tip")
    canvas(page).click(position=place_of_edge)
    about = said(page, ".about")
    number = f"{row.score:+.3g}".replace("-", "\N{MINUS SIGN}")
    assert f"{number} ± {row.std_err:.3g} (standard error)" in about and f"{row.rank} of {len(circuit)}" in about
    assert ("exact: the edge was ablated" if row.exact else "estimated") in about
    assert lit(page) == {row.edge.name}


def walked(circuit) -> nx.DiGraph:
    """Ends of edges, joined by the circuit's edges and, inside heads, from ports to what is written."""
    graph = nx.DiGraph((str(edge.source), str(edge.destination)) for edge in circuit)
    groups = len(circuit.graph.groups)
    for edge in circuit:
        end = edge.destination
        if end.port == "q" or (end.port and groups == 1):  # keys and values of a group arrive along edges of their own
            graph.add_edge(str(end), str(replace(end, port="")))
    return graph


def around(graph, name: str) -> tuple[set[str], set[str]]:
    """What follows from a node, its ports included, and what leads to it."""
    own = {end for end in graph if re.sub("<.>", "", end) == name}
    after, before = (own.union(*(found(graph, end) for end in own)) for found in (nx.descendants, nx.ancestors))
    return after, before


@pytest.mark.parametrize(("tokens", "writes"), [("all", True), ("role", True), ("role", False)])
def test_all_paths_through_a_node_and_between_two(shown, tokens, writes):
    circuit = make_scores(make_graph(2, 4, tokens=tokens)).top(60, by="abs_mean")
    graph = walked(circuit)
    heads = [str(e.source) for e in circuit if e.source.kind == "head" and not e.inside]
    if not writes:  # keys and values of a lane that are read in another
        heads = [end for e in circuit if e.inside and (end := str(replace(e.source, port=""))) not in heads]
    name = next(one for one in heads if one.startswith("a1"))
    after, before = around(graph, name)
    page = shown(to_html(circuit), f"{UNMOVED}&node={name.replace('@', '%40')}")
    page.get_by_role("button", name="All paths through it").click()
    through = {e.name for e in circuit if str(e.source) in after or str(e.destination) in before}
    assert set() < lit(page) == through < set(drawn(page))
    first = next(str(replace(e.source, port="")) for e in circuit if e.source.layer == 0 and str(e.source) in before)
    canvas(page).click(position=at(page, first), modifiers=["Shift"])
    reached, _ = around(graph, first)
    assert lit(page) == {e.name for e in circuit if str(e.source) in reached and str(e.destination) in before}
    assert f"Paths between {name} and {first} are lit." in said(page, ".about")
    between = lit(page)
    page.get_by_label("Paths to another node").select_option("")
    assert lit(page) != between
    page.get_by_label("Paths to another node").select_option(first)
    assert lit(page) == between


def rows(page) -> list[str]:
    return page.locator(".edge-table tbody td.name").all_inner_texts()


def test_the_table_sorts_searches_and_filters(shown, html, circuit):
    page = shown(html)
    ranked = [row.edge.name for row in edge_rows(circuit)]
    assert rows(page) == ranked
    page.locator("th button", has_text=re.compile("^score")).click()
    by_score = sorted(edge_rows(circuit), key=lambda row: (-row.score, row.rank))
    assert rows(page) == [row.edge.name for row in by_score]
    page.locator("th button", has_text=re.compile("^score")).click()
    assert rows(page) == [row.edge.name for row in by_score[::-1]]
    page.locator("th button", has_text=re.compile("^rank")).click()
    page.get_by_label("Search nodes and edges").first.fill("A1.h1 m0")
    found = [name for name in ranked if "a1.h1" in name and "m0" in name]
    assert rows(page) == found and lit(page) == set(found)
    page.get_by_label("Search nodes and edges").first.fill("")
    page.get_by_label("Which edges").select_option("drawn")
    choose(page, 9)
    assert set(rows(page)) == set(drawn(page))
    page.get_by_label("Which edges").select_option("logits")
    assert rows(page) == [name for name in ranked if name.endswith("->logits")]


def test_absolute_colours_tell_no_signs(shown, html):
    def inks(page):
        return {(path.get("stroke"), path.get("stroke-dasharray")) for path in saved_paths(page)}

    page = shown(html)
    assert len(inks(page)) == 2
    page.get_by_label("Colours").select_option("absolute")
    assert len(inks(page)) == 1


def test_a_view_reopens_from_its_address_and_from_its_file(shown, html, tmp_path):
    page = shown(html, "#node=m0&n=30&colours=absolute&paths=true&sort=score&down=true")
    canvas(page).focus()
    page.mouse.move(300, 400)
    page.get_by_role("button", name="+", exact=True).click()
    page.locator(".choices button").nth(1).click()
    until(page, "location.hash.includes('pair=1')", True)
    with page.expect_download() as download:
        page.get_by_role("button", name="View as JSON").click()
    saved = tmp_path / "view.json"
    download.value.save_as(saved)
    wanted = said(page, ".about"), said(page, ".image"), drawn(page), rows(page)
    assert any("m0" not in name for name in lit(page))  # paths go on
    again = shown(html, page.evaluate("location.hash"))
    assert (said(again, ".about"), said(again, ".image"), drawn(again), rows(again)) == wanted
    fresh = shown(html)
    fresh.get_by_label("Open a view").set_input_files(saved)
    until(fresh, "location.hash.includes('pair=1')", True)
    assert (said(fresh, ".about"), said(fresh, ".image"), drawn(fresh), rows(fresh)) == wanted
    assert fresh.evaluate("location.hash") == page.evaluate("location.hash")


def test_a_file_that_is_no_view_is_refused_with_a_sentence(shown, html, tmp_path):
    page = shown(html)
    for text, words in (
        ("{", "is not JSON"),
        ('{"schema": "x"}', "is no view"),
        ('{"schema": "vitcircuits.view/1", "page": "y"}', "another page"),
    ):
        (tmp_path / "view.json").write_text(text)
        page.get_by_label("Open a view").set_input_files(tmp_path / "view.json")
        until(page, f"document.querySelector('.bar .said').textContent.includes({words!r})", True)


def test_keys_go_from_node_to_node(shown, html):
    page = shown(html)
    canvas(page).focus()
    page.keyboard.press("ArrowUp")
    assert said(page, ".tip").startswith("input:")
    page.keyboard.press("ArrowUp")
    assert re.match(r"(a0|m0)", said(page, ".tip"))
    page.keyboard.press("Tab")
    first = said(page, ".tip").split(":")[0]
    page.keyboard.press("Enter")
    assert said(page, ".about h3") == first
    page.keyboard.press("Escape")
    assert "Click a node" in said(page, ".about") and page.locator(".tip").is_hidden()


def test_the_picture_is_saved_as_png(shown, html, circuit):
    page = shown(html)
    with page.expect_download() as download:
        page.get_by_role("button", name="PNG").click()
    data = download.value.path().read_bytes()
    layout = place(circuit.graph, circuit)
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    assert data.startswith(b"\x89PNG") and (width, height) == (
        int(np.ceil(2 * layout.width)),
        int(np.ceil(2 * layout.height)),
    )


def test_names_of_any_kind_are_text(shown, exhibit):
    task = {"model": "<img src=x>", "target_name": NASTY[0], "foil_name": NASTY[2]}
    circuit = make_scores(make_graph(2, 2), task=task).top(20)
    names = (*NASTY, "a", "b")
    for place_of_name in range(len(NASTY)):
        made = exhibit(circuit)
        logits = np.eye(10, dtype=np.float32)[[place_of_name, (place_of_name + 1) % len(NASTY)]]
        page = shown(to_html(circuit, exhibit=replace(made, class_names=names, clean_logits=logits)))
        wanted = NASTY[place_of_name].replace("\x00", "\N{REPLACEMENT CHARACTER}")
        assert f"clean: read as {wanted}" in page.locator(".image").text_content()
        assert page.locator("#x, b, i, img[src=x]").count() == page.locator("details b").count()


def test_what_no_size_draws_is_said(shown, circuit, monkeypatch):
    monkeypatch.setattr("vitcircuits.circuits.draw.page_data.MAX_EDGES", 20)
    within = largest_within(circuit.graph, circuit.scores.ranking("abs_mean"), 20)
    page = shown(to_html(circuit))
    assert set(drawn(page)) == {circuit.graph.edge(index).name for index in np.flatnonzero(within).tolist()}
    assert said(page, ".size .said").endswith(f"; {len(circuit) - within.sum()} weaker ones are not in this page")


@pytest.mark.parametrize("edge", ["input->logits", "input@cls->logits@cls"])
@pytest.mark.parametrize("n", [0, 1])
def test_the_smallest_circuits(shown, n, edge):
    graph = make_graph(2, 2, tokens="each" if "@" in edge else "all")
    circuit = Circuit.from_edges(graph, [edge][:n])
    page = shown(to_html(circuit))
    assert said(page, ".size .said") == f"{n} of {n} drawn" and len(drawn(page)) == n == len(rows(page))
    choose(page, 0)
    assert drawn(page) == {}


@pytest.mark.parametrize("n", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_of_a_circuit_of_many_edges_every_one_can_be_drawn(shown, n):
    circuit = make_scores(make_graph(8, 12)).top(n, by="abs_mean")
    page = shown(to_html(circuit))
    assert said(page, ".size .said").startswith("200 of") and len(drawn(page)) == 200
    choose(page, len(circuit))
    assert set(drawn(page)) == set(circuit.edge_names())


@pytest.mark.parametrize("n", [1_500, pytest.param(4_000, marks=pytest.mark.slow)])
def test_on_maps_of_197_places_many_edges_can_be_drawn(shown, n):
    scores = make_scores(make_graph(2, 3, tokens="each", grid=(14, 14)))
    circuit = scores.top(n, by="abs_mean")
    page = shown(to_html(circuit))
    choose(page, len(circuit))
    assert set(drawn(page)) == set(circuit.edge_names()) and len(circuit) > 0.7 * n
    busy = max(circuit.graph.groups.names, key=[end.group for e in circuit for end in (e.source, e.destination)].count)
    again = shown(to_html(circuit), f"#n={len(circuit)}&place={busy}")
    assert lit(again) == {edge.name for edge in circuit if busy in (edge.source.group, edge.destination.group)}


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(shown, circuit):
    assert circuit.to_html() == to_html(circuit)
    page = shown(f"<!DOCTYPE html><title>notebook</title>{circuit._repr_html_()}")
    frame = page.frame_locator("iframe")
    frame.get_by_label("Number of edges, exactly").fill("12")
    frame.get_by_label("Number of edges, exactly").press("Enter")
    within = int(largest_within(circuit.graph, circuit.scores.ranking("abs_mean"), 12).sum())
    assert frame.locator(".size .said").inner_text() == f"{within} of {len(circuit)} drawn"
    page.wait_for_timeout(300)  # the address is written a moment later, and a frame has none
    assert page.evaluate("document.title") == "notebook"
    large = Circuit.full(make_graph(4, 12))._repr_html_()
    assert "iframe" not in large and "vc-glance" in large and len(large) < 1e5


def test_without_scripts_and_in_print_the_still_is_there(shown, html):
    still = shown(html, java_script_enabled=False)
    assert still.locator(".still svg").is_visible() and not still.locator("#explorer").is_visible()
    page = shown(html)
    assert not page.locator(".still svg").is_visible() and page.locator("#explorer").is_visible()
    page.emulate_media(media="print")
    assert page.locator(".still svg").is_visible() and not page.locator("#explorer").is_visible()


def test_dark_where_the_reader_is_in_the_dark(shown, html):
    light, dark = (
        shown(html, color_scheme=scheme)
        .locator("section")
        .first.evaluate("one => getComputedStyle(one).backgroundColor")
        for scheme in ("light", "dark")
    )
    assert light == "rgb(255, 255, 255)"
    assert max(map(int, re.findall(r"\d+", dark))) < 50


def test_on_a_phone_nothing_is_cut_off(shown, html):
    page = shown(html, viewport={"width": 420, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 420
    assert canvas(page).bounding_box()["width"] < 420 and len(drawn(page)) > 0
