"""A tour holds the arrays of attention_maps within what it promises, and as many full patterns as its budget."""

import numpy as np
import pytest
from PIL import Image
from vitcircuits.circuits import attention_maps, head_tour
from vitcircuits.circuits.attention import KINDS
from vitcircuits.circuits.draw.head_page import ROOT
from vitcircuits.models.errors import FormatError, TaskError

CASES = ["registers-layerscale", "no-class", "map-prefix", "distilled"]


@pytest.fixture(params=CASES)
def vit(request, variant_named, architecture_named):
    return (variant_named if request.param in CASES[:2] else architecture_named)(request.param)


def test_full_patterns_give_scores_and_patterns_back_within_what_is_promised(vit, images_for):
    images = images_for(vit)
    tour, scores, patterns = (
        head_tour(vit, images),
        *(attention_maps(vit, images, kind=k) for k in ("score", "pattern")),
    )
    assert set(tour.full) == {(image, name) for image in range(len(images)) for name in scores}
    for (image, name), full in tour.full.items():
        shares = (full.data / 255.0) ** ROOT
        pattern = shares / shares.sum(-1, keepdims=True)
        wanted, largest = patterns[name][image], patterns[name][image].max(-1, keepdims=True)
        assert (np.abs(pattern - wanted) <= 0.01 * largest).all()
        seen = wanted > 1e-6 * largest
        score = full.largest[:, None] + ROOT * np.log(np.where(seen, full.data, 255) / 255.0)
        assert np.abs(np.where(seen, score - scores[name][image], 0)).max() < 0.3


def test_lengths_times_weights_are_what_is_written(vit, images_for):
    images = images_for(vit)
    tour = head_tour(vit, images)
    patterns, written = (attention_maps(vit, images, kind=kind) for kind in ("pattern", "value_weighted"))
    for head, name in enumerate(tour.heads):
        found = patterns[name] * tour.lengths[:, head, None]
        np.testing.assert_allclose(found, written[name], rtol=1e-3, atol=1e-6)
    assert {kind: maps.kind for kind, maps in tour.rows.items()} == {kind: kind for kind in KINDS}


def test_the_budget_goes_to_the_chosen_heads_first_and_then_from_the_last_layer_down(variant_named, images_for):
    vit = variant_named("plain")
    images, each = images_for(vit, 2), vit.cfg.tokens.n_tokens**2
    kept = list(head_tour(vit, images, heads=["a0.h1"], full_bytes=5 * each).full)
    assert kept == [(0, "a0.h1"), (0, "a1.h0"), (0, "a1.h1"), (0, "a0.h0"), (1, "a0.h1")]
    assert list(head_tour(vit, images, full_bytes=each - 1).full) == []
    assert "1 of 4" in repr(head_tour(vit, images, heads="a0.h1", full_bytes=2 * each))


@pytest.mark.parametrize("kind", KINDS)
def test_a_still_has_a_panel_for_every_map(variant_named, images_for, tmp_path, kind):
    vit = variant_named("plain")
    tour = head_tour(vit, images_for(vit), kind=kind, names=["<a>&b", "b", "c"])
    drawn = tour.save(tmp_path / "heads.svg").read_text(encoding="utf-8")
    assert all(f">{name}<" in drawn for name in tour.rows[kind]) and "&lt;a&gt;&amp;b" in drawn
    assert drawn.count("<image") == len(tour.rows[kind])
    if kind == KINDS[0]:
        with Image.open(tour.save(tmp_path / "heads.png")) as picture:
            assert picture.width > 200
    maps = attention_maps(vit, images_for(vit), kind=kind)
    assert maps.draw(image=1, query="r1c0").svg.count("<image") == len(maps)
    heights = maps.heights()
    assert all(one.min() >= 0 for one in heights.values())
    assert (min(one.min() for one in heights.values()) == 0) == (kind in ("score", "rollout"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"names": ["one"]}, "3 images, 1 names"),
        ({"kind": "patern"}, "kind='patern'"),
        ({"full_bytes": -1}, "full_bytes=-1"),
        ({"heads": ["a5.h0"]}, "no head 'a5.h0'"),
    ],
)
def test_what_cannot_be_is_refused(variant_named, images_for, options, said):
    vit = variant_named("plain")
    with pytest.raises(TaskError, match=said):
        head_tour(vit, images_for(vit), **options)


def test_an_ending_that_is_not_known_is_refused(variant_named, images_for, tmp_path):
    vit = variant_named("plain")
    tour = head_tour(vit, images_for(vit))
    with pytest.raises(FormatError, match=r"tour\.save\(\"heads\.html\"\)"):
        tour.save(tmp_path / "heads.gif")


def test_answers_name_classes_where_there_are_names(tiny_vit, images_for):
    vit = tiny_vit()
    images = images_for(vit)
    best = vit(images).argmax(-1).tolist()
    assert list(head_tour(vit, images).answers) == [f"largest logit: {index}" for index in best]
    vit.labels = tuple("abcde")
    answers = head_tour(vit, images).answers
    assert [answer[0] for answer in answers] == ["abcde"[index] for index in best]
    share = vit(images[:1]).softmax(-1).max().item()
    assert answers[0].startswith(f"{'abcde'[best[0]]} {share:.0%}; ") and answers[0].count(";") == 2
