"""Crossed pairs drawn from a split: clean images of target and foil, each met by partners of both (`design.py`).

1. As many images of each class are drawn as were asked for, and the model reads them.
2. Of those that it gets right, equally many of each class are kept, one of each at every place. They are the partners,
   too: both images at a place meet the partners of both classes at the `n_partners` places after it, in a circle. So
   every image is a partner equally often in every cell, none is its own, and with no edge kept the clean image's class
   makes no difference.
3. The model's mistakes are kept where they are wanted, as further clean images that meet the same partners.

Partners made from the clean image stand in for themselves (`follows`), `another` draws them from all classes and the
same ones for both sides, and `nearest` takes the images of each class whose last residual is most like the clean one's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...models.data import Split
from ...models.errors import TaskError
from ...models.watching import progress_bar
from ..partners.partner import changed_tokens, corrupt_pixels
from .classes import image_labels
from .design import FOIL, NEITHER, TARGET, Design
from .pair_maker import ImageDrawer, Rows, UsableMasks, foil_word, image_names
from .task import Pairs

MOST_OTHERS = 64  # images of third classes that a circuit is judged on
BATCH = 32


@dataclass(frozen=True, eq=False)
class CrossedDraw:
    """Crossed pairs of one split.

    Args:
        pairs: The pairs.
        images: How many images of each class stand in them: `target`, `foil`, and the model's mistakes among those
            that were drawn, `target_wrong` and `foil_wrong`; `no_mask` where some had no usable mask.
        mask_digest: sha256 over their masks, in hexadecimal; empty without masks.
        partners: Rows of the split that serve as partners, by side.
    """

    pairs: Pairs
    images: dict[str, int]
    mask_digest: str = ""
    partners: dict[int, Rows] = field(default_factory=dict)

    @property
    def dropped(self) -> dict[str, int]:
        """How many images the model gets wrong, and how many have no usable mask."""
        wrong = {"clean_wrong": self.images["target_wrong"] + self.images["foil_wrong"]}
        return wrong | ({"no_mask": self.images["no_mask"]} if "no_mask" in self.images else {})


@dataclass(frozen=True, eq=False)
class Crossing(ImageDrawer):
    """Draws crossed pairs."""

    NO_MASK: ClassVar[str] = (
        ' A crossed task needs masks of both classes; with masks of the target alone, pass sides="one".'
    )
    NO_IMAGE: ClassVar[str] = (
        " A crossed task needs images of both classes; with images of one, choose partners that are made from the "
        'image, such as corruption="blur".'
    )

    @cached_property
    def labels(self) -> dict[int, tuple[int, ...]]:
        """The data's labels of each side; of data of one class, where partners are made from the image, of one side.

        Raises:
            TaskError: The data has no images of a class that partners show, or of neither.
        """
        found, lacking = {}, []
        for side, classes, what in zip((TARGET, FOIL), self.classes, ("target", "foil"), strict=True):
            try:
                found[side] = image_labels(classes, self.data, self.vit, what=what)
            except TaskError as error:
                lacking.append(error)
        shown = set(torch.cat([self.data.train.labels, self.data.test.labels]).tolist())
        if self.partner.aligned and len(shown) == 1 and (own := {s: ls for s, ls in found.items() if shown & {*ls}}):
            return own
        if lacking:
            raise lacking[0]
        return found

    def pairs(self, split: Split, n: int, *, stream: int, n_partners: int, mistakes: bool) -> CrossedDraw:
        """Pairs of at most n images of each class.

        Args:
            split: Where images are drawn from.
            n: Images of each class at most.
            stream: Tells discovery and evaluation apart.
            n_partners: Partners of each class that a clean image meets; fewer where there are fewer images.
            mistakes: Whether images that the model gets wrong are clean images too.

        Raises:
            TaskError: A class has too few images, or too few that the model gets right.
        """
        if n < 1 or n_partners < 1:
            raise TaskError(f"{n} images a side and {n_partners} partners a side were asked for: pass at least 1.")
        generator = torch.Generator().manual_seed(self.seed * 10 + stream)
        drawn, counts = {}, {}
        for side, labels in self.labels.items():
            own, name = (
                torch.isin(split.labels, torch.tensor(labels, device="cpu")),
                self.classes[0 if side == TARGET else 1].name,
            )
            drawn[side] = self._draw(split, own, generator, name)[:n]
        masks = self._masks(split, torch.cat(list(drawn.values())), counts)
        drawn = {side: rows[torch.isin(rows, masks.rows)] for side, rows in drawn.items()} if masks else drawn
        right = {side: rows[self._right(split, rows, side)] for side, rows in drawn.items()}
        n_right = self._enough(drawn, right)
        kept = {side: rows[:n_right] for side, rows in right.items()}
        for side, name in ((TARGET, "target"), (FOIL, "foil")):
            wrong = len(drawn[side]) - len(right[side]) if side in drawn else 0
            counts |= {name: n_right if side in drawn else 0, f"{name}_wrong": wrong}
        clean = list(kept.items())
        if mistakes:
            clean += [(side, rows[~torch.isin(rows, right[side])]) for side, rows in drawn.items()]
        jobs = self._meetings(split, clean, kept, n_partners, generator)
        return CrossedDraw(self._made(split, jobs, masks, generator), counts, masks.digest if masks else "", kept)

    def others(self, split: Split, met: CrossedDraw, *, n_partners: int) -> Pairs | None:
        """Clean images of third classes, met by the partners of other pairs; None where the data have none."""
        own = [label for labels in self.labels.values() for label in labels]
        allowed = ~torch.isin(split.labels, torch.tensor(own, device="cpu"))
        for masks in filter(None, (self.partner.masks, self.objects)):
            allowed &= torch.tensor([masks.has(name, self.data) for name in image_names(split)], device="cpu")
        generator = torch.Generator().manual_seed(self.seed * 10 + 3)
        rows = torch.nonzero(allowed).flatten()
        rows = rows[torch.randperm(len(rows), generator=generator, device="cpu")[:MOST_OTHERS]]
        masks = self._masks(split, rows, {}) if len(rows) else None
        rows = masks.rows if masks else rows
        if not len(rows):
            return None
        jobs = self._meetings(split, [(NEITHER, rows)], met.partners, n_partners, generator)
        return self._made(split, jobs, masks, generator)

    def _right(self, split: Split, rows: Rows, side: int) -> Bool[Tensor, " image"]:
        """Where the model's highest logit is of the image's own classes."""
        own = torch.tensor(self.classes[0 if side == TARGET else 1].indices, device="cpu")
        top = []
        with torch.no_grad(), progress_bar("asking the model", len(rows), unit="image") as bar:
            for some in rows.split(BATCH):
                top.append(self.vit(split.images[some]).argmax(-1).cpu())
                bar.update(len(some))
        return torch.isin(torch.cat(top), own) if top else torch.zeros(0, dtype=torch.bool, device="cpu")

    def _enough(self, drawn: dict[int, Rows], right: dict[int, Rows]) -> int:
        n_right = min(map(len, right.values()))
        least = 2 if self.partner.kind in ("class_swap", "nearest") else 1
        if n_right < least:
            said = ", ".join(
                f"{len(right[side])} of {len(drawn[side])} images of {self.classes[place].name!r}"
                for place, side in enumerate((TARGET, FOIL))
                if side in drawn
            )
            raise TaskError(
                f"the model gets {said} right, and a crossed task needs at least {least} of each class. Check that "
                f"data and model fit, and that target and foil are the model's classes; or pass more images, or "
                f'sides="one" to ask about the target alone.'
            )
        return n_right

    # Who meets whom.

    def _meetings(
        self,
        split: Split,
        clean: list[tuple[int, Rows]],
        partners: dict[int, Rows],
        n_partners: int,
        generator: torch.Generator,
    ) -> list[tuple[int, int, int, int]]:
        """(clean row, its side, partner row, its side) of each pair, one clean image after the other."""
        match self.partner.kind:
            case "class_swap":
                return in_circles(clean, partners, n_partners)
            case "nearest":
                return self._nearest(split, clean, partners)
            case "another":
                return self._any(split, clean, n_partners, generator)
            case _:
                return [(row, side, row, NEITHER) for side, rows in clean for row in rows.tolist()]

    def _any(
        self, split: Split, clean: list[tuple[int, Rows]], n_partners: int, generator: torch.Generator
    ) -> list[tuple[int, int, int, int]]:
        """Partners of any class but images that are clean ones, the same for both sides."""
        used = torch.cat([rows for _, rows in clean])
        rows = torch.arange(len(split), device="cpu")
        free = rows[~torch.isin(rows, used)]
        pool = free if len(free) else rows
        pool = pool[torch.randperm(len(pool), generator=generator, device="cpu")].tolist()
        found = []
        for side, own in clean:
            for place, row in enumerate(own.tolist()):
                others = [other for other in pool if other != row]
                found += [
                    (row, side, others[(place * n_partners + k) % len(others)], NEITHER) for k in range(n_partners)
                ]
        return found

    def _nearest(
        self, split: Split, clean: list[tuple[int, Rows]], partners: dict[int, Rows]
    ) -> list[tuple[int, int, int, int]]:
        """The most similar image of each class, by the cosine of what the readout reads; never the image itself."""
        found = []
        known = {side: self._seen(split, rows) for side, rows in partners.items()}
        for side, rows in clean:
            if not len(rows):
                continue
            for row, own in zip(rows.tolist(), self._seen(split, rows), strict=True):
                for other, pool in partners.items():
                    alike = known[other] @ own
                    alike[pool == row] = -float("inf")
                    found.append((row, side, int(pool[int(alike.argmax())]), other))
        return found

    def _seen(self, split: Split, rows: Rows) -> Tensor:
        """The residual that the readout reads, as unit vectors, (image, feature)."""
        seen = []
        with torch.no_grad(), self.vit.borrowed():
            for some in rows.split(BATCH):
                images = self.vit.check_images(split.images[some])
                last = self.vit.run_blocks(self.vit.embed(images))
                seen.append(self.vit.readout.select(last).flatten(1).double().cpu())
        return torch.nn.functional.normalize(torch.cat(seen), dim=-1)

    # What they look like.

    def _made(
        self,
        split: Split,
        jobs: list[tuple[int, int, int, int]],
        masks: UsableMasks | None,
        generator: torch.Generator,
    ) -> Pairs:
        """The pairs of some meetings."""
        clean, side, other, other_side = (torch.tensor(column, device="cpu") for column in zip(*jobs, strict=True))
        images, follows = split.images[clean], self.partner.kind not in ("class_swap", "another")
        changed = None
        if self.partner.aligned:
            corrupt = self._changed(images, side, None if masks is None else masks.of(clean), generator)
            changed, partner_image = changed_tokens(self.vit.cfg, images, corrupt), clean
        else:
            corrupt, partner_image = split.images[other], other
        right = torch.zeros(len(clean), dtype=torch.bool, device="cpu")
        for value in (TARGET, FOIL):
            inside = torch.nonzero(side == value).flatten()
            rows, place = clean[inside].unique(return_inverse=True)
            if len(rows):
                right[inside] = self._right(split, rows, value)[place]
        places = _places(clean, side)
        at = torch.tensor([places[key] for key in zip(clean.tolist(), side.tolist(), strict=True)], device="cpu")
        partner_at = self._partner_places(places, other, other_side, at)
        design = Design(side, other_side, clean, partner_image, right, at, partner_at, follows)
        labels, ids, objects = (
            split.labels[clean],
            torch.arange(len(clean), device="cpu"),
            self._objects(split, clean, partner_image),
        )
        return Pairs(images, corrupt, labels, ids, changed, design, objects=objects)

    def _partner_places(
        self, places: dict[tuple[int, int], int], other: Tensor, other_side: Tensor, at: Tensor
    ) -> Int[Tensor, " pair"]:
        """Places of partners: their own as clean images; else one for each image, after all of those."""
        if self.partner.aligned:
            return at
        found, free = [], len(places)
        for image, side in zip(other.tolist(), other_side.tolist(), strict=True):
            own = next((places[image, known] for known in (side, TARGET, FOIL) if (image, known) in places), None)
            found.append(free + image if own is None else own)
        return torch.tensor(found, device="cpu")

    def _changed(self, images: Tensor, side: Tensor, masks: Tensor | None, generator: torch.Generator) -> Tensor:
        """Partners made from the clean images: a word names the other class, unless it was chosen."""
        mean, found = self.data.train.images.mean(0), torch.empty_like(images)
        for value in dict.fromkeys(side.tolist()):
            rows = torch.nonzero(side == value).flatten()
            word = foil_word(self.vit, self.classes[1 if value != FOIL else 0])
            found[rows] = corrupt_pixels(
                self.partner,
                images[rows],
                self.vit.cfg,
                mean,
                generator,
                masks=None if masks is None else masks[rows],
                preprocess=self.vit.preprocess,
                word=word,
            )
        return found


def in_circles(
    clean: list[tuple[int, Rows]], partners: dict[int, Rows], n_partners: int
) -> list[tuple[int, int, int, int]]:
    """The clean image at each place of its side meets the partners at the places after it, of both sides."""
    found, pools = [], {side: rows.tolist() for side, rows in partners.items()}
    places: dict[int, int] = {}
    for side, rows in clean:
        for row in rows.tolist():
            place = places[side] = places.get(side, -1) + 1
            for other, pool in pools.items():
                n = min(n_partners, len(pool) - 1) or 1
                found += [(row, side, pool[(place + 1 + k) % len(pool)], other) for k in range(n)]
    return found


def _places(images: Rows, sides: Tensor) -> dict[tuple[int, int], int]:
    """(image, side) -> its place among the images of its side, in the order in which they come."""
    places: dict[tuple[int, int], int] = {}
    counts: dict[int, int] = {}
    for image, side in zip(images.tolist(), sides.tolist(), strict=True):
        if (image, side) not in places:
            places[image, side] = counts.get(side, 0)
            counts[side] = counts.get(side, 0) + 1
    return places
