"""Rows of heads and their texts are XML, the same twice, and long texts are cut."""

import xml.etree.ElementTree as ET

import pytest
from vitcircuits.circuits.draw.intervals import SpanRow, draw_spans
from vitcircuits.circuits.report import Figure
from vitcircuits.models.errors import FormatError

ROWS = [
    SpanRow("a0.h0", Figure(0.4, "share", 0.3, 0.5), (0.1, 0.2), 0.9, ("a <heart>", "b" * 50, "$c$", "not said")),
    SpanRow("a0.h1", Figure(0.2, "share", reason="n_bootstrap is 0"), None, 0.3, ("d",)),
]


def said(path):
    return [element.text for element in ET.parse(path).iter() if element.tag.endswith("text")]


def test_it_says_heads_and_the_first_texts(tmp_path):
    words = said(draw_spans(ROWS, tmp_path / "s.svg", title="of $5$ <&>"))
    assert {"a0.h0", "a0.h1", "of $5$ <&>", "texts", "random directions", "principal components", "d"} <= set(words)
    assert f"a <heart>; {'b' * 29}…; $c$" in words


def test_without_random_directions_or_rows_it_still_draws(tmp_path):
    assert "random directions" not in said(draw_spans(ROWS[1:], tmp_path / "s.svg"))
    draw_spans([], tmp_path / "none.svg")


def test_the_same_rows_give_the_same_bytes(tmp_path):  # whatever the ending: `test_heatmap.py`
    first = draw_spans(ROWS, tmp_path / "s.svg").read_bytes()
    assert draw_spans(ROWS, tmp_path / "s.svg").read_bytes() == first


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(FormatError, match="texts of heads"):
        draw_spans(ROWS, tmp_path / "s.gif")
