"""The laws on architectures whose blocks or readouts are built in another way than timm's standard ones."""

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import acdc, eap, eap_ig, exact_effects, logit_attribution
from vitcircuits.algorithms.pruning.around import measure_flips
from vitcircuits.algorithms.pruning.soft_run import SoftRunner
from vitcircuits.circuits import Ablation, Circuit, Pairs, Task, compile_graph, run_circuit
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.circuits.metrics import Metric
from vitcircuits.circuits.run import MaskWeights, masked_logits, run_pairs
from vitcircuits.models.errors import ModelError

METRIC = Metric("logit_difference", (0,), (2,))
GRAPHS = [("all", "qkv"), ("all", "block"), ("role", "qkv"), ("role", "head"), ("each", "block")]

EXACT = [("all", "qkv", "partner"), ("all", "block", "mean"), ("role", "qkv", "mean"), ("role", "head", "partner")]


def make_task(vit, images_for, ablation="partner", n=2):
    pairs = [images_for(vit, n, seed=seed) for seed in range(4)]
    return Task(vit, METRIC, Pairs(*pairs[:2]), Pairs(*pairs[2:]), Ablation(ablation))


def masked(task, graph, mask):
    """The metric's mean under a mask, by a run of its own."""
    found = run_circuit(task.vit, Circuit(graph, mask), task.discovery.clean, task.discovery.corrupt,
                        ablation=task.ablation, reference=task.reference)  # fmt: skip
    return float(METRIC(found).double().mean())


@pytest.mark.parametrize(("tokens", "ports"), GRAPHS)
def test_law_4_eap_is_the_derivative_along_the_mask(architecture, images_for, tokens, ports):
    task = make_task(architecture, images_for)
    graph = compile_graph(architecture, tokens=tokens, ports=ports)
    soft = torch.ones(len(graph), dtype=torch.float64, requires_grad=True)
    with architecture.borrowed():
        ablated = make_baseline(architecture, task.ablation, task.reference)(task.discovery)
        weights = MaskWeights.from_tensor(graph, soft)
        value = METRIC(masked_logits(architecture, weights, task.discovery.clean, ablated)).mean()
        (wanted,) = torch.autograd.grad(value, soft)
    got = eap(graph, task, freeze_norm=False, softmax="linear").values
    np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=1e-9 * max(1, float(wanted.abs().max())))


@pytest.mark.parametrize(("tokens", "ports", "ablation"), EXACT)
def test_exact_effects_equal_masked_runs(separable, images_for, tokens, ports, ablation):
    task = make_task(separable, images_for, ablation)
    graph = compile_graph(separable, tokens=tokens, ports=ports)
    full = np.ones(len(graph), dtype=bool)
    now, got = masked(task, graph, full), exact_effects(graph, task).values
    for edge in np.random.default_rng(0).permutation(len(graph))[:20]:
        mask = full.copy()
        mask[edge] = False
        assert got[edge] == pytest.approx(now - masked(task, graph, mask), abs=1e-9), graph.edge(int(edge))


@pytest.mark.parametrize(("tokens", "ports", "ablation"), [("all", "qkv", "partner"), ("role", "head", "mean")])
def test_law_6_acdc_decides_as_one_edge_at_a_time(separable, images_for, sequential, tokens, ports, ablation):
    task = make_task(separable, images_for, ablation)
    graph = compile_graph(separable, tokens=tokens, ports=ports)
    options = {"tau": 0.01, "metric": "task", "worsening": "absolute"}
    wanted = sequential(graph, task, **options)
    assert 0 < wanted.circuit.sum() < len(graph)
    assert np.array_equal(acdc(graph, task, **options).mask, wanted.circuit)


@pytest.mark.parametrize(("tokens", "ports", "ablation"), [("all", "qkv", "mean"), ("role", "qkv", "partner")])
def test_flips_around_a_mask_equal_masked_runs(separable, images_for, tokens, ports, ablation):
    task = make_task(separable, images_for, ablation)
    graph, baseline = compile_graph(separable, tokens=tokens, ports=ports), None
    baseline = make_baseline(separable, task.ablation, task.reference)
    chance = np.random.default_rng(1)
    mask, edges = chance.random(len(graph)) < 0.7, chance.permutation(len(graph))[:25]
    found = measure_flips(separable, graph, mask, edges, METRIC, task.discovery, baseline)
    for edge, got in zip(edges, found.flipped, strict=True):
        flipped = mask.copy()
        flipped[edge] = not flipped[edge]
        wanted = METRIC(run_pairs(separable, graph, flipped, task.discovery, baseline)).double().numpy()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9 * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize("tokens", ["all", "role"])
def test_gradients_under_gates_are_those_of_the_masked_run(separable, images_for, tokens):
    vit, task = separable, make_task(separable, images_for)
    graph = compile_graph(vit, tokens=tokens)
    gates = torch.rand(len(graph), dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    with vit.borrowed():
        ablated = make_baseline(vit, task.ablation, task.reference)(task.discovery)
        embedded = vit.embed(task.discovery.clean)
        got = SoftRunner(vit, graph)(gates, embedded, ablated, lambda logits: METRIC(logits).sum())
        soft = gates.clone().requires_grad_(True)
        logits = masked_logits(vit, MaskWeights.from_tensor(graph, soft), task.discovery.clean, ablated)
        (wanted,) = torch.autograd.grad(METRIC(logits).sum(), soft)
    np.testing.assert_allclose(got.logits, logits.detach(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(got.gradient, wanted, rtol=0, atol=1e-9 * max(1, float(wanted.abs().max())))


def test_direct_attribution_adds_up_to_the_logit(architecture, images_for):
    images = images_for(architecture, 3)
    found = logit_attribution(architecture, images, Metric("logit", (1,)))
    wanted = architecture(images)[:, 1].detach().double().numpy()
    np.testing.assert_allclose(found.values.sum((1, 2)) + found.constant, wanted, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.metric, wanted, rtol=0, atol=1e-9)


def test_integrated_gradients_are_complete_where_norms_are_not_frozen(architecture, images_for):
    task = make_task(architecture, images_for)
    graph = compile_graph(architecture)
    got = eap_ig(graph, task, steps=60, freeze_norm=False).values
    leaving = [edge for edge in range(len(graph)) if graph.edge(edge).source.kind == "input"]
    clean, corrupt = (METRIC(architecture(images)).mean() for images in (task.discovery.clean, task.discovery.corrupt))
    if not architecture.cfg.pools:
        assert got[leaving].sum() == pytest.approx(float(clean - corrupt), abs=5e-3 * max(1, abs(float(clean))))


def test_heads_that_share_a_norm_are_not_computed_one_at_a_time(architecture_named, images_for):
    vit = architecture_named("joint-norm")
    with pytest.raises(ModelError, match="share a norm"):
        exact_effects(compile_graph(vit), make_task(vit, images_for))
