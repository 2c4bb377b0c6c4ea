"""Each metric against a computation by hand."""

import math

import pytest
import torch
from vitcircuits.circuits.tasks.metrics import Metric, kl_divergence
from vitcircuits.models.errors import TaskError

LOGITS = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]], dtype=torch.float64)


def test_logit_difference_of_single_classes_and_of_sets():
    assert Metric("logit_difference", (1,), (2,))(LOGITS).tolist() == [1.5, -4.0]
    found = Metric("logit_difference", (0, 1), (2,))(LOGITS)
    wanted = [math.log(math.e + math.e**2) - 0.5, math.log(1 + math.exp(-1)) - 3]
    assert found.tolist() == pytest.approx(wanted)


def test_logit_probability_and_accuracy():
    assert Metric("logit", (2,))(LOGITS).tolist() == [0.5, 3.0]
    total = [sum(map(math.exp, row)) for row in LOGITS.tolist()]
    assert Metric("probability", (1,))(LOGITS).tolist() == pytest.approx(
        [math.exp(2) / total[0], math.exp(-1) / total[1]]
    )
    assert Metric("accuracy", (1, 0))(LOGITS).tolist() == [1.0, 0.0]


def test_kl_is_negated_so_that_higher_is_better():
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    wanted = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert float(kl_divergence(p, q)) == pytest.approx(wanted)
    assert float(Metric("kl", (0,))(q, p)) == pytest.approx(-wanted)
    with pytest.raises(TaskError, match="reference"):
        Metric("kl", (0,))(q)


@pytest.mark.parametrize(
    ("kind", "target", "foil", "said"),
    [
        ("logits", (0,), (1,), "logit_difference"),
        ("logit", (), (), "at least one"),
        ("logit_difference", (0,), (), "foil"),
        ("logit_difference", (0, 1), (1,), "both target and foil"),
    ],
)
def test_senseless_metrics_are_refused(kind, target, foil, said):
    with pytest.raises(TaskError, match=said):
        Metric(kind, target, foil)


def test_the_side_is_the_highest_logit_among_target_and_foil():
    logits = torch.tensor([[1.0, -3.0, 9.0, 0.5], [0.0, 2.0, 9.0, 2.5], [3.0, 3.0, 0.0, 0.0]])
    assert Metric("logit_difference", (0, 1), (3,)).prefers_target(logits).tolist() == [True, False, True]
    assert Metric("logit", (2,)).prefers_target(logits).tolist() == [True, True, False]


def test_one_reference_serves_all_variants_of_a_batch():
    reference, logits = torch.randn(4, 5), torch.randn(3, 4, 5)
    metric = Metric("kl", (0,), (1,))
    torch.testing.assert_close(metric(logits, reference), torch.stack([metric(part, reference) for part in logits]))
