"""The curve's SVG is XML, the same twice, and shows what it is given."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from vitcircuits.circuits.draw.curve import curves_svg, draw_curves
from vitcircuits.circuits.report import Curve
from vitcircuits.models.errors import FormatError


def curve(label: str, faithfulness: list[float]) -> Curve:
    n = np.arange(len(faithfulness)) * 10
    values = np.array(faithfulness)
    return Curve(label, n, n, values, values - 0.1, values + 0.1)


CURVES = (curve("eap_ig", [0.0, 0.5, 0.9, np.nan, 1.0]), curve("random", [0.0, 0.01, 0.1, 0.3, 1.0]))


def said(text: str) -> str:
    return " ".join("".join(element.itertext()) for element in ET.fromstring(text).iter() if "text" in element.tag)


def test_it_parses_and_names_its_curves_axes_and_mark():
    words = said(curves_svg(CURVES, mark=(20, 0.9), title="3 vs $8$ <&> \u732b"))
    for expected in (
        "eap ig",
        "random",
        "edges in the circuit",
        "faithfulness",
        "20 edges: 0.90",
        "3 vs $8$ <&> \u732b",
    ):
        assert expected in words


def test_the_axis_says_what_is_drawn():
    words = said(curves_svg(CURVES, measure="transmission"))
    assert "transmission" in words and "faithfulness" not in words


def test_the_same_curves_give_the_same_bytes():
    assert curves_svg(CURVES, mark=(20, 0.9)) == curves_svg(CURVES, mark=(20, 0.9))


def test_random_curves_are_grey():
    grey = "#8b929c"
    assert grey in curves_svg(CURVES) and grey not in curves_svg(CURVES[:1]) and "#2b6cb0" in curves_svg(CURVES[:1])


@pytest.mark.parametrize(
    "curves", [(), (curve("eap", [0.0]),), (curve("eap", [0.0, 1.0]),), (curve("_x", [np.nan] * 3),)]
)
def test_few_points_or_none_are_no_error(curves):
    assert "edges in the circuit" in said(curves_svg(curves))


def test_it_is_written_and_the_same_twice(tmp_path):  # whatever the ending: `test_heatmap.py`
    path = draw_curves(CURVES, tmp_path / "curve.svg")
    first = path.read_bytes()
    assert len(first) > 1000
    assert draw_curves(CURVES, path).read_bytes() == first


def test_an_unknown_ending_is_said(tmp_path):
    with pytest.raises(FormatError, match=r"\.jpg.*\.svg"):
        draw_curves(CURVES, tmp_path / "curve.jpg")


def test_no_global_state_is_left_behind():
    from matplotlib import rcParams

    before = dict(rcParams)
    curves_svg(CURVES)
    assert dict(rcParams) == before
