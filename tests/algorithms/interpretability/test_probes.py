"""Probes are scikit-learn's; noise holds nothing; what a head moves is read where it arrives, and from there on."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from vitcircuits.algorithms import probe
from vitcircuits.algorithms.interpretability.factors import PENALTIES
from vitcircuits.algorithms.interpretability.probes import balanced_folds, patch_fits, patch_masks, spanning
from vitcircuits.models.errors import DataError, GraphError, ModelError


def by_sklearn(features, codes, n_folds, seed):
    """Predictions on images left out, (image, class), of raw features."""
    centred = features - features.mean(0)
    scale = np.square(centred).sum() / max(np.linalg.matrix_rank(centred, tol=1e-9), 1) or 1.0
    split = PredefinedSplit(balanced_folds(codes, n_folds, seed=seed))
    one_hot = np.eye(codes.max() + 1)[codes]
    return cross_val_predict(RidgeCV(np.array(PENALTIES) * scale), features, one_hot, cv=split)


@pytest.mark.parametrize("name", ["plain", "registers-layerscale", "no-class-registers", "float32"])
def test_answers_and_maps_are_those_of_scikit_learn(variant_named, images_for, name):
    vit = variant_named(name)
    images, codes = images_for(vit, 40), np.arange(40) % 3
    found = probe(vit, images, codes, n_folds=4, n_shuffles=0, seed=3, memory=1)
    cache = vit.run_with_cache(images)[1]
    stops = ["blocks.0.hook_resid_pre"]
    stops += [f"blocks.{layer}.hook_resid_{point}" for layer in range(2) for point in ("mid", "post")]
    assert found.places == ("input", "block 0 mid", "block 0", "block 1 mid", "block 1")
    for place, stop in enumerate(stops):
        residual = cache[stop].double().numpy()
        groups = {"cls": residual[:, :1], "reg": residual[:, vit.cfg.tokens.registers]}
        groups["patch"] = residual[:, vit.cfg.tokens.patches]
        for column, group in enumerate(found.groups):
            wanted = by_sklearn(groups[group].mean(1), codes, 4, 3)
            assert (found.hits[place, column] == (wanted.argmax(1) == codes)).mean() >= 1 - (vit.dtype != torch.float64)
            if group == "patch":
                scores = found.maps.scores[place].mean((1, 2))
                np.testing.assert_allclose(scores, wanted, atol=1e-6 if vit.dtype == torch.float64 else 1e-3)


def test_what_is_said_of_each_patch_is_the_fit_that_left_its_image_out():
    rng = np.random.default_rng(0)
    features, one_hot = rng.normal(size=(30, 8)), np.eye(2)[np.arange(30) % 2]
    folds = balanced_folds(np.arange(30) % 2, 3, seed=0)
    weights, bias = patch_fits(features, one_hot, folds)
    said = np.einsum("im,imc->ic", features, weights) + bias
    np.testing.assert_allclose(said, by_sklearn(features, np.arange(30) % 2, 3, 0), atol=1e-9)
    for fold in range(3):
        assert np.ptp(weights[folds == fold], axis=0).max() == 0
    spanned, into = spanning(features)
    np.testing.assert_allclose(into(features), spanned, atol=1e-12)


@pytest.mark.parametrize("n_folds", [2, 5])
def test_folds_hold_every_class_alike(n_folds):
    codes = np.random.default_rng(0).integers(0, 3, 53)
    folds = balanced_folds(codes, n_folds, seed=1)
    assert np.ptp(np.bincount(folds)) <= 1
    for code in range(3):
        assert np.ptp(np.bincount(folds[codes == code], minlength=n_folds)) <= 1


def test_noise_holds_nothing(variant_named, images_for):
    vit = variant_named("plain")
    codes = np.random.default_rng(1).permutation(np.arange(120) % 2)
    found = probe(vit, images_for(vit, 120), codes, n_shuffles=19)
    frame = found.frame()
    assert 0.4 < found.null.mean() < 0.55
    middle = found.null.mean(0).ravel()
    assert (frame.accuracy_low <= middle).all() and (middle <= frame.accuracy_high).all()
    assert found.accuracy("input", "cls").value == 0.5  # CLS is the same for all images there
    assert found.holds_from("cls") == "" and found.holds_from("patch") == ""
    assert all(one.low <= 0 <= one.high or abs(one.value) < 0.1 for one in found.by_patch()["patch"])


@pytest.fixture(scope="module")
def moved(built, looks, images_for):
    """The class stands in the top left patch alone, and one head takes that patch everywhere."""
    vit = built([looks["corner: top left"]])
    images, codes = images_for(vit, 100), np.arange(100) % 2
    images[:, :, :4, :4] = 0.3 * images[:, :, :4, :4] + torch.as_tensor(2.0 * codes - 1)[:, None, None, None]
    masks = torch.zeros(100, 24, 24, dtype=torch.bool)
    masks[:, :4, :4] = True
    return vit, images, codes, masks


def test_what_a_head_moves_is_held_by_the_background_from_there_on(moved):
    vit, images, codes, masks = moved
    found = probe(vit, images, np.where(codes, "up", "down"), masks=masks, tokens=["cls"])
    assert found.groups == ("cls", "object", "background") and found.classes == ("down", "up")
    assert found.accuracy("input", "object").value > 0.97 and found.accuracy("block 0", "background").value > 0.97
    assert found.accuracy("input", "background").low < 0.5 < found.accuracy("input", "background").high
    assert found.holds_from("background") == "block 0 mid" == found.holds_from("cls")
    assert found.holds_from("object") == ""  # it shows the class itself
    assert found.gain("block 0", "background").low > 0.3
    margins = found.by_patch()
    assert margins["background"][0].value < 0.2 < margins["background"][1].low
    assert margins["object"][0].low > margins["background"][0].high


def test_what_patches_say_adds_up_to_what_the_probe_says(variant_named, images_for):
    vit, codes = variant_named("plain"), np.arange(60) % 3
    found = probe(vit, images_for(vit, 60), codes, n_shuffles=0)
    said = found.maps.scores.mean((2, 3))  # place, image, class
    own = said[:, np.arange(60), codes]
    wanted = own - (said.sum(-1) - own) / 2
    np.testing.assert_allclose(found.maps.margins.mean((2, 3)), wanted, atol=1e-12)
    np.testing.assert_allclose([one.value for one in found.by_patch()["patch"]], wanted.mean(1), atol=1e-12)


def test_every_patch_by_itself_shows_where_the_class_is(moved):
    vit, images, codes, _ = moved
    found = probe(vit, images, codes, tokens="each", points="pre", layers=[0], maps=False, n_shuffles=0)
    right = dict(zip(found.groups, found.hits[0].mean(1), strict=True))
    assert right.pop("r0c0") > 0.97 and max(right.values()) < 0.75
    assert found.maps is None
    with pytest.raises(DataError, match="no maps were kept"):
        found.by_patch()


def test_masks_of_pixels_are_patches_at_least_half_covered(built):
    vit = built([])
    masks = torch.zeros(1, 24, 24, dtype=torch.bool)
    masks[0, :2, :4], masks[0, 4:6, 4:7] = True, True  # 8 of 16 pixels, and 6 of 16
    wanted = np.zeros((1, 6, 6), bool)
    wanted[0, 0, 0] = True
    np.testing.assert_array_equal(patch_masks(vit, masks), wanted)
    np.testing.assert_array_equal(patch_masks(vit, torch.from_numpy(wanted)), wanted)


def test_it_is_printed_framed_saved_and_drawn(tmp_path, moved):
    vit, images, codes, masks = moved
    found = probe(vit, images, codes, masks=masks, points="post", n_shuffles=3)
    assert "block 0" in str(found) and len(found.frame()) == len(found.places) * len(found.groups)
    found.save(tmp_path / "probes.csv")
    assert found.draw(tmp_path / "probes.svg").stat().st_size > 2000
    assert found.draw_maps(tmp_path / "maps.png", images=(0, 1)).stat().st_size > 2000
    with pytest.raises(GraphError, match="not in the table"):
        found.accuracy("block 7", "cls")


def test_every_architecture_can_be_probed(architecture, images_for):
    found = probe(architecture, images_for(architecture, 20), np.arange(20) % 2, n_folds=2, n_shuffles=1)
    assert found.hits.shape == (len(found.places), len(found.groups), 20)
    layout = architecture.cfg.tokens
    assert found.maps.scores.shape == (len(found.places), 20, *layout.grid, 2)


def test_what_it_cannot_do_is_said(moved, unchecked):
    vit, images, codes, masks = moved
    with pytest.raises(DataError, match="too few"):
        probe(vit, images[:20], codes[:20])
    with pytest.raises(DataError, match="every patch is object"):
        probe(vit, images, codes, masks=torch.ones_like(masks))
    with pytest.raises(DataError, match="masks for"):
        probe(vit, images, codes, masks=masks[:5])
    with pytest.raises(DataError, match="masks are"):
        patch_masks(vit, masks[:, :5])
    with pytest.raises(ModelError, match="points="):
        probe(vit, images, codes, points="behind")
    with pytest.raises(ModelError, match="layers="):
        probe(vit, images, codes, layers=[3])
