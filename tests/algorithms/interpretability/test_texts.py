"""Planted texts are found in the order of their variance, and what they explain is what a regression on them does."""

import numpy as np
import pytest
from vitcircuits.algorithms.interpretability.texts import (
    explained_ends,
    principal_explained,
    random_explained,
    text_span,
)
from vitcircuits.circuits.judging.bootstrap import Resamples
from vitcircuits.models.errors import DataError

PICKS = ("variance", "explained")


def planted(seed=0, n_images=300, dim=20, n_texts=40):
    """Contributions along texts 7, 3 and 11 with variances 9, 4 and 1, on a mean of their own."""
    rng = np.random.default_rng(seed)
    texts = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:, :12].T
    texts = np.concatenate([texts, rng.normal(size=(n_texts - 12, dim))])
    columns = np.concatenate([np.ones((n_images, 1)), rng.normal(size=(n_images, 3))], axis=1)
    amounts = np.linalg.qr(columns)[0][:, 1:] * np.sqrt(n_images)  # uncorrelated, without means
    return amounts * [3, 2, 1] @ texts[[7, 3, 11]] + texts[3] * 50, texts


@pytest.mark.parametrize("pick", PICKS)
def test_planted_directions_come_out_in_order(pick):
    contributions, texts = planted()
    span = text_span(contributions, texts, 3, pick=pick)
    n = 3 if pick == "variance" else 2  # scaled, all texts are one direction where one dimension is left
    assert span.taken.tolist()[:n] == [7, 3, 11][:n]
    np.testing.assert_allclose(span.explained, [9 / 14, 13 / 14, 1], atol=1e-9)


def test_it_stops_where_nothing_is_left():
    contributions, texts = planted()
    assert text_span(contributions, texts, 10).taken.tolist() == [7, 3, 11]
    assert len(text_span(np.ones((5, 4)), np.eye(4), 2).taken) == 0
    assert text_span(np.random.default_rng(0).normal(size=(9, 4)), np.eye(4)[:2], 3).taken.shape == (2,)


def by_hand(contributions, texts, n, pick):
    """Each step anew from the texts taken so far, by projections that are made from scratch."""
    centred = contributions - contributions.mean(0)
    span = contributions.T @ np.linalg.pinv(contributions.T)
    inside = (texts / np.linalg.norm(texts, axis=1, keepdims=True)) @ span
    taken, explained = [], []
    for _ in range(n):
        used = inside[taken].T  # dim, taken
        outside = np.eye(len(span)) - (used @ np.linalg.pinv(used) if taken else 0)
        left = inside @ outside
        variances = (centred @ left.T).var(0)
        if pick == "explained":
            variances /= np.square(left).sum(1) + 1e-30
        variances[taken] = -1
        taken.append(int(variances.argmax()))
        used = inside[taken].T
        rest = centred - centred @ used @ np.linalg.pinv(used)
        explained.append(1 - np.square(rest).sum() / np.square(centred).sum())
    return taken, explained


@pytest.mark.parametrize("pick", PICKS)
@pytest.mark.parametrize("rank", [4, 9])
def test_it_is_the_algorithm_by_hand(pick, rank):
    rng = np.random.default_rng(rank)
    contributions = rng.normal(size=(50, rank)) @ rng.normal(size=(rank, 9)) + 1
    texts = rng.normal(size=(30, 9)) * rng.uniform(0.1, 10, size=(30, 1))  # lengths say nothing
    span = text_span(contributions, texts, 4, pick=pick)
    taken, explained = by_hand(contributions, texts, 4, pick)
    assert span.taken.tolist() == taken
    np.testing.assert_allclose(span.explained, explained, atol=1e-9)
    np.testing.assert_allclose(span.parts.sum() / span.total.sum(), span.explained[-1])


def test_a_text_outside_the_span_counts_for_little_unless_it_is_scaled():
    rows = np.outer(np.arange(10.0) - 4.5, [1.0, 0.2, 0, 0])
    rows[:, 1] += np.resize([0.5, -0.5], 10)  # the span is that of the first two dimensions
    far, near = np.array([0.1, 0, 0.99, 0]), np.array([0.8, 0.6, 0, 0])
    assert text_span(rows, np.stack([far, near]), 1, pick="variance").taken.tolist() == [1]
    assert text_span(rows, np.stack([far, near]), 1, pick="explained").taken.tolist() == [0]


def test_principal_components_are_a_ceiling_and_random_directions_lie_below_planted_ones():
    contributions, texts = planted()
    ceiling = principal_explained(contributions, 3)
    assert (text_span(contributions, texts, 3).explained <= ceiling + 1e-12).all()
    wide = contributions + 0.3 * np.random.default_rng(1).normal(size=contributions.shape)
    random = random_explained(wide, 40, 3, n_draws=10, seed=0)
    assert random.max() < text_span(wide, texts, 3).explained[-1] <= principal_explained(wide, 3)[-1]


def test_principal_directions_as_texts_explain_as_much_as_components():
    rows = np.random.default_rng(2).normal(size=(40, 6)) * np.arange(1, 7)
    axes = np.linalg.svd(rows - rows.mean(0))[2]
    span = text_span(rows, axes[::-1].copy(), 4, pick="explained")
    assert span.taken.tolist() == [5, 4, 3, 2]
    np.testing.assert_allclose(span.explained, principal_explained(rows, 4))


def test_intervals_hold_the_value():
    contributions, texts = planted()
    span = text_span(contributions, texts, 2)
    low, high = explained_ends(span, Resamples.draw(300, 200, seed=0))
    assert (low < span.explained).all() and (span.explained < high).all()
    assert np.isnan(explained_ends(span, Resamples.draw(300, 0, seed=0))).all()


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        (np.eye(4), {"n": 0}, "n of at least 1"),
        (np.eye(4), {"n": 1, "pick": "most"}, "pick='variance'"),
        (np.eye(3), {"n": 1}, "3 dimensions"),
        (np.zeros((1, 4)), {"n": 1}, "length 0"),
        (np.zeros((0, 4)), {"n": 1}, "no texts"),
    ],
)
def test_what_makes_no_sense_is_refused(texts, options, said, unchecked):
    with pytest.raises(DataError, match=said):
        text_span(np.ones((5, 4)), texts, **options)
