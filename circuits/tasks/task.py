"""A task: which behaviour to explain. Pairs of clean and corrupted images, a metric, and what removed edges carry.

`class_contrast` (`contrast.py`) makes one from a model, data and two classes.

Discovery and evaluation are held apart: no image of one, clean or partner, is a near-duplicate of one of the other.

A circuit that was found on a picture is not judged on it, nor on the same picture moved by a pixel or compressed again
(`models.near_duplicates` says what counts). Three kinds of images are treated by a rule of their own:

- Partners made from their own clean image (noise, blur, a word, the mean training image) are not another photograph:
  if clean images are held apart, so are they. `info["corruption"]` says how partners were made.
- A constant partner, such as zeros, carries no photograph.
- Generated images ("sprites", "planted") that differ by a shift are different on purpose: position is one of their
  factors. Only equal bytes are refused there.

Weak spots: `info` is taken at its word, and pairs without it count as photographs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...models.errors import TaskError
from ...models.hooked import HookedViT
from ...models.near_duplicates import copies
from ..ablation import Ablation, as_ablation
from ..partners.partner import CORRUPTIONS, SWAPS
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

    def __repr__(self) -> str:
        return f"Task of {self.vit.cfg.name}: {self}"

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


GENERATED = ("sprites", "planted")
Images = Float[Tensor, "image channel height width"]


def require_held_apart(discovery: Pairs, evaluation: Pairs, info: Mapping[str, Any]) -> None:
    """Does nothing where discovery and evaluation share no near-duplicate, partners included.

    Raises:
        TaskError: They share some, or one photograph is everyone's partner in both.
    """
    made = info.get("corruption") in CORRUPTIONS and info["corruption"] not in SWAPS
    exact = info.get("data") in GENERATED
    if not made:
        _require_own_partners(discovery.corrupt, evaluation.corrupt, exact)
    seen, judged = (_photographs(pairs, made) for pairs in (discovery, evaluation))
    found = copies(judged[0], seen[0], exact=exact)
    shared = torch.nonzero(found >= 0).flatten()
    if len(shared):
        first = int(shared[0])
        raise TaskError(
            f"{len(shared)} images stand in the discovery pairs and in the evaluation pairs, or are near-duplicates "
            f"(moved by a pixel or two, brighter, compressed again): such as evaluation.{judged[1][first]}, which is "
            f"discovery.{seen[1][int(found[first])]}. A circuit must be judged on images that it was not found on. "
            f"Leave their pairs out of one of the two, such as "
            f"evaluation.select({_others(judged[1], shared, len(evaluation))})."
        )


def _require_own_partners(first: Images, second: Float[Tensor, "other channel height width"], exact: bool) -> None:
    """Refuses one photograph as every partner in both; a constant image may be."""
    if _constant(first[:1]).any() or not all(bool((images == images[:1]).all()) for images in (first, second)):
        return
    if len(first) + len(second) > 2 and copies(second[:1], first[:1], exact=exact)[0] >= 0:
        raise TaskError(
            "one image is the partner of every pair, in discovery and in evaluation: what is found and judged is then "
            "about that one photograph. Give each pair a partner of its own, such as corruption='class_swap', or leave "
            "the partners out of it: Ablation(\"mean\") with corruption='mean', the mean training image."
        )


def _photographs(pairs: Pairs, made: bool) -> tuple[Images, list[str]]:
    """The images that count, and where each stands, such as `corrupt[3]`."""
    names = [f"clean[{row}]" for row in range(len(pairs))]
    if made:
        return pairs.clean, names
    rows = torch.nonzero(~_constant(pairs.corrupt)).flatten()
    return torch.cat([pairs.clean, pairs.corrupt[rows]]), [*names, *(f"corrupt[{row}]" for row in rows.tolist())]


def _constant(images: Images) -> Bool[Tensor, " image"]:
    """Whether each channel of an image has one value everywhere."""
    return (images == images[..., :1, :1]).flatten(1).all(1)


def _others(names: list[str], shared: Tensor, n: int) -> str:
    """The pairs that none of the shared images belongs to, as Python."""
    bad = sorted({int(names[row].partition("[")[2][:-1]) for row in shared.tolist()})
    return f"[row for row in range({n}) if row not in {bad}]"
