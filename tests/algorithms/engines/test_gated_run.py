"""The run under gates against autograd through the masked run, and where gates are 0 or 1 against the circuit's run."""

import numpy as np
import pytest
import torch
from vitcircuits.algorithms.engines.gated_run import GatedRunner
from vitcircuits.circuits.ablation import Ablation
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.circuits.graph import compile_graph
from vitcircuits.circuits.run import MaskWeights, masked_logits, run_pairs
from vitcircuits.circuits.tasks.task import Pairs


def _loss(logits):
    return logits[:, 1].square().sum() - logits[:, 0].sum()


def _gates(graph, seed, closed):
    """Gates in (0, 1), a share of them closed."""
    generator = torch.Generator().manual_seed(seed)
    gates = torch.rand(len(graph), generator=generator, dtype=torch.float64)
    return gates * (torch.rand(len(graph), generator=generator) >= closed)


def _by_autograd(vit, graph, gates, images, ablated):
    soft = gates.clone().requires_grad_(True)
    logits = masked_logits(vit, MaskWeights.from_tensor(graph, soft.to(vit.dtype)), images, ablated)
    (gradient,) = torch.autograd.grad(_loss(logits), soft)
    return logits.detach(), gradient


@pytest.mark.parametrize("closed", [0.0, 0.3])
def test_the_gradient_at_every_gate_is_the_derivative_of_the_masked_run(
    variant, tokens, ports, closed, images_for, close
):
    graph = compile_graph(variant, tokens=tokens, ports=ports)
    pairs = Pairs(images_for(variant), images_for(variant, seed=1))
    gates = _gates(graph, 4, closed)
    with variant.borrowed():
        with torch.no_grad():
            ablated, embedded = make_baseline(variant, Ablation("partner"))(pairs), variant.embed(pairs.clean)
            runner = GatedRunner(variant, graph)
            runner(1 - gates, embedded, ablated, _loss)  # nothing of an earlier batch is left in the buffers
            found = runner(gates, embedded, ablated, _loss)
        logits, gradient = _by_autograd(variant, graph, gates, pairs.clean, ablated)
    close(found.logits, logits)
    wanted = torch.where(gates > 0, gradient, 0).to(variant.dtype)
    close(torch.where(gates > 0, found.gradient, 0).to(variant.dtype), wanted)
    assert float(wanted.abs().max()) > 1e-6


@pytest.mark.parametrize("kind", ["partner", "mean", "zero", "noise"])
def test_gates_of_0_and_1_are_a_circuit(variant_named, tokens, kind, images_for, close):
    vit = variant_named("registers-layerscale")
    graph, pairs = compile_graph(vit, tokens=tokens), Pairs(images_for(vit), images_for(vit, seed=1))
    baseline = make_baseline(vit, Ablation(kind), images_for(vit, 5, seed=2))
    for seed in range(4):
        mask = np.random.default_rng(seed).random(len(graph)) < (0.1, 0.3, 0.6, 1.0)[seed]
        with torch.no_grad(), vit.borrowed():
            gates = torch.from_numpy(mask.astype(np.float64))
            found = GatedRunner(vit, graph)(gates, vit.embed(pairs.clean), baseline(pairs), _loss)
        close(found.logits, run_pairs(vit, graph, mask, pairs, baseline))
