"""The page parses, loads nothing from outside, runs nothing, and holds the circuit with its figures."""

from html.parser import HTMLParser

import numpy as np
import pytest
from vitcircuits.circuits.draw.curve import curves_svg
from vitcircuits.circuits.draw.html import to_html, write_html
from vitcircuits.circuits.report import Curve, Figure, Report
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
    rows = [word for word in parsed.words if word in set(circuit.edge_names())]
    assert sorted(rows) == sorted(circuit.edge_names())


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
