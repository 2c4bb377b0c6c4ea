"""The page and the picture of a lens show what it reads: labels, colours, emoji, the patch that is asked."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
from vitcircuits.circuits.draw import lens_view
from vitcircuits.circuits.draw.lens_view import (
    COLOURS,
    OTHER,
    LensView,
    draw_view,
    emoji_font,
    page_data,
    read_emoji,
    to_html,
    under,
)
from vitcircuits.circuits.report import Figure, Table
from vitcircuits.models.errors import DataError, FormatError

NAMES = ("cat", "dog", "<b>owl</b>", *(f"other {place}" for place in range(20)))


def make_view(emoji=None, n_layers=3):
    """Two images of 2 x 3 patches under CLS; patch p of layer l names class (l + p) % 3, image 1 one class further."""
    layer, image, token, rank = np.indices((n_layers, 2, 7, 2))
    top = (layer + image + np.maximum(token - 1, 0) + rank) % 3
    return LensView(
        title="Lens of <a model>",
        layers=tuple(f"block {place}" for place in range(n_layers)),
        tokens=("cls", *(f"r{row}c{column}" for row in range(2) for column in range(3))),
        grid=(2, 3),
        class_names=NAMES,
        top=top,
        probabilities=np.where(rank == 0, 0.25 + 0.1 * layer, 0.0004),
        pictures=np.random.default_rng(0).random((2, 20, 30, 3)).astype(np.float32),
        said=("first: read as cat", "second: read as dog"),
        answers=(0, 1),
        emoji=emoji or {},
    )


TABLE = Table(("layer", "agreement"), (("block 0", Figure(0.5, "share", 0.4, 0.6)),), "on two images")


def test_the_page_shows_the_class_of_each_patch_at_each_layer(shown):
    page = shown(to_html(make_view(), TABLE))
    assert page.get_by_role("slider", name="Layer").input_value() == "2"
    page.locator("canvas.ask").focus()
    page.keyboard.press("ArrowRight")  # from r0c0 to r0c1
    rows = [row.inner_text().split("\t") for row in page.locator(".readings tbody tr").all()]
    wanted = [(f"block {layer}", NAMES[(layer + 1) % 3], NAMES[(layer + 2) % 3]) for layer in range(3)]
    for row, (name, first, second) in zip(rows, wanted, strict=True):
        assert row[0] == name and first in row[1] and second in row[2]
        assert f"{25 + 10 * int(name[-1])}%" in row[1] and "<0.1%" in row[2]
    assert "r0c1, kept" in page.locator(".at").inner_text()
    page.keyboard.press("Escape")
    assert "is the surest" in page.locator(".at").inner_text()


def test_slider_choice_and_pointer_change_what_is_said(shown):
    page = shown(to_html(make_view(), TABLE))
    page.get_by_role("button", name="second: read as dog").click()
    slider = page.get_by_role("slider", name="Layer")
    slider.fill("0")
    assert page.locator(".layer").inner_text() == "block 0: second: read as dog"
    assert "33% of the patches name the model\u2019s answer" in page.locator(".at").inner_text()
    box = page.locator("canvas.ask").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.9)
    assert page.locator(".at").inner_text().split(". ")[1].startswith("r1c2")
    page.get_by_role("button", name="cls").click()
    assert page.locator(".readings tr.chosen td").nth(1).inner_text().strip().startswith("\u25a0 dog")
    page.get_by_role("button", name="block 1").click()
    assert slider.input_value() == "1"


def test_patches_have_their_classes_colours_and_emoji_replace_them(shown):
    colour = """canvas => [...canvas.getContext("2d").getImageData(canvas.width / 6, canvas.height / 4, 1, 1).data]"""
    view = make_view()
    page = shown(to_html(view, TABLE))
    slider = page.get_by_role("slider", name="Layer")
    found = []
    for layer in range(3):
        slider.fill(str(layer))
        found.append(page.locator(".every canvas").nth(layer).evaluate(colour)[:3])
    classes = view.coloured(0)
    for layer, pixel in enumerate(found):
        wanted = [int(COLOURS[classes.index(layer % 3)][at : at + 2], 16) for at in (1, 3, 5)]
        assert all(abs(got - 0.6 * want) <= 0.4 * 255 + 3 for got, want in zip(pixel, wanted, strict=True))
        assert int(np.argmax(pixel)) == int(np.argmax(wanted))
    assert page.get_by_role("button", name="emoji").count() == 0
    other = shown(to_html(make_view({0: "C", 1: "D", 2: "O"}), TABLE))
    assert other.get_by_role("button", name="emoji").get_attribute("aria-pressed") == "true"
    assert "C cat" in " ".join(other.locator(".legend ul").first.inner_text().split())
    other.get_by_role("button", name="emoji").click()
    assert "\u25a0" in other.locator(".legend ul").first.inner_text()


def test_without_a_script_the_page_has_its_stills_and_figures(shown):
    html = to_html(make_view(), TABLE)
    page = shown(html, java_script_enabled=False)
    assert page.locator(".still img").count() == 3 and page.locator(".pictures img").first.is_visible()
    assert "0.500 [0.400, 0.600]" in page.locator("table").inner_text()
    assert "<b>owl" not in html.replace("&lt;b", "") and "Lens of &lt;a model&gt;" in html


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen(shown, scheme):
    page = shown(to_html(make_view(), TABLE), viewport={"width": 420, "height": 900}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420


def test_the_data_of_the_page_are_the_readings():
    view = make_view()
    data = json.loads(json.dumps(page_data(view)))
    numbers = np.frombuffer(base64.b64decode(data["top"]), "<u2").reshape(view.top.shape)
    assert (np.array(data["classes"])[numbers] == np.array(NAMES)[view.top]).all()
    roots = np.frombuffer(base64.b64decode(data["roots"]), np.uint8).reshape(view.top.shape)
    np.testing.assert_allclose((roots / 255.0) ** 2, view.probabilities, atol=2e-3)


def test_most_named_classes_have_colours_and_the_rest_are_grey():
    view = make_view()
    named = np.zeros((2, 3), dtype=np.int64)
    named[0, 0], named[1, 2] = 5, 9
    grey = np.zeros((20, 30, 1))
    found = under(grey, named, [5])
    colour = [int(COLOURS[0][at : at + 2], 16) / 255 for at in (1, 3, 5)]
    other = [int(OTHER[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    np.testing.assert_allclose(found[0, 0], 0.55 * np.array(colour))
    np.testing.assert_allclose(found[-1, -1], 0.55 * np.array(other))
    top = view.top.copy()
    top[0, 0, 1:, 0] = 7
    assert replace(view, top=top).coloured(0)[0] == 7 and set(view.coloured(0)) == {0, 1, 2}


def test_the_picture_is_the_same_twice_and_draws_emoji_only_with_a_font(tmp_path, monkeypatch):
    view = make_view()
    paths = [draw_view(view, tmp_path / f"{place}.svg", image=1) for place in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    signs = make_view({0: "C", 1: "D", 2: "O"})
    with_letters = draw_view(signs, tmp_path / "letters.svg").read_text()
    assert emoji_font("CDO") is not None and with_letters.count(">C</text>") == 6
    monkeypatch.setattr(lens_view, "emoji_font", lambda _: None)
    assert ">C</text>" not in draw_view(signs, tmp_path / "none.svg").read_text()
    assert emoji_font("\U0010fffd") is None  # a private sign that no font has


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(DataError, match="from 0 to 1"):
        draw_view(make_view(), tmp_path / "lens.png", image=2)
    with pytest.raises(FormatError, match=r"\.svg, \.pdf or \.png"):
        draw_view(make_view(), tmp_path / "lens.txt")
    path = tmp_path / "emoji.json"
    path.write_text('{"1": "D", "cat": "C"}', encoding="utf-8")
    assert read_emoji(path, NAMES) == {1: "D", 0: "C"}
    for text, said in (("[1]", "no JSON object"), ("{", "no JSON object"), ('{"bird": "B"}', "none of the 23 classes")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=said):
            read_emoji(path, NAMES)
    with pytest.raises(DataError, match="there is no file"):
        read_emoji(tmp_path / "none.json", NAMES)
