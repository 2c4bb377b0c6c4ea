"""Slopes around a mask against the derivative of the masked run itself, by autograd through `MaskWeights`."""

import numpy as np
import pytest
import torch
from vitcircuits.algorithms.engines.gated_run import measure_slopes
from vitcircuits.circuits import Ablation, Pairs, compile_graph
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.circuits.reach import prune
from vitcircuits.circuits.run import MaskWeights, masked_logits, run_pairs
from vitcircuits.circuits.tasks.metrics import Metric

METRIC = Metric("logit_difference", (0,), (2,))


def wanted_slopes(vit, graph, mask, pairs, baseline):
    """One backward pass through the blended run for each pair."""
    found = []
    for batch in pairs.batches(1):
        soft = torch.from_numpy(mask).to(vit.dtype).requires_grad_()
        with vit.borrowed():
            values = METRIC(masked_logits(vit, MaskWeights.from_tensor(graph, soft), batch.clean, baseline(batch)))
            found.append(torch.autograd.grad(values.sum(), soft)[0].double().numpy())
    return np.stack(found)


@pytest.mark.parametrize("ablation", ["partner", "zero"])
@pytest.mark.parametrize(
    ("tokens", "ports"), [("all", "qkv"), ("all", "head"), ("all", "block"), ("role", "qkv"), ("each", "head")]
)
@pytest.mark.parametrize("name", ["registers-layerscale", "average"])
def test_slopes_are_the_derivative_along_each_edge(variant_named, images_for, name, tokens, ports, ablation):
    vit = variant_named(name)
    graph = compile_graph(vit, tokens=tokens, ports=ports)
    pairs, baseline = Pairs(images_for(vit, 3), images_for(vit, 3, seed=1)), make_baseline(vit, Ablation(ablation))
    chance = np.random.default_rng(0)
    for share in (0.6, 0.3, 1.1):
        mask = prune(graph, chance.random(len(graph)) < share)
        now, slopes = measure_slopes(vit, graph, mask, METRIC, pairs, baseline)
        wanted = wanted_slopes(vit, graph, mask, pairs, baseline)
        logits = METRIC(run_pairs(vit, graph, mask, pairs, baseline)).numpy()
        np.testing.assert_allclose(now, logits, rtol=0, atol=1e-9)
        chosen = np.ones(len(graph), dtype=bool) if ablation == "partner" else mask  # zeros cut sources off instead
        np.testing.assert_allclose(slopes[:, chosen], wanted[:, chosen], rtol=0, atol=1e-9)
