"""Tasks on models whose circuit is known, for checking algorithms."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..models.data import ImageData, Split
from ..models.errors import TaskError
from ..models.planted.vit import PlantedViT
from .ablation import Ablation, as_ablation
from .contrast import class_contrast
from .metrics import Metric, MetricKind
from .pairs import Pairs
from .task import Task


def planted_task(
    vit: PlantedViT,
    *,
    n: int = 64,
    seed: int = 0,
    ablation: Ablation | str = "partner",
    metric: MetricKind | str = "logit_difference",
    sides: Literal["both", "one"] = "one",
) -> Task:
    """A task that asks what tells a planted model's last class from the others.

    One-sided, clean images show the last class and partners any other; the two are independent otherwise. So there is
    something to explain in every pair and an exact effect is never negative: with clean images of all classes a true
    edge's effects can cancel to exactly 0 (measured: a ROC-AUC of .92 for exact effects on neighbour-xor). A truth is
    known here, and algorithms are held against it, so one-sided is the default. Crossed (`design.py`), clean images and
    partners show the last class or any other, n images of each.

    Args:
        vit: A planted model.
        n: Pairs for discovery, and as many for evaluation; of a crossed task images of each class. They share no image.
        seed: Draws them.
        ablation: What a removed edge carries.
        metric: Of the last class against the others.
        sides: `one` or `both`.

    Raises:
        TaskError: n is below 1, or a choice is not known.
    """
    if n < 1:
        raise TaskError(f"{n} pairs were asked for: pass n of at least 1, such as n=64.")
    *foil, target = range(vit.cfg.n_classes)
    data = vit.images(seed=seed)
    if sides == "both":
        return class_contrast(
            vit,
            data,
            target=target,
            foil=tuple(foil),
            metric=metric,
            ablation=ablation,
            n_discovery=n,
            n_evaluation=n,
            seed=seed,
        )
    generator = torch.Generator().manual_seed(seed)
    discovery, evaluation = (_pairs(split, target, n, generator) for split in (data.train, data.test))
    info = {"metric": metric, "sides": "one", "seed": seed, "n_discovery": n, "n_evaluation": n, **_info(vit, data)}
    return Task(vit, Metric(metric, (target,), tuple(foil)), discovery, evaluation, as_ablation(ablation), info)


def _info(vit: PlantedViT, data: ImageData) -> dict[str, Any]:
    *foil, target = range(vit.cfg.n_classes)
    return {
        "model": vit.cfg.name,
        "target": [target],
        "foil": foil,
        "target_name": vit.class_names[target],
        "foil_name": "any other",
        "data": data.name,
        "data_digest": data.digest,
        "corruption": "class_swap",
        "dropped": {name: {"clean_wrong": 0, "partner_not_lower": 0} for name in ("discovery", "evaluation")},
    }


def _pairs(split: Split, target: int, n: int, generator: torch.Generator) -> Pairs:
    clean = _draw(split.labels == target, n, generator)
    return Pairs(split.images[clean], split.images[_draw(split.labels != target, n, generator)], split.labels[clean])


def _draw(allowed: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n rows of those allowed, each drawn by itself."""
    rows = torch.nonzero(allowed).flatten()
    return rows[torch.randint(0, len(rows), (n,), generator=generator)]
