"""What a table of patch effects says and draws, judged against numbers worked out by hand."""

import re

import numpy as np
import pandas
import pytest
from vitcircuits.circuits.draw.image_maps import effect_image, places_of
from vitcircuits.circuits.draw.style import BLUE, ORANGE
from vitcircuits.circuits.effect_table import PatchTable
from vitcircuits.models.errors import TaskError


def test_a_row_per_patch_with_the_circuit_beside_the_model(patch_effects, tmp_path):
    table = patch_effects()
    frame = table.frame()
    assert frame[["row", "column"]].values.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    np.testing.assert_allclose(frame["effect"], [2.0, 2.2, 2.4, 2.6])
    np.testing.assert_allclose(frame["model_effect"], 2 * frame["effect"])
    assert ((frame["low"] < frame["effect"]) & (frame["effect"] < frame["high"])).all()
    np.testing.assert_allclose(frame["normalised"], frame["effect"] / 9.2)
    again = pandas.read_csv(table.save(tmp_path / "effects.csv"))
    pandas.testing.assert_frame_equal(again, frame)


def test_the_table_is_sorted_and_says_what_is_left_out(patch_effects):
    table = patch_effects()
    assert [row[0] for row in table.table().rows] == ["r1c1", "r1c0", "r0c1", "r0c0"]
    assert table.table().columns == ("patch", "circuit of 5 edges", "full model", "flips")
    assert table.added_up() == pytest.approx((9.2, 9.2))
    shown = table._repr_html_()
    assert "<table" in shown and "&lt;8&gt;" in shown and "9.2 of 9.2; full model 18.4 of 18.4" in shown


def test_single_images_are_found_by_their_keys(patch_effects):
    table = patch_effects(keys=("a", "b", "a"))
    both = table.of_image("a")
    assert both.n_pairs == 2 and table.of_image("c") is None
    np.testing.assert_allclose(both.effect, [[2.0, 2.2], [2.4, 2.6]])  # of pairs 1 and 3
    np.testing.assert_allclose(both.model.effect, 2 * both.effect)


def test_patches_that_were_not_measured_have_no_row(patch_effects):
    values = patch_effects().values.copy()
    values[:, 0, 1] = np.nan
    assert patch_effects(values=values).frame()[["row", "column"]].values.tolist() == [[0, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("show", "ending"), [("effect", "svg"), ("normalised", "svg"), ("flips", "svg"), ("effect", "png")]
)
def test_it_draws_the_same_twice(patch_effects, tmp_path, show, ending):
    first, second = (
        patch_effects().draw(tmp_path / f"{i}.{ending}", show=show, images=1).read_bytes() for i in range(2)
    )
    assert first == second
    if ending == "svg":
        text = first.decode()
        assert "circuit of 5 edges" in text and "full model" in text and "3 pairs" in text


def test_it_draws_as_many_images_as_were_asked_for(patch_effects):
    counts = [patch_effects().draw(images=n).svg.count("<image") for n in (0, 1, 9)]
    assert counts[1] - counts[0] == 3 + 1 and counts[2] - counts[0] == 3 * (3 + 1)  # three pictures and a bar
    with pytest.raises(TaskError, match="show='effect'"):
        patch_effects().draw(show="size")


def test_heat_is_blue_where_it_helps_and_denser_where_there_is_more():
    image = np.full((4, 4, 1), 0.5)
    found = effect_image(image, np.array([[1.0, 0.5], [-1.0, np.nan]]), 1.0)
    corner = {place: found[place[0] * len(found) // 2, place[1] * found.shape[1] // 2] for place in np.ndindex(2, 2)}
    blue, orange = (np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255 for colour in (BLUE, ORANGE))
    away = {place: np.abs(colour - corner[1, 1]).sum() for place, colour in corner.items()}
    assert away[0, 0] > away[0, 1] > away[1, 1] == 0
    assert np.abs(corner[0, 0] - blue).sum() < np.abs(corner[0, 0] - orange).sum()
    assert np.abs(corner[1, 0] - orange).sum() < np.abs(corner[1, 0] - blue).sum()


TOKENS = ("cls", "reg0", *(f"r{row}c{column}" for row in range(3) for column in range(4)))


def token_table(what="head_out", layers=2, heads=3):
    shape = (2, layers, heads if what == "head_out" else 1, len(TOKENS))
    values = np.random.default_rng(0).normal(size=shape)
    ends = {"clean": np.ones(2), "corrupt": np.zeros(2)}
    return PatchTable(values=values, flips=values > 1, what=what, tokens=TOKENS, direction="noising", **ends)


def labels(svg):
    return re.findall(r">([^<>]+)</text>", svg)


def test_a_token_stands_where_its_name_says():
    assert places_of(("cls", "r0c1", "f0r0c0", "reg0", "r10c2")) == {1: (0, 1), 4: (10, 2)}


def test_tables_by_token_are_maps_with_tokens_without_a_place_apart():
    said = labels(token_table().draw().svg)
    assert [name for name in said if re.fullmatch(r"a\d\.h\d", name)] == [
        "a1.h0", "a1.h1", "a1.h2", "a0.h0", "a0.h1", "a0.h2",
    ]  # fmt: skip
    assert {"cls", "reg0"} <= set(said) and not any(name.startswith("r0c") for name in said)
    assert "effect on the metric (logits), of patches" in said and "effect on the metric (logits)" in said
    said = labels(token_table("resid", layers=4).draw(show="flips").svg)
    assert [name for name in said if name.startswith("layer ")] == [f"layer {layer}" for layer in range(4)]
    assert said.count("100%") == 2


def test_maps_show_the_effects_where_they_are(monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "vitcircuits.circuits.draw.image_maps._fill_maps", lambda figure, maps, *rest: drawn.update(maps)
    )
    table = token_table()
    table.draw()
    wanted = table.effect[1, 2, 2:].reshape(3, 4)
    assert (drawn["a1.h2"] == wanted).all() and len(drawn) == 6


def test_of_many_heads_the_strongest_are_drawn(monkeypatch):
    monkeypatch.setattr("vitcircuits.circuits.draw.image_maps.MOST_MAPS", 5)
    table = token_table()
    said = labels(table.draw().svg)
    named = {name for name in said if re.fullmatch(r"a\d+\.h\d", name)}
    peaks = np.abs(table.effect[..., 2:]).max(-1)
    strongest = {f"a{layer}.h{head}" for layer, head in np.argwhere(peaks >= np.sort(peaks.ravel())[-5])}
    assert named == strongest and any("the 5 strongest of 6" in text for text in said)
