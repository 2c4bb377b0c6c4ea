"""Tasks of several models restricted to the pairs that are valid for every one of them.

A pair is valid for a model if it classifies the clean image right and the partner lowers the metric. Models that err on
different images would otherwise be compared on different images. Pairs are told by their ids, which say at what place
a pair was drawn: with one data set, one contrast, one kind of partner and one seed, the same id is the same picture,
whatever size and normalisation a model wants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...circuits.pairs import Pairs
from ...circuits.task import Task
from ...models.errors import TaskError

_PICTURES = ("data", "target_name", "foil_name", "corruption", "mask", "word", "seed")
_SPLITS = ("discovery", "evaluation")


@dataclass(frozen=True, eq=False)
class CommonPairs:
    """Tasks on common pairs, and what that cost.

    Args:
        tasks: The tasks in their order, each with the common pairs only.
        valid: Pairs that were valid for each model, by split.
        common: Pairs that are valid for all, by split.
        either: Pairs that are valid for at least one, by split.
    """

    tasks: tuple[Task, ...]
    valid: Mapping[str, tuple[int, ...]]
    common: Mapping[str, int]
    either: Mapping[str, int]

    def dropped(self, split: str) -> float:
        """Share of the pairs valid for at least one model that are not valid for all."""
        return 1 - self.common[split] / self.either[split]

    def as_dict(self) -> dict[str, Any]:
        """Counts and shares in plain values, by split."""
        return {
            split: {
                "valid_for_each": list(self.valid[split]),
                "valid_for_any": self.either[split],
                "valid_for_all": self.common[split],
                "share_dropped": self.dropped(split),
            }
            for split in self.common
        }

    def __str__(self) -> str:
        return "; ".join(
            f"{split}: {self.common[split]} pairs valid for all {len(self.tasks)} models, {self.dropped(split):.0%} of "
            f"{self.either[split]} dropped (valid for each: {', '.join(map(str, self.valid[split]))})"
            for split in self.common
        )


def pictures_of(task: Task) -> str:
    """What decides which pictures the pairs of a task show, in words; equal for tasks whose ids mean the same."""
    return ", ".join(f"{name} {task.info[name]}" for name in _PICTURES if task.info.get(name) is not None)


def common_pairs(tasks: Sequence[Task]) -> CommonPairs:
    """The tasks restricted to the pairs that are valid for every model, discovery and evaluation alike.

    Metric and ablation may differ (`compare` says so); the pictures may not. Each task's `info["dropped"][split]` gains
    `other_models`. Restrict before circuits are found, so that they are also found on the same pairs.

    Raises:
        TaskError: The tasks are not about the same pictures, or no pair is valid for all.
    """
    _require_same(tasks)
    kept: dict[str, list[int]] = {}
    valid, either = {}, {}
    for split in _SPLITS:
        ids = [getattr(task, split).pair_ids.tolist() for task in tasks]
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
    for split, wanted in kept.items():
        own: Pairs = getattr(task, split)
        place = {number: row for row, number in enumerate(own.pair_ids.tolist())}
        pairs[split] = own.select([place[number] for number in wanted])
        dropped[split] = {**dropped.get(split, {}), "other_models": len(own) - len(wanted)}
    counts = {f"n_{split}": len(some) for split, some in pairs.items()}
    return dataclasses.replace(task, **pairs, info={**task.info, **counts, "dropped": dropped})


def _require_same_pictures(tasks: Sequence[Task]) -> None:
    """Equal labels; and where two models want the same input, equal clean images."""
    for task in tasks[1:]:
        for split in _SPLITS:
            one, other = getattr(tasks[0], split), getattr(task, split)
            same_labels = one.labels is None or other.labels is None or torch.equal(one.labels, other.labels)
            alike = tasks[0].vit.preprocess == task.vit.preprocess and one.clean.dtype == other.clean.dtype
            if not same_labels or (alike and not torch.equal(one.clean.cpu(), other.clean.cpu())):
                raise TaskError(
                    f"the {split} pairs of {_name(tasks[0])} and {_name(task)} show other pictures under the same ids: "
                    f"make both tasks from the same data with the same seed."
                )
