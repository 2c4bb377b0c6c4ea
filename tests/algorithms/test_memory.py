"""Law: no algorithm, nor the judgement, holds more than its budget from beginning to end, and none is refused in vain.

Bytes are those of tensors (`algorithms/work`), so that no allocator and no machine has a say.
"""

import dataclasses
import re

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from vitcircuits.algorithms import run_algorithm
from vitcircuits.algorithms.registry import ALGORITHMS
from vitcircuits.algorithms.run_config import discover
from vitcircuits.algorithms.work import counted_memory
from vitcircuits.circuits import Ablation, Circuit, Pairs, Task, compile_graph, evaluate
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models import load_vit
from vitcircuits.models.errors import MemoryTooSmallError

SOON = {  # options with which it ends soon
    "eap_ig": {"steps": 2},
    "rank_ensemble": {"of": "eap,relp"},
    "eap_ig_activations": {"steps": 1},
    "ceap": {"steps": 2},
    "hybrid": {"budget": 0.1},
    "acdc": {"tau": 1e-3},
    "learned_masks": {"steps": 2, "size": 0.3, "batch": 4, "derivative": "pathwise", "polish": "no"},
    "budgeted_pruning": {"size": 0.3, "share": 0.5, "regrow_rounds": 1, "swaps": 1, "measure": "slopes"},
    "evaluate": {"n_random": 2, "curve": False},
}
EVERY = [*ALGORITHMS, "evaluate"]


@pytest.fixture(scope="module")
def deep() -> Task:
    """A model of many sources, whose writes take far more than what any one of them is made from."""
    torch.manual_seed(0)
    module = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4, num_classes=10)
    vit = load_vit(module.eval().requires_grad_(False), name="deep")
    clean, corrupt, other = (torch.randn(n, 3, 32, 32) for n in (4, 4, 2))
    return Task(vit, Metric("logit_difference", (0,), (1,)), Pairs(clean, corrupt), Pairs(other[:1], other[1:]))


def run(name: str, task: Task, memory: int) -> object:
    graph, options = compile_graph(task.vit, ports="block"), SOON.get(name, {})
    if name != "evaluate":
        return run_algorithm(name, graph, task, memory=memory, progress=False, **options)
    half = Circuit(graph, np.arange(len(graph)) % 2 == 0)
    return evaluate(half, task, pairs=task.discovery, memory=memory, progress=False, **options)


def least(name: str, task: Task) -> int:
    """What the refusal says."""
    with pytest.raises(MemoryTooSmallError, match=r"pass memory=\d+ or more") as refused:
        run(name, task, 1)
    assert int(re.search(r"pass memory=(\d+)", str(refused.value))[1]) == refused.value.least
    return refused.value.least


@pytest.mark.parametrize(
    ("name", "ablation"),
    [(name, "partner") for name in EVERY]
    + [(name, "mean") for name in ("eap", "direct_logit_attribution", "evaluate")],
)
def test_the_least_that_is_enough_is_said_and_is_kept_to_the_end(deep, name, ablation):
    task = dataclasses.replace(deep.with_ablation(Ablation(ablation)), discovery=deep.discovery.select([0, 1]))
    enough = least(name, task)
    with pytest.raises(MemoryTooSmallError):
        run(name, task, enough - 1)
    with counted_memory() as held:
        run(name, task, enough)
    assert 0.2 * enough < held.peak < 1.05 * enough


@pytest.mark.parametrize("name", ["eap", "learned_masks", "direct_logit_attribution"])
def test_a_larger_budget_is_used_and_kept(deep, name):
    task = deep.with_ablation(Ablation("mean"))
    enough = least(name, task)
    with counted_memory() as held:
        run(name, task, 3 * enough)
    assert enough < held.peak < 1.05 * 3 * enough


def test_a_run_is_refused_before_its_search_where_its_judgement_would_be(deep):
    judged = least("evaluate", deep)
    searched = []
    with pytest.raises(MemoryTooSmallError, match=f"pass memory={judged} or more"):
        discover(deep.vit, deep, algorithm=lambda graph, task: searched.append(graph), memory=judged - 1)
    assert not searched
