"""One contrast under several partners: tasks with the same clean images, so that only what the partner is differs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...models.data import ImageData, Split
from ...models.errors import TaskError
from ...models.hooked import HookedViT
from ..partners.partner import Partner, as_partner
from .classes import ClassSpec, image_labels, parse_classes
from .contrast import Sides, class_contrast, load_images
from .metrics import MetricKind
from .pairs import Pairs
from .redraw import met_again
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

    A clean image stays only if it is there under every partner: of a crossed task, if it has a usable mask under all
    that take one; of a one-sided one, if its pair is valid under all, so that a partner that seldom lowers the metric
    costs all others their pairs. `task.info["dropped"]` has beside each partner's own counts `other_partners`: clean
    images that are there under this partner and not under another. Where masks are given, clean images are those that
    have one under every partner. Partners that are clean images themselves are met anew among those that stay.

    Args:
        vit: The opened model.
        data: As `class_contrast` takes it; read once.
        target: What clean images show.
        foil: What it is told from.
        partners: Kinds or `Partner`s, or name -> either; names are the kinds where none are given.
        metric: As `class_contrast` takes it.
        sides: `both` or `one`; `nearest` partners need both.
        n_discovery: As `class_contrast` takes it, before anything is checked.
        n_evaluation: Likewise.
        n_partners: Likewise.
        data_dir: Where MNIST's files lie.
        seed: Draws images and chance.

    Raises:
        TaskError: Names occur twice, or no pair is valid under all partners.
        DataError: The data cannot be found or read, or doesn't fit the model.
    """
    named = name_partners(partners)
    classes = (parse_classes(target, vit, data=data), parse_classes(foil, vit, what="foil", data=data))
    loaded = load_images(vit, data, classes, list(named.values()), data_dir=data_dir, seed=seed)
    for shown in classes if sides == "both" else classes[:1]:
        loaded = _with_masks(loaded, image_labels(shown, loaded, vit), list(named.values()))
    sizes: dict[str, Any] = {"n_discovery": n_discovery, "n_evaluation": n_evaluation, "n_partners": n_partners}
    how: dict[str, Any] = {"target": target, "foil": foil, "metric": metric, "sides": sides, "seed": seed, **sizes}
    tasks = {name: class_contrast(vit, loaded, corruption=partner, **how) for name, partner in named.items()}
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


def _with_masks(data: ImageData, labels: tuple[int, ...], partners: Sequence[Partner]) -> ImageData:
    """The data without images of these labels that lack a mask under some partner; with all where that leaves none."""
    masks = [partner.masks for partner in partners if partner.masks is not None]

    def restricted(split: Split) -> Split:
        own = torch.isin(split.labels, torch.tensor(labels))
        having = torch.tensor([all(mask.has(name, data) for mask in masks) for name in split.names])
        rows = torch.nonzero(having | ~own).flatten()
        names = tuple(split.names[row] for row in rows.tolist())
        return Split(split.images[rows], split.labels[rows], names) if bool((having & own).any()) else split

    if not masks or not data.train.names:
        return data
    return dataclasses.replace(data, train=restricted(data.train), test=restricted(data.test))


def image_key(image: Tensor) -> bytes:
    """What tells an image from others: its pixels."""
    return image.cpu().numpy().tobytes()


def _common(tasks: Mapping[str, Task], split: str) -> set[bytes]:
    """The clean images that are valid under every partner."""
    found = {name: {image_key(image) for image in getattr(task, split).clean} for name, task in tasks.items()}
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
    dropped, images = {}, {}
    for split, common in kept.items():
        own: Pairs = getattr(task, split)
        rows = [row for row, image in enumerate(own.clean) if image_key(image) in common]
        pairs[split] = some = own if len(rows) == len(own) else met_again(own.select(rows))
        _require_sides(own, some, split)
        lost = own.n_images - some.n_images
        dropped[split] = {**task.info["dropped"][split], "other_partners": lost}
        if some.design is not None:
            images[split] = {**task.info["images"][split], **some.design.counts}
    info = {**task.info, **{f"n_{split}": len(some) for split, some in pairs.items()}, "dropped": dropped}
    return dataclasses.replace(task, **pairs, info=info | ({"images": images} if images else {}))


def _require_sides(before: Pairs, after: Pairs, split: str) -> None:
    if before.design is not None and after.design is not None and before.design.sides != after.design.sides:
        raise TaskError(
            f"no {split} image of one of the two classes is there under all partners: pass more images, or leave out "
            f"the partner with the fewest masks."
        )
