"""What only architectures have whose blocks or readouts are built in another way than timm's standard ones."""

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import (
    activation_patch,
    exact_effects,
    logit_attribution,
    path_patch,
)
from vitcircuits.circuits import Ablation, Circuit, Pairs, Task, compile_graph, run_circuit
from vitcircuits.circuits.baseline import source_values
from vitcircuits.circuits.reach import prune
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models.errors import ModelError

METRIC = Metric("logit_difference", (0,), (2,))


def make_task(vit, images_for, ablation="partner", n=2):
    pairs = [images_for(vit, n, seed=seed) for seed in range(4)]
    return Task(vit, METRIC, Pairs(*pairs[:2]), Pairs(*pairs[2:]), Ablation(ablation))


def masked(task, graph, mask):
    """The metric's mean under a mask, by a run of its own."""
    found = run_circuit(task.vit, Circuit(graph, mask), task.discovery.clean, task.discovery.corrupt,
                        ablation=task.ablation, reference=task.reference)  # fmt: skip
    return float(METRIC(found).double().mean())


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
