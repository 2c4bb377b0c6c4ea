"""The last layer agrees with itself, and every number is what scipy and counting say."""

import numpy as np
import pytest
from scipy.stats import entropy, rankdata
from sklearn.metrics import cohen_kappa_score
from vitcircuits.algorithms.interpretability.lens import kappas, log_softmax, read_lens
from vitcircuits.models.errors import DataError


def some_logits(seed=0):
    return 3 * np.random.default_rng(seed).normal(size=(4, 25, 6))


def test_the_last_layer_agrees_with_itself():
    found = read_lens(some_logits())
    assert found.agreement[-1].all() and (found.kl[-1] == 0).all() and (found.ranks[-1] == 1).all()


def test_every_number_is_what_it_says():
    logits, targets = some_logits(), np.arange(25) % 6
    found = read_lens(logits, targets)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for layer, image in np.ndindex(4, 25):
        row = logits[layer, image]
        assert found.agreement[layer, image] == (row.argmax() == logits[-1, image].argmax())
        kl = entropy(probabilities[-1, image], probabilities[layer, image])
        assert found.kl[layer, image] == pytest.approx(kl, abs=1e-12)
        assert found.ranks[layer, image] == rankdata(-row)[targets[image]]


def test_kappa_is_that_of_scikit_learn_under_any_weights():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    first[:30] = second[:30]
    counts = rng.multinomial(60, np.full(60, 1 / 60), size=3)
    found = kappas(first, second, counts / 60)
    wanted = [cohen_kappa_score(first, second, sample_weight=row) for row in counts]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_those_that_always_give_one_class_agree_by_chance_alone():
    same = np.zeros(10, dtype=np.int64)
    assert np.isnan(kappas(same, same, np.full((1, 10), 0.1))).all()


def test_a_lens_that_sees_nothing_has_the_middle_rank():
    logits = some_logits()
    logits[0] = 0.7
    assert (read_lens(logits).ranks[0] == 3.5).all()


def test_logits_may_be_large():
    np.testing.assert_allclose(log_softmax(np.array([[2000.0, 0.0]])), [[0, -2000]])


@pytest.mark.parametrize("targets", [np.zeros(24, dtype=int), np.full(25, 6), np.full(25, -1)])
def test_targets_that_are_no_classes_are_refused(targets, unchecked):
    with pytest.raises(DataError, match="one class per image"):
        read_lens(some_logits(), targets)
