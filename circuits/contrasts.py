"""One contrast under several partners: tasks with the same clean images, so that only what the partner is differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.data import ImageData, Split
from ..models.errors import TaskError
from ..models.hooked import HookedViT
from .classes import ClassSpec, image_labels, parse_classes
from .contrast import Sides, class_contrast, load_images
from .metrics import MetricKind
from .pairs import Pairs
from .partners.partner import Partner, as_partner
from .task import Task

Partners = Sequence[Partner | str] | Mapping[str, Partner | str]


def partner_contrasts(
    vit: HookedViT,
    data: Any,
    *,
    target: ClassSpec,
    foil: ClassSpec,
    partners: Partners,
    metric: MetricKind | str = "logit_difference",
    sides: Sides | str = "both",
    n_discovery: int | None = None,
    n_evaluation: int | None = None,
    n_partners: int = 2,
    data_dir: str | Path | None = None,
    seed: int = 0,
) -> dict[str, Task]:
    """A `class_contrast` for each kind of partner, all with the same clean images in the same order.

    On crossed tasks a clean image meets as many partners as the kind gives it, and no pair is checked. On one-sided
    tasks every pair is checked under every partner, and a clean image stays only if its pair is valid under all. So
    `task.info["dropped"]` has beside each partner's own counts `other_partners`: pairs that are valid here and not
    under another. A partner that seldom lowers the metric costs all others their pairs. Where masks are given, clean
    images are those that have one under every partner.

    Args:
        vit: The opened model.
        data: As `class_contrast` takes it; read once.
        target: What clean images show.
        foil: What it is told from.
        partners: Kinds or `Partner`s, or name -> either; names are the kinds where none are given.
        metric: As `class_contrast` takes it.
        sides: `both`, or `one`.
        n_discovery: As `class_contrast` takes it; of a one-sided task before pairs are checked.
        n_evaluation: Likewise.
        n_partners: Partners of each class that a clean image meets in evaluation, of kinds that are other images.
        data_dir: Where MNIST's files lie.
        seed: Draws images and chance.

    Raises:
        TaskError: Names occur twice, or no pair is valid under all partners.
        DataError: The data cannot be found or read, or doesn't fit the model.
    """
    named = name_partners(partners)
    classes = (parse_classes(target, vit, what="target"), parse_classes(foil, vit, what="foil"))
    loaded = load_images(vit, data, classes, list(named.values()), data_dir=data_dir, seed=seed)
    loaded = _with_masks(loaded, image_labels(classes[0], loaded, vit), list(named.values()))
    tasks = {
        name: class_contrast(
            vit,
            loaded,
            target=target,
            foil=foil,
            metric=metric,
            corruption=partner,
            sides=sides,
            n_discovery=n_discovery,
            n_evaluation=n_evaluation,
            n_partners=n_partners,
            seed=seed,
        )
        for name, partner in named.items()
    }
    kept = {split: _common(tasks, split) for split in ("discovery", "evaluation")}
    return {name: _restricted(task, kept) for name, task in tasks.items()}


def name_partners(partners: Partners) -> dict[str, Partner]:
    """Partners by name: their own, or their kinds, numbered where a kind comes twice.

    Raises:
        TaskError: There is none.
    """
    if isinstance(partners, Mapping):
        named = {name: as_partner(partner) for name, partner in partners.items()}
    else:
        every = [as_partner(partner) for partner in partners]
        kinds = [partner.kind for partner in every]
        names = [
            kind if kinds.count(kind) == 1 else f"{kind}-{1 + kinds[:place].count(kind)}"
            for place, kind in enumerate(kinds)
        ]
        named = dict(zip(names, every, strict=True))
    if not named:
        raise TaskError('there are no partners to compare: pass some, such as partners=("class_swap", "blur").')
    return named


def _with_masks(data: ImageData, target: tuple[int, ...], partners: Sequence[Partner]) -> ImageData:
    """The data without images of the target that lack a mask under some partner; with all where that leaves none."""
    masks = [partner.masks for partner in partners if partner.masks is not None]

    def restricted(split: Split) -> Split:
        is_target = torch.isin(split.labels, torch.tensor(target))
        having = torch.tensor([all(mask.has(name, data) for mask in masks) for name in split.names])
        rows = torch.nonzero(having | ~is_target).flatten()
        names = tuple(split.names[row] for row in rows.tolist())
        return Split(split.images[rows], split.labels[rows], names) if bool((having & is_target).any()) else split

    if not masks or not data.train.names:
        return data
    return dataclasses.replace(data, train=restricted(data.train), test=restricted(data.test))


def _key(image: Tensor) -> bytes:
    return image.cpu().numpy().tobytes()


def _common(tasks: Mapping[str, Task], split: str) -> set[bytes]:
    """The clean images that are valid under every partner."""
    found = {name: {_key(image) for image in getattr(task, split).clean} for name, task in tasks.items()}
    common = set.intersection(*found.values())
    if not common:
        counts = ", ".join(f"{name}: {len(some)}" for name, some in found.items())
        raise TaskError(
            f"no {split} pair is valid under all partners (valid under each: {counts}): pass more pairs, or leave out "
            f"the partner with the fewest."
        )
    return common


def _restricted(task: Task, kept: Mapping[str, set[bytes]]) -> Task:
    pairs: dict[str, Pairs] = {}
    dropped = {}
    for split, common in kept.items():
        own: Pairs = getattr(task, split)
        rows = [row for row, image in enumerate(own.clean) if _key(image) in common]
        pairs[split] = own.select(rows)
        dropped[split] = {**task.info["dropped"][split], "other_partners": len(own) - len(rows)}
    counts = {f"n_{split}": len(some) for split, some in pairs.items()}
    return dataclasses.replace(task, **pairs, info={**task.info, **counts, "dropped": dropped})
