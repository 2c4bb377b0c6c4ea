"""The tables: what they say of a trained toy, that they print, draw and stand side by side."""

import dataclasses
import xml.etree.ElementTree as ET

import numpy as np
import pandas
import pytest
import torch
from torch import nn
from vitcircuits.algorithms import ModelNumbers, head_factors, head_texts, logit_lens, side_by_side
from vitcircuits.circuits.report import Figure
from vitcircuits.models import load_vit
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import DataError, GraphError, ModelError, TaskError
from vitcircuits.models.toys import zero_shot
from vitcircuits.models.toys.sprites import factors_of


@pytest.fixture(scope="module")
def sprites():
    """A toy that tells shapes apart, with images and their factors."""
    vit = load_vit("toy/sprites-2l")
    data = load_data("sprites", vit.preprocess, limit=50).test
    return vit, data.images, factors_of(data.names), data.labels


@pytest.fixture(scope="module")
def factors(sprites):
    vit, images, known, _ = sprites
    return head_factors(vit, images, known, n_shuffles=10, n_bootstrap=100)


@pytest.fixture(scope="module")
def lens(sprites):
    vit, images, _, labels = sprites
    return logit_lens(vit, images, labels, n_bootstrap=100)


@pytest.fixture(scope="module")
def texts(sprites):
    """The toy's own pooled vector as the representation, and directions that its classes have in it as texts."""
    vit, images, _, _ = sprites
    head = vit.own_readout.head.weight.detach()
    named = [f"a {name}" for name in vit.class_names]
    return head_texts(vit.with_readout(nn.Identity()), images, named, head, n=3, n_random=10, n_bootstrap=100)


def words(path):
    return {element.text for element in ET.fromstring(path.read_bytes()).iter() if element.tag.endswith("text")}


def test_late_heads_of_a_toy_that_tells_shapes_apart_hold_the_shape_and_not_the_place(factors):
    late = [head for head in factors.heads if head.startswith("a1.")]
    for head in late:
        assert factors.r2(head, "shape").value > 0.15 > factors.r2(head, "y").value + 0.1
    best, r2, _, second, gap = factors.best("a1.h2")
    assert r2.value > second.value and gap.value == pytest.approx(r2.value - second.value)
    factor, share, apart = factors.described("a1.h2")
    row = factors.fits.share[factors.heads.index("a1.h2")]
    assert (factor, share.value) == (factors.factors[row.argmax()], row.max()) and share.low < share.value < share.high
    assert apart.value == pytest.approx(np.sort(row)[-1] - np.sort(row)[-2])
    assert factors.above_null[factors.heads.index("a1.h2"), factors.factors.index(best)]


def test_the_lens_of_a_toy_gets_better_with_depth_and_ends_at_the_output(lens):
    found = lens.figures()
    assert [f.value for f in found["agreement"]] == sorted(f.value for f in found["agreement"])
    assert found["agreement"][-1].value == 1 and found["kl"][-1].value == pytest.approx(0, abs=1e-6)
    assert all(f.low - 1e-9 <= f.value <= f.high + 1e-9 for row in found.values() for f in row)
    assert lens.agrees_from() == "block 1" and lens.agrees_from(0.0) == "input"


def test_directions_of_its_classes_explain_more_of_a_head_than_random_ones(texts):
    last = texts["a1.h0"]
    assert last.explained[-1] > last.random.mean() and last.explained[-1] <= last.principal[-1]
    assert last.low[-1] <= last.explained[-1] <= last.high[-1] and 0 < last.p_value <= 1
    assert len(set(last.texts)) == 3


def test_principal_directions_of_a_head_as_texts_explain_all_that_can_be(sprites):
    from vitcircuits.algorithms.interpretability.measure import head_effects

    vit, images, *_ = sprites
    bare = vit.with_readout(nn.Identity())
    rows = head_effects(bare, images, heads=["a1.h1"])[0]
    axes = torch.from_numpy(np.linalg.svd(rows - rows.mean(0))[2][:4].copy()).float()
    options = {"heads": ["a1.h1"], "pick": "explained", "n": 2, "n_random": 0, "n_bootstrap": 0}
    (found,) = head_texts(bare, images, ["first", "second", "third", "fourth"], axes, **options).heads
    assert found.texts == ("first", "second")
    np.testing.assert_allclose(found.explained, found.principal, atol=1e-5)
    assert found.figure.reason == "n_bootstrap is 0" and np.isnan(found.p_value)


def test_phrases_of_a_toy_clip_explain_more_of_its_heads_than_random_directions(sprites):
    vit, side = load_vit("toy/clip-sprites"), zero_shot("toy/clip-sprites")
    texts = [phrase for _, phrase in side.phrases]
    options = {"n": 3, "n_random": 10, "n_bootstrap": 0}
    table = head_texts(vit, sprites[1], texts, side.phrase_embeddings, **options)
    assert all(head.explained[-1] > head.random.max() and head.p_value == pytest.approx(1 / 11) for head in table.heads)
    bare = vit.with_readout(vit.own_readout.head)
    again = head_texts(bare, sprites[1], texts, side.phrase_embeddings, **options)
    assert again.frame().equals(table.frame())  # the representation is the same under a readout of texts


def test_every_table_prints_with_its_caveat_and_has_a_frame(factors, lens, texts):
    assert "not what the model reads" in str(factors) and "another basis" in str(lens)
    assert "another list gives others" in str(texts) and "a square" in str(texts)
    assert factors.frame().shape == (8 * 6, 12) and lens.frame().shape == (3, 17)
    frame = texts.frame()
    assert len(frame) == 8 * 3 and frame["explained"].between(0, 1).all()
    row = factors.frame().set_index(["head", "factor"]).loc[("a1.h0", "shape")]
    assert row["r2"] == factors.r2("a1.h0", "shape").value and row["p"] == pytest.approx(1 / 11)


def test_every_table_draws_the_same_bytes_twice(factors, lens, texts, tmp_path):
    drawn = {"factors": factors, "lens": lens, "texts": texts}
    for name, table in drawn.items():
        path = table.draw(tmp_path / f"{name}.svg", title="of $5$ <&>")
        assert "of $5$ <&>" in words(path)
        assert table.draw(tmp_path / "again.svg", title="of $5$ <&>").read_bytes() == path.read_bytes()
    assert {"a1.h3", "orientation"} <= words(tmp_path / "factors.svg")
    assert "a1.h3" in words(tmp_path / "texts.svg") and "input" in words(tmp_path / "lens.svg")
    deeper = dataclasses.replace(lens, model="deeper", layers=("input", "block 0", "other"))
    assert {"share of the depth", "deeper"} <= words(lens.draw(tmp_path / "both.svg", beside=[deeper]))


def test_a_choice_of_heads_is_that_part_of_the_table(sprites, factors):
    vit, images, known, _ = sprites
    chosen = ["a1.h1", "a0.h3"]
    options = {"n_shuffles": 10, "n_bootstrap": 100}
    alone = head_factors(vit, images, known, heads=chosen, **options)
    pandas.testing.assert_frame_equal(factors.select(chosen).frame(), alone.frame(), rtol=0, atol=1e-9)
    with pytest.raises(GraphError, match=r"'a9\.h0' is not in the table"):
        factors.select(["a9.h0"])


def test_effects_are_described_too_and_a_lone_factor_has_no_second(sprites):
    vit, images, known, _ = sprites
    table = head_factors(vit, images, {"shape": known.shape}, of="effect", n_shuffles=2, n_bootstrap=0)
    name, r2, second, _, gap = table.best("a1.h0")
    assert table.described("a1.h0")[2].reason == "there is one factor"
    assert (name, second) == ("shape", "") and r2.value > 0.05 and gap.reason == "there is one factor"
    assert "direct effects" in table.headline and "a1.h0" in str(table)


def test_heads_that_write_nothing_there_say_so(architecture_named, images_for):
    vit = architecture_named("map")
    images = images_for(vit, 40)
    table = head_factors(vit, images, {"kind": np.arange(40) % 4}, n_folds=2, n_shuffles=2, n_bootstrap=10)
    assert "writes the same for all images" in table.best("a0.h0")[1].reason
    assert "undefined" in str(table)
    assert "attention pooling" in str(logit_lens(vit, images, n_bootstrap=10))


def test_models_stand_side_by_side_with_caveats(factors, lens, texts):
    size = {"edges for faithfulness .8": Figure(31.0, "edges", 20.0, 44.0)}
    found = side_by_side([ModelNumbers("one", factors, texts, lens, size), ModelNumbers("two", factors, None, lens)])
    assert found.models == ("one", "two") and len(found.rows) == 7 and set(found.rows) == set(found.caveats)
    assert found.rows["edges for faithfulness .8"][0].value == 31
    assert found.rows["texts above random directions"][1].reason == "it was not measured"
    gaps = [factors.best(head)[-1].value for head in factors.heads]
    figure = found.rows["selectivity of heads"][0]
    assert figure.value == pytest.approx(np.mean(gaps)) and figure.low < figure.value < figure.high
    assert "over heads" in figure.method and "another basis" in str(found)
    assert len(found.frame()) == 14
    assert len(side_by_side([ModelNumbers("one", lens=lens)]).rows) == 1


def test_models_that_were_measured_in_two_ways_are_not_set_side_by_side(factors):
    other = dataclasses.replace(factors, model="other", method={**factors.method, "at": "patches"})
    with pytest.raises(TaskError, match="differ in at"):
        side_by_side([ModelNumbers("one", factors), ModelNumbers("two", other)])
    with pytest.raises(TaskError, match="a name of its own"):
        side_by_side([ModelNumbers("one"), ModelNumbers("one")])


def test_what_makes_no_sense_is_refused(sprites):
    vit, images, known, _ = sprites
    with pytest.raises(ModelError, match="of='effect'"):
        head_factors(vit, images, known, of="pattern")
    with pytest.raises(DataError, match="one for each text"):
        head_texts(vit, images, ["a heart"], torch.randn(2, 64))
