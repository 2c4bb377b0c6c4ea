"""Conductance by its definition, on every cut, and where it meets exact effects."""

import dataclasses

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import ceap
from vitcircuits.algorithms.attribution.ceap import cut_totals
from vitcircuits.circuits import compile_graph
from vitcircuits.circuits.baseline import make_baseline, values_from
from vitcircuits.models.errors import TaskError


def conductance(graph, task, steps, mask_gradient):
    """The sum over steps of gradients by the mask, where removed edges lack the step's difference of their source."""
    vit, pairs, total = task.vit, task.discovery, 0.0
    baseline = make_baseline(vit, task.ablation, task.reference)
    with torch.no_grad(), vit.borrowed():
        clean, start = vit.embed(pairs.clean), baseline(pairs)[0]
        for step in range(steps):
            ends = [values_from(vit, torch.lerp(start, clean, (step + part) / steps)) for part in (0, 1)]
            middle = torch.lerp(start, clean, (step + 0.5) / steps)
            ablated = values_from(vit, middle) - (ends[1] - ends[0])
            total = total + mask_gradient(graph, task, np.ones(len(graph)), middle, ablated)
    return total


def between_nodes(graph, values):
    return np.concatenate([values[block.start : block.stop] for block in graph.blocks if block.kind != "inside"])


def test_scores_of_edges_between_nodes_are_conductance(own_case, mask_gradient, same_scores):
    graph, task = own_case.graph, own_case.task
    if graph.ports == "block":
        task = dataclasses.replace(task, metric=dataclasses.replace(task.metric, kind="kl"))
    got = ceap(graph, task, steps=2, freeze_norm=False).values
    wanted = conductance(graph, task, 2, mask_gradient)
    same_scores(between_nodes(graph, got), between_nodes(graph, wanted), task.vit)


@pytest.mark.parametrize("kind", ["partner", "mean", "noise"])
@pytest.mark.parametrize("name", ["registers-layerscale", "average", "token-fcnorm"])
def test_every_cut_adds_up_to_the_metrics_drop(name, kind, variant_named, task_on):
    task = task_on(variant_named(name), kind)
    graph = compile_graph(task.vit, tokens="role")
    coarse, fine = (ceap(graph, task, steps=steps, freeze_norm=False) for steps in (4, 32))
    drop, totals = fine.diagnostics["metric_drop"], cut_totals(graph, fine.values)
    assert len(totals) == graph.cfg.n_layers + 1
    np.testing.assert_allclose(totals, drop, rtol=0.01)
    assert fine.diagnostics["completeness_gap"] == pytest.approx(np.abs(totals - drop).max() / abs(drop))
    assert fine.diagnostics["completeness_gap"] < min(0.01, coarse.diagnostics["completeness_gap"] / 10)


def test_a_cut_holds_the_edges_that_cross_it(variant_named):
    graph = compile_graph(variant_named("plain"), tokens="role")
    edges = [graph.edge(index) for index in range(len(graph))]
    for layer, total in enumerate(cut_totals(graph, np.ones(len(graph)))):
        crossing = 0
        for edge in edges:
            writes = -1 if edge.source.kind == "input" else edge.source.layer
            reads = graph.cfg.n_layers if edge.destination.kind == "logits" else edge.destination.layer
            crossing += not edge.inside and writes < layer <= reads
        assert total == crossing


def gated_metric(task, graph, embedded, layer, differences, mask):
    """The metric where a layer's heads see keys and values less their differences, by (part, head, target, source)."""
    vit, groups = task.vit, list(graph.groups.of_token)
    residual = embedded
    for place, block in enumerate(vit.blocks):
        q, k, v = block.read(block.norm1(residual))
        if place == layer:
            keys, values = 1 - mask[:, :, groups][..., groups]
            scores = q @ k.transpose(-1, -2) - q @ differences[0].transpose(-1, -2) * keys
            pattern = (scores * block.scale).softmax(-1)
            z = pattern @ v - (pattern * values) @ differences[1]
        else:
            z = block.attend(q, k, v)
        residual = residual + block.attn_write(z)
        residual = residual + block.mlp_write(residual)
    return task.metric(vit.readout.logits(residual)).mean()


@pytest.mark.parametrize("layer", [0, 1])
def test_edges_inside_heads_are_conductance_of_keys_and_values(layer, variant_named, task_on, same_scores):
    vit = variant_named("registers-layerscale")
    task, graph = task_on(vit), compile_graph(vit, tokens="role")
    n_groups, wanted = len(graph.groups), 0.0
    with torch.no_grad(), vit.borrowed():
        clean, start = vit.embed(task.discovery.clean), vit.embed(task.discovery.corrupt)
        for step in range(3):
            ends = [torch.lerp(start, clean, (step + part) / 3) for part in (0, 1)]
            reads = [[*run_to(vit, end, layer)][1:] for end in ends]
            differences = [after - before for before, after in zip(*reads, strict=True)]
            with torch.enable_grad():
                mask = torch.ones(2, vit.cfg.n_heads, n_groups, n_groups, dtype=vit.dtype, requires_grad=True)
                value = gated_metric(task, graph, torch.lerp(start, clean, (step + 0.5) / 3), layer, differences, mask)
                (found,) = torch.autograd.grad(value, mask)
            wanted = wanted + found.transpose(0, 1).flatten(0, 1).numpy()  # head, part -> row
    block = graph.layers[layer].inside
    same_scores(
        block.unpack(ceap(graph, task, steps=3, freeze_norm=False).values)[block.present], wanted[block.present], vit
    )


def run_to(vit, residual, layer):
    """q, k, v of a layer."""
    for block in vit.blocks[:layer]:
        residual = residual + block.attn_write(block.attend(*block.read(block.norm1(residual))))
        residual = residual + block.mlp_write(residual)
    return vit.blocks[layer].read(vit.blocks[layer].norm1(residual))


def test_no_step_is_refused(variant_named, task_on):
    task = task_on(variant_named("plain"))
    with pytest.raises(TaskError, match="at least 1"):
        ceap(compile_graph(task.vit), task, steps=0)
