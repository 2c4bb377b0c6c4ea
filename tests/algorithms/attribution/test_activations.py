"""IG over activations by its definition: the masked run whose level carries a mix of clean and ablated values."""

import dataclasses

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import eap_ig_activations
from vitcircuits.algorithms.registry import least_memory
from vitcircuits.circuits import compile_graph
from vitcircuits.circuits.baseline import make_baseline


def levels(graph):
    """For each level the indices of the edges that leave it; keys and values of a layer are one level."""
    found = {}
    for index in range(len(graph)):
        edge = graph.edge(index)
        place = "inside" if edge.inside else edge.source.kind
        found.setdefault((place, edge.source.layer), []).append(index)
    return list(found.values())


def by_definition(graph, task, points, mask_gradient):
    vit, total = task.vit, np.zeros(len(graph))
    with torch.no_grad(), vit.borrowed():
        ablated = make_baseline(vit, task.ablation, task.reference)(task.discovery)
        clean = vit.embed(task.discovery.clean)
    for edges in levels(graph):
        for point in points:
            mask = np.ones(len(graph))
            mask[edges] = point
            total[edges] += mask_gradient(graph, task, mask, clean, ablated)[edges] / len(points)
    return total


def test_scores_are_gradients_where_one_level_is_mixed(own_case, mask_gradient, same_scores):
    graph, task = own_case.graph, own_case.task
    rule, points = ("left", (0, 0.5)) if graph.ports == "head" else ("midpoint", (0.25, 0.75))
    if graph.ports == "block":
        task = dataclasses.replace(task, metric=dataclasses.replace(task.metric, kind="kl"))
    got = eap_ig_activations(graph, task, steps=2, rule=rule, freeze_norm=False).values
    same_scores(got, by_definition(graph, task, points, mask_gradient), task.vit)


def test_every_level_adds_up_to_the_drop_of_its_own_ablation(variant_named, task_on):
    vit = variant_named("plain")
    task, graph = task_on(vit), compile_graph(vit, tokens="role")
    scores = eap_ig_activations(graph, task, steps=40, freeze_norm=False).values
    _, corrupt = vit.run_with_cache(task.discovery.corrupt)
    with torch.no_grad():
        clean = task.metric(vit(task.discovery.clean)).mean()
        for layer in range(vit.cfg.n_layers):
            for place, hook in (("head", "hook_attn_out"), ("mlp", "hook_mlp_out")):
                name = f"blocks.{layer}.{hook}"
                logits = vit.run_with_hooks(task.discovery.clean, [(name, lambda now, hook: corrupt[hook.name])])
                drop = float(clean - task.metric(logits).mean())
                edges = [graph.edge(index) for index in range(len(graph))]
                leaving = [e.index for e in edges if not e.inside and (e.source.kind, e.source.layer) == (place, layer)]
                assert scores[leaving].sum() == pytest.approx(drop, abs=2e-3 * max(1, abs(drop)))


def test_batched_is_whole_and_spread_is_over_pairs(variant_named, task_on):
    task = task_on(variant_named("plain"))
    graph = compile_graph(task.vit, tokens="role")
    least = least_memory("eap_ig_activations", graph, task)
    whole, single = (eap_ig_activations(graph, task, memory=memory) for memory in (10**9, least))
    alone = [
        eap_ig_activations(graph, dataclasses.replace(task, discovery=task.discovery.select([pair]))).values
        for pair in range(3)
    ]
    for name in ("values", "mean_abs", "std_err"):
        np.testing.assert_allclose(getattr(single, name), getattr(whole, name), rtol=0, atol=1e-12)
    np.testing.assert_allclose(whole.mean_abs, np.abs(alone).mean(0), atol=1e-12)
