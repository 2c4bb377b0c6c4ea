"""The page parses, loads nothing from outside, runs nothing, and holds the circuit with its figures."""

import dataclasses
from html.parser import HTMLParser

import numpy as np
import pytest
from vitcircuits.circuits.draw.curve import curves_svg
from vitcircuits.circuits.draw.pages import to_html, write_html
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
        self.words.append(data)

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


def test_it_loads_and_runs_nothing(page):
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    for _, attributes in parsed.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert "@import" not in page and "url(http" not in page


def test_the_policy_forbids_everything_else(page):
    policies = [a["content"] for tag, a in Page(page).tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_names_are_escaped():
    task = {"model": "</title><script>alert(1)</script>", "target_name": '"><img src=x>', "foil_name": ["a & b", "c"]}
    circuit = make_scores(make_graph(2, 2), task=task).top(20)
    parsed = Page(to_html(circuit))
    assert parsed.count("script") == 0 and parsed.count("img") == 0


def test_it_needs_nothing_but_the_circuit_and_is_the_same_twice(circuit):
    Page(to_html(circuit))
    assert to_html(circuit) == to_html(circuit)


def test_it_is_written_whole_or_refused(circuit, tmp_path):
    path = write_html(circuit, tmp_path / "circuit.html")
    assert path.read_text(encoding="utf-8") == to_html(circuit)
    (tmp_path / "file").write_text("")
    with pytest.raises(FormatError):
        write_html(circuit, tmp_path / "file" / "circuit.html")
