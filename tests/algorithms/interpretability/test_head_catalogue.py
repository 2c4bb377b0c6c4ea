"""Heads that were built to look somewhere are named so; figures are those of the patterns themselves."""

import numpy as np
import pytest
import torch
from pandas.testing import assert_frame_equal
from vitcircuits.algorithms import head_catalogue
from vitcircuits.models.errors import DataError, GraphError, ModelError


@pytest.mark.parametrize("patch", [32, 16, 14, 4])
def test_heads_built_to_look_somewhere_are_named_so_and_one_that_looks_at_random_not(built, looks, patch, images_for):
    vit = built([looks[label] for label in looks], patch=patch)
    found = head_catalogue(vit, images_for(vit, 12), n_shuffles=20)
    for entry, label in zip(found.entries, [*looks, ""], strict=True):
        assert entry.name == label
    fixed = [entry.looking["patches"].position.value for entry in found.entries]
    assert min(fixed[:5]) > 0.999 and fixed[5] < 0.2
    assert found.named()["modulus"] == ["a0.h2"] and len(found.named()) == 5
    assert "5 named by position" in found.headline


def test_a_pattern_that_changes_from_image_to_image_has_no_name_though_its_mean_has_one(built, looks, images_for):
    vit = built([looks["offset: 1 left"]], sharpness=4, blur=0.12)
    looking = head_catalogue(vit, images_for(vit, 60)).entries[0].looking["patches"]
    assert looking.fits["offset"].label == "offset: 1 left" and looking.fits["offset"].r2 > 0.5
    assert 0.05 < looking.position.value < 0.5 and not looking.name


def patterns(vit, images):
    """(head, image, target, source)."""
    cache = vit.run_with_cache(images, lambda name: name.endswith("hook_pattern"))[1]
    parts = [cache["pattern", layer].movedim(1, 0) for layer in range(vit.cfg.n_layers)]
    return torch.cat(parts).double()


def test_figures_are_those_of_the_patterns(variant, images_for):
    images, layout = images_for(variant, 4), variant.cfg.tokens
    found = head_catalogue(variant, images, n_shuffles=2, n_bootstrap=50, memory=1)
    for entry, every in zip(found.entries, patterns(variant, images), strict=True):
        places = {"patches": every[:, layout.patches]}
        if layout.has_cls:
            places["cls"] = every[:, :1]
        assert set(entry.looking) == set(places)
        for at, rows in places.items():
            looking, p = entry.looking[at], rows[..., layout.patches]
            others = torch.stack([(p.sum(0) - one) / 3 for one in p])
            r2 = 1 - (p - others).square().sum() / (p - p.mean()).square().sum()
            assert looking.position.value == pytest.approx(float(r2), abs=1e-4)
            assert looking.position.low <= looking.position.value <= looking.position.high
            entropy = -(rows * rows.log()).sum(-1).mean()
            assert looking.entropy.value == pytest.approx(float(entropy), abs=1e-5)
            registers = float(rows[..., layout.registers].sum(-1).mean())
            assert (looking.to_registers.value or 0.0) == pytest.approx(registers, abs=1e-6)
            assert (looking.to_cls.value is None) == (not layout.has_cls)
            np.testing.assert_allclose(looking.map.ravel(), p.mean((0, 1)).numpy(), atol=1e-6)


def test_what_excites_a_head_is_where_it_writes_most_and_takes_most_from(variant_named, images_for):
    vit = variant_named("registers-layerscale")
    images, layout = images_for(vit, 5), vit.cfg.tokens
    found = head_catalogue(vit, images, n_top=3, n_shuffles=0, memory=1)
    cache = vit.run_with_cache(images)[1]
    for layer, block in enumerate(vit.blocks):
        lengths = cache["result", layer][:, 0].norm(dim=-1)  # image, head
        parts = cache["pattern", layer][:, :, 0, :, None] * block.head_write(cache["v", layer].transpose(1, 2))
        parts = parts.norm(dim=-1)[..., layout.patches]  # image, head, patch
        for head in range(vit.cfg.n_heads):
            entry = found[f"a{layer}.h{head}"]
            order = lengths[:, head].sort(descending=True)
            assert [image for _, image in entry.images] == order.indices[:3].tolist()
            np.testing.assert_allclose([score for score, _ in entry.images], order.values[:3].numpy())
            best, where = parts[:, head].max(-1)
            top = best.sort(descending=True).indices[:3].tolist()
            wanted = [(image, *divmod(int(where[image]), layout.grid[1])) for image in top]
            assert [tuple(place) for _, *place in entry.patches] == wanted


def test_batches_change_nothing(variant_named, images_for):
    vit = variant_named("plain")
    images = images_for(vit, 6)
    one, all_at_once = (head_catalogue(vit, images, memory=memory, n_shuffles=3).frame() for memory in (1, 2**30))
    assert_frame_equal(one, all_at_once, rtol=1e-9)


def test_attention_to_registers_and_cls_is_told(built, images_for):
    n = 16
    vit = built([np.zeros((n, n))], grid=4, registers=3)  # even over 1 + 3 + 16 tokens
    looking = head_catalogue(vit, images_for(vit, 4)).entries[0].looking["patches"]
    assert looking.to_cls.value == pytest.approx(1 / 20) and looking.to_registers.value == pytest.approx(3 / 20)
    assert looking.entropy.value == pytest.approx(np.log(20)) and looking.position.value is None
    assert "the same everywhere" in str(looking.position)


def test_heads_of_attention_pooling_are_asked_at_its_own_token(architecture, images_for):
    images = images_for(architecture, 3)
    found = head_catalogue(architecture, images, n_shuffles=1)
    layer = architecture.cfg.n_layers - 1
    for entry in found.entries:
        if architecture.cfg.is_pool(layer) and entry.head.startswith(f"a{layer}."):
            assert set(entry.looking) == {"cls"} and entry.offsets is None
        else:
            assert "patches" in entry.looking


def test_it_is_printed_framed_saved_and_drawn(built, looks, tmp_path, images_for):
    vit = built([looks["row"]])
    found = head_catalogue(vit, images_for(vit, 50), factors={"half": np.arange(50) % 2})
    assert "row" in str(found) and "half" in str(found.table().rows) + str(found.frame()["factor"].tolist())
    frame = found.frame()
    assert list(frame["from"]) == ["patches", "cls"] * 2 and frame["name"][0] == "row" and frame["row_r2"][0] > 0.99
    found.save(tmp_path / "heads.csv")
    for ending in ("svg", "png", "pdf"):
        assert found.draw(tmp_path / f"heads.{ending}").stat().st_size > 2000
    text = (tmp_path / "heads.svg").read_text()
    assert "a0.h0" in text and "row" in text and text.count("<image") == 2 * (2 + 4)
    with pytest.raises(GraphError, match="not in the catalogue"):
        found["a7.h0"]


def test_what_it_cannot_do_is_said(built, images_for):
    vit = built([])
    with pytest.raises(DataError, match="two at least"):
        head_catalogue(vit, images_for(vit, 1))
    with pytest.raises(ModelError, match="no head"):
        head_catalogue(vit, images_for(vit, 3), heads=["a9.h9"])
