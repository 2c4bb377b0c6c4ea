"""The page parses, loads nothing from outside, runs its own scripts only, and holds the circuit with its figures."""

import base64
import dataclasses
import hashlib
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from vitcircuits.circuits.draw.curve import curves_svg
from vitcircuits.circuits.draw.page_data import MAX_PATTERN_BYTES, page_data, script_json
from vitcircuits.circuits.draw.pages import PAGE, to_html, write_html
from vitcircuits.circuits.report import Curve, Figure, Report, Table
from vitcircuits.models.errors import FormatError

from .conftest import make_graph, make_scores

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.words).append(data)

    def count(self, wanted: str) -> int:
        return sum(tag == wanted for tag, _ in self.tags)


@pytest.fixture
def report(circuit) -> Report:
    n = np.arange(1, 5)
    curve = Curve("eap", n, n, n / 4.0)
    figures = {
        "faithfulness": Figure(0.83, "share", 0.79, 0.87, "", "bootstrap over pairs"),
        "cpr": Figure(None, reason="<no scores>"),
    }
    return Report(figures, (curve,), len(circuit), len(circuit.graph), 40, {"ablation": "partner & co"})


@pytest.fixture
def page(circuit, report, exhibit) -> str:
    curve = curves_svg(report.curves)
    return to_html(circuit, report=report, exhibit=exhibit(circuit), curve_svg=curve)


def test_it_parses_and_holds_everything(page, circuit):
    parsed = Page(page)
    words = " ".join(parsed.words)
    for expected in ("toy/test: 3 vs 8", "0.790 to 0.870", "bootstrap over pairs", "<no scores>", "partner & co"):
        assert expected in words
    heads = {(end.layer, end.head) for edge in circuit for end in (edge.source, edge.destination) if end.head >= 0}
    assert parsed.count("img") == len(heads) + 1  # thumbnails and the curve
    rows = [word for word in parsed.words[: parsed.words.index("Words")] if word in set(circuit.edge_names())]
    assert sorted(rows) == sorted(circuit.edge_names())


@pytest.fixture
def crossed_page(circuit, exhibit) -> str:
    """Of a crossed report with two images, the first of which the circuit reads differently."""
    method = {"sides": "both", "verdict": "does not read the image", "n_curve_pairs": 8}
    method |= {f"n_{side}_images{end}": n for side in ("target", "foil") for end, n in (("", 9), ("_right", 8))}
    names = ("transmission", "leakage", "right", "right_foil_with_target", "kl", "one_sided_faithfulness", "no_opinion")
    figures = {name: Figure(0.05, "share", 0.01, 0.09) for name in names}
    answers = (
        ("image 7", "foil", "8", "3", "-4.1", "2.0", "1.5 to 2.5"),
        ("image 2", "target", "3", "3", "5.0", "5.1", "5 to 6"),
    )
    columns = ("image", "shows", "the model says", "the circuit says", "m of the model", "m of the circuit", "range")
    controls = tuple((name, Figure(0.0, "share", 0.0, 0.1)) for name in ("circuit", "model", "none", "a cheat"))
    tables = {"controls": Table(("what answers", "transmission"), controls), "images": Table(columns, answers)}
    report = Report(figures, (), len(circuit), len(circuit.graph), 40, method, {}, tables)
    pictures = {number: np.full((8, 8, 1), 0.5, np.float32) for number in (2, 7)}
    shown = dataclasses.replace(exhibit(circuit), pictures=pictures)
    return to_html(circuit, report=report, exhibit=shown, curve_svg="<svg/>")


def test_whether_the_image_is_read_stands_on_top(crossed_page):
    place = [crossed_page.index(words) for words in ("Does it read the image?", "does not read the image", ">Circuit<")]
    assert place == sorted(place)
    words = " ".join(Page(crossed_page).words)
    assert "the model gets 2 of 18 wrong" in words and "a cheat: T = 0.00 [0.00, 0.10]" in words
    assert "Transmission by size" in words and "On 8 pairs that the model gets right" in words
    older, read = words.index("The older, one-sided figures"), words.index("Reads the image?")
    assert read < older


def test_single_images_stand_beside_both_answers_and_differences_are_framed(crossed_page, circuit):
    page = Page(crossed_page)
    words = " ".join(page.words)
    for expected in (
        "image 7: shows 8",
        "model: 8, m = -4.1",
        "circuit: 3, m = 2.0",
        "(1.5 to 2.5)",
        "Every clean image",
    ):
        assert expected in words
    figures = [attributes.get("class") for tag, attributes in page.tags if tag == "figure"]
    assert figures.count("other") == 1
    assert sum((attributes.get("alt") or "").startswith("image ") for tag, attributes in page.tags if tag == "img") == 2


def test_circuits_say_on_which_sides_they_were_found(circuit):
    assert "<dd>one-sided</dd>" in to_html(circuit)  # a record from before there was a choice
    both = dataclasses.replace(circuit, task={**circuit.task, "sides": "both"})
    assert "<dd>crossed</dd>" in to_html(both) and "<dd>one-sided</dd>" not in to_html(both)
    assert "design" not in to_html(dataclasses.replace(circuit, task={}))


def test_it_loads_nothing(page):
    parsed = Page(page)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    for _, attributes in parsed.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert "@import" not in page and "url(http" not in page


def test_the_policy_allows_the_scripts_of_the_page_and_nothing_else(page):
    parsed = Page(page)
    (policy,) = [a["content"] for tag, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy"]
    data, *scripts = parsed.scripts
    assert json.loads(data)["schema"] == "vitcircuits.page/1"
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; img-src data:"


def test_the_library_is_the_one_that_is_described():
    described = (PAGE / "d3.md").read_text(encoding="utf-8")
    assert f"sha256 {hashlib.sha256((PAGE / 'd3.min.js').read_bytes()).hexdigest()}\n" in described


def test_names_are_escaped():
    task = {"model": "</title><script>alert(1)</script>", "target_name": '"><img src=x>', "foil_name": ["a & b", "c"]}
    circuit = make_scores(make_graph(2, 2), task=task).top(20)
    parsed = Page(to_html(circuit))
    data, *own = parsed.scripts
    assert parsed.count("script") == 1 + len(own) == 3 and parsed.count("img") == 0
    assert "<" not in data and json.loads(data)["title"].startswith("</title><script>alert(1)</script>")


def test_what_is_not_a_number_never_enters_the_data(circuit):
    scores = circuit.scores
    values = np.where(np.arange(len(scores)) == circuit.indices[0], np.nan, scores.values)
    data = page_data(dataclasses.replace(circuit, scores=dataclasses.replace(scores, values=values)))
    assert data["edges"]["score"].count(None) == 1
    with pytest.raises(FormatError):
        script_json({"score": float("nan")})


def test_edges_on_no_path_are_counted_and_never_enter(circuit):
    kept = circuit.mask.copy()
    dead = circuit.graph.index("a1.h3->m1")
    kept[[circuit.graph.index(name) for name in circuit.graph.edge_names() if name.startswith("m1->")]] = False
    kept[dead] = True
    data = page_data(dataclasses.replace(circuit, mask=kept))
    into_m1 = [name for name in circuit.edge_names() if name.endswith("->m1")]
    enters = dict(list(zip(data["edges"]["name"], data["edges"]["enters"], strict=True))[: data["n_kept"]])
    assert data["off_paths"] == sum(place > kept.sum() for place in enters.values()) >= len(into_m1) > 0
    assert all(enters[name] > kept.sum() for name in (*into_m1, "a1.h3->m1"))


def test_the_page_of_a_small_imagenet_model_stays_small(exhibit):
    """Four pairs of noise, which no PNG can press, at 197 tokens and 36 heads, in less than 6 MB."""
    graph = make_graph(12, 3)
    circuit = make_scores(graph).top(1000, by="abs_mean")
    random = np.random.default_rng(0)
    pattern = random.dirichlet(np.ones(197), size=(12, 3, 197)).astype(np.float16)
    images = random.random((2, 4, 224, 224, 3)).astype(np.float32)
    made = dataclasses.replace(
        exhibit(circuit),
        clean=images[0],
        corrupt=images[1],
        grid=(14, 14),
        n_prefix=1,
        patterns=pattern[None],
        attention=(rows := np.repeat(pattern[None, :, :, 0], 4, 0).astype(np.float32)),
        kinds={"score": np.log(rows), "value_weighted": rows},
    )
    page = to_html(circuit, exhibit=made)
    data = json.loads(Page(page).scripts[0])["images"]
    heads = {end.node for edge in circuit for end in (edge.source, edge.destination) if end.head >= 0}
    assert set(data["patterns"]) == heads and MAX_PATTERN_BYTES > 36 * 197**2
    assert len(page) < 6e6


def test_it_needs_nothing_but_the_circuit_and_is_the_same_twice(circuit):
    Page(to_html(circuit))
    assert to_html(circuit) == to_html(circuit)


def test_it_is_written_whole_or_refused(circuit, tmp_path):
    path = write_html(circuit, tmp_path / "circuit.html")
    assert path.read_text(encoding="utf-8") == to_html(circuit)
    (tmp_path / "file").write_text("")
    with pytest.raises(FormatError):
        write_html(circuit, tmp_path / "file" / "circuit.html")
