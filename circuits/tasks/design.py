"""The crossed design: clean images of two classes, each met by partners of both.

With clean images of the target and partners of the foil alone, a circuit that says "target" whatever it is shown cannot
be told from one that looks: both reach the full model's metric. So clean images x show the target or the foil, partners
x' too, and the pairs fall into four cells (class of x, class of x'). Three weightings of the pairs say what depends on
what; every cell counts the same, however many pairs it holds:

    mean             of all cells
    clean contrast   cells whose x shows the target less those whose x shows the foil
    partner contrast cells whose x' shows the target less those whose x' shows the foil

The clean contrast of a circuit's metric over that of the model's is its transmission (`transmission.py`). Partners that
are made from the clean image, and ablations that take no partner, leave two cells and no partner contrast.

Images stand at *places*: one of the target and one of the foil at each, which meet the same partners, and are met as
partners by the same clean images. So what a partner adds to both cancels in the clean contrast, place by place, and
what a clean image adds cancels in the partner contrast. Intervals draw places again, and a pair's weight follows both
of its images: w(x) + w(x') - w, to first order what the product of the two would do. (Drawn as clean images alone for T
and as partners alone for L, they leave out what depends on both: on a toy model T was held in 88 to 94%, L in 82 to
89%.) What belongs to a single pair counts twice, in either role, so where that is most of the noise, or each image
meets one partner, a nominal 95% is up to 99% (`tests/benchmarks/intervals.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from ...models.errors import TaskError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TARGET, FOIL, NEITHER = 1, 0, -1
SIDE_NAMES = {TARGET: "target", FOIL: "foil", NEITHER: "other"}


@dataclass(frozen=True, eq=False)
class Design:
    """Which image and which class stands on each side of each pair.

    Args:
        clean_side: 1 where the clean image shows the target, 0 the foil, -1 neither.
        partner_side: The same of the partner; -1 too where it is made from the clean image.
        clean_image: A number for each clean image; equal numbers are one image, also among `partner_image`.
        partner_image: Likewise for partners.
        right: Where the full model gives the clean image's own classes the highest logit.
        clean_place: The place of each clean image; each image has a place of its own by default.
        partner_place: The place of each partner.
        follows: Whether partners are made from, or chosen for, their clean image.

    Raises:
        TaskError: Lengths differ.
    """

    clean_side: Int[Tensor, " pair"]
    partner_side: Int[Tensor, " pair"]
    clean_image: Int[Tensor, " pair"]
    partner_image: Int[Tensor, " pair"]
    right: Bool[Tensor, " pair"]
    clean_place: Int[Tensor, " pair"] = None  # type: ignore[assignment]
    partner_place: Int[Tensor, " pair"] = None  # type: ignore[assignment]
    follows: bool = False

    def __post_init__(self) -> None:
        for name in ("clean", "partner"):
            if getattr(self, f"{name}_place") is None:
                object.__setattr__(self, f"{name}_place", getattr(self, f"{name}_image"))
        lengths = {len(values) for values in self._arrays()}
        if len(lengths) != 1:
            raise TaskError(f"the parts of a design have lengths {sorted(lengths)}: each needs one entry per pair.")

    def _arrays(self) -> tuple[Tensor, ...]:
        images = (self.clean_side, self.partner_side, self.clean_image, self.partner_image, self.right)
        return *images, self.clean_place, self.partner_place

    def __len__(self) -> int:
        return len(self.clean_side)

    def __repr__(self) -> str:
        cells = ", ".join(f"{name}: {int(found.sum())}" for name, found in self.cells())
        return f"Design of {len(self)} pairs of {self.n_images} clean images ({cells})"

    def select(self, which: Tensor | slice | list[int]) -> Design:
        """That of some of the pairs."""
        arrays = [values[which] for values in self._arrays()]
        return Design(*arrays[:5], clean_place=arrays[5], partner_place=arrays[6], follows=self.follows)

    @property
    def sign(self) -> Int[Tensor, " pair"]:
        """1 where a higher metric speaks for the clean image's class, -1 where a lower one does, 0 for neither."""
        return (self.clean_side == TARGET).long() - (self.clean_side == FOIL).long()

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides that clean images stand on, of target, foil and neither."""
        return tuple(side for side in (TARGET, FOIL, NEITHER) if bool((self.clean_side == side).any()))

    @property
    def sided(self) -> bool:
        """Whether both classes stand among the clean images, so that there is a clean contrast."""
        return {TARGET, FOIL} <= set(self.sides)

    @property
    def crossed(self) -> bool:
        """Whether both classes stand among the partners too."""
        return self.sided and {TARGET, FOIL} <= set(self.partner_side.tolist())

    @property
    def opposed(self) -> Bool[Tensor, " pair"]:
        """Pairs whose clean image and partner show different classes; all of them where partners have no class.

        Between two images of one class hardly anything differs that the metric speaks of, so effects of what a partner
        changes are taken over these pairs.
        """
        return (self.clean_side != self.partner_side) | (self.partner_side == NEITHER)

    @property
    def n_images(self) -> int:
        """Clean images."""
        return len(self.clean_image.unique())

    @property
    def counts(self) -> dict[str, int]:
        """Clean images that the model gets right (`target`, `foil`) and that it doesn't (`target_wrong`, ...)."""
        return {
            SIDE_NAMES[side] + end: len(self.clean_image[(self.clean_side == side) & (self.right == right)].unique())
            for side in (TARGET, FOIL)
            for end, right in (("", True), ("_wrong", False))
        }

    def cells(self) -> Iterator[tuple[str, Bools]]:
        """The cells that hold a pair: a name such as `foil_with_target` (clean first), and which pairs are in it."""
        for clean in (TARGET, FOIL, NEITHER):
            for partner in (TARGET, FOIL, NEITHER):
                found = ((self.clean_side == clean) & (self.partner_side == partner)).numpy()
                if found.any():
                    name = SIDE_NAMES[clean]
                    yield (f"{name}_with_{SIDE_NAMES[partner]}" if partner != NEITHER else name), found

    def balanced(self, counts: Floats) -> Floats:
        """Weights of the pairs, (..., pair), in which every cell adds up to the same and all cells to 1.

        Args:
            counts: How often each pair counts inside its cell, (..., pair); a cell that counts nowhere makes its
                pairs NaN.
        """
        weights, n_cells = np.zeros(counts.shape), 0
        for _, inside in self.cells():
            own = counts[..., inside]
            with np.errstate(invalid="ignore", divide="ignore"):
                weights[..., inside] = own / own.sum(-1, keepdims=True)
            n_cells += 1
        return weights / n_cells

    def contrast(self, weights: Floats) -> Floats:
        """The clean contrast: weights of pairs that add up to 1 over target and to -1 over foil clean images."""
        return _contrast(weights, self.clean_side.numpy())

    def partner_contrast(self, weights: Floats) -> Floats:
        """The partner contrast, likewise."""
        return _contrast(weights, self.partner_side.numpy())

    def place_counts(self, n: int, seed: int) -> tuple[Floats, Floats]:
        """How often each pair's clean image and partner are drawn in `n` bootstrap draws, each of shape (draw, pair).

        Places are drawn with replacement, those that are alike in their sides and in serving as clean images, as
        partners or as both, among themselves: an image that serves as both is one image. A partner that was made from
        or chosen for its clean image goes with it.
        """
        clean, partner = self.clean_place.numpy(), self.partner_place.numpy()
        kinds: dict[int, set[tuple[str, int]]] = {}
        for role, places, sides in (("clean", clean, self.clean_side), ("partner", partner, self.partner_side)):
            for place, side in zip(places.tolist(), sides.tolist(), strict=True):
                if role == "clean" or not self.follows:
                    kinds.setdefault(place, set()).add((role, side))
        counts, rng, known = np.zeros((n, len(kinds))), np.random.default_rng(seed), list(kinds)
        for kind in dict.fromkeys(frozenset(kinds[place]) for place in known):
            inside = np.array([frozenset(kinds[place]) == kind for place in known])
            size = int(inside.sum())
            counts[:, inside] = rng.multinomial(size, np.full(size, 1 / size), size=n)
        column = {place: at for at, place in enumerate(known)}
        of_clean = counts[:, [column[place] for place in clean.tolist()]]
        return of_clean, of_clean if self.follows else counts[:, [column[place] for place in partner.tolist()]]


def _contrast(weights: Floats, side: NDArray[np.int64]) -> Floats:
    found = np.zeros(weights.shape)
    for value, sign in ((TARGET, 1.0), (FOIL, -1.0)):
        inside = side == value
        own = weights[..., inside]
        with np.errstate(invalid="ignore", divide="ignore"):
            found[..., inside] = sign * own / own.sum(-1, keepdims=True)
    return found


def one_partner_each(design: Design) -> Int[Tensor, " chosen"]:
    """One pair of each clean image, the first, for ablations that take no partner."""
    seen: dict[int, int] = {}
    for row, image in enumerate(design.clean_image.tolist()):
        seen.setdefault(image, row)
    return torch.tensor(list(seen.values()), device="cpu")
