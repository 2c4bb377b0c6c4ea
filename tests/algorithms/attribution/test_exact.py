"""Exact effects in the other direction, and in small batches. That they are masked runs, `test_laws.py` says."""

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from vitcircuits.algorithms import exact_effects
from vitcircuits.algorithms.registry import least_memory
from vitcircuits.circuits import Ablation, Pairs, Task, compile_graph
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit
from vitcircuits.models.errors import TaskError


def make_task(kind, metric="logit_difference", **options):
    torch.manual_seed(3)
    module = VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, num_classes=4, embed_dim=8, depth=2, num_heads=2, **options
    ).double()
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter) * 0.4
    images = torch.randn(8, 1, 8, 8, dtype=torch.float64)
    pairs = Pairs(images[:2], images[2:4]), Pairs(images[4:6], images[6:])
    return Task(load_vit(module), Metric(metric, (0,), (2,)), *pairs, Ablation(kind))


def swapped(task):
    """The task with clean and corrupted images in each other's place, so that noising is denoising."""
    pairs = task.discovery
    return Task(task.vit, task.metric, Pairs(pairs.corrupt, pairs.clean), task.evaluation)


@pytest.mark.parametrize("ports", ["qkv", "head", "block"])
@pytest.mark.parametrize("tokens", ["all", "role", "each"])
def test_restoring_is_ablating_with_clean_and_corrupted_images_swapped(tokens, ports):
    task = make_task("partner")
    graph = compile_graph(task.vit, tokens=tokens, ports=ports)
    restored = exact_effects(graph, task, direction="denoising").values
    np.testing.assert_allclose(restored, -exact_effects(graph, swapped(task)).values, rtol=0, atol=1e-9)


def test_restoring_under_a_mean_starts_from_the_run_of_the_mean_input():
    task = make_task("mean")
    graph, vit = compile_graph(task.vit), task.vit
    effects = exact_effects(graph, task, direction="denoising").values
    with torch.no_grad(), vit.borrowed():
        mean, clean = vit.embed(task.reference).mean(0, keepdim=True), vit.embed(task.discovery.clean)
        corrupted = vit.run_blocks(mean)
        moved = vit.readout.logits(corrupted + clean - mean) - vit.readout.logits(corrupted)
    assert effects[graph.index("input->logits")] == pytest.approx(float((moved[:, 0] - moved[:, 2]).mean()), abs=1e-9)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_law_6_micro_batched_is_whole(direction):
    task = make_task("partner")
    graph = compile_graph(task.vit, tokens="role")
    whole = exact_effects(graph, task, direction=direction)
    least = least_memory("exact_effects", graph, task)
    micro = exact_effects(graph, task, direction=direction, memory=least)
    np.testing.assert_allclose(micro.values, whole.values, rtol=0, atol=1e-9)
    np.testing.assert_allclose(micro.std_err, whole.std_err, rtol=0, atol=1e-9)


def test_an_unknown_direction_is_told(unchecked):
    task = make_task("partner")
    with pytest.raises(TaskError, match="denoising"):
        exact_effects(compile_graph(task.vit), task, direction="restoring")
