"""Pairs drawn from a split, and checked: the clean image is classified right, the partner lowers the metric."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...models.data import ImageData, Split
from ...models.errors import TaskError
from ...models.hooked import HookedViT
from ..partners.masks import Masks, Pictures
from ..partners.partner import SWAPS, Partner, changed_tokens, corrupt_pixels, object_tokens, usable
from .classes import ClassSet, image_labels
from .metrics import Metric
from .task import Pairs

Rows = Int[Tensor, "_"]


@dataclass(frozen=True, eq=False)
class PairedDraw:
    """Pairs before they are checked.

    Args:
        pairs: Those that have a partner; None if none has.
        dropped: How many have none, by reason.
        mask_digest: sha256 over their masks, in hexadecimal; empty without masks.
    """

    pairs: Pairs | None
    dropped: dict[str, int] = field(default_factory=dict)
    mask_digest: str = ""


@dataclass(frozen=True, eq=False)
class UsableMasks:
    """Usable masks of some rows of a split."""

    rows: Rows
    masks: Bool[Tensor, "image height width"]
    digest: str

    def of(self, rows: Rows) -> Bool[Tensor, "image height width"]:
        """Those of the given rows."""
        place = {row: at for at, row in enumerate(self.rows.tolist())}
        return self.masks[[place[row] for row in rows.tolist()]]


@dataclass(frozen=True, eq=False)
class ImageDrawer:
    """Draws images from a split, with what their partners are made of.

    Args:
        vit: The opened model.
        data: Images of both classes.
        classes: Target and foil.
        partner: How partners are made or chosen.
        seed: Draws images and chance.
        objects: Where the object is in an image, for token groups; None where that is not asked.
    """

    vit: HookedViT
    data: ImageData
    classes: tuple[ClassSet, ClassSet]
    partner: Partner
    seed: int
    objects: Masks | None = None

    NO_MASK: ClassVar[str] = ""
    NO_IMAGE: ClassVar[str] = ""
    """What is said beside errors."""

    def _draw(self, split: Split, allowed: Bool[Tensor, " image"], generator: torch.Generator, name: str) -> Tensor:
        """Rows of the allowed images, as far as there are masks for them, in a random order."""
        for masks in filter(None, (self.partner.masks, self.objects)):
            having = torch.tensor([masks.has(known, self.data) for known in image_names(split)], device="cpu")
            if bool(allowed.any()) and not bool((allowed & having).any()):
                some = [image_names(split)[row] for row in torch.nonzero(allowed).flatten()[:3].tolist()]
                raise TaskError(
                    f"none of the images of {name!r} has a mask in {masks.as_dict()['mask']}: masks are found by names "
                    f"such as {', '.join(map(repr, some))}, and '*' stands for every image.{self.NO_MASK}"
                )
            allowed = allowed & having
        rows = torch.nonzero(allowed).flatten()
        if not len(rows):
            known = ", ".join(self.data.class_names[:10])
            raise TaskError(
                f"the data {self.data.name!r} has no image of {name!r}: its classes are {known}.{self.NO_IMAGE}"
            )
        return rows[torch.randperm(len(rows), generator=generator, device="cpu")]

    def _objects(self, split: Split, clean: Rows, partners: Rows) -> Bool[Tensor, "pair 2 token"] | None:
        """Where the object is in clean images and their partners; nowhere in an image without a mask."""
        if self.objects is None:
            return None
        rows, place = torch.cat([clean, partners]).unique(return_inverse=True)
        names = [image_names(split)[row] for row in rows.tolist()]
        masks = self.objects(Pictures(self.vit, self.data, split.images[rows], names))
        return object_tokens(masks, self.vit.cfg)[place].unflatten(0, (2, -1)).transpose(0, 1)

    def _masks(self, split: Split, rows: Tensor, counts: dict[str, int]) -> UsableMasks | None:
        """Masks of the images that have a usable one, the others counted; None for partners that take none."""
        if self.partner.masks is None:
            return None
        names = [image_names(split)[row] for row in rows.tolist()]
        masks = self.partner.masks(Pictures(self.vit, self.data, split.images[rows], names))
        kept = usable(self.partner, masks, self.vit.cfg)
        counts["no_mask"] = int((~kept).sum())
        return UsableMasks(rows[kept], masks[kept], hashlib.sha256(masks.numpy().tobytes()).hexdigest())


@dataclass(frozen=True, eq=False)
class PairMaker(ImageDrawer):
    """Draws pairs from a split."""

    def pairs(self, split: Split, n: int, *, stream: int) -> PairedDraw:
        """At most n pairs from one split; no image is used twice. Clean images are drawn before anything else."""
        if n < 1:
            raise TaskError(f"{n} pairs were asked for: pass at least 1.")
        if self.partner.kind == "nearest":
            raise TaskError('nearest partners are of both classes, so they need a crossed task: leave sides="both".')
        generator = torch.Generator().manual_seed(self.seed * 10 + stream)
        target = image_labels(self.classes[0], self.data, self.vit, what="target")
        clean = self._draw(
            split, torch.isin(split.labels, torch.tensor(target, device="cpu")), generator, self.classes[0].name
        )
        if self.partner.kind in SWAPS:
            partners = self._draw(split, self._others(split, target), generator, self.classes[1].name)
            n = min(n, len(clean), len(partners))
            clean, partners = clean[:n], partners[:n]
            objects = self._objects(split, clean, partners)
            pairs = Pairs(split.images[clean], split.images[partners], split.labels[clean], objects=objects)
            return PairedDraw(pairs)
        return self._changed(split, clean[:n], generator)

    def _others(self, split: Split, target: tuple[int, ...]) -> Bool[Tensor, " image"]:
        """Images that may be partners."""
        if self.partner.kind == "another":
            return ~torch.isin(split.labels, torch.tensor(target, device="cpu"))
        foil = image_labels(self.classes[1], self.data, self.vit, what="foil")
        return torch.isin(split.labels, torch.tensor(foil, device="cpu"))

    def _changed(self, split: Split, clean: Tensor, generator: torch.Generator) -> PairedDraw:
        """Clean images and what their own pixels are made into."""
        dropped: dict[str, int] = {}
        masks = self._masks(split, clean, dropped)
        kept = (
            torch.ones(len(clean), dtype=torch.bool, device="cpu") if masks is None else torch.isin(clean, masks.rows)
        )
        digest = "" if masks is None else masks.digest
        if not bool(kept.any()):
            return PairedDraw(None, dropped, digest)
        images, word = split.images[clean][kept], foil_word(self.vit, self.classes[1])
        options = {"masks": None if masks is None else masks.masks, "preprocess": self.vit.preprocess, "word": word}
        mean = self.data.train.images.mean(0)
        corrupt = corrupt_pixels(self.partner, images, self.vit.cfg, mean, generator, **options)
        places = torch.nonzero(kept).flatten()  # so that a pair keeps its id whichever others have no mask
        changed = changed_tokens(self.vit.cfg, images, corrupt)
        objects = self._objects(split, clean[kept], clean[kept])
        pairs = Pairs(images, corrupt, split.labels[clean][kept], places, changed, objects=objects)
        return PairedDraw(pairs, dropped, digest)


def foil_word(vit: HookedViT, classes: ClassSet) -> str:
    """What is painted to name classes: their folder, or the first of them."""
    return classes.folder or vit.class_names[classes.indices[0]].split(",")[0]


def image_names(split: Split) -> tuple[str, ...]:
    """What the images of a split are called; their rows where they have no names."""
    return split.names or tuple(map(str, range(len(split))))


def valid_pairs(vit: HookedViT, metric: Metric, drawn: PairedDraw, name: str) -> tuple[Pairs, dict[str, int]]:
    """The pairs whose clean image is classified right and whose partner lowers the metric; counts of the others.

    Raises:
        TaskError: None is left.
    """
    pairs = drawn.pairs
    if pairs is None:
        raise TaskError(
            f"none of {drawn.dropped.get('no_mask', 0)} {name} images has a mask that can be used: it must cover some "
            f"of the model's input and not all of it, and to be shuffled at least two whole patches. Check its "
            f"coordinates ('picture' or 'input'), or widen it."
        )
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
    return pairs.select(torch.nonzero(kept).flatten()), {**dropped, **drawn.dropped}
