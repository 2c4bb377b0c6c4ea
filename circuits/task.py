"""A task: which behaviour to explain. Pairs of clean and corrupted images, a metric, and what removed edges carry.

`class_contrast` (`contrast.py`) makes one from a model, data and two classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.hooked import HookedViT
from .ablation import Ablation, as_ablation
from .held_apart import require_held_apart
from .metrics import Metric
from .pairs import Pairs


@dataclass(frozen=True, eq=False)
class Task:
    """A behaviour of a model on images.

    Discovery and evaluation share no near-duplicate, partners included (`held_apart.py`). A task is *crossed* where
    clean images show both classes (`design.py`), and *one-sided* where they show the target alone; a circuit that
    answers one thing to every image cannot be told from a good one on a one-sided task.

    Args:
        vit: The opened model.
        metric: Logits -> one number per pair.
        discovery: Pairs that circuits are found on.
        evaluation: Pairs that they are judged on.
        ablation: What a removed edge carries, in both.
        info: The task in plain values, for records and pictures.
        reference_images: What `mean`, `noise`, `another` and `optimal` draw on; the discovery images by default.
        others: Clean images of third classes, met by the evaluation's partners: what a circuit makes of images that
            show neither class.

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
    reference_images: Tensor | None = None
    others: Pairs | None = None

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
    def sides(self) -> Literal["both", "one"]:
        """`both` where clean images show target and foil, `one` where they show the target alone."""
        design = self.evaluation.design
        return "both" if design is not None and design.sided else "one"

    @cached_property
    def searched(self) -> Pairs:
        """The discovery pairs as the ablation needs them: without partners, each clean image once."""
        return self.discovery.under(self.ablation)

    def signs(self, pairs: Pairs) -> Float[Tensor, " pair"]:
        """1 where a higher metric speaks for the clean image's class, and -1 where a lower one does.

        Effects and scores are multiplied by it, so that they say how much of the metric's *speaking for what the image
        shows* an edge carries, on either side. It is 1 throughout for metrics that compare with the full model.
        """
        signs = pairs.sign.to(torch.float64)
        return torch.ones_like(signs) if self.metric.relative else signs

    @property
    def reference(self) -> Tensor:
        """Images that ablations draw on: those that were given, else the discovery images, clean and corrupted."""
        if self.reference_images is not None:
            return self.reference_images
        return torch.cat([self.discovery.clean, self.discovery.corrupt])

    def with_ablation(self, ablation: Ablation | str) -> Task:
        """The same task under another ablation."""
        return dataclasses.replace(self, ablation=as_ablation(ablation))
