"""Work is counted in forward passes: of the whole model or of parts, forward and backward."""

import pytest
import torch
from torch import nn
from vitcircuits.algorithms.work import counted_work
from vitcircuits.circuits import planted_task
from vitcircuits.models import load_vit


@pytest.fixture(scope="module")
def task():
    return planted_task(load_vit("planted/neighbour-xor"), n=8)


def test_a_run_is_one_forward_pass_over_all_pairs(task):
    with counted_work(task) as work, torch.no_grad():
        task.vit(task.discovery.clean)
        task.vit(task.discovery.clean[:4])
    assert work.runs == 1.5


def test_nothing_costs_nothing(task):
    with counted_work(task) as work:
        pass
    assert work.runs == 0


def test_matrix_products_and_attention_are_counted_as_they_are_defined(task):
    x, weight = torch.randn(2, 3, 5), torch.randn(5, 7)
    q, k, v = torch.randn(2, 4, 3, 8), torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 10)
    with counted_work(task) as product:
        x @ weight
    with counted_work(task) as attention:
        nn.functional.scaled_dot_product_attention(q, k, v)
    assert attention.runs / product.runs == pytest.approx((2 * 4 * 3 * 6 * (8 + 10)) / (2 * 3 * 5 * 7))


def test_a_backward_pass_to_the_image_costs_about_one_more(task):
    images = task.discovery.clean.clone().requires_grad_()
    with counted_work(task) as work:
        task.vit(images).sum().backward()
    assert 1.9 < work.runs < 2.3
