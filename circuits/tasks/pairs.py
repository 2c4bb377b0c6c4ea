"""Pairs of clean images and their corrupted partners."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...models.errors import TaskError
from ..ablation import Ablation
from .design import NEITHER, Design, one_partner_each


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
        if self.answers is not None and len(self.answers) != len(self.clean):
            raise TaskError(f"answers have {len(self.answers)} rows, but there are {len(self.clean)} pairs.")

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        return f"Pairs({len(self)} pairs of {self.n_images} clean images, shape {tuple(self.clean.shape[1:])})"

    @property
    def pair_ids(self) -> Int[Tensor, " pair"]:
        """`ids`, or 0, 1, ..."""
        return torch.arange(len(self)) if self.ids is None else self.ids

    @property
    def sign(self) -> Int[Tensor, " pair"]:
        """1 where a higher metric speaks for what the clean image shows, -1 where a lower one does."""
        return torch.ones(len(self), dtype=torch.long) if self.design is None else self.design.sign

    def wanted(self, full: Float[Tensor, "pair class"]) -> Float[Tensor, "pair class"]:
        """What a search compares with: the full model's logits on the clean images, or the answers taught instead."""
        return full if self.answers is None else self.answers.to(full)

    def select(self, which: Tensor | slice | list[int]) -> Pairs:
        """Some of the pairs, which keep their labels, ids, changed tokens, sides and answers."""
        labels = None if self.labels is None else self.labels[which]
        changed = None if self.changed is None else self.changed[which]
        design = None if self.design is None else self.design.select(which)
        answers = None if self.answers is None else self.answers[which]
        return Pairs(self.clean[which], self.corrupt[which], labels, self.pair_ids[which], changed, design, answers)

    def under(self, ablation: Ablation) -> Pairs:
        """The pairs as an ablation needs them: each clean image of a crossed task once where no partner is taken."""
        if self.design is None or ablation.kind == "partner":
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
