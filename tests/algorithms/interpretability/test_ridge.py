"""The closed form is scikit-learn's nested cross-validation, and does not see how features are written down."""

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from vitcircuits.algorithms.interpretability.factors import (
    PENALTIES,
    condensed,
    deal_folds,
    left_out_predictions,
    squared_errors,
    turned_into_span,
)


def some_data(seed=0, n=60, dim=7):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim))
    return x, x @ rng.normal(size=(dim, 3)) + 2 * rng.normal(size=(n, 3)), rng.normal(size=(n, 1))


@pytest.mark.parametrize("penalties", [(3.0,), PENALTIES])
def test_predictions_and_r2_are_those_of_scikit_learn(penalties):
    x, signal, noise = some_data()
    x, folds = condensed(x), deal_folds(60, 5, seed=1)
    found = left_out_predictions(x, [signal, noise], folds, penalties=penalties)
    for target, predicted in zip([signal, noise], found, strict=True):
        wanted = cross_val_predict(RidgeCV(list(penalties)), x, target, cv=PredefinedSplit(folds)).reshape(target.shape)
        np.testing.assert_allclose(predicted, wanted, atol=1e-9)
        wrong, spread = squared_errors(target, predicted)
        r2 = r2_score(target, wanted, multioutput="variance_weighted")
        assert 1 - wrong.sum() / spread.sum() == pytest.approx(r2, abs=1e-9)


def test_an_image_decides_nothing_about_its_own_prediction():
    x, signal, _ = some_data()
    folds = deal_folds(60, 5, seed=1)
    held = folds == 2
    first = left_out_predictions(x, [signal], folds)[0]
    changed = np.where(held[:, None], 100.0, signal)
    np.testing.assert_array_equal(left_out_predictions(x, [changed], folds)[0][held], first[held])


def test_turned_features_are_as_far_from_one_another_and_predict_the_same():
    x, signal, _ = some_data()
    wide = np.concatenate([x, x @ np.ones((7, 4))], axis=1) + 5.0  # 11 columns of rank 7, off the origin
    narrow = turned_into_span(wide)
    assert narrow.shape == (60, 7)
    np.testing.assert_allclose(narrow @ narrow.T, (wide - wide.mean(0)) @ (wide - wide.mean(0)).T, atol=1e-9)
    folds = deal_folds(60, 4, seed=0)
    both = (left_out_predictions(rows, [signal], folds, penalties=(2.0,))[0] for rows in (wide, narrow))
    np.testing.assert_allclose(*both, atol=1e-9)


def test_condensed_features_have_the_mean_eigenvalue_one():
    rows = condensed(some_data()[0])
    assert np.linalg.eigvalsh(rows.T @ rows).mean() == pytest.approx(1)


def test_features_without_differences_have_rank_zero_and_predict_the_mean():
    constant = condensed(np.full((20, 5), 0.1) * 1e3)
    assert constant.shape == (20, 0)
    target = np.arange(20.0)[:, None]
    folds = deal_folds(20, 2, seed=0)
    (predicted,) = left_out_predictions(constant, [target], folds)
    assert predicted[folds == 0, 0] == pytest.approx(target[folds == 1].mean())


def test_folds_differ_by_one_at_most():
    assert np.ptp(np.bincount(deal_folds(23, 5, seed=0))) == 1
