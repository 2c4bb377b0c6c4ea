"""Ridge regression that is never judged on an image that it was fitted to, in closed form.

The images are dealt into folds. For each fold, W and b minimise over the others

    sum |W x + b - y|^2 + penalty |W|^2                    (b is free)

with the penalty chosen among them alone, by the error on each image when the fit leaves it out, residual / (1 -
leverage), which has a closed form (Allen 1974). So the fold's own images decide nothing, and

    R^2 = 1 - sum |y - predicted|^2 / sum |y - mean|^2     over all images and all columns of y

is 0 for what knows nothing, or a little below. One eigendecomposition per fold serves any number of targets. It is
scikit-learn's `cross_val_predict(RidgeCV(penalties))`, which the tests hold it against.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int
from numpy.typing import NDArray

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
        found[held] = _fold(features[~held], columns[~held], features[held], starts, np.asarray(penalties))
    return np.split(found, starts[1:-1], axis=1)


def _fold(x: NDArray, y: NDArray, new: NDArray, starts: NDArray, penalties: NDArray) -> NDArray:
    """Predictions at new images of a fit to (x, y)."""
    centre, mean = x.mean(0), y.mean(0)
    centred, wanted = x - centre, y - mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values, turned = np.maximum(values, 0), centred @ vectors  # (rank,), (image, rank)
    toward = turned.T @ wanted  # rank, column
    errors = [_left_out_errors(turned, wanted, toward, values + penalty, starts) for penalty in penalties]
    chosen = penalties[np.argmin(errors, axis=0)]  # target
    shrunk = toward / (values[:, None] + np.repeat(chosen, np.diff(starts)))
    return mean + (new - centre) @ vectors @ shrunk


def _left_out_errors(turned: NDArray, wanted: NDArray, toward: NDArray, sums: NDArray, starts: NDArray) -> NDArray:
    """For each target, the sum of squared errors on each image when the fit leaves it out."""
    leverage = np.square(turned) @ (1 / sums) + 1 / len(turned)  # image
    residual = wanted - turned @ (toward / sums[:, None])
    squares = np.square(residual / np.maximum(1 - leverage, 1e-12)[:, None]).sum(0)
    return np.add.reduceat(squares, starts[:-1])


def squared_errors(
    target: Float64[np.ndarray, "image column"], predicted: Float64[np.ndarray, "image column"]
) -> tuple[Float64[np.ndarray, " image"], Float64[np.ndarray, " image"]]:
    """Each image's squared distance from what was predicted, and from the mean over images; R^2 = 1 - their ratio."""
    return np.square(target - predicted).sum(1), np.square(target - target.mean(0)).sum(1)
