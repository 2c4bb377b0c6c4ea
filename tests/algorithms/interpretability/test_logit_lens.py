"""The lens at tokens is what plain timm says with its last blocks cut out, and what is kept of it is exact."""

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import logit_lens
from vitcircuits.algorithms.interpretability.lens import calibration_errors
from vitcircuits.algorithms.interpretability.logit_lens import layer_names, read_residual, residuals
from vitcircuits.models import load_vit
from vitcircuits.models.errors import DataError, ModelError

WAYS = {
    "token": {},
    "registers": {"reg_tokens": 2, "init_values": 1.0},
    "average": {"global_pool": "avg", "fc_norm": True, "class_token": False},
    "average-tokennorm": {"global_pool": "avg", "fc_norm": False, "pre_norm": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_each_layer_at_each_token_is_what_timm_says_without_the_blocks_behind_it(way, tiny_module, images_for):
    vit = load_vit(tiny_module(**WAYS[way], depth=3), name=way)
    images = images_for(vit, 3)
    found = logit_lens(vit, images, at="all", classes="all", n_bootstrap=0).tokens
    for place, layer in enumerate(("input", "block 0", "block 1", "block 2")):
        module = tiny_module(**WAYS[way], depth=3)
        module.blocks = module.blocks[:place]
        with torch.no_grad():
            wanted = module.head(module.fc_norm(module.forward_features(images))).numpy()
            whole = module(images).numpy()
        assert found.layers[place] == layer
        np.testing.assert_allclose(found.logits[place], wanted, atol=1e-5)
        read = logit_lens(vit, images, classes="all", n_bootstrap=0).tokens
        np.testing.assert_allclose(read.logits[place, :, 0], whole, atol=1e-5)


def test_a_token_is_read_as_if_every_token_that_is_read_held_its_residual(model, images_for, close):
    n = model.cfg.tokens.patches.stop
    with torch.no_grad(), model.borrowed():
        for residual in residuals(model, images_for(model, 2)):
            alone = read_residual(model, residual, "all")
            for token in (0, n - 1):
                same = residual.clone()
                same[:, :n] = residual[:, token : token + 1]
                close(alone[:, token], read_residual(model, same)[:, 0])


def test_points_are_the_hooks_of_their_names(model, images_for, close):
    images = images_for(model, 2)
    _, cache = model.run_with_cache(images)
    blocks = model.cfg.n_layers - int(model.cfg.pools)
    with torch.no_grad(), model.borrowed():
        for points in ("pre", "mid", "post"):
            *found, last = residuals(model, images, points)
            assert len(found) + 1 == len(layer_names(model, points))
            found = found if points != "post" else [*found[1:], last]
            for layer in range(blocks):
                close(found[layer], cache[f"blocks.{layer}.hook_resid_{points}"].detach())


def test_what_is_kept_is_exact():
    vit = load_vit("toy/digits-2l")
    images = torch.rand(5, *(vit.cfg.n_channels, *vit.cfg.image_size))
    every = logit_lens(vit, images, at="patches", classes="all", n_bootstrap=0).tokens
    np.testing.assert_allclose(every.probabilities.sum(-1), 1, rtol=1e-5)
    some = logit_lens(vit, images, at="patches", classes=[3, "8"], top=2, n_bootstrap=0, memory=1).tokens
    assert some.classes == (3, 8) and some.logits.shape[-1] == 2 and some.top.shape[-1] == 2
    np.testing.assert_allclose(some.logit("8"), every.logits[..., 8], atol=1e-4)
    np.testing.assert_allclose(some.probabilities, every.probabilities[..., [3, 8]], atol=1e-5)
    order = np.argsort(-every.logits, -1, kind="stable")[..., :5]
    assert (every.top == order).mean() > 0.999
    np.testing.assert_allclose(every.top_probabilities, -np.sort(-every.probabilities, -1)[..., :5], atol=1e-6)
    frame = some.frame()
    row = frame[(frame["image"] == 4) & (frame["layer"] == "block 1") & (frame["token"] == "r1c2")].iloc[0]
    place = some.tokens.index("r1c2")
    assert row["class"] == vit.class_names[some.top[2, 4, place, 0]]
    assert row["probability"] == pytest.approx(some.top_probabilities[2, 4, place, 0])
    assert "10 classes, 2 kept" in repr(some)
    with pytest.raises(DataError, match=r"classes=\[5\]"):
        some.logit(5)


def test_figures_of_tokens_are_means_over_tokens_then_images(variant_named, images_for):
    vit = variant_named("plain")
    images, labels = images_for(vit, 6), torch.arange(6) % 5
    table = logit_lens(vit, images, labels, at="patches", classes="all", n_bootstrap=50)
    logits = torch.from_numpy(table.tokens.logits)
    ranks = 1 + (logits > logits.gather(-1, labels[None, :, None, None].expand(*logits.shape[:3], 1))).sum(-1)
    agreement = (logits.argmax(-1) == logits[-1].argmax(-1)).double().mean((1, 2))
    figures = table.figures()
    np.testing.assert_allclose([f.value for f in figures["rank"]], ranks.double().mean((1, 2)))
    np.testing.assert_allclose([f.value for f in figures["agreement"]], agreement)
    assert all(f.low <= f.value <= f.high for f in figures["kl"][:-1])
    assert "4 tokens on 6 images" in table.headline
    assert "the model's answer" in logit_lens(vit, images, at="all", n_bootstrap=0).headline


def test_calibration_is_the_gap_of_bins_and_zero_where_confidence_is_the_share_of_hits():
    confidence = np.array([0.95, 0.95, 0.55, 0.55, 1.0])
    hits = np.array([True, True, True, False, True])
    weights = np.full((1, 5), 0.2)
    wanted = abs(3 - 2.9) / 5 + abs(1 - 1.1) / 5
    np.testing.assert_allclose(calibration_errors(confidence, hits, weights), [wanted])
    rng = np.random.default_rng(0)
    confidence = rng.random(20_000)
    honest = rng.random(20_000) < confidence
    assert calibration_errors(confidence, honest, np.full((1, 20_000), 1 / 20_000))[0] < 0.02
    assert calibration_errors(confidence, ~honest, np.full((1, 20_000), 1 / 20_000))[0] > 0.4


def test_what_makes_no_sense_is_refused(variant_named, images_for):
    vit = variant_named("plain")
    images = images_for(vit, 2)
    with pytest.raises(ModelError, match="at='cls', 'patches' or 'all'"):
        logit_lens(vit, images, at="registers")
    with pytest.raises(ModelError, match="points='pre', 'mid'"):
        logit_lens(vit, images, points="middle")
    with pytest.raises(ModelError, match="no class 'cat'"):
        logit_lens(vit, images, classes=["cat"])
    with pytest.raises(DataError, match="one class per image"):
        logit_lens(vit, images, torch.tensor([1, 5]))


def test_a_head_of_texts_is_read_at_patches_and_causal_masks_hold():
    vit = load_vit("toy/clip-sprites", attention_mask="causal")
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = logit_lens(vit, images, at="all", classes="all", n_bootstrap=0).tokens
    _, cache = vit.run_with_cache(images)
    for place, layer in ((1, 0), (-1, vit.cfg.n_layers - 1)):
        wanted = vit.readout.head(vit.readout.norm(cache["resid_post", layer])).detach().numpy()
        np.testing.assert_allclose(found.logits[place], wanted, atol=1e-4)
    changed = images.clone()
    changed[:, :, -8:, -8:] = 0  # the last patch, which no other sees
    other = logit_lens(vit, changed, at="all", classes="all", n_bootstrap=0).tokens
    np.testing.assert_allclose(other.logits[:, :, :-1], found.logits[:, :, :-1], atol=1e-4)
    assert np.abs(other.logits[:, :, -1] - found.logits[:, :, -1]).max() > 0.1


def test_notebooks_show_the_page_of_patches_and_the_table_of_cls(tmp_path):
    vit = load_vit("toy/digits-2l")
    images = torch.rand(3, *(vit.cfg.n_channels, *vit.cfg.image_size), generator=torch.Generator().manual_seed(0))
    patches, cls = (
        logit_lens(vit, images, at=at, names=["<one>", "two", "three"], n_bootstrap=0) for at in ("all", "cls")
    )
    assert patches._repr_html_().startswith("<iframe sandbox") and "<table" in cls._repr_html_()
    html = patches.save(tmp_path / "lens.html").read_text(encoding="utf-8")
    answer = vit.class_names[int(vit(images)[1].argmax())]
    assert f"two: read as {answer}" in html and "&lt;one&gt;" in html and "<one>" not in html
    assert len(patches.tokens.pictures) == 3 and cls.tokens.pictures is None
    with pytest.raises(DataError, match="pass at='patches'"):
        cls.to_html()
    with pytest.raises(DataError, match="from 0 to 2"):
        patches.draw_patches(tmp_path / "lens.png", image=3)
