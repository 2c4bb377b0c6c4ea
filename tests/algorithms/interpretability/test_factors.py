"""Heads that were made to hold known factors are found to hold them, and noise is not.

The closed form is scikit-learn's nested cross-validation, and does not see how features are written down.
"""

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from vitcircuits.algorithms.interpretability.factors import (
    N_BINS,
    PENALTIES,
    as_factors,
    condensed,
    deal_folds,
    fit_factors,
    left_out_predictions,
    squared_errors,
    turned_into_span,
)
from vitcircuits.models.errors import DataError

N = 400


@pytest.fixture(scope="module")
def made():
    """Five heads: of colour, of colour and place, of noise, of a bump along the place, and one that is constant."""
    rng = np.random.default_rng(0)
    colour, place, size = rng.integers(0, 4, N), rng.uniform(-1, 1, N), rng.uniform(0, 1, N)
    one_hot, noise = np.eye(4)[colour], rng.normal(size=(N, 6))
    into = rng.normal(size=(4, 6))
    heads = [
        one_hot @ into + 0.01 * noise,
        one_hot @ into + 3 * np.outer(place, rng.normal(size=6)) + 0.01 * noise,
        noise,
        np.outer(np.exp(-20 * place**2), np.ones(6)) + 0.01 * noise,
        np.ones((N, 6)),
    ]
    factors = as_factors({"colour": colour, "place": place, "size": size})
    return np.stack(heads), factors, fit_factors(np.stack(heads), factors, n_shuffles=19, n_bootstrap=200)


def test_what_a_head_holds_can_be_read_off_it(made):
    fits = made[2]
    assert fits.r2[0, 0] > 0.99 and fits.r2[1, :2].min() > 0.99
    assert fits.accuracy[0, 0] == 1 and np.isnan(fits.accuracy[:, 1]).all()
    assert fits.r2[0, 1:].max() < 0.05 and np.abs(fits.r2[:4, 2]).max() < 0.05


def test_one_factor_accounts_for_the_write_only_where_it_is_alone(made):
    share = made[2].share
    assert share[0, 0] > 0.99
    assert 0.05 < share[1, 0] < 0.95 and share[1, :2].sum() == pytest.approx(1, abs=0.05)
    assert share[2].max() < 0.03


def test_a_bump_is_accounted_for_by_the_place_that_a_linear_map_cannot_read(made):
    fits = made[2]
    assert fits.r2[3, 1] < 0.1 and fits.share[3, 1] > 0.7


def test_a_head_that_writes_the_same_everywhere_has_no_number(made):
    fits = made[2]
    for values in (fits.r2, fits.low, fits.high, fits.share, fits.accuracy):
        assert np.isnan(values[4]).all()
    assert np.isnan(fits.gap_low[4]) and np.isnan(fits.null[:, 4]).all()


def test_intervals_hold_the_value_and_the_gap(made):
    fits = made[2]
    assert (fits.low[:4] <= fits.r2[:4]).all() and (fits.r2[:4] <= fits.high[:4]).all()
    assert (fits.share_low[:4] <= fits.share[:4]).all() and (fits.share[:4] <= fits.share_high[:4]).all()
    gap = np.sort(np.maximum(fits.r2[:4], 0), axis=1)
    gap = gap[:, -1] - gap[:, -2]
    assert (fits.gap_low[:4] <= gap).all() and (gap <= fits.gap_high[:4]).all()


def test_what_a_head_holds_cannot_be_read_off_it_when_it_is_dealt_out_anew(made):
    fits = made[2]
    assert fits.null.shape == (19, 5, 3) and np.nanmax(fits.null) < 0.1


def test_shuffled_factors_are_not_read_and_noise_is_like_them():
    rng = np.random.default_rng(3)
    factors = as_factors({"colour": rng.integers(0, 4, 120), "place": rng.normal(size=120)})
    fits = fit_factors(rng.normal(size=(40, 120, 5)), factors, n_shuffles=19, n_bootstrap=0)
    assert fits.null.mean() < 0.005
    above = (fits.r2 > fits.null.max(0)).mean()  # 1 in 20 by chance
    assert above < 0.125, above
    assert np.isnan(fits.low).all()


def test_balanced_accuracy_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    colour = rng.choice(3, size=200, p=[0.7, 0.2, 0.1])
    writes = np.eye(3)[colour] + 0.8 * rng.normal(size=(200, 3))
    factors = as_factors({"colour": colour})
    fits = fit_factors(writes[None], factors, n_folds=4, n_shuffles=0, n_bootstrap=0, seed=5)
    (guess,) = left_out_predictions(condensed(writes), [factors[0].columns], deal_folds(200, 4, seed=5))
    assert fits.accuracy[0, 0] == pytest.approx(balanced_accuracy_score(colour, guess.argmax(1)))
    assert fits.null.shape == (0, 1, 1)


def test_bins_of_a_number_hold_equally_many_images():
    (factor,) = as_factors({"place": np.random.default_rng(0).exponential(size=83)})
    assert factor.groups.shape == (83, N_BINS) and np.ptp(factor.groups.sum(0)) <= 1


def test_words_are_choices():
    (factor,) = as_factors({"colour": np.array(["red", "blue", "red"])})
    assert factor.choices.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "there are no factors"),
        ({"a": np.arange(3), "b": np.arange(4)}, "different lengths"),
        ({"a": np.ones(3)}, "the same for all images"),
        ({"a": np.array([1.0, np.nan, 2.0])}, "NaN or infinity"),
        ({"a": np.ones((3, 2))}, "one value per image"),
    ],
)
def test_factors_that_make_no_sense_are_refused(values, said):
    with pytest.raises(DataError, match=said):
        as_factors(values)


def test_too_few_images_and_other_images_are_refused():
    factors = as_factors({"a": np.arange(30.0)})
    with pytest.raises(DataError, match="too few"):
        fit_factors(np.zeros((1, 30, 2)), factors)
    with pytest.raises(DataError, match="factors of 30"):
        fit_factors(np.zeros((1, 29, 2)), factors, n_folds=2)


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
