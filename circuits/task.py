"""A task: which behaviour to explain. Pairs of clean and corrupted images, a metric, and what removed edges carry."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.data import ImageData, load_data
from ..models.hooked import HookedViT
from ..models.planted.vit import planted_images
from .ablation import Ablation, as_ablation
from .classes import ClassSet, ClassSpec, parse_classes
from .held_apart import require_held_apart
from .metrics import Metric, MetricKind
from .pair_maker import PairMaker, valid_pairs
from .pairs import Pairs
from .partners.partner import Partner, as_partner


@dataclass(frozen=True, eq=False)
class Task:
    """A behaviour of a model on images.

    Discovery and evaluation share no near-duplicate, partners included (see `held_apart`).

    Args:
        vit: The opened model.
        metric: Logits -> one number per pair.
        discovery: Pairs that circuits are found on.
        evaluation: Pairs that they are judged on.
        ablation: What a removed edge carries, in both.
        info: The task in plain values, for records and pictures.

    Raises:
        TaskError: A near-duplicate stands in both sets of pairs, or one photograph is every partner in both.
        DataError: The images don't fit the model.
    """

    vit: HookedViT
    metric: Metric
    discovery: Pairs
    evaluation: Pairs
    ablation: Ablation = Ablation()
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for pairs in (self.discovery, self.evaluation):
            self.vit.check_images(pairs.clean)
        require_held_apart(self.discovery, self.evaluation, self.info)

    def __str__(self) -> str:
        metric = (
            f"{self.info.get('target_name', self.metric.target)} against {self.info.get('foil_name', self.metric.foil)}"
        )
        return (
            f"{metric}, {self.metric.kind}, {len(self.discovery)} discovery and {len(self.evaluation)} evaluation "
            f"pairs, ablation {self.ablation}"
        )

    @property
    def reference(self) -> Tensor:
        """Images that ablations draw on: the discovery images, clean and corrupted."""
        return torch.cat([self.discovery.clean, self.discovery.corrupt])

    def with_ablation(self, ablation: Ablation | str) -> Task:
        """The same task under another ablation."""
        return dataclasses.replace(self, ablation=as_ablation(ablation))


def class_contrast(
    vit: HookedViT,
    data: Any,
    *,
    target: ClassSpec,
    foil: ClassSpec,
    metric: MetricKind | str = "logit_difference",
    corruption: Partner | str = "class_swap",
    ablation: Ablation | str = "partner",
    n_discovery: int = 64,
    n_evaluation: int = 100,
    data_dir: str | Path | None = None,
    seed: int = 0,
) -> Task:
    """A task that asks what tells one class from another.

    Clean images show the target. Every pair is checked: the clean image is classified as a target class, and the
    partner has a lower metric; pairs that fail are dropped and counted in `task.info["dropped"]`, and so are images
    whose mask leaves nothing to change. Where masks are given, clean images are those that have one. Pairs whose
    partner is the clean image changed at some places say at which tokens (`Pairs.changed`).

    Args:
        vit: The opened model.
        data: `digits`, `mnist`, a folder of class folders, or tensors (see `load_data`); `planted` for a planted
            model's own images; or what `load_data` gave.
        target: A class, several, or text such as "cats=281-285" (images from the folder `cats`).
        foil: The class that it is told from, likewise.
        metric: `logit_difference`, `logit`, `probability`, `kl` or `accuracy`.
        corruption: `class_swap` (partner: an image of the foil), `another` (any image that does not show the target),
            `mean`, `noise`, `blur`, `patch_shuffle`, `word`, or a `Partner` with options, such as
            `Partner("object_fill", mask="attention")`.
        ablation: What a removed edge carries.
        n_discovery: At most so many pairs, from the training split, before they are checked.
        n_evaluation: At most so many pairs, from the test split.
        data_dir: Where MNIST's files lie.
        seed: Draws the images, their partners, and corruptions with chance in them.

    Raises:
        TaskError: The classes overlap or don't exist, a choice is not known, or no pair is left.
        DataError: The data cannot be found or read, or doesn't fit the model.
    """
    classes = (parse_classes(target, vit, what="target"), parse_classes(foil, vit, what="foil"))
    judged = Metric(metric, classes[0].indices, classes[1].indices)
    partner = as_partner(corruption)
    loaded = load_images(vit, data, classes, [partner], data_dir=data_dir, seed=seed)
    vit.check_images(loaded.train.images[:1])
    maker = PairMaker(vit, loaded, classes, partner, seed)
    drawn = maker.pairs(loaded.train, n_discovery, stream=1), maker.pairs(loaded.test, n_evaluation, stream=2)
    discovery, dropped_first = valid_pairs(vit, judged, drawn[0], "discovery")
    evaluation, dropped_second = valid_pairs(vit, judged, drawn[1], "evaluation")
    info = {
        "model": vit.cfg.name,
        **({"readout": dict(vit.readout.info)} if "sha256" in vit.readout.info else {}),
        "metric": metric,
        "target": list(classes[0].indices),
        "foil": list(classes[1].indices),
        "target_name": classes[0].name,
        "foil_name": classes[1].name,
        "data": loaded.name,
        "data_digest": loaded.digest,
        **partner.as_dict(maker.word),
        "seed": seed,
        "n_discovery": len(discovery),
        "n_evaluation": len(evaluation),
        "dropped": {"discovery": dropped_first, "evaluation": dropped_second},
    }
    if partner.masks is not None:
        info["mask_digest"] = hashlib.sha256("".join(part.mask_digest for part in drawn).encode()).hexdigest()
    return Task(vit, judged, discovery, evaluation, as_ablation(ablation), info)


def load_images(
    vit: HookedViT,
    data: Any,
    classes: tuple[ClassSet, ClassSet],
    partners: Sequence[Partner],
    *,
    data_dir: str | Path | None,
    seed: int,
) -> ImageData:
    """The images that a contrast with these partners draws on; of a folder only the classes that are needed."""
    if isinstance(data, ImageData):
        return data
    if isinstance(data, str) and data == "planted":
        return planted_images(vit, seed=seed)
    folders = [chosen.folder for chosen in classes]
    needs_all = any(partner.kind == "another" for partner in partners)
    only = folders if all(folders) and not needs_all else None
    return load_data(data, vit.preprocess, data_dir=data_dir, seed=seed, classes=only)
