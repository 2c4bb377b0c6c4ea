"""Tasks of several models restricted to the pairs that are valid for every one of them.

A pair is valid for a model if it classifies the clean image right and the partner lowers the metric. Models that err on
different images would otherwise be compared on different images. Pairs are told by their ids, which say at what place
a pair was drawn: with one data set, one contrast, one kind of partner and one seed, the same id is the same picture,
whatever size and normalisation a model wants.

Of crossed tasks (`design.py`) clean images are common, told by their places in the data: those that every model gets
right. Partners that are other images of the task are met anew among them, so that all models see the same pairs; those
that a model chooses itself (`nearest`, `another`) remain its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...circuits.tasks.pairs import Pairs
from ...circuits.tasks.redraw import met_again
from ...circuits.tasks.task import Task
from ...models.errors import TaskError

_PICTURES = ("data", "target_name", "foil_name", "sides", "corruption", "mask", "word", "seed")
_SPLITS = ("discovery", "evaluation")


@dataclass(frozen=True, eq=False)
class CommonPairs:
    """Tasks on common pairs, and what that cost.

    Args:
        tasks: The tasks in their order, each with the common pairs only.
        valid: Pairs that were valid for each model, by split; of crossed tasks, clean images that it gets right.
        common: Pairs (images) that are valid for all, by split.
        either: Pairs (images) that are valid for at least one, by split.
    """

    tasks: tuple[Task, ...]
    valid: Mapping[str, tuple[int, ...]]
    common: Mapping[str, int]
    either: Mapping[str, int]

    def dropped(self, split: str) -> float:
        """Share of the pairs valid for at least one model that are not valid for all."""
        return 1 - self.common[split] / self.either[split]

    @property
    def what(self) -> str:
        """What is common: `pairs`, or of crossed tasks clean `images`."""
        return "images" if self.tasks[0].sides == "both" else "pairs"

    def as_dict(self) -> dict[str, Any]:
        """Counts and shares in plain values, by split."""
        return {
            split: {
                "of": self.what,
                "valid_for_each": list(self.valid[split]),
                "valid_for_any": self.either[split],
                "valid_for_all": self.common[split],
                "share_dropped": self.dropped(split),
            }
            for split in self.common
        }

    def __str__(self) -> str:
        return "; ".join(
            f"{split}: {self.common[split]} {self.what} valid for all {len(self.tasks)} models, "
            f"{self.dropped(split):.0%} of {self.either[split]} dropped "
            f"(valid for each: {', '.join(map(str, self.valid[split]))})"
            for split in self.common
        )


def pictures_of(task: Task) -> str:
    """What decides which pictures the pairs of a task show, in words; equal for tasks whose ids mean the same."""
    return ", ".join(f"{name} {task.info[name]}" for name in _PICTURES if task.info.get(name) is not None)


def common_pairs(tasks: Sequence[Task]) -> CommonPairs:
    """The tasks restricted to the pairs that are valid for every model, discovery and evaluation alike.

    Of crossed tasks to the clean images that every model gets right, with partners among them.

    Metric and ablation may differ (`compare` says so); the pictures may not. Each task's `info["dropped"][split]` gains
    `other_models`. Restrict before circuits are found, so that they are also found on the same pairs.

    Raises:
        TaskError: The tasks are not about the same pictures, or no pair is valid for all.
    """
    _require_same(tasks)
    kept: dict[str, list[int]] = {}
    valid, either = {}, {}
    for split in _SPLITS:
        ids = [_valid(getattr(task, split)) for task in tasks]
        shared = set.intersection(*map(set, ids))
        if not shared:
            counts = ", ".join(f"{_name(task)}: {len(own)}" for task, own in zip(tasks, ids, strict=True))
            raise TaskError(
                f"no {split} pair is valid for every model (valid for each: {counts}): pass more pairs, or leave out "
                f"the model with the fewest."
            )
        kept[split] = sorted(shared)
        valid[split] = tuple(map(len, ids))
        either[split] = len(set.union(*map(set, ids)))
    restricted = tuple(_restricted(task, kept) for task in tasks)
    _require_same_pictures(restricted)
    return CommonPairs(restricted, valid, {split: len(ids) for split, ids in kept.items()}, either)


def _valid(pairs: Pairs) -> list[int]:
    """Ids of the pairs; of a crossed task numbers of the clean images that the model gets right."""
    design = pairs.design
    return pairs.pair_ids.tolist() if design is None else design.clean_image[design.right].unique().tolist()


def _name(task: Task) -> str:
    return str(task.info.get("model", task.vit.cfg.name))


def _require_same(tasks: Sequence[Task]) -> None:
    if not tasks:
        raise TaskError(
            "there are no tasks to compare: pass one for each model, such as common_pairs([first, second])."
        )
    for task in tasks[1:]:
        for name in _PICTURES:
            one, other = tasks[0].info.get(name), task.info.get(name)
            if one != other:
                raise TaskError(
                    f"{_name(tasks[0])} and {_name(task)} have other tasks: {name} is {one!r} in the first and "
                    f"{other!r} in the second. Make both with the same data, contrast, corruption and seed."
                )


def _restricted(task: Task, kept: Mapping[str, list[int]]) -> Task:
    pairs: dict[str, Pairs] = {}
    dropped: dict[str, Any] = dict(task.info.get("dropped", {}))
    images: dict[str, Any] = {}
    for split, wanted in kept.items():
        own: Pairs = getattr(task, split)
        pairs[split] = some = _at(own, wanted)
        dropped[split] = {**dropped.get(split, {}), "other_models": own.n_images - some.n_images}
        if some.design is not None:
            images[split] = {**task.info.get("images", {}).get(split, {}), **some.design.counts}
    info = {**task.info, **{f"n_{split}": len(some) for split, some in pairs.items()}, "dropped": dropped}
    return dataclasses.replace(task, **pairs, info=info | ({"images": images} if images else {}))


def _at(pairs: Pairs, wanted: Sequence[int]) -> Pairs:
    """The pairs of these ids, or of a crossed task those of these clean images, in one order for all models."""
    if pairs.design is None:
        place = {number: row for row, number in enumerate(pairs.pair_ids.tolist())}
        return pairs.select([place[number] for number in wanted])
    rows: dict[int, list[int]] = {number: [] for number in wanted}
    for row, number in enumerate(pairs.design.clean_image.tolist()):
        if number in rows:
            rows[number].append(row)
    found = pairs.select([row for some in rows.values() for row in some])
    assert found.design is not None
    if found.design.sides != pairs.design.sides or (pairs.design.crossed and min(_of_class(found)) < 2):
        raise TaskError(
            f"only {' and '.join(map(str, _of_class(found)))} images of target and foil are classified right by every "
            f"model, and a crossed task needs two of each: pass more pairs, or leave out the model that errs most."
        )
    met = met_again(found)
    return dataclasses.replace(met, ids=torch.arange(len(met)))


def _of_class(pairs: Pairs) -> tuple[int, int]:
    assert pairs.design is not None
    return pairs.design.counts["target"], pairs.design.counts["foil"]


def _require_same_pictures(tasks: Sequence[Task]) -> None:
    """Equal labels and numbers of images; and where two models want the same input, equal clean images."""
    for task in tasks[1:]:
        for split in _SPLITS:
            one, other = getattr(tasks[0], split), getattr(task, split)
            same_labels = one.labels is None or other.labels is None or torch.equal(one.labels, other.labels)
            alike = tasks[0].vit.preprocess == task.vit.preprocess and one.clean.dtype == other.clean.dtype
            same_labels &= _numbers(one) == _numbers(other)
            if not same_labels or (alike and not torch.equal(one.clean.cpu(), other.clean.cpu())):
                raise TaskError(
                    f"the {split} pairs of {_name(tasks[0])} and {_name(task)} show other pictures under the same ids: "
                    f"make both tasks from the same data with the same seed."
                )


def _numbers(pairs: Pairs) -> list[int]:
    return [] if pairs.design is None else pairs.design.clean_image.tolist()
