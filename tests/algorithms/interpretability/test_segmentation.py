"""Maps over patches: known where a model is built to have them, at chance where it is untrained, counted in pixels."""

from itertools import chain, combinations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from vitcircuits.algorithms import logit_attribution, segmentation, tuned_lens
from vitcircuits.algorithms.interpretability.patch_scores import log_odds, patch_scores, target_mask, through_heads
from vitcircuits.algorithms.interpretability.segmentation import aucs, coverage, ious_by_count, ious_by_rule
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import DataError, ModelError
from vitcircuits.models.toys.sprites import draw_sprites, factors_of, sample_factors, sprite_masks

GRID = 4  # patches a side, of 4 x 4 pixels


@pytest.fixture(scope="module")
def bright(tiny_module):
    """A model whose every patch says class 1 where it is bright, and class 0 where not; its heads look everywhere."""
    module = tiny_module(img_size=16, num_classes=2, depth=1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        module.patch_embed.proj.weight[0] = 1 / 16
        module.patch_embed.proj.weight[1] = -1 / 16
        module.norm.weight.fill_(1.0)
        module.norm.bias.zero_()
        module.head.weight[1, 0] = module.head.weight[0, 1] = 1.0
        value, out = module.blocks[0].attn.qkv.weight[32:], module.blocks[0].attn.proj.weight
        value[0, 0] = out[0, 0] = value[1, 1] = out[1, 1] = 1.0
        module.blocks[0].norm1.weight.fill_(1.0)
        module.cls_token[..., 2] = 1.0
    return load_vit(module, name="bright")


def boxes(n=20, seed=0):
    """Images dark but for a bright box of whole patches, and their masks."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, 16, 16), dtype=bool)
    for mask in masks:
        top, left = rng.integers(0, GRID - 1, 2) * 4
        mask[top : top + 8, left : left + (8 if rng.random() < 0.8 else 4)] = True
    images = torch.where(torch.from_numpy(masks), 1.0, -1.0).double()[:, None]
    return images, torch.from_numpy(masks)


def test_where_each_patch_says_what_it_shows_lens_labels_and_direct_effects_are_the_mask(bright):
    images, masks = boxes()
    found = segmentation(bright, images, masks, torch.ones(20, dtype=torch.long), n_bootstrap=50)
    for name in ("lens", "direct effects"):
        np.testing.assert_allclose(found[name].auc, 1)
        np.testing.assert_allclose(found[name].iou, 1)
        assert "of the range" in found[name].chosen  # boxes differ in size, so that no share suits all
    np.testing.assert_allclose(found["lens labels"].iou, 1)
    np.testing.assert_allclose(found["ceiling"].iou, 1)
    np.testing.assert_allclose(found["attention"].auc, 0.5)  # it looks everywhere alike
    np.testing.assert_allclose(found["everything"].iou, masks.float().mean((1, 2)))
    figures = found.figures("lens labels")
    assert figures["above"].value == pytest.approx(1 - found["centre box"].iou.mean()) and figures["above"].low > 0
    wrong = segmentation(bright, images, masks, torch.zeros(20, dtype=torch.long), n_bootstrap=0)
    np.testing.assert_allclose(wrong["lens"].auc, 0)
    np.testing.assert_allclose(wrong["lens labels"].iou, found["everything"].iou)  # behind the block all say dark


def test_untrained_models_are_at_chance():
    vit = load_vit("toy/sprites-4l")
    data = load_data("sprites", vit.preprocess, limit=50).test
    masks = torch.from_numpy(sprite_masks(factors_of(data.names)))
    found = segmentation(vit, data.images, masks, data.labels, untrained=6, n_bootstrap=200)
    labels, effects = (found.figures(f"untrained {name}") for name in ("lens labels", "direct effects"))
    assert labels["auc"].low - 0.02 < 0.5 < labels["auc"].high + 0.02
    assert abs(effects["auc"].value - 0.5) < 0.08
    for name in ("lens", "lens labels", "direct effects", "attention"):
        assert found.figures(f"untrained {name}")["above"].high < 0
    trained = found.figures("attention")
    assert trained["above"].low > 0 and trained["auc"].value > 0.9
    assert found.figures("lens labels")["auc"].low > labels["auc"].high


def test_iou_is_counted_in_pixels(tiny_vit):
    vit = tiny_vit(img_size=16)
    rng = np.random.default_rng(0)
    masks = rng.random((4, 16, 16)) < 0.3
    cover, scores = coverage(vit, torch.from_numpy(masks)), rng.random((4, 16))
    found = ious_by_rule(scores, cover)
    for image, mask in enumerate(masks):
        for place, share in enumerate(np.arange(1, 21) / 20):
            kept = np.zeros(16, dtype=bool)
            kept[np.argsort(-scores[image])[: max(1, round(16 * share))]] = True
            pixels = np.kron(kept.reshape(4, 4), np.ones((4, 4))).astype(bool)
            wanted = (pixels & mask).sum() / (pixels | mask).sum()
            assert found[image, place] == pytest.approx(wanted)
        for place, level in enumerate(np.arange(1, 20) / 20):
            kept = scores[image] >= scores[image].min() + level * np.ptp(scores[image])
            pixels = np.kron(kept.reshape(4, 4), np.ones((4, 4))).astype(bool)
            assert found[image, 20 + place] == pytest.approx((pixels & mask).sum() / (pixels | mask).sum())
        each = np.repeat(np.repeat(scores[image].reshape(4, 4), 4, 0), 4, 1)
        assert aucs(scores, cover)[image] == pytest.approx(roc_auc_score(mask.ravel(), each.ravel()))


def test_the_ceiling_is_the_best_of_all_sets_of_patches():
    cover = np.random.default_rng(1).random((3, 8))
    sets = [list(some) for some in chain.from_iterable(combinations(range(8), n) for n in range(1, 9))]
    for row, best in zip(cover, ious_by_count(cover), strict=True):
        assert best == pytest.approx(max(row[some].sum() / (row.sum() + len(some) - row[some].sum()) for some in sets))


def test_direct_effects_of_all_tokens_add_up_to_the_heads_direct_logit_attribution(separable, images_for):
    images = images_for(separable, 3)
    inside = target_mask([[0]] * 3, 3, separable.cfg.n_classes)
    with separable.borrowed():
        direct, attention = through_heads(separable, images, inside)
    with torch.no_grad():
        logits = separable(images)
    weights = logits[:, 1:].softmax(-1).double().numpy()
    names, heads = None, 0.0
    for other in range(1, separable.cfg.n_classes):
        metric = Metric("logit_difference", (0,), (other,))
        table = logit_attribution(separable, images, metric, through_pool=False)
        names = [place for place, name in enumerate(table.source_names) if name.startswith("a")]
        heads = heads + weights[:, other - 1] * table.values[:, names].sum((1, 2))
    np.testing.assert_allclose(direct.sum(1).double().numpy(), heads, atol=1e-4 * max(1, np.abs(heads).max()))
    assert float(attention.sum(-1).max()) <= 1 + 1e-5


def test_log_odds_are_of_probabilities():
    logits = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inside = target_mask([[0], [1, 2], [5], [0, 1, 2, 3]], 4, 6)
    p = (logits.softmax(-1) * inside[:, None]).sum(-1)
    torch.testing.assert_close(log_odds(logits, inside), p.log() - (1 - p).log())


def test_shares_and_layers_are_chosen_on_other_images(bright):
    images, masks = boxes(10)
    odd = masks.clone()
    odd[0] = ~masks[0]  # the share that suits this image alone is not taken for it
    labels = torch.ones(10, dtype=torch.long)
    plain, changed = (segmentation(bright, images, m, labels, n_folds=10, n_bootstrap=0) for m in (masks, odd))
    assert changed["lens"].iou[0] < 0.1 and plain["lens"].iou[0] > 0.4


def test_a_tuned_lens_stands_beside_the_plain_one(bright):
    images, masks = boxes(32)
    lens = tuned_lens(bright, images, at="patches", epochs=1, n_patches=4, n_bootstrap=0)
    labels = torch.ones(32, dtype=torch.long)
    found = segmentation(bright, images, masks, labels, through=lens, said="boxes drawn here", n_bootstrap=10)
    assert {"tuned lens", "tuned lens labels"} <= set(found.judged)
    assert found.judged["tuned lens"].auc.mean() > 0.99 and "boxes drawn here" in str(found)
    frame = found.frame().set_index("map")
    assert frame.loc["lens labels", "IoU"] == 1 and np.isnan(frame.loc["everything", "AUC"])
    assert {"IoU_low", "above centre box_high"} <= set(frame.columns)


def test_masks_of_sprites_are_where_the_drawing_has_colour():
    factors = sample_factors(20, seed=3)
    bright_pixels = draw_sprites(factors).max(1) >= 110  # half of the least bright of the brightest channels
    masks = sprite_masks(factors)
    assert masks.shape == (20, 32, 32) and (masks == bright_pixels).mean() > 0.98


@pytest.mark.parametrize("name", ["average", "registers-layerscale"])
def test_averages_and_registers_have_maps_too(name, variant_named, images_for):
    vit = variant_named(name)
    maps = patch_scores(vit, images_for(vit, 3), torch.tensor([0, 1, 2]), memory=1)
    assert maps.lens.shape == (3, 3, 4) and maps.attention.shape == (2, 3, 4) and np.isfinite(maps.direct).all()


def test_what_makes_no_sense_is_refused(bright, architecture_named, images_for, unchecked):
    images, masks = boxes(6)
    labels = torch.ones(6, dtype=torch.long)
    with pytest.raises(DataError, match="masks of its"):
        segmentation(bright, images, masks[:, :8], labels)
    with pytest.raises(DataError, match="for 7 folds"):
        segmentation(bright, images, masks, labels, n_folds=7)
    with pytest.raises(DataError, match="are empty"):
        segmentation(bright, images, masks & False, labels)
    with pytest.raises(DataError, match="or all of them"):
        segmentation(bright, images, masks, [[0, 1]] * 6)
    with pytest.raises(DataError, match="no class of 0 to 1"):
        segmentation(bright, images, masks, [[2]] * 6)
    with pytest.raises(DataError, match="5 targets for 6"):
        segmentation(bright, images, masks, [[1]] * 5)
    joint = architecture_named("joint-norm")
    with pytest.raises(ModelError, match="share a norm"):
        patch_scores(joint, images_for(joint, 2), torch.tensor([0, 1]))
