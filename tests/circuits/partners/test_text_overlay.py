"""A word on pictures changes its box alone, and says the same in grey and colour, at every place."""

import pytest
import torch
from vitcircuits.circuits.partners.text_overlay import PLACES, Lettering, paint_word, rgb, word_box
from vitcircuits.models.errors import TaskError
from vitcircuits.models.preprocess import Preprocess

GREY = Preprocess((28, 28), 1, (0.1307,), (0.3081,))
COLOUR = Preprocess((96, 128), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pictures(preprocess, n=2):
    pixels = torch.rand(n, preprocess.channels, *preprocess.size, generator=torch.Generator().manual_seed(0))
    return preprocess.normalise(0.2 + 0.5 * pixels)  # neither black nor white


@pytest.mark.parametrize("preprocess", [GREY, COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("place", [*PLACES, (0.3, 0.8)])
@pytest.mark.parametrize("plate", ["black", None])
def test_the_word_changes_its_box_and_nothing_else(preprocess, place, plate):
    clean, lettering = pictures(preprocess), Lettering("dog", place, 0.3, plate=plate)
    painted = paint_word(clean, lettering, preprocess)
    rows, columns = word_box(lettering, preprocess.size)
    assert 0 <= rows.start < rows.stop <= preprocess.size[0] and 0 <= columns.start < columns.stop <= preprocess.size[1]
    inside = torch.zeros(preprocess.size, dtype=torch.bool)
    inside[rows, columns] = True
    changed = (painted != clean).any(1)
    assert not changed[:, ~inside].any()
    assert changed[:, inside].all() if plate else changed[:, inside].any()
    shown = preprocess.denormalise(painted)[..., rows, columns]
    assert shown.max() == pytest.approx(1, abs=1e-5)  # letters in their full colour, however thin
    if plate:
        assert shown.min() == pytest.approx(0, abs=1e-5)


def test_the_box_stands_at_its_place_and_has_its_size():
    rows, columns = word_box(Lettering("cat", "top-left", 0.25), (96, 128))
    assert (rows.start, columns.start, rows.stop) == (0, 0, 24)
    rows, columns = word_box(Lettering("cat", "bottom-right", 0.25), (96, 128))
    assert (rows.stop, columns.stop, rows.start) == (96, 128, 72)
    rows, columns = word_box(Lettering("a very long sentence indeed", "centre", 0.5), (96, 128))
    assert columns.stop - columns.start > 120 and rows.stop - rows.start < 48  # shrunk until it fits
    assert word_box(Lettering("8"), (28, 28))[0] == slice(19, 28)  # never too small to be read


def test_colours_stand_for_what_the_normalisation_makes_of_them():
    clean = pictures(COLOUR, 1)
    painted = paint_word(clean, Lettering("X", "centre", 0.5, "#ff0000", "blue"), COLOUR)
    rows, columns = word_box(Lettering("X", "centre", 0.5), COLOUR.size)
    shown = COLOUR.denormalise(painted)[0, :, rows, columns]
    torch.testing.assert_close(shown[:, 0, 0], torch.tensor([0.0, 0.0, 1.0]), atol=1e-5, rtol=0)
    assert shown[0].max() == pytest.approx(1, abs=1e-5) and shown[1].max() == pytest.approx(0, abs=1e-5)
    red = Lettering("X", "centre", 1.0, "red", "black")
    rows, columns = word_box(red, GREY.size)
    grey = GREY.denormalise(paint_word(pictures(GREY, 1), red, GREY))[..., rows, columns]
    assert grey.max() == pytest.approx(0.299, abs=1e-5)


def test_what_cannot_be_painted_is_refused():
    for wrong, said in (
        ({"word": " "}, "no word"),
        ({"word": "dog", "place": "middle"}, "bottom-right"),
        ({"word": "dog", "place": (0.5, 1.5)}, "between 0 and 1"),
        ({"word": "dog", "size": 0.0}, "share of the height"),
        ({"word": "dog", "colour": "blau"}, "no colour"),
        ({"word": "dog", "plate": "#12"}, "no colour"),
    ):
        with pytest.raises(TaskError, match=said):
            Lettering(**wrong)
    assert rgb("#ff0080") == (1.0, 0.0, pytest.approx(128 / 255))
