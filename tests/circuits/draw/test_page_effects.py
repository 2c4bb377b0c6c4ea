"""Patch effects in a page: still pictures, and maps whose numbers can be asked for, in a real browser."""

import json
from dataclasses import replace

import numpy as np
import pytest
from vitcircuits.circuits.draw.pages import to_html

from .conftest import said

MAPS = ".effects canvas"


@pytest.fixture
def html(circuit, exhibit, patch_effects):
    """A page of two images, of which the second was not measured."""
    made = replace(exhibit(circuit), keys=("second", "other"))
    return to_html(circuit, exhibit=made, patch_effects=patch_effects())


def data(page):
    return json.loads(page.locator("#page-data").text_content())["effects"]


def point(page, row, column, of=0):
    """Moves the pointer to the middle of a patch of the circuit's map, or of the model's."""
    heat = page.locator(MAPS).nth(of)
    heat.scroll_into_view_if_needed()
    box = heat.bounding_box()
    page.mouse.move(box["x"] + (column + 0.5) * box["width"] / 2, box["y"] + (row + 0.5) * box["height"] / 2)


def colour(page, row, column, of=0):
    """Red, green, blue and opacity in the middle of a patch."""
    script = """([of, x, y]) => {
      const heat = document.querySelectorAll(".effects canvas")[of];
      return [...heat.getContext("2d").getImageData(x * heat.width, y * heat.height, 1, 1).data];
    }"""
    return page.evaluate(script, [of, (column + 0.5) / 2, (row + 0.5) / 2])


def test_a_patch_that_is_pointed_at_says_its_effects_and_intervals(shown, html, patch_effects):
    page = shown(html)
    row = patch_effects().frame().iloc[2]
    for of in (0, 1):
        point(page, 1, 0, of)
        lines = said(page, ".effects .at").split("\n")
        assert lines[:2] == ["r1c0, in logits", "on this image: circuit +2.4, full model +4.8"]
        ends = [f"{row[name]:.3g}" for name in ("low", "high", "model_low", "model_high")]
        assert lines[2] == "mean over 3 pairs: circuit +2.4 [{}, {}], full model +4.8 [{}, {}]".format(*ends)
    page.mouse.move(0, 0)
    assert "Point at a patch" in said(page, ".effects .at")


def test_the_model_stands_beside_the_circuit_on_one_scale(shown, html):
    page = shown(html)
    assert page.locator(".effects figcaption").all_inner_texts() == ["circuit of 5 edges", "full model"]
    circuit, model = (colour(page, 1, 1, of) for of in (0, 1))
    assert circuit[2] > circuit[0] and abs(model[3] - 0.8 * 255) < 3 and abs(circuit[3] - 0.4 * 255) < 3


def test_what_hurts_is_orange_and_what_was_not_measured_is_bare(shown, circuit, exhibit, patch_effects):
    values = -patch_effects().values
    values[:, 0, 1] = np.nan
    made = replace(exhibit(circuit), keys=("first", "second"))
    page = shown(to_html(circuit, exhibit=made, patch_effects=patch_effects(values=values)))
    hurts = colour(page, 1, 1)
    assert hurts[0] > hurts[2] and colour(page, 0, 1)[3] == 0
    point(page, 0, 1)
    assert said(page, ".effects .at") == "r0c1 was not measured."


def test_another_image_or_the_mean_can_be_chosen_and_reopened(shown, html):
    page = shown(html)
    over = page.get_by_label("Patch effects over")
    over.select_option("mean")
    page.locator(".choices button").nth(1).click()
    assert over.input_value() == "mean" and over.is_disabled()
    assert "This image was not measured" in said(page, ".effects .at")
    again = shown(html, "#over=mean")
    assert again.get_by_label("Patch effects over").input_value() == "mean"


def test_arrows_walk_over_the_patches(shown, html):
    page = shown(html)
    heat = page.locator(MAPS).first
    for key, name in (("ArrowDown", "r0c0"), ("ArrowDown", "r1c0"), ("ArrowRight", "r1c1"), ("ArrowRight", "r1c1")):
        heat.press(key)
        assert said(page, ".effects .at").startswith(name)


def test_without_scripts_the_pictures_stand_there(shown, html):
    page = shown(html, java_script_enabled=False)
    captions = page.locator(".duo figcaption").all_inner_texts()
    assert len(captions) == 4 and captions[0] == "mean over 3 pairs, circuit of 5 edges; full colour: 5.2 logits"
    assert captions[3] == "image 1, full model; full colour: 5.2 logits"
    assert "9.2 of 9.2; full model 18.4 of 18.4" in page.content()


def test_a_page_without_effects_or_images_has_no_maps(shown, circuit, exhibit, patch_effects):
    for html in (to_html(circuit, exhibit=exhibit(circuit)), to_html(circuit, patch_effects=patch_effects())):
        page = shown(html)
        assert page.locator(MAPS).count() == 0
    assert len(page.locator(".duo").all()) == 1 and data(page)["images"] == []
