"""Registers, and patches that serve as such: planted ones are found, with the neuron that makes them, and moved."""

import dataclasses

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from vitcircuits.algorithms import ablate_tokens, find_outliers, register_report, test_time_registers
from vitcircuits.algorithms.interpretability.outliers import neuron_writes
from vitcircuits.models import load_vit
from vitcircuits.models.errors import ModelError, TaskError

MODEL, GRID = 24, 5


@pytest.fixture(scope="module")
def planted():
    """A ViT of two blocks, one neuron of which makes each bright patch 40 long, and a head that looks at what is long.

    Dimension 0 holds how bright a patch is, 1 is CLS's alone, 2 is what the neuron m0.n3 writes.
    """
    module = VisionTransformer(
        img_size=4 * GRID, patch_size=4, in_chans=1, num_classes=2, embed_dim=MODEL, depth=2, num_heads=1,
        mlp_ratio=1.0, norm_layer=nn.Identity, act_layer=nn.ReLU, no_embed_class=True,
    ).double().eval()  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        proj = module.patch_embed.proj.weight
        proj[0] = 1 / 160
        content = torch.randn(proj[3:].shape, generator=generator).double() / 8
        proj[3:] = content - content.mean((1, 2, 3), keepdim=True)  # brightness is in dimension 0 alone
        module.cls_token[..., 1] = 1
        mlp = module.blocks[0].mlp
        mlp.fc1.weight[3, 0], mlp.fc1.bias[3], mlp.fc2.weight[2, 3] = 100, -45, 8  # a patch of 5 is 8 (50 - 45) = 40
        mlp.fc1.weight[4, 3], mlp.fc2.weight[5, 4] = 1, 0.1  # another neuron, which does little
        attention = module.blocks[1].attn
        attention.qkv.weight[0, 1], attention.qkv.weight[MODEL, 2] = MODEL**0.5, 1
        attention.qkv.weight[2 * MODEL :].copy_(torch.eye(MODEL))
        attention.proj.weight[3:, 3:].copy_(torch.eye(MODEL - 3))
        module.head.weight[:, 3:] = torch.randn(2, MODEL - 3, generator=generator)
    return load_vit(module, name="planted")


@pytest.fixture(scope="module")
def bright():
    """Images with one bright patch each, and which."""
    rng, images = np.random.default_rng(0), torch.randn(30, 1, 4 * GRID, 4 * GRID, dtype=torch.float64) * 0.3
    places = rng.integers(0, GRID * GRID, 30)
    for image, place in enumerate(places):
        row, column = divmod(int(place), GRID)
        images[image, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 5
    return images, places


@pytest.fixture(scope="module")
def dim(images_for, planted):
    """Images without a bright patch: the neuron never fires."""
    return images_for(planted, 30)


def test_planted_outliers_are_found_with_their_layer_place_and_neuron(planted, bright):
    images, places = bright
    found = find_outliers(planted, images, memory=1)
    assert found.there and found.first == 0
    wanted = np.zeros((30, GRID * GRID), bool)
    wanted[np.arange(30), places] = True
    np.testing.assert_array_equal(found.at(0), wanted)
    np.testing.assert_allclose(found.places.ravel(), wanted.mean(0))
    assert found.neurons[0] == "m0.n3" and found.parts[0] > 100 * max(abs(found.parts[1]), 1e-9) * 0.01
    assert found.parts[0] == pytest.approx(40 * 40 / found.length, rel=0.02)  # 40 along a residual a little longer
    assert "made by m0.n3" in found.headline and "m0.n3" in str(found.makers())


def test_parts_of_all_neurons_and_of_what_else_writes_are_the_outliers_length(planted, bright):
    images, places = bright
    found = find_outliers(planted, images, n_neurons=10**6)
    cache = planted.run_with_cache(images)[1]
    rows, tokens = torch.arange(30), torch.as_tensor(places) + 1
    residual = cache["resid_post", 0][rows, tokens]
    unit = residual / residual.norm(dim=-1, keepdim=True)
    post, writes = cache["post", 0], neuron_writes(planted, 0)
    others = (post[:, 1:].sum(1) - post[rows, tokens]) / (GRID * GRID - 1)
    wanted = ((post[rows, tokens] - others) * (unit @ writes.T)).mean(0)
    got = dict(zip(found.neurons, found.parts, strict=True))
    for neuron in range(MODEL):
        assert got[f"m0.n{neuron}"] == pytest.approx(float(wanted[neuron]), abs=1e-9)
    assert found.length == pytest.approx(float(residual.norm(dim=-1).mean()))


def test_what_neurons_write_adds_up_to_what_the_mlp_writes(model, images_for):
    for layer, block in enumerate(model.blocks):
        if not model.cfg.has_mlp(layer):
            continue
        seen = []
        handle = block.mlp.fc2.register_forward_pre_hook(lambda _module, args, seen=seen: seen.append(args[0]))
        x = torch.randn(2, model.cfg.tokens.n_tokens, model.cfg.d_model, dtype=model.dtype)
        with torch.no_grad(), model.borrowed():
            said = block.scale2(block.mlp(x))
            none = block.scale2(block.mlp.fc2(torch.zeros_like(seen[0])))
        handle.remove()
        np.testing.assert_allclose((said - none).numpy(), (seen[0] @ neuron_writes(model, layer)).numpy(), atol=1e-4)


def test_a_model_without_outliers_is_said_to_have_none(planted, bright, dim):
    found = find_outliers(planted, dim)
    assert not found.there and found.first == -1 and not found.neurons and not found.places.any()
    assert "has no outliers" in found.headline and "has no outliers" in repr(found)
    with pytest.raises(ModelError, match="no neurons to move"):
        test_time_registers(planted, bright[0], found)


def test_an_added_token_takes_them_up(planted, bright):
    images, _ = bright
    own = planted(images).argmax(-1)
    moved = test_time_registers(planted, images, find_outliers(planted, images), labels=own, n_neurons=1, memory=1)
    figures = moved.figures()
    before, after = (one.value for one in figures["outliers per image"])
    assert before == pytest.approx(1) and after == 0
    before, after = (one.value for one in figures["attention to former outliers"])
    assert before > 0.999 and after == pytest.approx(1 / GRID**2, rel=0.01)  # even over patches again
    before, after = (one.value for one in figures["attention to the added token"])
    assert before == 0 and after > 0.999
    assert figures["accuracy"][0].value == 1 == figures["agreement"][0].value and figures["KL"][0].value == 0
    assert figures["KL"][1].value > 0
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(moved.before.logits), planted(images))


def test_a_token_that_takes_up_a_neuron_that_never_fires_is_one_more_token(planted, dim):
    moved = test_time_registers(planted, dim, ["m0.n3"])
    assert moved.before.outliers.sum() == 0 == moved.after.outliers.sum()
    np.testing.assert_allclose(moved.after.added[1], 1 / (GRID**2 + 2))  # nothing is long: even over all tokens


def test_moving_leaves_the_model_as_it_was(planted, bright):
    before = planted(bright[0])
    test_time_registers(planted, bright[0], ["m0.n3"])
    assert torch.equal(planted(bright[0]), before)


def test_what_takes_no_token_more_is_said(architecture_named, images_for, planted, bright):
    vit = architecture_named("eva")
    with pytest.raises(ModelError, match="takes no token more"):
        test_time_registers(vit, images_for(vit, 2), ["m0.n0"])
    with pytest.raises(ModelError, match="is no neuron"):
        test_time_registers(planted, bright[0], ["m0.n99"])
    with pytest.raises(ModelError, match="above 1"):
        find_outliers(planted, bright[0], times=1.0)


@pytest.fixture(scope="module")
def with_registers(variant_named, images_for):
    vit = variant_named("registers-layerscale")
    images = images_for(vit, 12)
    return vit, images, register_report(vit, images, labels=vit(images).argmax(-1), memory=1)


def test_what_breaks_without_registers_is_what_ablating_them_does(with_registers):
    vit, images, report = with_registers
    own = vit(images).softmax(-1)
    assert [row[:2] for row in report.without.rows] == [
        ("none", ""), ("reg0", "mean"), ("reg0", "another"), ("reg1", "mean"), ("reg1", "another"),
        ("reg0, reg1", "mean"), ("reg0, reg1", "another"), ("reg0, reg1", "shuffle"),
    ]  # fmt: skip
    for some, by, agreement, kl, accuracy in report.without.rows[1:]:
        other = ablate_tokens(vit, images, some.split(", "), by=by)
        assert kl.value == pytest.approx(float((own * (own.log() - other.log_softmax(-1))).sum(-1).mean()))
        assert agreement.value == accuracy.value == float((own.argmax(-1) == other.argmax(-1)).double().mean())
    none = report.without.rows[0]
    assert none[2].value == 1 and none[3].value == 0


def test_attention_to_registers_is_that_of_the_patterns(with_registers):
    vit, images, report = with_registers
    cache = vit.run_with_cache(images, lambda name: name.endswith("hook_pattern"))[1]
    for layer in range(2):
        for head in range(2):
            row = report.heads.rows[2 * layer + head]
            pattern = cache["pattern", layer][:, head]
            assert row[0] == f"a{layer}.h{head}"
            wanted = [pattern[:, 0, 1].mean(), pattern[:, 0, 2].mean(), pattern[:, 3:, 1:3].sum(-1).mean()]
            assert [cell.value for cell in row[1:]] == pytest.approx([float(one) for one in wanted])
    assert "attends to them most" in report.headline and "a1.h1" in str(report)


def test_a_model_without_registers_has_no_report(planted, bright):
    with pytest.raises(TaskError, match="has no registers"):
        register_report(planted, bright[0])


def test_pictures_and_tables(tmp_path, planted, bright, with_registers):
    images = bright[0]
    found = find_outliers(planted, images)
    moved = test_time_registers(planted, images, found)
    for one in (found, moved, with_registers[2]):
        assert dataclasses.is_dataclass(one) and str(one) and len(one.frame())
        assert one.draw(tmp_path / "one.svg").stat().st_size > 1000
    assert moved.draw_maps(tmp_path / "maps.png", images=(0, 1)).stat().st_size > 1000
