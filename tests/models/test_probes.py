"""Probes: class means are the nearest mean, ridge is scikit-learn's, and both are part of the model from then on."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeCV
from torch import nn
from vitcircuits.models import load_vit, probe_readout
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import DataError, ModelError
from vitcircuits.models.made_readouts import _PENALTIES, ridge

N, CLASSES = 40, 3


@pytest.fixture(scope="module")
def fitted(variant_named, images_for):
    """A ViT, images and labels to fit on, and the features that its head is given."""
    vit = variant_named("plain")
    images = images_for(vit, N)
    labels = torch.arange(N) % CLASSES
    return vit, images, labels, vit.with_readout(nn.Identity())(images).detach()


def test_class_means_are_the_nearest_mean(fitted, images_for, close):
    vit, images, labels, features = fitted
    read = probe_readout(vit, images, labels, kind="means")
    fresh = images_for(vit, 50, seed=3)
    means = torch.stack([features[labels == label].mean(0) for label in range(CLASSES)])
    seen = vit.with_readout(nn.Identity())(fresh).detach()
    distance = torch.cdist(seen, means)
    assert torch.equal(read(fresh).argmax(-1), distance.argmin(-1))
    close(read(fresh) - seen.square().sum(-1, keepdim=True) / 2, -distance.square() / 2)


@pytest.mark.parametrize("penalty", [1e-3, 1.0, 50.0])
def test_ridge_is_scikit_learns(fitted, images_for, penalty):
    vit, images, labels, features = fitted
    read = probe_readout(vit, images, labels, kind="ridge", penalty=penalty)
    wanted = Ridge(alpha=penalty).fit(features.numpy(), np.eye(CLASSES)[labels.numpy()])
    np.testing.assert_allclose(read.readout.head.weight.numpy(), wanted.coef_, atol=1e-8)
    np.testing.assert_allclose(read.readout.head.bias.numpy(), wanted.intercept_, atol=1e-8)
    assert read.readout.info["penalty"] == penalty and read.readout.info["penalty_by"] == "given"


@pytest.mark.parametrize("n", [12, N])  # fewer and more images than dimensions
def test_the_penalty_is_the_one_with_the_least_error_on_images_left_out(fitted, n):
    _, _, labels, features = fitted
    x, y = features[:n], np.eye(CLASSES)[labels[:n].numpy()]
    weight, _, penalty = ridge(x, labels[:n], CLASSES)
    centred = x - x.mean(0)
    candidates = [part * float(centred.square().sum()) / x.shape[1] for part in _PENALTIES]
    errors = []
    for candidate in candidates:
        left = [
            Ridge(alpha=candidate).fit(np.delete(x.numpy(), i, 0), np.delete(y, i, 0)).predict(x[i : i + 1].numpy())[0]
            for i in range(n)
        ]
        errors.append(np.square(np.array(left) - y).mean())
    assert penalty == pytest.approx(candidates[int(np.argmin(errors))], rel=1e-6)
    assert len(set(np.round(errors, 12))) > 5
    wanted = RidgeCV(alphas=candidates).fit(x.numpy(), y)
    assert penalty == pytest.approx(wanted.alpha_, rel=1e-6)
    np.testing.assert_allclose(weight.numpy(), wanted.coef_, atol=1e-6)


@pytest.mark.parametrize("pool", ["own", "cls", "patches"])
def test_it_reads_the_tokens_that_are_named(fitted, images_for, close, pool):
    vit, images, labels, _ = fitted
    read = probe_readout(vit, images, labels, kind="means", pool=pool)
    tokens = vit.module.forward_features(images_for(vit)).detach()
    seen = tokens[:, 1:].mean(1) if pool == "patches" else tokens[:, 0]
    close(read(images_for(vit)), (seen @ read.readout.head.weight.T + read.readout.head.bias).detach())
    assert read.cfg.pooling == ("average" if pool == "patches" else "token")


def test_batches_and_the_readout_before_make_no_difference(fitted):
    vit, images, labels, _ = fitted
    first = probe_readout(vit, images, labels, kind="ridge")
    again = probe_readout(first, images, labels, kind="ridge", batch_size=7)
    torch.testing.assert_close(first.readout.head.weight, again.readout.head.weight, atol=1e-9, rtol=0)
    assert again.module is vit.module


def test_a_probe_on_digits_tells_them_apart():
    vit = load_vit("toy/digits-2l")
    data = load_data("digits", vit.preprocess, limit=30)
    for kind in ("means", "ridge"):
        read = probe_readout(vit, data.train.images, data.train.labels, kind=kind, classes=data.class_names)
        right = (read(data.test.images).argmax(-1) == data.test.labels).double().mean()
        assert float(right) > 0.9 and read.readout.info["accuracy_when_fitted"] > 0.9
        assert read.labels == data.class_names and read.readout.info["n_images"] == 300


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"kind": "lasso"}, ModelError, "kind='means' or kind='ridge'"),
        ({"kind": "means", "penalty": 1.0}, ModelError, "kind='ridge' takes a penalty"),
        ({"kind": "ridge", "penalty": 0.0}, ModelError, "above 0"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, DataError, "40 images but 2 labels"),
        ({"labels": torch.zeros(N, dtype=torch.int64)}, DataError, "a second class"),
        ({"labels": torch.arange(N) % 2 * 2}, DataError, "none of '1'"),
        ({"classes": ["a", "b"]}, DataError, "0 is the first"),
        ({"classes": ["a", "b", "c", "d"]}, DataError, "none of 'd'"),
    ],
)
def test_what_cannot_be_fitted_is_refused(fitted, options, error, said, unchecked):
    vit, images, labels, _ = fitted
    with pytest.raises(error, match=said):
        probe_readout(vit, images, **{"labels": labels, **options})
