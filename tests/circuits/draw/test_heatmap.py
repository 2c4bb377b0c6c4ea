"""The heat map's SVG is XML, the same twice, and says what it shows.

Grids of figures: every number is in the picture, the same grid gives the same bytes, endings are checked.
"""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from vitcircuits.circuits.draw.heatmap import Heatmap, draw_grids, draw_heatmap, heatmap_svg
from vitcircuits.models.errors import FormatError


def heatmap(values, **changes):
    n_rows, n_columns = values.shape[1:]
    words = {
        "row_axis": "layer",
        "column_axis": "head",
        "unit": "logits",
        "title": "3 vs $8$ <&>",
        "subtitle": "noising",
    }
    names = [str(i) for i in range(n_rows)], [str(i) for i in range(n_columns)]
    return Heatmap(values, *names, **{**words, **changes})


def said(text):
    return [element.text for element in ET.fromstring(text).iter() if element.tag.endswith("text")]


def test_it_says_its_words_and_numbers():
    words = said(heatmap_svg(heatmap(np.array([[[1.234, -0.5], [np.nan, 0.0]]]))))
    for expected in ("3 vs $8$ <&>", "noising", "layer", "head", "logits", "1.23", "\N{MINUS SIGN}0.50", "0"):
        assert expected in words


def test_shares_are_in_percent():
    words = said(heatmap_svg(heatmap(np.array([[[0.25, 1.0]]]), share=True)))
    assert "25" in words and "100%" in words


@pytest.mark.parametrize(("largest", "written"), [(123.4, "123"), (12.34, "12.3"), (0.96, "0.96"), (0.0123, "0.012")])
def test_numbers_have_two_or_three_digits(largest, written):
    assert written in said(heatmap_svg(heatmap(np.array([[[largest]]]))))


def test_cells_too_many_to_label_have_no_numbers():
    words = said(heatmap_svg(heatmap(np.full((1, 3, 200), 7.77))))
    assert "7.77" not in words and "195" in words and "196" not in words


@pytest.mark.parametrize("values", [np.zeros((1, 1, 1)), np.full((1, 2, 2), np.nan), np.full((3, 1, 2), 1e-9)])
def test_grids_with_little_in_them_are_no_error(values):
    panels = [f"panel {i}" for i in range(len(values))]
    assert set(panels) <= set(said(heatmap_svg(heatmap(values, panels=panels))))


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_the_same_numbers_give_the_same_bytes(tmp_path, ending):
    grid = heatmap(np.random.default_rng(0).normal(size=(2, 3, 4)), panels=("cls", "patch"))
    first = draw_heatmap(grid, tmp_path / f"map.{ending}").read_bytes()
    assert draw_heatmap(grid, tmp_path / f"map.{ending}").read_bytes() == first


def test_an_unknown_ending_is_said(tmp_path):
    with pytest.raises(FormatError, match=r"\.gif.*\.svg"):
        draw_heatmap(heatmap(np.zeros((1, 1, 1))), tmp_path / "map.gif")


PANELS = {"first": np.array([[1.0, 0.25], [np.nan, 0.998]]), "second": np.array([[0.0, 0.5], [0.75, 1.0]])}
NAMES = (["eap", "acdc"], ["majority", "neighbour-xor:norm=none,gain=soft"])


def test_every_number_and_name_stands_in_the_picture(tmp_path):
    text = draw_grids(PANELS, *NAMES, tmp_path / "grid.svg").read_text()
    for word in (".25", "1.00", ".00", ".50", ".75", "first", "second", *NAMES[0], *NAMES[1]):
        assert f">{word}<" in text


def test_the_same_grid_gives_the_same_bytes(tmp_path):
    for ending in ("svg", "png"):
        first = draw_grids(PANELS, *NAMES, tmp_path / f"first.{ending}")
        assert first.read_bytes() == draw_grids(PANELS, *NAMES, tmp_path / f"second.{ending}").read_bytes()


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(FormatError, match="png"):
        draw_grids(PANELS, *NAMES, tmp_path / "grid.bmp")
