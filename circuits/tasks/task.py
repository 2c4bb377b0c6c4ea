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
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ...models.errors import TaskError
from ...models.hooked import HookedViT
from ...models.near_duplicates import copies
from ..ablation import Ablation, as_ablation
from ..partners.partner import CORRUPTIONS, SWAPS
from .design import NEITHER, Design, one_partner_each
from .metrics import Metric


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


def objects_digest(pairs: Pairs) -> str:
    """sha256 over where the objects are, in hexadecimal; empty where that is not known."""
    return "" if pairs.objects is None else hashlib.sha256(pairs.objects.numpy().tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Pairs:
    """Clean images, each with its own corrupted partner.

    Args:
        clean: Preprocessed images.
        corrupt: Their partners, same shape.
        labels: Class of each clean image in the data set's own numbering; -1 where it is not known.
        ids: A number of its own for each pair, by which ablations with chance in them are drawn; 0, 1, ... by default.
        changed: For partners that are the clean image changed at some places, the tokens whose pixels differ (CLS and
            registers have no pixels); None for partners that are other images.
        design: Classes and images of a crossed task; None where clean images show the target alone.
        answers: Logits that searches are taught for each clean image (`taught.py`); None for the full model's own.
        objects: Where the object is in the clean image (0) and in its partner (1); None where no masks were given.

    Raises:
        TaskError: There are no pairs, shapes differ, or an image holds NaN or infinity.
    """

    clean: Float[Tensor, "pair channel height width"]
    corrupt: Float[Tensor, "pair channel height width"]
    labels: Int[Tensor, " pair"] | None = None
    ids: Int[Tensor, " pair"] | None = None
    changed: Bool[Tensor, "pair token"] | None = None
    design: Design | None = None
    answers: Float[Tensor, "pair class"] | None = None
    objects: Bool[Tensor, "pair 2 token"] | None = None

    def __post_init__(self) -> None:
        if tuple(self.clean.shape) != tuple(self.corrupt.shape):
            raise TaskError(
                f"clean has shape {tuple(self.clean.shape)} but corrupt has {tuple(self.corrupt.shape)}: each clean "
                f"image needs its own corrupted partner. To use one image for all, pass corrupt.expand_as(clean)."
            )
        if self.clean.ndim != 4 or len(self.clean) == 0:
            raise TaskError(
                f"pairs have shape {tuple(self.clean.shape)}: pass at least one pair of shape "
                f"(pair, channel, height, width)."
            )
        for name, images in (("clean", self.clean), ("corrupt", self.corrupt)):
            if bool(images.sum().isfinite()):
                continue  # with NaN or infinity among them no sum is finite, and it takes a tenth of the time
            bad = ~torch.isfinite(images).flatten(1).all(1)
            if bool(bad.any()):
                first = torch.nonzero(bad).flatten()[:10].tolist()
                raise TaskError(f"{name} images {first} hold NaN or infinity: leave them out, or repair them first.")
        for name, values in (("labels", self.labels), ("ids", self.ids)):
            if values is not None and values.shape != (len(self.clean),):
                raise TaskError(f"{name} have shape {tuple(values.shape)}, but there are {len(self.clean)} pairs.")
        if self.changed is not None and len(self.changed) != len(self.clean):
            raise TaskError(
                f"changed has shape {tuple(self.changed.shape)}, but there are {len(self.clean)} pairs: pass one row "
                f"of booleans (pair, token) for each."
            )
        if self.design is not None and len(self.design) != len(self.clean):
            raise TaskError(f"the design has {len(self.design)} rows, but there are {len(self.clean)} pairs.")
        for name, found in (("answers", self.answers), ("objects", self.objects)):
            if found is not None and len(found) != len(self.clean):
                raise TaskError(f"{name} have {len(found)} rows, but there are {len(self.clean)} pairs.")

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        return f"Pairs({len(self)} pairs of {self.n_images} clean images, shape {tuple(self.clean.shape[1:])})"

    @property
    def pair_ids(self) -> Int[Tensor, " pair"]:
        """`ids`, or 0, 1, ..."""
        return torch.arange(len(self), device="cpu") if self.ids is None else self.ids

    @property
    def sign(self) -> Int[Tensor, " pair"]:
        """1 where a higher metric speaks for what the clean image shows, -1 where a lower one does."""
        return torch.ones(len(self), dtype=torch.long, device="cpu") if self.design is None else self.design.sign

    def wanted(self, full: Float[Tensor, "pair class"]) -> Float[Tensor, "pair class"]:
        """What a search compares with: the full model's logits on the clean images, or the answers taught instead."""
        return full if self.answers is None else self.answers.to(full)

    def select(self, which: Tensor | slice | list[int]) -> Pairs:
        """Some of the pairs, which keep their labels, ids, changed tokens, sides, answers and objects."""
        design = None if self.design is None else self.design.select(which)
        labels, changed, answers, objects = (
            None if values is None else values[which]
            for values in (self.labels, self.changed, self.answers, self.objects)
        )
        images = self.clean[which], self.corrupt[which]
        return Pairs(*images, labels, self.pair_ids[which], changed, design, answers, objects)

    def met(self, clean: NDArray[np.intp], partners: NDArray[np.intp]) -> Pairs:
        """The clean images of some pairs, each with the partner of another and the id that its chance hangs on."""
        kept, other = self.select(clean.tolist()), self.select(partners.tolist())
        objects = self.objects
        if kept.objects is not None and other.objects is not None:
            objects = torch.stack([kept.objects[:, 0], other.objects[:, 1]], 1)
        return Pairs(kept.clean, other.corrupt, None, other.pair_ids, answers=kept.answers, objects=objects)

    def under(self, ablation: Ablation) -> Pairs:
        """The pairs as an ablation needs them.

        Where no partner is taken, each clean image of a crossed task comes once, and objects are its own.
        """
        if ablation.kind == "partner":
            return self
        if self.objects is not None and not torch.equal(self.objects[:, 0], self.objects[:, 1]):
            return dataclasses.replace(self, objects=self.objects[:, :1].expand(-1, 2, -1)).under(ablation)
        if self.design is None:
            return self
        found = self.select(one_partner_each(self.design))
        assert found.design is not None
        alone = torch.full_like(found.design.partner_side, NEITHER)
        design = dataclasses.replace(
            found.design, partner_side=alone, partner_image=found.design.clean_image, follows=True
        )
        return dataclasses.replace(found, design=design)

    @property
    def n_images(self) -> int:
        """Clean images: as many as pairs, but on a crossed task, where each meets several partners."""
        return len(self) if self.design is None else self.design.n_images

    @property
    def opposed(self) -> Pairs:
        """The pairs whose clean image and partner show different classes; all where that is not known."""
        if self.design is None or bool(self.design.opposed.all()):
            return self
        return self.select(torch.nonzero(self.design.opposed).flatten())

    @property
    def right(self) -> Pairs:
        """The pairs whose clean image the full model gets right; all where it gets none of a class right."""
        if self.design is None or bool(self.design.right.all()):
            return self
        found = self.select(torch.nonzero(self.design.right).flatten()) if bool(self.design.right.any()) else self
        assert found.design is not None
        return found if found.design.sides == self.design.sides else self

    def batches(self, size: int) -> Iterator[Pairs]:
        """The pairs in order, at most `size` at a time."""
        return (self.select(slice(start, start + size)) for start in range(0, len(self), size))
