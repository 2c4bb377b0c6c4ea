"""Tasks of several models end on the pairs that are valid for every one, and say what that cost."""

import dataclasses

import pytest
import torch
from vitcircuits.algorithms.comparing import common_pairs
from vitcircuits.circuits import class_contrast
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


def test_other_tasks_are_refused(vits, tasks):
    for changed, word in (
        ({"target": 4}, "target_name"),
        ({"seed": 5}, "seed"),
        ({"corruption": "blur"}, "corruption"),
    ):
        with pytest.raises(TaskError, match=word):
            common_pairs([tasks[0], class_contrast(vits[1], "digits", **{**ASKED, **changed})])
    assert common_pairs([tasks[0], tasks[1].with_ablation("mean")]).common["evaluation"] > 0  # the same pictures
    with pytest.raises(TaskError, match="no tasks"):
        common_pairs([])
    shifted = dataclasses.replace(tasks[1].evaluation, ids=tasks[1].evaluation.pair_ids + 1)
    with pytest.raises(TaskError, match="other pictures"):
        common_pairs([tasks[0], dataclasses.replace(tasks[1], evaluation=shifted)])
