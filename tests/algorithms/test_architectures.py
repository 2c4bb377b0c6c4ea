"""The laws on architectures whose blocks or readouts are built in another way than timm's standard ones."""

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import (
    acdc,
    activation_patch,
    eap,
    eap_ig,
    exact_effects,
    logit_attribution,
    path_patch,
)
from vitcircuits.algorithms.engines.flips import measure_flips
from vitcircuits.algorithms.engines.gated_run import GatedRunner
from vitcircuits.circuits import Ablation, Circuit, Pairs, Task, compile_graph, run_circuit
from vitcircuits.circuits.baseline import make_baseline, source_values
from vitcircuits.circuits.reach import prune
from vitcircuits.circuits.run import MaskWeights, masked_logits, run_pairs
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models.errors import ModelError

METRIC = Metric("logit_difference", (0,), (2,))
GRAPHS = [("all", "qkv"), ("all", "block"), ("role", "qkv"), ("role", "head"), ("each", "block")]

EXACT = [("all", "qkv", "partner"), ("all", "block", "mean"), ("role", "qkv", "zero"), ("role", "head", "mean")]


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
def test_exact_effects_equal_masked_runs(architecture, images_for, tokens, ports, ablation):
    task = make_task(architecture, images_for, ablation)
    graph = compile_graph(architecture, tokens=tokens, ports=ports)
    full = np.ones(len(graph), dtype=bool)
    now, got = masked(task, graph, full), exact_effects(graph, task).values
    for edge in np.random.default_rng(0).permutation(len(graph))[:20]:
        mask = full.copy()
        mask[edge] = False
        assert got[edge] == pytest.approx(now - masked(task, graph, mask), abs=1e-9), graph.edge(int(edge))


@pytest.mark.parametrize(
    ("tokens", "ports", "ablation", "tau"),
    [("all", "qkv", "partner", 0.01), ("role", "head", "mean", 0.01), ("all", "head", "zero", 0.5)],
)
def test_law_6_acdc_decides_as_one_edge_at_a_time(architecture, images_for, sequential, tokens, ports, ablation, tau):
    task = make_task(architecture, images_for, ablation)
    graph = compile_graph(architecture, tokens=tokens, ports=ports)
    options = {"tau": tau, "metric": "task", "worsening": "absolute"}
    wanted = sequential(graph, task, **options)
    assert wanted.mask.sum() < len(graph)
    assert np.array_equal(acdc(graph, task, **options).mask, wanted.circuit)


@pytest.mark.parametrize(("tokens", "ports", "ablation"), [("all", "qkv", "mean"), ("role", "qkv", "partner")])
def test_flips_around_a_mask_equal_masked_runs(architecture, images_for, tokens, ports, ablation):
    task = make_task(architecture, images_for, ablation)
    graph, baseline = compile_graph(architecture, tokens=tokens, ports=ports), None
    baseline = make_baseline(architecture, task.ablation, task.reference)
    chance = np.random.default_rng(1)
    mask, edges = chance.random(len(graph)) < 0.7, chance.permutation(len(graph))[:25]
    found = measure_flips(architecture, graph, mask, edges, METRIC, task.discovery, baseline)
    for edge, got in zip(edges, found.flipped, strict=True):
        flipped = mask.copy()
        flipped[edge] = not flipped[edge]
        wanted = METRIC(run_pairs(architecture, graph, flipped, task.discovery, baseline)).double().numpy()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9 * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize("tokens", ["all", "role"])
def test_gradients_under_gates_are_those_of_the_masked_run(architecture, images_for, tokens):
    vit, task = architecture, make_task(architecture, images_for)
    graph = compile_graph(vit, tokens=tokens)
    gates = torch.rand(len(graph), dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    with vit.borrowed():
        ablated = make_baseline(vit, task.ablation, task.reference)(task.discovery)
        embedded = vit.embed(task.discovery.clean)
        got = GatedRunner(vit, graph)(gates, embedded, ablated, lambda logits: METRIC(logits).sum())
        soft = gates.clone().requires_grad_(True)
        logits = masked_logits(vit, MaskWeights.from_tensor(graph, soft), task.discovery.clean, ablated)
        (wanted,) = torch.autograd.grad(METRIC(logits).sum(), soft)
    np.testing.assert_allclose(got.logits, logits.detach(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(got.gradient, wanted, rtol=0, atol=1e-9 * max(1, float(wanted.abs().max())))


def frozen_readout(vit, clean):
    """The readout as an affine map, its norms' statistics held where the clean residual has them."""
    readout = vit.readout

    def held(norm, at):
        inverse = norm.inverse(at)
        centre = (lambda x: x - x.mean(-1, keepdim=True)) if norm.centres else (lambda x: x)
        return lambda x: norm.affine(centre(x) * inverse) if norm.scales else x

    def pool(x):
        return x if readout.second_head is not None else x.mean(-2)

    normed = readout.select(clean)
    first, second = held(readout.norm, normed), held(readout.fc_norm, pool(readout.norm(normed)))

    def logits(residual):
        x = pool(first(readout.select(residual)))
        if readout.second_head is not None:
            return (readout.head(x[..., 0, :]) + readout.second_head(x[..., 1, :])) / 2
        return readout.head(second(x))

    return logits


def test_direct_attribution_adds_up_to_the_logit(architecture, images_for):
    images = images_for(architecture, 3)
    found = logit_attribution(architecture, images, Metric("logit", (1,)), through_pool=False)
    with torch.no_grad(), architecture.borrowed():
        wanted = architecture(images)[:, 1].double().numpy()
        values = source_values(architecture, images)[compile_graph(architecture).source_exists]
        biases = torch.zeros_like(values[0]) + sum(block.attn_bias for block in architecture.blocks)
        logits = frozen_readout(architecture, values.sum(0) + biases)
        at_zero = logits(torch.zeros_like(biases))
        rows = torch.stack([logits(value) - at_zero for value in values], 1)[..., 1]
        constant = logits(biases)[..., 1]
    np.testing.assert_allclose(found.values.sum(-1), rows, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.constant, constant, rtol=0, atol=1e-9)
    np.testing.assert_allclose(rows.sum(1) + constant, wanted, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.metric, wanted, rtol=0, atol=1e-9)


def test_integrated_gradients_are_complete_where_norms_are_not_frozen(architecture, images_for):
    task = make_task(architecture, images_for)
    graph = compile_graph(architecture)
    got = eap_ig(graph, task, steps=60, freeze_norm=False).values
    leaving = [edge for edge in range(len(graph)) if graph.edge(edge).source.kind == "input"]
    clean, corrupt = (METRIC(architecture(images)).mean() for images in (task.discovery.clean, task.discovery.corrupt))
    assert got[leaving].sum() == pytest.approx(float(clean - corrupt), abs=5e-3 * max(1, abs(float(clean))))


@pytest.mark.parametrize("name", ["parallel", "parallel-fused", "map"])
def test_a_node_without_a_path_carries_its_ablated_value(architecture_named, images_for, name):
    vit = architecture_named(name)
    for tokens, ports in (("all", "qkv"), ("role", "head"), ("role", "block")):
        task = make_task(vit, images_for, "zero")
        graph = compile_graph(vit, tokens=tokens, ports=ports)
        full, got = np.ones(len(graph), dtype=bool), exact_effects(graph, task).values
        alone = [e for e in range(len(graph)) if graph.edge(e).destination.layer in (0, vit.cfg.n_layers - 1)]
        now, table = (
            masked(task, graph, full),
            path_patch(graph, task, sources="input", destinations="m0"),
        )
        for edge in alone[:: max(1, len(alone) // 60)]:
            mask = full.copy()
            mask[edge] = False
            assert got[edge] == pytest.approx(now - masked(task, graph, mask), abs=1e-9), graph.edge(edge)
        if tokens == "all":
            mask = full.copy()
            mask[graph.index("input->m0")] = False
            assert float(table.values.mean()) == pytest.approx(now - masked(task, graph, mask), abs=1e-9)


def test_pruning_never_changes_a_run_where_heads_share_a_norm(architecture_named, images_for):
    vit = architecture_named("joint-norm")
    task = make_task(vit, images_for)
    for tokens, ports in (("all", "qkv"), ("role", "head")):
        graph, chance = compile_graph(vit, tokens=tokens, ports=ports), np.random.default_rng(3)
        for _ in range(15):
            mask = chance.random(len(graph)) < 0.4
            assert masked(task, graph, prune(graph, mask)) == pytest.approx(masked(task, graph, mask), abs=1e-9)


def test_what_heads_read_is_not_patched_one_head_at_a_time_where_they_share_a_norm(architecture_named, images_for):
    vit = architecture_named("joint-norm")
    with pytest.raises(ModelError, match="patches of q"):
        activation_patch(compile_graph(vit), make_task(vit, images_for), "q")
