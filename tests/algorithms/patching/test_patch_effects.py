"""Patch effects against plain timm, against runs of one circuit on images of two halves, and against planted truths."""

import re

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import activation_patch, eap, patch_effects
from vitcircuits.circuits import Ablation, Circuit, Pairs, Task, compile_graph, planted_task, run_circuit
from vitcircuits.circuits.masked_run import MaskWeights, masked_logits_from
from vitcircuits.circuits.tasks.metrics import Metric
from vitcircuits.circuits.token_parts import parts_of
from vitcircuits.circuits.truths.planted import NOISE_FLOOR
from vitcircuits.models import load_vit
from vitcircuits.models.errors import GraphError, TaskError


@pytest.fixture
def same(close):
    """`close`, for arrays too."""
    return lambda found, wanted: close(torch.tensor(np.array(found)), torch.tensor(np.array(wanted)))


METRIC = Metric("logit_difference", (0, 3), (1,))


def make_task(vit, images_for, kind="partner", metric=METRIC, n=3):
    pairs = [Pairs(images_for(vit, n, seed=seed), images_for(vit, n, seed=seed + 1)) for seed in (1, 3)]
    return Task(vit, metric, *pairs, Ablation(kind, seed=5))


def some_circuit(vit, tokens="all", ports="qkv", share=0.6, seed=0):
    graph = compile_graph(vit, tokens=tokens, ports=ports)
    read_out = ["->logits" in name for name in graph.edge_names()]
    return Circuit(graph, (np.random.default_rng(seed).random(len(graph)) < share) | read_out)


def patched_in_timm(module, clean, corrupt, token):
    """Logits of the module itself, one token that enters its first block taken from the partner's run."""
    seen = []

    def patch(_, args):
        seen.append(args[0])
        if len(seen) == 2:
            tokens = args[0].clone()
            tokens[:, token] = seen[0][:, token]
            return (tokens, *args[1:])
        return None

    handle = module.blocks[0].register_forward_pre_hook(patch)
    module(corrupt)
    found = module(clean)
    handle.remove()
    return found


def check_against_timm(vit, task):
    """The full model's effects, however many edges the circuit has."""
    table = patch_effects(some_circuit(vit), task).model
    clean, corrupt, grid = task.evaluation.clean, task.evaluation.corrupt, vit.cfg.tokens.grid
    with torch.no_grad():
        before = METRIC(vit.module(clean))
        for row, column in np.ndindex(*grid):
            token = vit.cfg.tokens.n_prefix + row * grid[1] + column
            wanted = before - METRIC(patched_in_timm(vit.module, clean, corrupt, token))
            error = np.abs(table.values[:, row, column] - wanted.numpy()).max()
            assert error < 1e-5 * max(1.0, float(wanted.abs().max()))
    assert np.abs(table.values).max() > 1e-3


def test_the_full_model_is_plain_timm_with_one_token_of_the_partner(variant, images_for):
    check_against_timm(variant, make_task(variant, images_for))


@pytest.mark.parametrize("name", ["map", "distilled", "parallel", "things", "eva", "rope-mixed", "joint-norm"])
def test_so_it_is_for_blocks_built_in_another_way(architecture_named, images_for, name):
    vit = architecture_named(name)
    check_against_timm(vit, make_task(vit, images_for, n=2))


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_the_full_model_is_what_activation_patching_finds_in_front_of_the_first_block(
    variant_named, images_for, same, direction
):
    vit = variant_named("registers-layerscale")
    task, graph = make_task(vit, images_for, "mean"), compile_graph(vit)
    found = patch_effects(some_circuit(vit), task, direction=direction).model
    table = activation_patch(graph, task, "resid", tokens="each", direction=direction, pairs=task.evaluation)
    patches = table.tokens.index("r0c0")
    same(found.values.reshape(3, -1), table.values[:, 0, 0, patches:])
    assert (found.flips.reshape(3, -1) == table.flips[:, 0, 0, patches:]).all()


def halves(vit, clean, corrupt, row, column):
    """The clean images with the partner's pixels at one patch."""
    height, width = vit.cfg.patch_size
    mixed = clean.clone()
    at = (..., slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
    mixed[at] = corrupt[at]
    return mixed


@pytest.mark.parametrize(
    ("name", "tokens", "ports"),
    [
        ("registers-layerscale", "role", "head"),
        ("registers-layerscale", "each", "qkv"),
        ("average", "each", "qkv"),
        ("average", "role", "block"),
        ("parallel", "all", "qkv"),
        ("parallel", "role", "block"),
        ("map", "all", "qkv"),
        ("map", "role", "head"),
    ],
)
def test_under_a_circuit_it_is_the_circuit_on_an_image_with_the_partners_patch(
    variant_named, architecture_named, images_for, same, name, tokens, ports
):
    vit = (architecture_named if name in ("parallel", "map") else variant_named)(name)
    task, circuit = make_task(vit, images_for), some_circuit(vit, tokens, ports, share=0.85, seed=2)
    table, pairs = patch_effects(circuit, task), task.evaluation

    def metric(images):
        return METRIC(run_circuit(vit, circuit, images, pairs.corrupt)).numpy()

    with torch.no_grad():
        before = metric(pairs.clean)
        for row, column in np.ndindex(*table.grid):
            after = metric(halves(vit, pairs.clean, pairs.corrupt, row, column))
            same(table.values[:, row, column], before - after)
    assert np.abs(table.values).max() > 1e-3 and np.abs(table.values - table.model.values).max() > 1e-3


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("kind", ["another", "mean", "zero", "noise"])
def test_any_ablation_gives_the_patch_what_it_gives_the_input(case_of, same, kind, direction):
    case = case_of("registers-layerscale", "role", "qkv", {"kind": kind, "seed": 3}, n=3)
    circuit, (clean, ablated) = Circuit(case.graph, case.mask(0.6)), case.ends
    found = patch_effects(circuit, case.task, pairs=case.pairs, direction=direction)
    weights, prefix = MaskWeights.from_mask(case.graph, circuit.mask, case.vit), case.vit.cfg.tokens.n_prefix
    base, donor = (clean, ablated[0]) if direction == "noising" else (ablated[0], clean)

    def metric(embedded):
        with torch.no_grad(), case.vit.borrowed():
            return case.task.metric(masked_logits_from(case.vit, weights, embedded, ablated), case.clean).numpy()

    sign = -1 if direction == "noising" else 1
    same(found.clean, metric(clean))
    same(found.corrupt, metric(ablated[0]))
    for place, (row, column) in enumerate(np.ndindex(*found.grid)):
        patched = base.clone()
        patched[:, prefix + place] = donor[:, prefix + place]
        same(found.values[:, row, column], sign * (metric(patched) - metric(base)))


def test_over_single_tokens_it_is_what_the_circuit_loses_with_all_edges_that_leave_the_patch(
    variant_named, images_for, same
):
    vit = variant_named("registers-layerscale")
    task, circuit = make_task(vit, images_for), some_circuit(vit, "each", share=0.5)
    table, pairs = patch_effects(circuit, task), task.evaluation
    leaves = [re.match(r"input@(r\d+c\d+)->", name) for name in circuit.graph.edge_names()]
    with torch.no_grad():
        for row, column in np.ndindex(*table.grid):
            here = np.array([match is not None and match[1] == f"r{row}c{column}" for match in leaves])
            runs = [
                METRIC(run_circuit(vit, Circuit(circuit.graph, mask), pairs.clean, pairs.corrupt))
                for mask in (circuit.mask, circuit.mask & ~here)
            ]
            same(table.values[:, row, column], (runs[0] - runs[1]).numpy())


def read_patches(names):
    """Patches that a set of edges takes from the input."""
    return {match[1] for match in (re.match(r"input@(r\d+c\d+)->", name) for name in names) if match}


def seen(table):
    """Patches whose effect on some pair is not nothing."""
    largest = np.abs(table.values).max(0)
    return {f"r{row}c{column}" for row, column in np.argwhere(largest > NOISE_FLOOR * largest.max())}


@pytest.mark.parametrize(
    ("name", "sides"),
    [("planted/bright-column", "one"), ("planted/neighbour-xor", "both"), ("planted/majority", "one")],
)
def test_effects_of_a_planted_model_are_where_its_truth_reads(name, sides):
    vit = load_vit(name)
    task, graph = planted_task(vit, n=64, sides=sides), compile_graph(vit, tokens="each")
    truth = vit.truth("partner", tokens="each")
    table = patch_effects(Circuit.from_edges(graph, truth), task, n=128)
    assert seen(table) == seen(table.model) == read_patches(truth)
    coarse = Circuit.from_edges(compile_graph(vit), vit.truth("partner"))
    assert seen(patch_effects(coarse, task, n=64)) == read_patches(truth)


def test_a_circuit_that_does_not_read_a_patch_has_no_effect_there():
    vit = load_vit("planted/bright-column")
    truth = vit.truth("partner", tokens="each")
    blind = {edge for edge in truth if not re.match(r"input@r(0c1|2c2)->", edge)}
    circuit = Circuit.from_edges(compile_graph(vit, tokens="each"), blind)
    table = patch_effects(circuit, planted_task(vit, n=64), n=64)
    assert read_patches(truth) - seen(table) == {"r0c1", "r2c2"} and seen(table.model) == read_patches(truth)
    assert (table.values[:, 0, 1] == 0).all()


def test_only_what_can_change_is_run(monkeypatch):
    vit = load_vit("planted/majority")
    circuit, task = Circuit.from_edges(compile_graph(vit, tokens="each"), vit.truth(tokens="each")), planted_task(vit)
    runs = []

    def counted(vit, weights, embedded, ablated):
        runs.append(len(embedded))
        return masked_logits_from(vit, weights, embedded, ablated)

    monkeypatch.setattr("vitcircuits.algorithms.patching.patch_effects.masked_logits_from", counted)
    patch_effects(circuit, task, n=3)
    assert runs == [2, 1] * 3  # both ends, and the one patch of four that the circuit reads


def test_on_each_pair_only_patches_that_differ_matter():
    vit = load_vit("planted/bright-column")
    task = planted_task(vit, n=32)
    circuit = Circuit.from_edges(compile_graph(vit), vit.truth("partner"))
    table, pairs = patch_effects(circuit, task, pairs=task.evaluation), task.evaluation
    size = vit.cfg.patch_size[0]

    def tiles(images):
        return images.unfold(2, size, size).unfold(3, size, size).flatten(4)[:, 0]

    same = (tiles(pairs.clean) == tiles(pairs.corrupt)).all(-1).numpy()
    assert same.any() and (table.values[same] == 0).all() and (table.model.values[same] == 0).all()


@pytest.mark.parametrize("tokens", ["all", "each"])
def test_the_whole_image_carries_everything(variant_named, images_for, same, tokens):
    vit = variant_named("no-class-registers")
    table = patch_effects(some_circuit(vit, tokens), make_task(vit, images_for), grid=(1, 1))
    for one in table.subjects:
        same(one.values[:, 0, 0], one.clean - one.corrupt)
        same(np.array(one.added_up()), np.repeat((one.clean - one.corrupt).mean(), 2))


def test_blocks_of_patches_are_patched_together(tiny_vit, images_for, same):
    vit = tiny_vit(img_size=(8, 12), patch_size=2)  # 4 x 6 patches
    task, circuit = make_task(vit, images_for, n=2), some_circuit(vit)
    table, pairs = patch_effects(circuit, task, grid=(2, 4)), task.evaluation
    columns = [0, 0, 1, 2, 2, 3]
    mixed = pairs.clean
    for row, column in np.ndindex(4, 6):
        if (row // 2, columns[column]) == (1, 2):
            mixed = halves(vit, mixed, pairs.corrupt, row, column)
    with torch.no_grad():
        runs = [METRIC(run_circuit(vit, circuit, images, pairs.corrupt)).numpy() for images in (pairs.clean, mixed)]
    same(table.values[:, 1, 2], runs[0] - runs[1])
    assert table.grid == (2, 4)


def test_only_the_patches_that_were_asked_for(variant_named, images_for):
    vit = variant_named("plain")
    task, circuit = make_task(vit, images_for), some_circuit(vit)
    every, some = patch_effects(circuit, task), patch_effects(circuit, task, patches=["r1c0", "r0c1"])
    assert np.isnan(some.values).all(0).tolist() == [[True, False], [False, True]]
    np.testing.assert_allclose(some.values[:, 1, 0], every.values[:, 1, 0], rtol=1e-9)
    assert some.frame()[["row", "column"]].values.tolist() == [[0, 1], [1, 0]]


def test_batches_change_nothing(variant_named, images_for, same):
    vit = variant_named("registers-layerscale")
    task, circuit = make_task(vit, images_for, "noise"), some_circuit(vit, "role")
    whole, parts = (patch_effects(circuit, task, memory=memory) for memory in (10**9, 1))
    for one, other in zip(whole.subjects, parts.subjects, strict=True):
        same(one.values, other.values)


def test_a_circuit_of_everything_is_the_full_model(variant_named, images_for):
    vit = variant_named("plain")
    table = patch_effects(Circuit.full(compile_graph(vit)), make_task(vit, images_for))
    assert (table.values == table.model.values).all() and (table.flips == table.model.flips).all()


def test_a_relative_metric_compares_with_the_full_model(variant_named, images_for, same):
    vit, metric = variant_named("plain"), Metric("kl", (0,))
    task, circuit = make_task(vit, images_for, metric=metric), some_circuit(vit)
    table, pairs = patch_effects(circuit, task), task.evaluation
    with torch.no_grad():
        found = metric(run_circuit(vit, circuit, pairs.clean, pairs.corrupt), vit(pairs.clean))
    same(table.clean, found.numpy())


def test_crossed_effects_are_turned_and_taken_over_images_that_the_model_gets_right():
    vit = load_vit("planted/majority")
    task = planted_task(vit, n=8, sides="both")
    table = patch_effects(Circuit.full(compile_graph(vit)), task, n=6)
    assert table.n_pairs == 6 and len(set(table.keys)) == 6
    assert sorted(table.design.clean_side.tolist()) == [0] * 3 + [1] * 3
    assert (table.clean > 0).all() and (table.values[:, 1, 1] > 0).all() and table.flips[:, 1, 1].all()


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"n": 0}, TaskError, "n of at least 1"),
        ({"split": "test"}, TaskError, '"evaluation" or "discovery"'),
        ({"direction": "both"}, TaskError, "direction='noising'"),
        ({"grid": (3, 1)}, TaskError, r"over 2 x 2 patches.*grid=\(1, 1\)"),
        ({"patches": []}, GraphError, "names none"),
        ({"patches": "cls"}, GraphError, '\'cls\'.*"r0c0" to "r1c1"'),
    ],
)
def test_what_is_not_possible_is_refused_with_what_is(variant_named, images_for, changes, error, said):
    vit = variant_named("plain")
    with pytest.raises(error, match=said):
        patch_effects(some_circuit(vit), make_task(vit, images_for), **changes)


def test_over_masks_a_pair_is_patched_as_under_its_own_groups(variant_named, images_for):
    vit = variant_named("registers-layerscale")
    images = [images_for(vit, 2, seed=seed) for seed in range(4)]
    objects = torch.zeros(2, 2, vit.cfg.tokens.n_tokens, dtype=torch.bool)
    objects[0, :, vit.cfg.tokens.n_prefix] = objects[1, 1, -2:] = True
    pairs = Pairs(*images[:2], objects=objects)
    task = Task(vit, Metric("logit_difference", (0,), (1,)), pairs, Pairs(*images[2:], objects=objects))
    graph = compile_graph(vit, tokens="mask")
    circuit = eap(graph, task).top(0.4)
    found = patch_effects(circuit, task, pairs=pairs)
    for row in range(2):
        (part,) = parts_of(graph, pairs.select([row]))
        alone = Circuit(part.graph, circuit.mask[part.edges])
        wanted = patch_effects(alone, task, pairs=pairs.select([row]))
        np.testing.assert_allclose(found.values[row], wanted.values[0], rtol=0, atol=1e-9)
    assert np.abs(found.values).max() > 1e-6
