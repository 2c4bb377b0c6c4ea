"""Exact effects around a mask against a whole run with the changed mask, edge by edge."""

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import exact_effects
from vitcircuits.algorithms.engines.flips import changeable, measure_flips
from vitcircuits.circuits import Ablation, Pairs, Task, compile_graph
from vitcircuits.circuits.baseline import make_baseline
from vitcircuits.circuits.reach import prune
from vitcircuits.circuits.run import run_pairs
from vitcircuits.circuits.tasks.metrics import Metric

METRIC = Metric("logit_difference", (0,), (2,))


def masks_of(graph, seed=0):
    """Everything, nothing, a mask at random, and a sparse one on paths only."""
    chance = np.random.default_rng(seed)
    some, few = chance.random(len(graph)) < 0.6, chance.random(len(graph)) < 0.25
    return [np.ones(len(graph), dtype=bool), np.zeros(len(graph), dtype=bool), some, prune(graph, few)]


def check(vit, graph, images, *, ablation="partner", most=60, masks=None, edges=None, **options):
    clean, corrupt, reference = images
    pairs, baseline = Pairs(clean, corrupt), make_baseline(vit, Ablation(ablation), reference)
    scale = 1e-9 if vit.dtype == torch.float64 else 1e-4
    for mask in masks_of(graph) if masks is None else masks:
        edges = np.random.default_rng(1).permutation(len(graph))[:most] if edges is None else edges
        found = measure_flips(vit, graph, mask, edges, METRIC, pairs, baseline, **options)
        now = METRIC(run_pairs(vit, graph, mask, pairs, baseline)).double().numpy()
        np.testing.assert_allclose(found.now, now, rtol=0, atol=scale * max(1, np.abs(now).max()))
        for edge, got in zip(edges, found.flipped, strict=True):
            flipped = mask.copy()
            flipped[edge] = ~flipped[edge]
            wanted = METRIC(run_pairs(vit, graph, flipped, pairs, baseline)).double().numpy()
            np.testing.assert_allclose(got, wanted, rtol=0, atol=scale * max(1, np.abs(wanted).max()))


def images(vit, images_for, n=2):
    return [images_for(vit, n, seed=seed) for seed in range(3)]


def test_every_variant_of_model(variant, images_for):
    check(variant, compile_graph(variant), images(variant, images_for), most=12)


def test_every_graph(variant_named, images_for, tokens, ports):
    vit = variant_named("registers-layerscale")
    check(vit, compile_graph(vit, tokens=tokens, ports=ports), images(vit, images_for), most=25)


@pytest.mark.parametrize("ablation", ["another", "mean", "zero", "noise"])
@pytest.mark.parametrize(("tokens", "ports"), [("all", "qkv"), ("role", "qkv"), ("role", "head"), ("all", "block")])
def test_every_ablation(variant_named, images_for, ablation, tokens, ports):
    vit = variant_named("qknorm-rms")
    check(vit, compile_graph(vit, tokens=tokens, ports=ports), images(vit, images_for), ablation=ablation, most=25)


@pytest.mark.parametrize("ablation", ["partner", "zero"])
def test_edges_into_one_place_flip_together(variant_named, images_for, ablation, tokens):
    vit = variant_named("registers-layerscale")
    graph = compile_graph(vit, tokens=tokens)
    whole = [np.arange(block.start, block.stop) for block in graph.blocks]
    groups = whole + [half for block in whole for half in np.array_split(block, 2)]
    check(vit, graph, images(vit, images_for), ablation=ablation, edges=groups)


@pytest.mark.parametrize("ablation", ["partner", "zero"])
def test_edges_bring_sources_to_life_and_cut_them_off(variant_named, images_for, ablation):
    vit = variant_named("plain")
    graph = compile_graph(vit)
    chain = np.zeros(len(graph), dtype=bool)
    chain[[graph.index(name) for name in ("input->a0.h0<v>", "a0.h0->m0", "m0->a1.h1<k>", "a1.h1->m1")]] = True
    closed = chain.copy()
    closed[graph.index("m1->logits")] = True
    check(vit, graph, images(vit, images_for), ablation=ablation, masks=[chain, closed], most=len(graph))


def test_batches_within_little_memory_change_nothing(variant_named, images_for):
    vit = variant_named("plain")
    check(vit, compile_graph(vit), images(vit, images_for, 3), most=10, memory=1)


def test_the_full_mask_gives_exact_effects(variant_named, images_for):
    vit = variant_named("average")
    graph, (clean, corrupt, reference) = compile_graph(vit), images(vit, images_for)
    task = Task(vit, METRIC, Pairs(clean, corrupt), Pairs(reference, images_for(vit, 2, seed=9)))
    full = np.ones(len(graph), dtype=bool)
    baseline = make_baseline(vit, task.ablation)
    found = measure_flips(vit, graph, full, range(len(graph)), METRIC, task.discovery, baseline)
    wanted = exact_effects(graph, task).values
    np.testing.assert_allclose((found.now - found.flipped).mean(1), wanted, rtol=0, atol=1e-9)


def test_what_cannot_change_anything_is_not_run(variant_named, images_for):
    vit = variant_named("plain")
    graph, (clean, corrupt, _) = compile_graph(vit), images(vit, images_for)
    mask = np.zeros(len(graph), dtype=bool)
    assert set(np.flatnonzero(changeable(graph, mask)).tolist()) == {graph.index("input->logits")}
    found = measure_flips(
        vit, graph, mask, range(len(graph)), METRIC, Pairs(clean, corrupt), make_baseline(vit, Ablation())
    )
    assert found.runs == 2
