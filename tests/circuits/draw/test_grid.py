"""Grids of figures: every number is in the picture, the same grid gives the same bytes, endings are checked."""

import numpy as np
import pytest
from vitcircuits.circuits.draw.heatmap import draw_grids
from vitcircuits.models.errors import FormatError

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
