"""Tasks of several models end on the pairs that are valid for every one, and say what that cost."""

import dataclasses

import numpy as np
import pytest
import torch
from vitcircuits.algorithms import eap
from vitcircuits.algorithms.comparing import common_pairs, measure_subjects, resampled_circuits
from vitcircuits.circuits import Circuit, class_contrast, compile_graph
from vitcircuits.circuits.compare import compare
from vitcircuits.models.errors import GraphError, TaskError
from vitcircuits.models.load import load_vit

ASKED = {"target": 3, "foil": 8, "n_discovery": 24, "n_evaluation": 24}


@pytest.fixture(scope="module")
def vits():
    """The toy, and copies of it with noise in the head: they err on other images."""
    found = [load_vit("toy/digits-2l")]
    for seed in (1, 2):
        module = load_vit("toy/digits-2l").module
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            module.head.weight.add_(0.35 * torch.randn(module.head.weight.shape, generator=generator))
        found.append(load_vit(module, name=f"noisy-{seed}"))
        found[-1].preprocess = found[0].preprocess
    return found


@pytest.fixture(scope="module")
def tasks(vits):
    return [class_contrast(vit, "digits", **ASKED) for vit in vits]


def test_every_common_pair_is_valid_for_every_model_and_no_other_is_dropped(vits, tasks):
    found = common_pairs(tasks)
    for split in ("discovery", "evaluation"):
        own = [set(getattr(task, split).pair_ids.tolist()) for task in tasks]
        wanted = sorted(set.intersection(*own))
        assert len(wanted) < max(map(len, own)), "the models must err on other images for this test"
        for vit, before, task in zip(vits, tasks, found.tasks, strict=True):
            pairs = getattr(task, split)
            assert pairs.pair_ids.tolist() == wanted and task.info[f"n_{split}"] == len(wanted)
            assert torch.equal(pairs.clean, getattr(found.tasks[0], split).clean)
            assert (vit(pairs.clean).argmax(1) == 3).all()
            dropped = task.info["dropped"][split]["other_models"]
            assert dropped == len(getattr(before, split)) - len(wanted)
        assert found.dropped(split) == pytest.approx(1 - len(wanted) / len(set.union(*own)))
        assert f"{split}: {len(wanted)} pairs valid for all 3 models" in str(found)


def test_other_tasks_are_refused(vits, tasks):
    for changed, word in (
        ({"target": 4}, "target_name"),
        ({"seed": 5}, "seed"),
        ({"corruption": "blur"}, "corruption"),
    ):
        with pytest.raises(TaskError, match=word):
            common_pairs([tasks[0], class_contrast(vits[1], "digits", **{**ASKED, **changed})])
    with pytest.raises(TaskError, match="ablation"):
        common_pairs([tasks[0], tasks[1].with_ablation("mean")])
    with pytest.raises(TaskError, match="no tasks"):
        common_pairs([])
    shifted = dataclasses.replace(tasks[1].evaluation, ids=tasks[1].evaluation.pair_ids + 1)
    with pytest.raises(TaskError, match="other pictures"):
        common_pairs([tasks[0], dataclasses.replace(tasks[1], evaluation=shifted)])


def test_measured_circuits_are_compared_on_common_pairs_with_intervals(vits, tasks):
    found = common_pairs(tasks)
    graph = compile_graph(vits[0], ports="block")
    find = [lambda task, g=compile_graph(vit, ports="block"): eap(g, task).top(12) for vit in vits]
    again = [resampled_circuits(one, task, 3) for one, task in zip(find, found.tasks, strict=True)]
    measured = measure_subjects(
        {
            "toy": [(find[0](found.tasks[0]), found.tasks[0])],
            "noisy": [(one(task), task) for one, task in zip(find[1:], found.tasks[1:], strict=True)],
        },
        resampled={"toy": again[:1], "noisy": again[1:]},
        head_images=6,
    )
    report = compare(measured, n_random=2, n_bootstrap=30, pairs=found.as_dict())
    assert report.names == ("toy", "noisy 1", "noisy 2")
    assert (
        report.pairs["evaluation"]["valid_for_all"]
        == report.pairs["compared"]["pairs"]
        == len(found.tasks[0].evaluation)
    )
    assert all(name in report.figures[0] for name in ("edges for 0.8", "CPR", "CMD", "path_length"))
    assert report.figures[0]["CPR"].low is not None and report.figures[0]["path_length"].low is not None
    assert not np.isnan(report["edges, heads matched"]).any()
    matching = report.agreement.matchings[0, 1]
    assert all(a == b for b, a in matching.heads.items())  # the same blocks: every head is itself
    assert len(graph) == report.subjects[0].curves["signed"].n_graph


def test_the_same_resamples_for_all_and_only_of_discovery_pairs(tasks):
    seen = []

    def find(task):
        seen.append((task.discovery.pair_ids.tolist(), task.evaluation))
        return Circuit.empty(compile_graph(task.vit, ports="block"))

    found = common_pairs(tasks)
    for task in found.tasks[:2]:
        resampled_circuits(find, task, 4, seed=3)
    assert [ids for ids, _ in seen[:4]] == [ids for ids, _ in seen[4:]]
    assert len({tuple(ids) for ids, _ in seen}) == 4 and all(
        pairs is found.tasks[i // 4].evaluation for i, (_, pairs) in enumerate(seen)
    )


def test_circuits_without_scores_have_no_curve(tasks):
    from vitcircuits.algorithms.comparing import measure_curves

    graph = compile_graph(tasks[0].vit, ports="block")
    with pytest.raises(GraphError, match="no scores"):
        measure_curves(Circuit.full(graph), tasks[0])
    found = measure_subjects({"full": [(Circuit.full(graph), tasks[0])]}, heads=False)
    assert found["full"][0].curves == {} and found["full"][0].heads is None
