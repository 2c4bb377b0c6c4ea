"""Path patching against the run of a circuit that lacks exactly those edges; law 6."""

import dataclasses

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import exact_effects
from vitcircuits.algorithms.patching.path_patching import path_patch
from vitcircuits.circuits import Ablation, Circuit, Pairs, Task, compile_graph, run_circuit
from vitcircuits.circuits.names import parse_edge, parse_end
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.models.errors import GraphError, TaskError


def make_task(vit, images_for, kind="partner", metric="logit_difference", n=3):
    pairs = [Pairs(images_for(vit, n, seed=seed), images_for(vit, n, seed=seed + 1)) for seed in (1, 3)]
    return Task(vit, Metric(metric, (0, 3), (1, 2)), *pairs, Ablation(kind))


def means(pattern, end):
    """Whether a name without port or group, or with, means an end of an edge."""
    wanted = parse_end(pattern)
    same = wanted.node == end.node
    return same and wanted.port in ("", end.port) and wanted.group in ("", end.group)


def lacking(graph, source, destination):
    """A mask without the edges between two names, found by their names alone."""
    ends = map(parse_edge, graph.edge_names())
    return np.array([not (means(source, start) and means(destination, end)) for start, end in ends])


def by_mask(graph, task, mask, direction):
    """Effect on each pair of a circuit that lacks some edges, clean and corrupt swapped for denoising."""
    pairs, noising = task.discovery, direction == "noising"
    assert noising or task.ablation.kind == "partner"
    images = (pairs.clean, pairs.corrupt) if noising else (pairs.corrupt, pairs.clean)
    with torch.no_grad():
        logits = run_circuit(
            task.vit, Circuit(graph, mask), *images, ablation=task.ablation, reference=task.reference, ids=pairs.ids
        )
        reference, base = task.vit(pairs.clean), task.vit(images[0])
        moved = task.metric(logits, reference) - task.metric(base, reference)
        sides = task.metric.prefers_target(base), task.metric.prefers_target(logits)
    flips = sides[0] & ~sides[1] if noising else ~sides[0] & sides[1]
    return (-moved if noising else moved).numpy(), flips.numpy()


def check_cells(graph, task, table, every=1):
    """Every cell's edges, and what they carry: of one cell in so many, so that each source and destination is met."""
    for i, source in enumerate(table.sources):
        for j, destination in enumerate(table.destinations):
            mask = lacking(graph, source, destination)
            assert table.n_edges[i, j] == (~mask).sum()
            if mask.all():
                assert np.isnan(table.values[:, i, j]).all()
                continue
            if (i + j) % every:
                continue
            effects, flips = by_mask(graph, task, mask, table.direction)
            allowed = 1e-9 if task.vit.dtype == torch.float64 else 1e-4
            np.testing.assert_allclose(table.values[:, i, j], effects, rtol=0, atol=allowed)
            np.testing.assert_array_equal(table.flips[:, i, j], flips)


def test_every_node_to_every_node_is_a_masked_run(sole_case):
    graph, task = sole_case.graph, sole_case.task
    sources = ["input", "m0" if task.vit.cfg.has_mlp(0) else "a0.h1"]
    if task.ablation.kind == "partner":
        check_cells(graph, task, path_patch(graph, task, sources=sources, direction="denoising"), every=2)
    else:
        task = dataclasses.replace(task, metric=dataclasses.replace(task.metric, kind="kl"))
    check_cells(graph, task, path_patch(graph, task, sources=["a0.h1", *sources[1:]]), every=2)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_ports_and_groups_choose_among_the_edges(variant_named, images_for, direction):
    task = make_task(variant_named("registers-layerscale"), images_for)
    graph = compile_graph(task.vit, tokens="role")
    options = {"sources": ["input@cls", "a0.h0", "m0@reg", "a1.h1<v>@patch", "a1.h1<k>"], "direction": direction}
    destinations = ["a1.h1<q>", "a1.h*<v>@reg", "a1.h1", "a1.h1@cls", "m1@cls", "logits@cls"]
    table = path_patch(graph, task, destinations=destinations, **options)
    assert table.destinations[1:3] == ("a1.h0<v>@reg", "a1.h1<v>@reg")
    check_cells(graph, task, table)


@pytest.mark.parametrize("kind", ["mean", "zero", "noise", "another"])
def test_denoising_the_whole_input_brings_the_clean_run_back(variant_named, images_for, kind):
    task = make_task(variant_named("plain"), images_for, kind)
    graph = compile_graph(task.vit)
    table = path_patch(graph, task, direction="denoising", together=True)
    np.testing.assert_allclose(table.values[:, 0, 0], table.clean - table.corrupt, atol=1e-9)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_together_is_one_masked_run(variant_named, images_for, direction):
    task = make_task(variant_named("prenorm-rms-layerscale"), images_for)
    graph = compile_graph(task.vit, tokens="role", ports="head")
    names = {"sources": ["a0.h0", "m0", "a1.h1@cls"], "destinations": ["a1.h*", "a2.h0@cls", "m2", "logits"]}
    table = path_patch(graph, task, **names, direction=direction, together=True)
    alone = path_patch(graph, task, **names)
    mask = np.ones(len(graph), dtype=bool)
    for source in alone.sources:
        for destination in alone.destinations:
            mask &= lacking(graph, source, destination)
    assert table.n_edges.tolist() == [[(~mask).sum()]] and alone.n_edges.sum() == (~mask).sum()
    effects, flips = by_mask(graph, task, mask, direction)
    np.testing.assert_allclose(table.values[:, 0, 0], effects, atol=1e-9)
    np.testing.assert_array_equal(table.flips[:, 0, 0], flips)


def test_one_edge_is_its_exact_effect(variant_named, images_for):
    task = make_task(variant_named("plain"), images_for)
    graph = compile_graph(task.vit)
    exact = exact_effects(graph, task)
    table = path_patch(graph, task, sources=["input", "a0.h0"], destinations=["a1.h1<k>", "m1", "logits"])
    for i, source in enumerate(table.sources):
        wanted = [exact.values[graph.index(f"{source}->{name}")] for name in table.destinations]
        np.testing.assert_allclose(table.effect[i], wanted, atol=1e-9)


@pytest.mark.parametrize(("kind", "direction"), [("partner", "denoising"), ("noise", "noising")])
def test_batches_change_nothing(variant_named, images_for, kind, direction):
    task = make_task(variant_named("plain"), images_for, kind, n=5)
    graph = compile_graph(task.vit, tokens="role")
    whole = path_patch(graph, task, direction=direction)
    small = path_patch(graph, task, direction=direction, memory=60_000)
    tiny = path_patch(graph, task, direction=direction, memory=1)
    for parts in (small, tiny):
        np.testing.assert_allclose(parts.values, whole.values, atol=1e-9)
        np.testing.assert_array_equal(parts.flips, whole.flips)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"sources": "a0.h7"}, GraphError, "sources='a0.h"),
        ({"destinations": "a1.h1<q>"}, GraphError, "nearest names are a1.h1"),
        ({"destinations": "input"}, GraphError, "not among the destinations"),
        ({"sources": "x*"}, GraphError, "sources='m\\*'"),
        ({"sources": []}, GraphError, "sources='input'"),
        ({"sources": "m1", "destinations": "a0.h0"}, GraphError, "no edge .* from m1 to a0.h0"),
        ({"direction": "both"}, TaskError, "direction='noising'"),
    ],
)
def test_mistakes_are_answered_by_the_repaired_call(variant_named, images_for, options, error, sentence):
    task = make_task(variant_named("plain"), images_for)
    with pytest.raises(error, match=sentence):
        path_patch(compile_graph(task.vit, ports="head"), task, **options)


def test_another_models_graph_is_refused(variant_named, images_for):
    task = make_task(variant_named("plain"), images_for)
    graph = compile_graph(variant_named("prenorm-rms-layerscale"))
    with pytest.raises(GraphError, match="another graph"):
        path_patch(graph, dataclasses.replace(task))
