"""Fitted lenses: identity where there is nothing to learn, least squares at the start, better than their controls."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn
from vitcircuits.algorithms import jacobian_lens, load_lens, logit_lens, tuned_lens
from vitcircuits.algorithms.interpretability.jacobian_lens import mean_jacobians
from vitcircuits.algorithms.interpretability.logit_lens import residuals
from vitcircuits.algorithms.interpretability.tuned_lens import cache_residuals, deal, ridge_map
from vitcircuits.models import load_vit
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import DataError, FormatError, ModelError


def silent(module):
    """The module with blocks that write nothing."""
    with torch.no_grad():
        for block in module.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.zero_()
                layer.bias.zero_()
    return module


@pytest.fixture(scope="module")
def sprites():
    vit = load_vit("toy/sprites-4l")
    data = load_data("sprites", vit.preprocess, limit=100)
    return vit, data.train.images, data.test.images[:150]


@pytest.fixture(scope="module")
def tuned(sprites):
    vit, images, _ = sprites
    return tuned_lens(vit, images, epochs=40, data="sprites, train", n_bootstrap=200)


@pytest.mark.parametrize("at", ["cls", "patches"])
def test_where_blocks_write_nothing_the_tuned_lens_is_the_logit_lens(at, tiny_module, images_for):
    vit = load_vit(silent(tiny_module(depth=3)), name="silent")
    images = images_for(vit, 24)
    lens = tuned_lens(vit, images, at=at, n_bootstrap=0)
    assert torch.equal(lens.weights, torch.eye(16, dtype=torch.float64).expand(3, -1, -1)) and not lens.biases.any()
    plain = logit_lens(vit, images, at=at, classes="all", n_bootstrap=0).tokens.logits
    mapped = logit_lens(vit, images, at=at, classes="all", through=lens, n_bootstrap=0).tokens.logits
    np.testing.assert_array_equal(mapped, plain)


@pytest.mark.parametrize("at", ["cls", "patches"])
def test_the_start_is_the_ridge_of_scikit_learn(at, tiny_vit, images_for):
    vit = tiny_vit(depth=3)
    images = images_for(vit, 200)
    lens = tuned_lens(vit, images, at=at, start="ridge", penalty=0.7, epochs=0, n_patches=2, n_bootstrap=0, seed=3)
    fitted = deal(200, torch.Generator().manual_seed(3))[0]
    cached = cache_residuals(vit, images, at, n_patches=2, seed=3)
    some = torch.isin(cached.images, fitted)
    for layer in range(3):
        x, y = (cached.residuals[row][some, 0].numpy() for row in (layer, -1))
        wanted = Ridge(alpha=0.7).fit(x, y)
        np.testing.assert_allclose(lens.weights[layer], wanted.coef_, atol=1e-8)
        np.testing.assert_allclose(lens.biases[layer], wanted.intercept_, atol=1e-8)


def test_what_is_cached_is_what_the_layers_hold(model, images_for, close):
    images = images_for(model, 3)
    with torch.no_grad():
        wanted = torch.stack(list(residuals(model, images)))
        whole, some = (cache_residuals(model, images, at, n_patches=3, memory=10**6) for at in ("cls", "patches"))
    close(whole.read(whole.residuals[-1]), model(images).detach())
    patches = model.cfg.tokens.patches
    for row, image in enumerate(some.images.tolist()):
        found = some.residuals[:, row, 0]
        distance = (wanted[:, image, patches] - found[:, None]).abs().amax((0, 2))
        assert distance.min() < 1e-5
    assert some.residuals.shape[1] == 9


def test_it_reads_better_than_the_plain_lens_and_than_maps_of_other_layers(sprites, tuned, tmp_path):
    vit, _, test = sprites
    plain, found = logit_lens(vit, test, n_bootstrap=200), logit_lens(vit, test, through=tuned, n_bootstrap=200)
    figures, before = found.figures(), plain.figures()
    for layer in range(1, 4):
        assert figures["kl"][layer].high < before["kl"][layer].low
        assert figures["kl"][layer].high < figures["control_kl"][layer].value
        assert figures["agreement"][layer].value > figures["control_agreement"][layer].value
    assert figures["control_kl"][-1].value == 0 == figures["kl"][-1].value
    assert "control_agreement" in found.frame().columns and "tuned lens" in found.headline
    drawn = plain.draw(tmp_path / "both.svg", beside=[found]).read_text(encoding="utf-8")
    assert all(said in drawn for said in (">Lenses: toy/sprites-4l<", ">tuned lens, layers shuffled<", ">logit lens<"))
    held_out = [row["kl"][0] for row in tuned.card["figures"]]
    np.testing.assert_allclose([f.value for f in figures["kl"][:-1]], held_out, rtol=0.25)


def test_its_figures_are_of_images_that_it_has_not_seen(sprites):
    vit, images, _ = sprites
    noise = torch.randn(40, *images.shape[1:], generator=torch.Generator().manual_seed(0))
    lens = tuned_lens(vit, noise, start="ridge", penalty=1e-6, epochs=0, n_bootstrap=0)
    fitted, _, held_out = deal(40, torch.Generator().manual_seed(0))
    seen = logit_lens(vit, noise[fitted], through=lens, n_bootstrap=0).figures()["kl"][3].value
    assert lens.weights.shape[1] > len(fitted)  # more dimensions than images, so that they are fitted exactly
    assert seen < 1e-3 < 0.01 < lens.card["figures"][3]["kl"][0]
    again = logit_lens(vit, noise[held_out], through=lens, n_bootstrap=0).figures()["kl"]
    np.testing.assert_allclose([row["kl"][0] for row in lens.card["figures"]], [f.value for f in again[:-1]], rtol=1e-3)


def test_the_same_seed_gives_the_same_lens_and_a_file_gives_it_back(sprites, tuned, tmp_path):
    vit, images, test = sprites
    options = {"epochs": 2, "n_bootstrap": 10}
    one, same, other = (tuned_lens(vit, images, seed=seed, **options) for seed in (1, 1, 2))
    assert (
        torch.equal(one.weights, same.weights) and one.card == same.card and not torch.equal(one.weights, other.weights)
    )
    found = load_lens(tuned.save(tmp_path / "lens.safetensors"))
    assert torch.equal(found.weights, tuned.weights) and found.card == dict(tuned.card) and found.kind == "tuned lens"
    assert found.card["data"] == "sprites, train" and str(found) == str(tuned)
    tables = [logit_lens(vit, test[:20], through=lens, n_bootstrap=10).frame() for lens in (found, tuned)]
    assert tables[0].equals(tables[1])
    assert found.frame().shape == (4, 13) and found.save(tmp_path / "lens.csv").is_file()


def test_average_and_pooled_readouts_are_tuned_too(architecture_named, variant_named, images_for):
    for vit in (architecture_named("map"), architecture_named("distilled"), variant_named("average")):
        images = images_for(vit, 32)
        for at in ("cls", "patches"):
            lens = tuned_lens(vit, images, at=at, epochs=20, batch=8, rate=3e-3, n_bootstrap=0)
            (row, *_) = lens.card["figures"]
            plain = logit_lens(vit, images, at=at, n_bootstrap=0).figures()["kl"][0].value
            assert logit_lens(vit, images, at=at, through=lens, n_bootstrap=0).figures()["kl"][0].value < plain
            assert set(row) == {"layer", "epochs", "kl", "kl_plain", "agreement", "agreement_plain"}


def test_the_mean_jacobian_is_that_of_autograd_and_identity_where_blocks_write_nothing(tiny_module, images_for, close):
    vit = load_vit(tiny_module(depth=2), name="tiny")
    images = images_for(vit, 3)
    with vit.borrowed():
        found = mean_jacobians(vit, images)
        with torch.no_grad():
            (before, *_) = residuals(vit, images)

        def last(cls, rest):
            return vit.run_blocks(torch.cat([cls[None, None], rest[None]], 1))[0, 0]

        each = [torch.autograd.functional.jacobian(lambda x, rest=r[1:]: last(x, rest), r[0]) for r in before]
    close(found[0], torch.stack(each).mean(0))
    quiet = load_vit(silent(tiny_module(depth=2)), name="silent")
    lens = jacobian_lens(quiet, images_for(quiet, 16), n_bootstrap=0)
    close(lens.weights, torch.eye(16, dtype=torch.float64).expand(2, -1, -1).contiguous())
    assert float(lens.biases.abs().max()) < 1e-9 and lens.card["figures"][0]["agreement"][0] == 1


def test_what_makes_no_sense_is_refused(sprites, tuned, variant_named, images_for, tmp_path):
    vit, images, _ = sprites
    with pytest.raises(ModelError, match="at='cls', points='post', but at='patches'"):
        logit_lens(vit, images[:2], at="patches", through=tuned)
    with pytest.raises(ModelError, match="has other weights"):
        logit_lens(load_vit("toy/sprites-4l@1"), images[:2], through=tuned)
    with pytest.raises(DataError, match="at least 16"):
        tuned_lens(vit, images[:15])
    with pytest.raises(DataError, match="pass at most"):
        tuned_lens(vit, images, memory=10_000)
    with pytest.raises(ModelError, match="start='identity' or 'ridge'"):
        tuned_lens(vit, images, start="zero")
    with pytest.raises(ModelError, match="no classes"):
        tuned_lens(vit.with_readout(nn.Identity()), images)
    average = variant_named("average")
    with pytest.raises(ModelError, match="of one token"):
        jacobian_lens(average, images_for(average, 16))
    with pytest.raises(FormatError, match="no file"):
        load_lens(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(FormatError, match="is no lens"):
        load_lens(tmp_path / "text.safetensors")
    data = bytearray(tuned.save(tmp_path / "lens.safetensors").read_bytes())
    data[-5] ^= 1
    (tmp_path / "edited.safetensors").write_bytes(bytes(data))
    with pytest.raises(FormatError, match="was edited"):
        load_lens(tmp_path / "edited.safetensors")
    with pytest.raises(FormatError, match="cannot tell a format"):
        tuned.save(tmp_path / "lens.txt")


def test_least_squares_without_a_penalty_fits_an_affine_map_exactly():
    rng = torch.Generator().manual_seed(0)
    x, matrix = torch.randn(50, 4, generator=rng), torch.randn(4, 4, generator=rng)
    weight, bias = ridge_map(x, x @ matrix.T + 2, 0.0)
    torch.testing.assert_close(weight, matrix.double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(bias, torch.full((4,), 2.0, dtype=torch.float64), atol=1e-5, rtol=0)
