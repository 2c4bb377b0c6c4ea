"""Pairs drawn from a split, and checked: the clean image is classified right, the partner lowers the metric."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from ...models.data import ImageData, Split
from ...models.errors import TaskError
from ...models.hooked import HookedViT
from ..partners.masks import Pictures
from ..partners.partner import SWAPS, Partner, changed_tokens, corrupt_pixels, usable
from .classes import ClassSet, image_labels
from .metrics import Metric
from .task import Pairs


@dataclass(frozen=True, eq=False)
class Drawn:
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
class PairMaker:
    """Draws pairs from a split."""

    vit: HookedViT
    data: ImageData
    classes: tuple[ClassSet, ClassSet]
    partner: Partner
    seed: int

    @property
    def word(self) -> str:
        """What is painted where the description does not say: the foil's name."""
        return foil_word(self.vit, self.classes[1])

    def pairs(self, split: Split, n: int, *, stream: int) -> Drawn:
        """At most n pairs from one split; no image is used twice. Clean images are drawn before anything else."""
        if n < 1:
            raise TaskError(f"{n} pairs were asked for: pass at least 1.")
        if self.partner.kind == "nearest":
            raise TaskError('nearest partners are of both classes, so they need a crossed task: leave sides="both".')
        generator = torch.Generator().manual_seed(self.seed * 10 + stream)
        target = image_labels(self.classes[0], self.data, self.vit, what="target")
        allowed = self._having_masks(split, torch.isin(split.labels, torch.tensor(target)))
        clean = self._draw(allowed, generator, self.classes[0].name)
        if self.partner.kind in SWAPS:
            partners = self._draw(self._others(split, target), generator, self.classes[1].name)
            n = min(n, len(clean), len(partners))
            return Drawn(Pairs(split.images[clean[:n]], split.images[partners[:n]], split.labels[clean[:n]]))
        return self._changed(split, clean[:n], generator)

    def _others(self, split: Split, target: tuple[int, ...]) -> Bool[Tensor, " image"]:
        """Images that may be partners."""
        if self.partner.kind == "another":
            return ~torch.isin(split.labels, torch.tensor(target))
        foil = image_labels(self.classes[1], self.data, self.vit, what="foil")
        return torch.isin(split.labels, torch.tensor(foil))

    def _changed(self, split: Split, clean: Tensor, generator: torch.Generator) -> Drawn:
        """Clean images and what their own pixels are made into."""
        images, masks, mean = split.images[clean], None, self.data.train.images.mean(0)
        kept, dropped, digest = torch.ones(len(clean), dtype=torch.bool), {}, ""
        if self.partner.masks is not None:
            names = [image_names(split)[row] for row in clean.tolist()]
            masks = self.partner.masks(Pictures(self.vit, self.data, images, names))
            kept = usable(self.partner, masks, self.vit.cfg)
            dropped["no_mask"] = int((~kept).sum())
            digest = hashlib.sha256(masks.numpy().tobytes()).hexdigest()
            masks = masks[kept]
        if not bool(kept.any()):
            return Drawn(None, dropped, digest)
        images, options = images[kept], {"masks": masks, "preprocess": self.vit.preprocess, "word": self.word}
        corrupt = corrupt_pixels(self.partner, images, self.vit.cfg, mean, generator, **options)
        places = torch.nonzero(kept).flatten()  # so that a pair keeps its id whichever others have no mask
        changed = changed_tokens(self.vit.cfg, images, corrupt)
        return Drawn(Pairs(images, corrupt, split.labels[clean][kept], places, changed), dropped, digest)

    def _having_masks(self, split: Split, allowed: Bool[Tensor, " image"]) -> Bool[Tensor, " image"]:
        """Those of the allowed images that there are masks for."""
        masks = self.partner.masks
        if masks is None:
            return allowed
        having = torch.tensor([masks.has(name, self.data) for name in image_names(split)])
        if bool(allowed.any()) and not bool((allowed & having).any()):
            some = [image_names(split)[row] for row in torch.nonzero(allowed).flatten()[:3].tolist()]
            raise TaskError(
                f"none of the images of {self.classes[0].name!r} has a mask in {masks.as_dict()['mask']}: masks are "
                f"found by names such as {', '.join(map(repr, some))}, and '*' stands for every image."
            )
        return allowed & having

    def _draw(self, allowed: Tensor, generator: torch.Generator, name: str) -> Tensor:
        """Indices of the allowed images in a random order."""
        indices = torch.nonzero(allowed).flatten()
        if len(indices) == 0:
            known = ", ".join(self.data.class_names[:10])
            raise TaskError(f"the data {self.data.name!r} has no image of {name!r}: its classes are {known}.")
        return indices[torch.randperm(len(indices), generator=generator)]


def foil_word(vit: HookedViT, classes: ClassSet) -> str:
    """What is painted to name classes: their folder, or the first of them."""
    return classes.folder or vit.class_names[classes.indices[0]].split(",")[0]


def image_names(split: Split) -> tuple[str, ...]:
    """What the images of a split are called; their rows where they have no names."""
    return split.names or tuple(map(str, range(len(split))))


def valid_pairs(vit: HookedViT, metric: Metric, drawn: Drawn, name: str) -> tuple[Pairs, dict[str, int]]:
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
