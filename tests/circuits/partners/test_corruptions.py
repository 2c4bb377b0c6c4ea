"""Aligned partners change what they should and nothing else, and pairs say at which tokens.

Filling a hole: harmonic inside, the picture outside bit for bit, flat and linear pictures restored.
"""

import pytest
import torch
import torch.nn.functional as F
from vitcircuits.circuits import Pairs, Partner, class_contrast
from vitcircuits.circuits.partners.attention_masks import AttentionMasks, most_of, patch_attention
from vitcircuits.circuits.partners.masks import Pictures, given_masks
from vitcircuits.circuits.partners.partner import (
    MASKED,
    changed_tokens,
    corrupt_pixels,
    harmonic_fill,
    patches_of,
    usable,
    whole_patches,
)
from vitcircuits.models import load_vit
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import TaskError


@pytest.fixture(scope="module")
def vit():
    return load_vit("toy/digits-2l")


@pytest.fixture(scope="module")
def images():
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def masks():
    masks = torch.zeros(6, 8, 8, dtype=torch.bool)
    masks[:, 1:7, 2:7] = True  # patches of 2 x 2: four of them lie wholly inside
    return masks


def corrupted(kind, images, vit, masks, seed=0):
    generator = torch.Generator().manual_seed(seed)
    partner = Partner(kind, mask=masks.numpy())
    return corrupt_pixels(partner, images, vit.cfg, images.mean(0), generator, masks=masks)


@pytest.mark.parametrize("kind", MASKED)
def test_pixels_outside_the_mask_are_left_bit_for_bit(vit, images, masks, kind):
    changed = corrupted(kind, images, vit, masks)
    outside = ~masks[:, None]
    assert torch.equal(changed[outside], images[outside])
    assert (changed != images).flatten(1).any(1).all()
    assert torch.equal(changed, corrupted(kind, images, vit, masks))  # the same seed, the same partner


def test_an_object_blurred_is_the_blurred_picture_under_the_mask(vit, images, masks):
    whole = corrupt_pixels("blur", images, vit.cfg, images[0], torch.Generator())
    assert torch.equal(corrupted("object_blur", images, vit, masks)[masks[:, None]], whole[masks[:, None]])


def test_shuffling_keeps_the_patches_and_moves_each(vit, images, masks):
    inside = whole_patches(masks, vit.cfg)
    assert inside.sum(1).tolist() == [4] * 6
    before = patches_of(images, vit.cfg)
    orders = set()
    for seed in range(4):
        after = patches_of(corrupted("object_shuffle", images, vit, masks, seed), vit.cfg)
        for old, new, places in zip(before, after, inside, strict=True):
            assert torch.equal(old[~places], new[~places])
            rows = [[torch.equal(a, b) for b in old[places]] for a in new[places]]
            assert all(sum(row) == 1 for row in rows) and all(sum(column) == 1 for column in zip(*rows, strict=True))
            assert not any(rows[place][place] for place in range(4))
            orders.add(str(rows))
    assert len(orders) > 2


def test_a_mask_must_leave_something_to_change_and_something_to_keep(vit, masks):
    given = torch.stack([masks[0], masks[0] & False, masks[0] | True, masks[0]])
    given[3] = False
    given[3, 0, 0] = True  # one pixel, no whole patch
    assert usable(Partner("object_fill", mask=given.numpy()), given, vit.cfg).tolist() == [True, False, False, True]
    assert usable(Partner("object_shuffle", mask=given.numpy()), given, vit.cfg).tolist() == [True, False, True, False]


def test_changed_tokens_are_those_whose_pixels_differ(vit, images):
    other = images.clone()
    other[0, 0, 3, 5] += 1  # patch row 1, column 2
    other[1, 0, 7, 0] += 1
    found = changed_tokens(vit.cfg, images, other)
    names = vit.cfg.tokens.token_names()
    assert [[names[i] for i in row.nonzero().flatten().tolist()] for row in found[:3]] == [["r1c2"], ["r3c0"], []]


@pytest.mark.parametrize("kind", [*MASKED, "word", "noise"])
def test_pairs_carry_their_changed_tokens_through_every_selection(vit, kind):
    partner = Partner(kind, mask="attention" if kind in MASKED else None)
    task = class_contrast(vit, "digits", target=4, foil=9, corruption=partner, n_discovery=24, n_evaluation=12)
    for pairs in (task.discovery, task.evaluation):
        assert torch.equal(pairs.changed, changed_tokens(vit.cfg, pairs.clean, pairs.corrupt))
        assert pairs.changed.any(1).all() and not pairs.changed[:, 0].any()
        batches = list(pairs.batches(5))
        assert torch.equal(torch.cat([batch.changed for batch in batches]), pairs.changed)
        assert torch.equal(pairs.select([2, 0]).changed, pairs.changed[[2, 0]])
    assert class_contrast(vit, "digits", target=4, foil=9, n_discovery=8, n_evaluation=8).discovery.changed is None


def test_changed_tokens_that_do_not_fit_are_refused(images, unchecked):
    with pytest.raises(TaskError, match="one row"):
        Pairs(images, images + 1, changed=torch.ones(5, 17, dtype=torch.bool))


def test_tasks_say_who_chose_the_mask_and_count_images_without_one(vit):
    chosen = Partner("object_fill", mask="attention:last:0.4")
    info = class_contrast(vit, "digits", target=3, foil=8, corruption=chosen, n_discovery=20, n_evaluation=20).info
    assert info["mask"] == "attention:last:0.4" and "own attention" in info["mask_chosen_by"]
    some = torch.zeros(8, 8, dtype=torch.bool)
    some[2:6, 2:6] = True
    data = load_data("digits", vit.preprocess)
    threes = [n for n, y in zip(data.train.names, data.train.labels.tolist(), strict=True) if y == 3][:30]
    table = {name: some if place % 3 else some & False for place, name in enumerate(threes)} | {
        name: some for name, y in zip(data.test.names, data.test.labels.tolist(), strict=True) if y == 3
    }
    given = Partner("object_fill", mask=table)
    of_threes = {"target": 3, "foil": 8, "sides": "one", "n_discovery": 30, "n_evaluation": 10}
    task = class_contrast(vit, data, corruption=given, **of_threes)
    dropped = task.info["dropped"]["discovery"]
    assert dropped["no_mask"] == 10 and len(task.discovery) + sum(dropped.values()) == 30
    assert "mask_chosen_by" not in task.info and len(task.info["mask_digest"]) == 64
    with pytest.raises(TaskError, match="train/"):
        class_contrast(vit, data, corruption=Partner("object_fill", mask={"nobody": some}), **of_threes)
    with pytest.raises(TaskError, match='masks of both classes; with masks of the target alone, pass sides="one"'):
        class_contrast(vit, data, corruption=given, **{**of_threes, "sides": "both"})
    nothing = Partner("object_fill", mask=some & False)
    with pytest.raises(TaskError, match="widen it"):
        class_contrast(vit, data, corruption=nothing, **of_threes)


def test_a_crossed_task_counts_images_of_both_classes_without_a_usable_mask(vit):
    some = torch.zeros(8, 8, dtype=torch.bool)
    some[2:6, 2:6] = True
    data = load_data("digits", vit.preprocess)
    names = [*data.train.names, *data.test.names]
    given = Partner("object_fill", mask={name: some if place % 3 else some & False for place, name in enumerate(names)})
    info = class_contrast(vit, data, target=3, foil=8, corruption=given, n_discovery=30, n_evaluation=10).info
    counts = info["images"]["discovery"]
    assert 0 < info["dropped"]["discovery"]["no_mask"] == counts["no_mask"] < 60
    assert counts["target"] == counts["foil"] <= 60 - counts["no_mask"]


def test_the_foils_name_is_painted_unless_another_is_given(vit):
    options = {"target": 3, "foil": 8, "n_discovery": 10, "n_evaluation": 10}
    assert class_contrast(vit, "digits", corruption="word", **options).info["word"] == "8"
    task = class_contrast(vit, "digits", corruption=Partner("word", word="5", place=(0.1, 0.9)), **options)
    assert (task.info["word"], task.info["word_place"]) == ("5", "0.1,0.9")


def test_descriptions_that_make_no_sense_are_refused(masks):
    with pytest.raises(TaskError, match="--mask"):
        Partner("object_fill")
    with pytest.raises(TaskError, match="takes no mask"):
        Partner("blur", mask="attention")
    with pytest.raises(TaskError, match="object_shuffle"):
        Partner("object_swap")


def test_attention_masks_are_the_fewest_patches_that_hold_the_share(variant, images_for):
    some, layout = images_for(variant, 3), variant.cfg.tokens
    data = load_data((torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])), None)
    for method in ("rollout", "last"):
        held = patch_attention(variant, some, method).flatten(1)
        assert held.shape == (3, layout.n_patches) and bool((held >= 0).all())
        pixels = AttentionMasks(method, 0.6)(Pictures(variant, data, some, ["a", "b", "c"]))
        chosen = whole_patches(pixels, variant.cfg)
        assert torch.equal(chosen, patches_of(pixels[:, None], variant.cfg).flatten(2).any(-1))  # whole patches only
        mass = (held * chosen).sum(1)
        least = torch.where(chosen, held, torch.inf).amin(1)
        assert bool((mass >= 0.6 * held.sum(1)).all()) and bool((mass - least < 0.6 * held.sum(1)).all())
        assert bool((least >= torch.where(chosen, -torch.inf, held).amax(1)).all())


def test_rollout_and_last_layer_are_what_they_are_defined_as(variant, images_for, close):
    some, layout = images_for(variant, 2), variant.cfg.tokens
    _, cache = variant.run_with_cache(some, names_filter=lambda name: name.endswith("hook_pattern"))
    product = torch.eye(layout.n_tokens, dtype=torch.float64)
    for layer in range(variant.cfg.n_layers):
        pattern = cache["pattern", layer].detach().double().mean(1)
        product = (0.5 * pattern + 0.5 * torch.eye(layout.n_tokens, dtype=torch.float64)) @ product
    for method, wanted in (("rollout", product), ("last", pattern)):
        row = wanted[:, 0] if layout.has_cls else wanted.mean(1)
        close(patch_attention(variant, some, method).flatten(1), row[:, layout.n_prefix :])


def test_equal_values_are_taken_in_their_order():
    assert most_of(torch.full((1, 4), 0.25), 0.5).tolist() == [[True, True, False, False]]
    assert most_of(torch.tensor([[0.1, 0.7, 0.2]]), 0.7).tolist() == [[False, True, False]]


def test_masks_given_as_arrays_are_taken_for_every_image(vit, masks):
    assert given_masks(masks[0].numpy()).has("anything", load_data("digits", None, limit=2))


def hole(kind, size=12):
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    if kind == "inside":
        mask[0, 3:8, 2:9] = True
    elif kind == "at the edge":
        mask[0, :5, 4:] = True
    elif kind == "two":
        mask[0, 1:4, 1:4] = mask[0, 6:11, 5:9] = True
    else:
        mask[0] = torch.rand(size, size, generator=torch.Generator().manual_seed(3)) < 0.5
    return mask


@pytest.fixture
def noise():
    return torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["inside", "at the edge", "two", "scattered"])
def test_each_filled_pixel_is_the_mean_of_its_neighbours(noise, kind):
    mask = hole(kind)
    filled = harmonic_fill(noise, mask)
    kernel = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.float64).expand(3, 1, 3, 3)
    sums = F.conv2d(filled, kernel, padding=1, groups=3)
    counts = F.conv2d(torch.ones_like(filled), kernel, padding=1, groups=3)  # fewer at the picture's edge
    torch.testing.assert_close(filled[:, :, mask[0]], (sums / counts)[:, :, mask[0]], rtol=0, atol=1e-12)
    assert torch.equal(filled[:, :, ~mask[0]], noise[:, :, ~mask[0]])
    assert filled.min() >= noise.min() and filled.max() <= noise.max()


def test_what_lies_under_the_mask_has_no_say(noise):
    mask = hole("two")
    other = torch.where(mask[:, None], 7 * noise, noise)
    assert torch.equal(harmonic_fill(noise, mask), harmonic_fill(other, mask))


@pytest.mark.parametrize("kind", ["inside", "two"])
def test_a_flat_and_an_evenly_rising_picture_are_restored(kind):
    row, column = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    picture = torch.stack([0 * row + 0.7, 2 * row - column, column / 3])[None]
    mask = hole(kind)
    filled = harmonic_fill(torch.where(mask[:, None], -9.0, picture), mask)
    torch.testing.assert_close(filled, picture, rtol=0, atol=1e-5)


def test_without_surroundings_nothing_is_filled(noise):
    everything = torch.ones(1, 12, 12, dtype=torch.bool)
    assert torch.equal(harmonic_fill(noise, everything), noise)
    assert torch.equal(harmonic_fill(noise, ~everything), noise)
