"""Tasks of several models end on the pairs that are valid for every one, and say what that cost."""

import dataclasses

import numpy as np
import pytest
import torch
from vitcircuits.algorithms.comparing import common_pairs
from vitcircuits.circuits import class_contrast, compile_graph
from vitcircuits.circuits.judging.judgement import shares_kept
from vitcircuits.models.errors import TaskError

ASKED = {"target": 3, "foil": 8, "n_discovery": 24, "n_evaluation": 24}


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


def meetings(pairs):
    return list(zip(pairs.design.clean_image.tolist(), pairs.design.partner_image.tolist(), strict=True))


def test_crossed_tasks_end_on_images_that_every_model_gets_right_and_on_the_same_meetings(vits, crossed):
    found = common_pairs(crossed)
    for split in ("discovery", "evaluation"):
        own = [set(getattr(task, split).right.design.clean_image.tolist()) for task in crossed]
        wanted, first = set.intersection(*own), getattr(found.tasks[0], split)
        assert len(wanted) < max(map(len, own)), "the models must err on other images for this test"
        for vit, before, task in zip(vits, crossed, found.tasks, strict=True):
            pairs = getattr(task, split)
            assert set(pairs.design.clean_image.tolist()) == wanted == set(pairs.design.partner_image.tolist())
            assert meetings(pairs) == meetings(first) and pairs.pair_ids.tolist() == list(range(len(pairs)))
            assert torch.equal(pairs.clean, first.clean) and torch.equal(pairs.corrupt, first.corrupt)
            shown = torch.where(pairs.design.clean_side == 1, 3, 8)
            assert (vit(pairs.clean).argmax(1) == shown).all() and pairs.design.right.all()
            lost = getattr(before, split).n_images - len(wanted)
            assert task.info["dropped"][split]["other_models"] == lost
            counts = task.info["images"][split]
            assert counts["target"] + counts["foil"] == len(wanted) and task.info[f"n_{split}"] == len(pairs)
            graph = compile_graph(vit)
            empty = shares_kept(task, graph, [np.zeros(len(graph), bool)], pairs=pairs)
            if counts["target"] == counts["foil"]:
                assert empty.empty().value == pytest.approx(0, abs=1e-9)
        assert found.common[split] == len(wanted) and f"{split}: {len(wanted)} images valid" in str(found)
    assert found.as_dict()["evaluation"]["of"] == "images"


def test_partners_made_from_the_image_stay_with_it(vits):
    asked = {**ASKED, "corruption": "blur"}
    found = common_pairs([class_contrast(vit, "digits", **asked) for vit in vits])
    first = found.tasks[0].evaluation
    for task in found.tasks:
        assert torch.equal(task.evaluation.corrupt, first.corrupt) and task.evaluation.design.follows
        assert meetings(task.evaluation) == [(image, image) for image in first.design.clean_image.tolist()]


def test_a_crossed_and_a_one_sided_task_have_nothing_in_common(tasks, crossed):
    with pytest.raises(TaskError, match="sides is"):
        common_pairs([tasks[0], crossed[1]])


def test_other_tasks_are_refused(vits, tasks):
    for changed, word in (
        ({"target": 4}, "target_name"),
        ({"seed": 5}, "seed"),
        ({"corruption": "blur"}, "corruption"),
    ):
        with pytest.raises(TaskError, match=word):
            common_pairs([tasks[0], class_contrast(vits[1], "digits", sides="one", **{**ASKED, **changed})])
    assert common_pairs([tasks[0], tasks[1].with_ablation("mean")]).common["evaluation"] > 0  # the same pictures
    with pytest.raises(TaskError, match="no tasks"):
        common_pairs([])
    shifted = dataclasses.replace(tasks[1].evaluation, ids=tasks[1].evaluation.pair_ids + 1)
    with pytest.raises(TaskError, match="other pictures"):
        common_pairs([tasks[0], dataclasses.replace(tasks[1], evaluation=shifted)])
