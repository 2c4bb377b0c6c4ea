"""The attention-head tour shows what the arrays hold, in a real browser, offline and without a complaint."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from vitcircuits.circuits import attention_maps, head_tour
from vitcircuits.models import load_vit

from .conftest import said

AWKWARD = ("<b>cat</b> & co", "</script><script>alert(1)</script>", "\N{PILE OF POO} \N{HEBREW LETTER ALEF}.jpg")
KINDS = {"pattern": "pattern", "score": "score", "value_weighted": "value-weighted", "rollout": "rollout"}


class Case:
    """A tour over black pictures, so that colours tell heights, and the arrays that it was made from."""

    def __init__(self, vit, images, **options):
        self.vit, self.images = vit, images
        vit.labels = tuple(f"<{i}> & \N{PILE OF POO}" for i in range(vit.cfg.n_classes))
        made = head_tour(vit, images, names=AWKWARD[: len(images)], **options)
        self.tour = replace(made, pictures=np.zeros_like(made.pictures))
        self.maps = {kind: attention_maps(vit, images, kind=kind) for kind in KINDS}

    def heights(self, kind, name, images, query=None):
        """Heights over the patches as shares of the largest, mean over images."""
        values = np.mean([self.maps[kind].on_image(name, image, query) for image in images], 0)
        values = values - values.min() if kind in ("score", "rollout") else values
        return values / values.max()


@pytest.fixture(scope="module")
def case(tiny_vit, images_for):
    """Three images of 2 x 3 patches, a register."""
    vit = tiny_vit(img_size=(8, 12), reg_tokens=1, qk_norm=True)
    return Case(vit, images_for(vit))


def cell(page, label):
    return page.locator(".every td button", has_text=label)


def painted(page):
    """Waits for the frame in which what the pointer asked for is painted."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))")


def heights(canvas, grid):
    """Heights that a canvas shows, by the red of the middle of each patch over black."""
    red = canvas.evaluate(
        """(canvas, [rows, columns]) => Array.from({length: rows * columns}, (_, at) => {
          const x = ((at % columns) + .5) * canvas.width / columns;
          const y = (Math.floor(at / columns) + .5) * canvas.height / rows;
          return canvas.getContext("2d").getImageData(x, y, 1, 1).data[0];
        })""",
        list(grid),
    )
    return ((np.array(red) - 30) / (255 - 30) / 0.88).reshape(grid)


def middle(page, name, grid):
    """Where a patch is on the image that is pointed at."""
    box = page.locator(".ask").bounding_box()
    row, column = (int(part) for part in name[1:].split("c"))
    return {"x": box["width"] * (column + 0.5) / grid[1], "y": box["height"] * (row + 0.5) / grid[0]}


def check(page, case, kind, images, query=None, atol=0.02):
    painted(page)
    for name in case.maps[kind]:
        shown = heights(cell(page, name).locator("canvas"), case.vit.cfg.tokens.grid)
        assert np.allclose(shown, case.heights(kind, name, images, query), atol=atol), (kind, name, query)


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_shows_what_cls_sees_and_what_each_patch_sees(shown, case, kind):
    page, grid = shown(case.tour.to_html()), case.vit.cfg.tokens.grid
    page.get_by_role("button", name=KINDS[kind], exact=True).click()
    assert page.locator(".every td button").count() == len(case.maps[kind])
    check(page, case, kind, [0])
    assert said(page, ".look [role=status]") == "From CLS."
    for query in case.maps["pattern"].tokens[2:]:
        page.locator(".ask").hover(position=middle(page, query, grid))
        check(page, case, kind, [0], query)
        assert said(page, ".look [role=status]") == f"From {query}."
    page.mouse.move(5, 5)
    check(page, case, kind, [0])
    page.get_by_role("button", name="reg0").click()
    check(page, case, kind, [0], "reg0")


def test_another_image_and_the_mean_over_all(shown, case):
    page, grid = shown(case.tour.to_html()), case.vit.cfg.tokens.grid
    choices = page.locator(".choices button")
    for image in (1, 2):
        choices.nth(image).click()
        check(page, case, "pattern", [image])
        assert said(page, ".answer") == f"{AWKWARD[image]}: {case.tour.answers[image]}"
    page.get_by_role("button", name="mean of all 3").click()
    check(page, case, "pattern", [0, 1, 2])
    page.locator(".ask").hover(position=middle(page, "r1c2", grid))
    check(page, case, "pattern", [0, 1, 2], "r1c2")
    assert said(page, ".answer") == "Mean of 3 images"
    assert [one.get_attribute("aria-pressed") for one in choices.all()] == ["false", "false", "false", "true"]


def test_chosen_heads_stand_side_by_side_in_every_kind_with_their_values(shown, case):
    page, grid = shown(case.tour.to_html()), case.vit.cfg.tokens.grid
    names = page.locator(".card h3")
    assert names.all_inner_texts() == ["a1.h0"]
    cell(page, "a0.h1").click()
    assert names.all_inner_texts() == ["a1.h0", "a0.h1"]
    page.locator(".ask").hover(position=middle(page, "r0c1", grid))
    painted(page)
    card = page.locator(".card").nth(1)
    for place, kind in enumerate(KINDS):
        name = "rollout@0" if kind == "rollout" else "a0.h1"
        figure, maps = card.locator("figure").nth(place), case.maps[kind]
        wanted = case.heights(kind, name, [0], "r0c1")
        assert np.allclose(heights(figure.locator("canvas"), grid), wanted, atol=0.02)
        row = maps[name][0, maps.tokens.index("r0c1")]
        best = int(row.argmax())
        told = figure.locator("figcaption span").inner_text()
        value = told.split(f"most {maps.tokens[best]} ")[1].split(",")[0].replace("\N{MINUS SIGN}", "-")
        assert float(value) == pytest.approx(row[best], rel=0.02, abs=0.02)
        if kind == "pattern":
            assert told.startswith(f"{round(100 * row[2:].sum())}% on patches")
    page.mouse.move(5, 5)
    map_of = card.locator("canvas").first
    box = map_of.bounding_box()
    map_of.hover(position={"x": 0.9 * box["width"], "y": 0.9 * box["height"]})
    told = dict(part.rsplit(" ", 1) for part in card.locator(".here").inner_text().removeprefix("r1c2: ").split(", "))
    for kind, label in KINDS.items():
        value = case.maps[kind].readout("rollout@0" if kind == "rollout" else "a0.h1")[0, -1]
        assert float(told[label].replace("\N{MINUS SIGN}", "-")) == pytest.approx(value, rel=0.02, abs=0.02)
    page.get_by_role("button", name="layer 0").click()
    assert names.all_inner_texts() == ["a1.h0", "a0.h1", "a0.h0"]
    page.get_by_role("button", name="layer 0").click()
    assert names.all_inner_texts() == ["a1.h0"]
    page.get_by_role("button", name="Choose none").click()
    assert names.count() == 0 and "Choose heads" in said(page, ".chosen")


def test_keys_clicks_and_fingers_choose_a_patch_too(shown, case):
    html, grid = case.tour.to_html(), case.vit.cfg.tokens.grid
    page = shown(html)
    ask = page.locator(".ask")
    ask.press("ArrowDown")
    check(page, case, "pattern", [0], "r1c1")
    ask.press("ArrowRight")
    ask.press("ArrowUp")
    check(page, case, "pattern", [0], "r0c2")
    ask.press("ArrowUp")
    assert said(page, ".look [role=status]") == "From r0c2."
    ask.press("Escape")
    check(page, case, "pattern", [0])
    ask.click(position=middle(page, "r1c0", grid))
    page.mouse.move(5, 5)
    check(page, case, "pattern", [0], "r1c0")
    narrow = shown(html, viewport={"width": 420, "height": 900}, has_touch=True, is_mobile=True)
    narrow.locator(".ask").tap(position=middle(narrow, "r1c2", grid))
    check(narrow, case, "pattern", [0], "r1c2")
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 420


def test_the_address_reopens_what_is_in_view(shown, case):
    page = shown(case.tour.to_html())
    page.get_by_role("button", name="score", exact=True).click()
    page.locator(".choices button").nth(1).click()
    cell(page, "a0.h0").click()
    page.locator(".ask").press("ArrowDown")
    page.wait_for_timeout(300)
    again = shown(case.tour.to_html(), "#" + page.url.partition("#")[2])
    check(again, case, "score", [1], "r1c1")
    assert again.locator(".card h3").all_inner_texts() == ["a1.h0", "a0.h0"]
    strange = shown(case.tour.to_html(), "#pair=99&token=77&kind=none&heads=a9.h9&colours=7")
    check(strange, case, "pattern", [0])


def test_what_the_page_lacks_is_pale_and_said(shown, tiny_vit, images_for):
    vit = tiny_vit()
    size = vit.cfg.tokens.n_tokens**2
    case = Case(vit, images_for(vit), heads=["a0.h1"], full_bytes=4 * size)  # a0.h1 of all images, another of the first
    assert [case.tour.kept(image) for image in range(3)] == [2, 1, 1]
    page, grid = shown(case.tour.to_html()), vit.cfg.tokens.grid
    assert "2 heads of image 1; 1 heads of image 2" in said(page, ".note")
    page.locator(".ask").hover(position=middle(page, "r1c0", grid))
    painted(page)
    for name in case.maps["pattern"]:
        kept = name in ("a0.h1", "a1.h0")
        assert (cell(page, name).get_attribute("class") or "") == ("" if kept else "unasked")
        wanted = case.heights("pattern", name, [0], "r1c0" if kept else None)
        assert np.allclose(heights(cell(page, name).locator("canvas"), grid), wanted, atol=0.02)
    assert said(page, ".look [role=status]") == "From r1c0. Kept for 2 of 4 maps; the pale ones are from CLS."
    card = page.locator(".card figcaption span")
    assert card.nth(2).inner_text().startswith("most") and card.nth(3).inner_text() == "only kept from CLS"
    none = shown(Case(vit, images_for(vit), full_bytes=0).tour.to_html())
    assert "kept for no head" in said(none, ".note") and "--full-mb 1" in said(none, ".note")


@pytest.mark.parametrize("name", ["map-prefix", "gated", "joint-norm", "distilled", "map-other-heads"])
def test_other_architectures(shown, architecture_named, images_for, name):
    vit = architecture_named(name)
    case = Case(vit, images_for(vit, 2))
    page, last = shown(case.tour.to_html()), vit.cfg.n_layers - 1
    for kind, label in KINDS.items():
        page.get_by_role("button", name=label, exact=True).click()
        check(page, case, kind, [0])
        page.locator(".ask").hover(position=middle(page, "r1c0", vit.cfg.tokens.grid))
        painted(page)
        for head in case.maps[kind]:
            pools = vit.cfg.pools and head.startswith((f"a{last}.", f"rollout@{last}"))
            kept = not pools and not (kind == "value_weighted" and name in ("gated", "joint-norm"))
            wanted = case.heights(kind, head, [0], "r1c0" if kept else None)
            assert np.allclose(heights(cell(page, head).locator("canvas"), vit.cfg.tokens.grid), wanted, atol=0.02)
            assert (cell(page, head).get_attribute("class") or "") == ("" if kept else "unasked")
        page.mouse.move(5, 5)


def test_of_videos_frames_are_added_up_and_a_place_is_no_token(shown, images_for):
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    clips = {"image_size": 16, "num_frames": 4, "tubelet_size": [2, 8, 8], "num_channels": 1}
    module = library.VivitForVideoClassification(library.VivitConfig(**sizes, **clips, num_labels=5))
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    vit = load_vit(module.double().eval(), name="video")
    assert vit.cfg.tokens.frames > 1
    case = Case(vit, images_for(vit, 2))
    page = shown(case.tour.to_html())
    assert "frames are added up" in said(page, ".note")
    for kind, label in KINDS.items():
        page.get_by_role("button", name=label, exact=True).click()
        page.locator(".ask").hover(position=middle(page, "r1c0", vit.cfg.tokens.grid))
        page.locator(".ask").press("ArrowDown")
        check(page, case, kind, [0])


def test_without_scripts_the_first_images_maps_are_there(shown, case):
    still = shown(case.tour.to_html(), java_script_enabled=False)
    assert still.locator(".stills img").count() == len(case.tour.heads) and still.locator(".stills").is_visible()
    assert still.locator(".pictures figcaption b").all_inner_texts() == list(AWKWARD)
    assert not still.locator("#tour").is_visible()
    page = shown(case.tour.to_html())
    assert not page.locator(".stills").is_visible() and page.locator("#tour").is_visible()


def test_a_notebook_shows_the_tour_in_a_frame_of_its_own(shown, case):
    page = shown(f"<!DOCTYPE html><title>notebook</title>{case.tour._repr_html_()}")
    frame = page.frame_locator("iframe")
    frame.get_by_role("button", name="layer 0").click()
    assert frame.locator(".card h3").all_inner_texts() == ["a1.h0", "a0.h0", "a0.h1"]
    page.wait_for_timeout(300)  # the address is written a moment later, and a frame has none
    assert page.evaluate("document.title") == "notebook"
