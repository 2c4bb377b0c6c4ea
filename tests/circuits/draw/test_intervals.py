"""Panels of figures by layer are XML, the same twice, and leave out what is not defined."""

import xml.etree.ElementTree as ET

import pytest
from vitcircuits.circuits.draw.intervals import Line, Panel, draw_panels
from vitcircuits.circuits.draw.style import LINES
from vitcircuits.circuits.report import Figure
from vitcircuits.models.errors import FormatError

GOOD, BARE, NONE = Figure(0.5, "share", 0.4, 0.6), Figure(0.7, reason="a single draw"), Figure(None, reason="no draw")


def said(path):
    return [element.text for element in ET.parse(path).iter() if element.tag.endswith("text")]


def panels(*lines):
    return [Panel("agreement $x$ <&>", lines), Panel("rank", lines)]


def test_it_says_its_words(tmp_path):
    two = Line("one", (GOOD, BARE, NONE)), Line("two", (GOOD, GOOD, GOOD))
    path = draw_panels(panels(*two), tmp_path / "p.svg", ticks=("input", "block 0", "block 1"), title="of <both>")
    assert {"agreement $x$ <&>", "rank", "of <both>", "one", "two", "input", "0", "1", "layer"} <= set(said(path))


def test_a_name_has_one_colour_in_all_panels_and_stands_in_the_legend(tmp_path):
    one, two, three = (Line(name, (GOOD, GOOD)) for name in ("one", "two", "three"))
    first = {}
    for name, beside in (("one", (one,)), ("two", (two, three))):
        path = draw_panels([Panel("a", (one, two)), Panel("b", beside)], tmp_path / f"{name}.svg")
        first[name] = path.read_text().count(LINES[0])
    assert "three" in said(path) and first["two"] < first["one"]


def test_a_single_line_needs_no_legend_and_lines_of_any_length_share_an_axis(tmp_path):
    assert "one" not in said(draw_panels(panels(Line("one", (GOOD,))), tmp_path / "one.svg", ticks=("input",)))
    lines = Line("one", (GOOD, GOOD)), Line("two", (GOOD,) * 13)
    assert "depth" in said(draw_panels(panels(*lines), tmp_path / "two.svg", axis="depth"))


def test_of_many_layers_some_are_named(tmp_path):
    ticks = tuple(f"block {layer}" for layer in range(24))
    words = said(draw_panels(panels(Line("one", (GOOD,) * 24)), tmp_path / "p.svg", ticks=ticks))
    assert "20" in words and "23" not in words


def test_the_same_figures_give_the_same_bytes(tmp_path):  # whatever the ending: `test_heatmap.py`
    first = draw_panels(panels(Line("one", (GOOD, NONE))), tmp_path / "p.svg").read_bytes()
    assert draw_panels(panels(Line("one", (GOOD, NONE))), tmp_path / "p.svg").read_bytes() == first


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(FormatError, match="cannot draw panels"):
        draw_panels(panels(Line("one", (GOOD,))), tmp_path / "p.gif")
