"""On a crossed task effects are those of the two one-sided tasks that its opposed pairs make up."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import activation_patch, path_patch, token_effect
from vitcircuits.circuits import Ablation, Pairs, Task, compile_graph
from vitcircuits.circuits.judging.bootstrap import FEWEST_IMAGES
from vitcircuits.circuits.tasks.design import FOIL, TARGET, Design
from vitcircuits.circuits.tasks.metrics import Metric

N = FEWEST_IMAGES  # of a class


def crossed_pairs(vit, images_for, seed):
    """Every clean image meets the next image of its own class and the one at its place in the other class."""
    images = images_for(vit, 2 * N, seed=seed)  # the first half shows the target
    sides = torch.tensor([TARGET] * N + [FOIL] * N)
    clean = torch.arange(2 * N).repeat_interleave(2)
    partner = torch.tensor([row for c in range(2 * N) for row in ((c + 1) % N + N * (c >= N), (c + N) % (2 * N))])
    design = Design(sides[clean], sides[partner], clean, partner, torch.ones(4 * N, dtype=torch.bool))
    return Pairs(images[clean], images[partner], ids=torch.arange(4 * N), design=design)


def crossed_task(vit, images_for, kind="partner", metric="logit_difference"):
    pairs = [crossed_pairs(vit, images_for, seed) for seed in (1, 2)]
    return Task(
        vit, Metric(metric, (0, 3), (1, 2)), *pairs, Ablation(kind), reference_images=images_for(vit, 4, seed=9)
    )


def one_sided_tasks(task):
    """Target against foil, and foil against target: the opposed pairs without a design."""
    pairs = task.discovery
    for side in (TARGET, FOIL):
        rows = (pairs.design.clean_side == side) & (pairs.design.partner_side == 1 - side)
        own = dataclasses.replace(pairs.select(torch.nonzero(rows).flatten()), design=None)
        ends = (task.metric.target, task.metric.foil)[:: 1 if side == TARGET else -1]
        yield dataclasses.replace(task, discovery=own, metric=Metric(task.metric.kind, *ends))


def patches(graph, task, direction):
    yield activation_patch(graph, task, "z", tokens="role", direction=direction)
    yield activation_patch(graph, task, "mlp_out", direction=direction)
    yield path_patch(graph, task, sources=["input", "a0.h1"], destinations=["a1.h*", "logits"], direction=direction)


@pytest.fixture
def vit(variant_named):
    return variant_named("registers-layerscale")


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_opposed_pairs_give_the_mean_of_the_two_one_sided_tasks(vit, images_for, direction):
    task, graph = crossed_task(vit, images_for), compile_graph(vit)
    both = [list(patches(graph, one, direction)) for one in one_sided_tasks(task)]
    for table, first, second in zip(patches(graph, task, direction), *both, strict=True):
        assert table.n_pairs == first.n_pairs + second.n_pairs == 2 * N
        for shown in ("effect", "flips"):
            wanted = (first.shown(shown) + second.shown(shown)) / 2
            np.testing.assert_allclose(table.shown(shown), wanted, atol=1e-9)
        gaps = [(one.clean - one.corrupt).mean() for one in (first, second)]
        np.testing.assert_allclose(table.shown("normalised"), table.effect / np.mean(gaps), atol=1e-9)
        assert np.nanmax(np.abs(table.effect)) > 1e-3


def test_the_whole_input_is_the_whole_difference_of_opposed_pairs_and_no_other(vit, images_for):
    task, graph = crossed_task(vit, images_for), compile_graph(vit)
    table = path_patch(graph, task, together=True)
    opposed = task.discovery.opposed
    with torch.no_grad():
        moved = task.metric(vit(opposed.clean)) - task.metric(vit(opposed.corrupt))
    wanted = (opposed.sign * moved).numpy()
    np.testing.assert_allclose(table.values[:, 0, 0], wanted, atol=1e-9)
    np.testing.assert_allclose(table.shown("normalised"), 1, atol=1e-9)
    assert (opposed.design.clean_side != opposed.design.partner_side).all() and len(opposed) == 2 * N
    row = table.frame(n_bootstrap=200).iloc[0]
    assert row["low"] < row["effect"] < row["high"] and row["effect"] == pytest.approx(wanted.mean())
    one_less = table.of_pairs(range(1, 2 * N))  # an image, of too few for an interval
    assert one_less.frame(n_bootstrap=200)[["low", "high"]].isna().all(axis=None)


def test_cells_count_alike_however_many_pairs_they_hold(vit, images_for):
    task, graph = crossed_task(vit, images_for), compile_graph(vit)
    design = task.discovery.design
    rows = torch.nonzero((design.clean_side == TARGET) | (design.clean_image == 2 * N - 1)).flatten()
    few = dataclasses.replace(task, discovery=task.discovery.select(rows))
    table = path_patch(graph, few, together=True)
    assert table.n_pairs == N + 1
    np.testing.assert_allclose(table.effect[0, 0], (table.values[:N, 0, 0].mean() + table.values[N, 0, 0]) / 2)


def test_a_relative_metric_keeps_its_sign_and_flips_leave_what_is_shown(vit, images_for):
    task, graph = crossed_task(vit, images_for, metric="kl"), compile_graph(vit)
    table = activation_patch(graph, task, "resid")
    assert (table.clean == 0).all() and (table.corrupt < 0).all() and (table.values[:, 0] > 0).all()
    plain = activation_patch(graph, crossed_task(vit, images_for), "resid")
    np.testing.assert_array_equal(table.flips, plain.flips)


def test_without_partners_each_clean_image_comes_once(vit, images_for):
    task, graph = crossed_task(vit, images_for, "mean"), compile_graph(vit)
    table = activation_patch(graph, task, "z")
    assert table.n_pairs == 2 * N
    given = activation_patch(graph, task, "z", pairs=task.evaluation)
    assert given.n_pairs == 2 * N and not np.allclose(given.effect, table.effect)


def test_ablated_tokens_are_judged_on_opposed_pairs_and_turned(vit, images_for):
    task = crossed_task(vit, images_for)
    found = token_effect(task, "reg", n_bootstrap=100)
    first, second = (token_effect(one, "reg", n_bootstrap=0) for one in one_sided_tasks(task))
    assert found.effect.value == pytest.approx((first.effect.value + second.effect.value) / 2, abs=1e-9)
    assert len(found.clean) == 2 * N and found.effect.low < found.effect.value < found.effect.high
    rows = torch.nonzero(task.discovery.design.clean_image != 0).flatten()  # an image less, too few for an interval
    few = token_effect(dataclasses.replace(task, discovery=task.discovery.select(rows)), "reg", n_bootstrap=100)
    assert few.effect.low is None and "6 images of each class" in few.effect.reason


def test_pairs_of_one_sided_tasks_and_of_partners_without_a_class_are_all_opposed(vit, images_for):
    pairs = crossed_pairs(vit, images_for, 1)
    plain = dataclasses.replace(pairs, design=None)
    alone = dataclasses.replace(pairs.design, partner_side=torch.full((len(pairs),), -1))
    assert plain.opposed is plain and len(dataclasses.replace(pairs, design=alone).opposed) == len(pairs)
    assert all(first < second for first, second in pairwise(pairs.opposed.pair_ids.tolist()))
