"""A task: which behaviour to explain. Pairs of clean and corrupted images, a metric, and what removed edges carry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.data import ImageData, Split, load_data
from ..models.errors import TaskError
from ..models.hooked import HookedViT
from ..models.planted.vit import planted_images
from .ablation import Ablation, as_ablation
from .classes import ClassSet, ClassSpec, image_labels, parse_classes
from .corruptions import CORRUPTIONS, corrupt_pixels
from .metrics import Metric, MetricKind
from .pairs import Pairs


@dataclass(frozen=True, eq=False)
class Task:
    """A behaviour of a model on images.

    Discovery and evaluation share no image, partners included.

    Args:
        vit: The opened model.
        metric: Logits -> one number per pair.
        discovery: Pairs that circuits are found on.
        evaluation: Pairs that they are judged on.
        ablation: What a removed edge carries, in both.
        info: The task in plain values, for records and pictures.

    Raises:
        TaskError: A clean or corrupted image stands in both sets of pairs.
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
        seen = _hashes(self.discovery)
        shared = len(seen & _hashes(self.evaluation))
        if shared:
            raise TaskError(
                f"{shared} images stand in the discovery pairs and in the evaluation pairs: a circuit must be judged "
                f"on images that it was not found on. Leave them out of one of the two."
            )

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


def _hashes(pairs: Pairs) -> set[bytes]:
    """The bytes of every image, except partners that every pair shares (a mean image)."""
    images = (
        [pairs.clean]
        if len(pairs) > 1 and bool((pairs.corrupt == pairs.corrupt[:1]).all())
        else [
            pairs.clean,
            pairs.corrupt,
        ]
    )
    return {image.cpu().numpy().tobytes() for group in images for image in group}


def class_contrast(
    vit: HookedViT,
    data: Any,
    *,
    target: ClassSpec,
    foil: ClassSpec,
    metric: MetricKind | str = "logit_difference",
    corruption: str = "class_swap",
    ablation: Ablation | str = "partner",
    n_discovery: int = 64,
    n_evaluation: int = 100,
    data_dir: str | Path | None = None,
    seed: int = 0,
) -> Task:
    """A task that asks what tells one class from another.

    Clean images show the target. Every pair is checked: the clean image is classified as a target class, and the
    partner has a lower metric; pairs that fail are dropped and counted in `task.info["dropped"]`.

    Args:
        vit: The opened model.
        data: `digits`, `mnist`, a folder of class folders, or tensors (see `load_data`); `planted` for a planted
            model's own images.
        target: A class, several, or text such as "cats=281-285" (images from the folder `cats`).
        foil: The class that it is told from, likewise.
        metric: `logit_difference`, `logit`, `probability`, `kl` or `accuracy`.
        corruption: `class_swap` (partner: an image of the foil), `another` (any image that does not show the target),
            `mean`, `noise`, `blur` or `patch_shuffle`.
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
    if corruption not in CORRUPTIONS:
        raise TaskError(f"corruption {corruption!r} is not known: pass one of {', '.join(map(repr, CORRUPTIONS))}.")
    folders = [chosen.folder for chosen in classes]
    only = folders if all(folders) and corruption != "another" else None
    if isinstance(data, str) and data == "planted":
        loaded = planted_images(vit, seed=seed)
    else:
        loaded = load_data(data, vit.preprocess, data_dir=data_dir, seed=seed, classes=only)
    vit.check_images(loaded.train.images[:1])
    maker = _PairMaker(vit, loaded, classes, corruption, seed)
    discovery, dropped_first = _valid(vit, judged, maker.pairs(loaded.train, n_discovery, stream=1), "discovery")
    evaluation, dropped_second = _valid(vit, judged, maker.pairs(loaded.test, n_evaluation, stream=2), "evaluation")
    info = {
        "model": vit.cfg.name,
        "metric": metric,
        "target": list(classes[0].indices),
        "foil": list(classes[1].indices),
        "target_name": classes[0].name,
        "foil_name": classes[1].name,
        "data": loaded.name,
        "data_digest": loaded.digest,
        "corruption": corruption,
        "seed": seed,
        "n_discovery": len(discovery),
        "n_evaluation": len(evaluation),
        "dropped": {"discovery": dropped_first, "evaluation": dropped_second},
    }
    return Task(vit, judged, discovery, evaluation, as_ablation(ablation), info)


@dataclass(frozen=True, eq=False)
class _PairMaker:
    """Draws pairs from a split."""

    vit: HookedViT
    data: ImageData
    classes: tuple[ClassSet, ClassSet]
    corruption: str
    seed: int

    def pairs(self, split: Split, n: int, *, stream: int) -> Pairs:
        """At most n pairs from one split; no image is used twice."""
        if n < 1:
            raise TaskError(f"{n} pairs were asked for: pass at least 1.")
        generator = torch.Generator().manual_seed(self.seed * 10 + stream)
        target = image_labels(self.classes[0], self.data, self.vit, what="target")
        clean = self._draw(split, torch.isin(split.labels, torch.tensor(target)), generator, self.classes[0].name)
        if self.corruption in ("class_swap", "another"):
            if self.corruption == "class_swap":
                foil = image_labels(self.classes[1], self.data, self.vit, what="foil")
                allowed = torch.isin(split.labels, torch.tensor(foil))
            else:
                allowed = ~torch.isin(split.labels, torch.tensor(target))
            partners = self._draw(split, allowed, generator, self.classes[1].name)
            n = min(n, len(clean), len(partners))
            corrupt = split.images[partners[:n]]
        else:
            n = min(n, len(clean))
            mean = self.data.train.images.mean(0)
            corrupt = corrupt_pixels(self.corruption, split.images[clean[:n]], self.vit.cfg, mean, generator)
        return Pairs(split.images[clean[:n]], corrupt, split.labels[clean[:n]])

    def _draw(self, split: Split, allowed: Tensor, generator: torch.Generator, name: str) -> Tensor:
        """Indices of the allowed images in a random order."""
        indices = torch.nonzero(allowed).flatten()
        if len(indices) == 0:
            raise TaskError(f"the data {self.data.name!r} has no image of {name!r}: its classes are {self._known()}.")
        return indices[torch.randperm(len(indices), generator=generator)]

    def _known(self) -> str:
        return ", ".join(self.data.class_names[:10])


def _valid(vit: HookedViT, metric: Metric, pairs: Pairs, name: str) -> tuple[Pairs, dict[str, int]]:
    """The pairs whose clean image is classified right and whose partner lowers the metric; counts of the others."""
    clean, corrupt = [], []
    with torch.no_grad():
        for batch in pairs.batches(64):
            clean.append(vit(batch.clean).cpu())
            corrupt.append(vit(batch.corrupt).cpu())
    clean_logits, corrupt_logits = torch.cat(clean), torch.cat(corrupt)
    right = metric.correct(clean_logits)
    lower = metric(corrupt_logits, clean_logits) < metric(clean_logits, clean_logits)
    kept = right & lower
    dropped = {"clean_wrong": int((~right).sum()), "partner_not_lower": int((right & ~lower).sum())}
    if not bool(kept.any()):
        raise TaskError(
            f"none of {len(pairs)} {name} pairs is valid: in {dropped['clean_wrong']} the clean image is not "
            f"classified as the target, in {dropped['partner_not_lower']} its partner does not lower the metric. Check "
            f"that data and model fit, that target and foil are the model's classes, and that it can tell them apart."
        )
    return pairs.select(torch.nonzero(kept).flatten()), dropped
