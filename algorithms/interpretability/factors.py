"""How well each head is described by one known factor of the images: two questions, of arrays alone.

    read R^2        how well a linear map reads the factor off what the head writes
    share of write  how much of what the head writes, over the images, the factor alone accounts for

A head may be asked either without the other: one that writes everything lets every factor be read, though none
describes it; one that writes mostly something else may hold a factor in one direction. Both are judged on images that
were left out. A choice among some (shape, colour) is one column per choice, and also has a balanced accuracy, the mean
over choices of the share that is recognised. In the second question a number is cut into bins of equally many images,
so that a head that fires at one place counts as much as one that rises with the place.

The regressions are ridge. The images are dealt into folds. For each fold, W and b minimise over the others

    sum |W x + b - y|^2 + penalty |W|^2                    (b is free)

with the penalty chosen among them alone, by the error on each image when the fit leaves it out, residual / (1 -
leverage), which has a closed form (Allen 1974). So the fold's own images decide nothing, and

    R^2 = 1 - sum |y - predicted|^2 / sum |y - mean|^2     over all images and all columns of y

is 0 for what knows nothing, or a little below. It is scikit-learn's `cross_val_predict(RidgeCV(penalties))` for each
target; one decomposition per fold serves any number of them.

The null deals each factor's values out to other images, and does everything again.

Caveats: R^2 says what can be read by a linear map, not what the model reads, and a network that was never trained lets
factors be read too: compare with one. Factors that go together in the images stand in for one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int
from numpy.typing import NDArray

from ...circuits.judging.bootstrap import Resamples, divide
from ...models.errors import DataError

PENALTIES = tuple(10.0**step for step in range(-4, 3))
"""Candidates, for features that `condensed` has scaled."""

_RANK = 1e-10  # singular values below this share of the largest are rounding


def condensed(features: Float64[np.ndarray, "image dim"]) -> Float64[np.ndarray, "image rank"]:
    """The same features, centred, turned into their own span, and scaled so that X'X has the mean eigenvalue 1.

    A ridge regression does not see a rotation; the scale gives one list of penalties its meaning for all features.
    Features that are the same for all images have rank 0.
    """
    turned = turned_into_span(features)
    return turned / np.sqrt(np.square(turned).sum() / turned.shape[1]) if turned.shape[1] else turned


def turned_into_span(features: Float64[np.ndarray, "image dim"]) -> Float64[np.ndarray, "image rank"]:
    """The same features, centred and turned into their own span, so that distances between images stay."""
    centred = features - features.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(features).max(initial=0.0) * np.sqrt(features.size)  # of values that rounding could have made
    rank = int((values > _RANK * max(values.max(initial=0.0), largest)).sum())
    return left[:, :rank] * values[:rank]


def deal_folds(n_images: int, n_folds: int, *, seed: int) -> Int[np.ndarray, " image"]:
    """The fold of each image, of sizes that differ by one at most."""
    return np.random.default_rng(seed).permutation(np.arange(n_images) % n_folds)


def left_out_predictions(
    features: Float64[np.ndarray, "image rank"],
    targets: Sequence[Float64[np.ndarray, "image _"]],
    folds: Int[np.ndarray, " image"],
    *,
    penalties: Sequence[float] = PENALTIES,
) -> list[Float64[np.ndarray, "image _"]]:
    """What is predicted of each target at each image, by the fit that left the image's fold out.

    Args:
        features: What is predicted from; `condensed` for the usual penalties.
        targets: What is predicted; each has a penalty of its own, which its columns share.
        folds: The fold of each image.
        penalties: Candidates.
    """
    columns = np.concatenate(targets, axis=1)
    starts = np.cumsum([0, *(target.shape[1] for target in targets)])
    found = np.empty_like(columns)
    for fold in np.unique(folds):
        held = folds == fold
        found[held] = ridge_predictions(features[~held], columns[~held], features[held], starts, np.asarray(penalties))
    return np.split(found, starts[1:-1], axis=1)


def ridge_predictions(
    x: Float64[np.ndarray, "image rank"],
    y: Float64[np.ndarray, "image column"],
    new: Float64[np.ndarray, "new rank"],
    starts: Int[np.ndarray, " start"],
    penalties: Float64[np.ndarray, " penalty"],
) -> Float64[np.ndarray, "new column"]:
    """Predictions at new places of a fit to (x, y); columns from one start to the next share a penalty."""
    from sklearn.linear_model import Ridge, RidgeCV

    if not x.shape[1]:
        return np.tile(y.mean(0), (len(new), 1))
    left_out = RidgeCV(penalties, store_cv_results=True).fit(x, y).cv_results_  # squared, (image, column, penalty)
    errors = np.add.reduceat(left_out.reshape(len(x), y.shape[1], -1).sum(0), starts[:-1])  # target, penalty
    chosen: Any = np.repeat(penalties[errors.argmin(1)], np.diff(starts))  # a penalty for each column
    return Ridge(chosen, solver="svd").fit(x, y).predict(new).reshape(len(new), -1)


def squared_errors(
    target: Float64[np.ndarray, "image column"], predicted: Float64[np.ndarray, "image column"]
) -> tuple[Float64[np.ndarray, " image"], Float64[np.ndarray, " image"]]:
    """Each image's squared distance from what was predicted, and from the mean over images; R^2 = 1 - their ratio."""
    return np.square(target - predicted).sum(1), np.square(target - target.mean(0)).sum(1)


N_BINS = 8
"""Bins that a number is cut into where it is to account for what a head writes."""


@dataclass(frozen=True, eq=False)
class Factor:
    """What is known of each image.

    Args:
        name: What it is called.
        columns: Its values as a linear map is to predict them, (image, column).
        choices: Which of several it is, (image,); None for a number.
    """

    name: str
    columns: Float64[np.ndarray, "image column"]
    choices: Int[np.ndarray, " image"] | None = None

    @property
    def groups(self) -> Float64[np.ndarray, "image group"]:
        """One column per choice, or per bin of a number: what a head's writes are accounted for by."""
        if self.choices is not None:
            return self.columns
        order = np.argsort(np.argsort(self.columns[:, 0], kind="stable"), kind="stable")
        return np.eye(N_BINS)[order * N_BINS // len(order)]


def as_factors(values: Mapping[str, NDArray]) -> tuple[Factor, ...]:
    """Factors from one array per name: integers, truth values and words are choices, other numbers are numbers.

    Raises:
        DataError: There is none, they are of different lengths, not finite, or the same for all images.
    """
    if not values:
        raise DataError("there are no factors: pass some, such as factors=vars(factors_of(data.test.names)).")
    lengths = {name: len(column) for name, column in values.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"factors are of different lengths, {lengths}: each needs one value per image.")
    return tuple(_factor(name, np.asarray(column)) for name, column in values.items())


def _factor(name: str, values: NDArray) -> Factor:
    if values.ndim != 1:
        raise DataError(f"the factor {name!r} has shape {values.shape}: pass one value per image, (image,).")
    kinds, choices = np.unique(values, return_inverse=True)
    if len(kinds) < 2:
        raise DataError(f"the factor {name!r} is the same for all images, so nothing can describe it: leave it out.")
    if values.dtype.kind != "f":
        return Factor(name, np.eye(len(kinds))[choices], choices.astype(np.int64))
    if not np.isfinite(values).all():
        raise DataError(f"the factor {name!r} holds NaN or infinity: leave those images out.")
    scaled = (values.astype(np.float64) - values.mean()) / values.std()
    return Factor(name, scaled[:, None])


@dataclass(frozen=True, eq=False)
class FactorFits:
    """What was found; arrays of shape (head, factor) unless said otherwise, NaN for a head that writes nothing there.

    Args:
        r2: How well the factor can be read off the head.
        low: Lower end of its 95% interval over images.
        high: Upper end.
        gap_low: Of R^2 of the best factor less that of the second, (head,): lower end.
        gap_high: Upper end.
        null: R^2 of the factor dealt out anew, (shuffle, head, factor).
        share: How much of the head's write the factor alone accounts for.
        share_low: Lower end of its 95% interval over images.
        share_high: Upper end.
        accuracy: Balanced accuracy; NaN for numbers.
    """

    r2: Float64[np.ndarray, "head factor"]
    low: Float64[np.ndarray, "head factor"]
    high: Float64[np.ndarray, "head factor"]
    gap_low: Float64[np.ndarray, " head"]
    gap_high: Float64[np.ndarray, " head"]
    null: Float64[np.ndarray, "shuffle head factor"]
    share: Float64[np.ndarray, "head factor"]
    share_low: Float64[np.ndarray, "head factor"]
    share_high: Float64[np.ndarray, "head factor"]
    accuracy: Float64[np.ndarray, "head factor"]


def fit_factors(
    writes: Float64[np.ndarray, "head image dim"],
    factors: tuple[Factor, ...],
    *,
    n_folds: int = 5,
    n_shuffles: int = 50,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> FactorFits:
    """How well each head and each factor describe one another.

    Args:
        writes: What each head writes on each image.
        factors: What is known of each image.
        n_folds: Parts that the images are dealt into; each is predicted from the others.
        n_shuffles: How often the factors are dealt out anew.
        n_bootstrap: Bootstrap draws of the images, the fits being kept.
        seed: Deals folds and shuffles, and draws.

    Raises:
        DataError: There are too few images, or not as many as the factors are known of.
    """
    n_images = writes.shape[1]
    _check(n_images, factors, n_folds)
    folds, resamples = deal_folds(n_images, n_folds, seed=seed), Resamples.draw(n_images, n_bootstrap, seed=seed)
    orders = [np.random.default_rng([seed, 1, shuffle]).permutation(n_images) for shuffle in range(n_shuffles)]
    turned = [turned_into_span(write) for write in writes]
    rows = [_read_head(condensed(write), factors, folds, orders, resamples) for write in turned]
    r2, low, high, gap, null, accuracy = (np.stack(part) for part in zip(*rows, strict=True))
    shares = _shares(turned, factors, folds, resamples)
    ends = gap[:, 0], gap[:, 1]
    return FactorFits(r2, low, high, *ends, np.swapaxes(null, 0, 1), shares[0], shares[1], shares[2], accuracy)


def _check(n_images: int, factors: tuple[Factor, ...], n_folds: int) -> None:
    known = len(factors[0].columns)
    if known != n_images:
        raise DataError(f"there are {n_images} images, but the factors of {known}: pass those of the same images.")
    if n_folds < 2 or n_images < max(10 * n_folds, 2 * N_BINS):
        raise DataError(
            f"{n_images} images in {n_folds} folds are too few: pass n_folds of at least 2, and ten images for each."
        )


def _read_head(
    x: NDArray, factors: tuple[Factor, ...], folds: NDArray, orders: list[NDArray], resamples: Resamples
) -> tuple[NDArray, ...]:
    """R^2, its interval, the interval of the gap between best and second, the null and accuracies, of one head."""
    n = len(factors)
    if not x.shape[1]:
        none, ends = np.full(n, np.nan), np.full(2, np.nan)
        return none, none, none, ends, np.full((len(orders), n), np.nan), none
    own = [factor.columns for factor in factors]
    targets = own + [columns[order] for order in orders for columns in own]
    predicted = left_out_predictions(x, targets, folds)
    pairs = [squared_errors(target, guess) for target, guess in zip(targets, predicted, strict=True)]
    r2 = np.array([1 - wrong.sum() / spread.sum() for wrong, spread in pairs])
    wrong, spread = (np.stack(part) for part in zip(*pairs[:n], strict=True))  # factor, image
    drawn = 1 - divide(resamples.means(wrong), resamples.means(spread))  # draw, factor
    accuracy = [_balanced(factor.choices, guess) for factor, guess in zip(factors, predicted, strict=False)]
    low, high = _ends(drawn)
    null = r2[n:].reshape(len(orders), n)
    return r2[:n], low, high, _gap_ends(r2[:n], drawn), null, np.array(accuracy)


def _ends(drawn: NDArray) -> NDArray:
    """Ends of the middle 95% of draws, (draw, ...) -> (2, ...); NaN where nothing was drawn."""
    return np.quantile(drawn, [0.025, 0.975], axis=0) if len(drawn) else np.full((2, *drawn.shape[1:]), np.nan)


def _gap_ends(r2: NDArray, drawn: NDArray) -> NDArray:
    """The interval of best less second, both floored at 0, for the two that are best and second on all images."""
    if len(r2) < 2:
        return np.full(2, np.nan)
    best, second = np.argsort(-r2, kind="stable")[:2]
    return _ends(np.maximum(drawn[:, best], 0) - np.maximum(drawn[:, second], 0))


def _balanced(choices: NDArray | None, guess: NDArray) -> float:
    if choices is None:
        return np.nan
    right = guess.argmax(1) == choices
    return float(np.mean([right[choices == choice].mean() for choice in range(guess.shape[1])]))


def _shares(
    writes: list[NDArray], factors: tuple[Factor, ...], folds: NDArray, resamples: Resamples
) -> Float64[np.ndarray, "3 head factor"]:
    """R^2 of what each head writes, predicted from one factor at a time, and the ends of its interval."""
    known = [place for place, write in enumerate(writes) if write.shape[1]]
    found = np.full((3, len(writes), len(factors)), np.nan)
    targets = [writes[place] for place in known]
    for column, factor in enumerate(factors if targets else ()):
        predicted = left_out_predictions(condensed(factor.groups), targets, folds)
        for place, target, guess in zip(known, targets, predicted, strict=True):
            wrong, spread = squared_errors(target, guess)
            drawn = 1 - divide(resamples.means(wrong), resamples.means(spread))
            found[:, place, column] = 1 - wrong.sum() / spread.sum(), *_ends(drawn)
    return found
