"""A figure of merit is one row, from which pages, sweeps, reports and comparisons read what to call it."""

import pytest
from vitcircuits.circuits.compare.comparison import TESTED
from vitcircuits.circuits.figures import ALL_IMAGES, COLUMNS, CONTROLS, FIGURES, FURTHER, READS, merit, title


@pytest.mark.parametrize(
    ("name", "heading", "called"),
    [
        ("transmission", READS, "T, transmission"),
        ("transmission_all_images", ALL_IMAGES, "T, transmission"),
        ("right_foil_with_target", READS, "right foil with target"),
        ("right_foil_with_target_all_images", ALL_IMAGES, "right foil with target"),
        ("kl_all_images", ALL_IMAGES, "KL"),
        ("dealt_transmission", CONTROLS, "dealt transmission"),
        ("a_new_one", FURTHER, "a new one"),
    ],
)
def test_every_figure_has_a_heading_and_a_title_whether_it_has_a_row_or_not(name, heading, called):
    assert (merit(name).heading, title(name)) == (heading, called)


def test_what_reads_the_image_comes_first_in_a_sweep_and_one_sided_faithfulness_last():
    first, *_, last = COLUMNS
    assert (first, last) == ("transmission", "faithfulness")
    names = [one.name for one in FIGURES if one.sides == "both"]
    compared = [one.beside for one in FIGURES if one.beside]
    assert len(set(names)) == len(names) and len(set(compared)) == len(compared) and compared[0] == "transmission"
    assert set(TESTED) <= {*names, *compared}
