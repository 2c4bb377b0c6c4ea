"""What a test on outputs counts: the pairs of a one-sided task, the clean images of a crossed one.

On a crossed task a clean image stands in several pairs, and these are not independent: counted one by one they would
make few images look like many. So an image counts once, by its mean over its partners, those of either class alike.
Images that meet the same partners are still tied together as far as the circuit leaks; where images are shuffled, those
at one place (`design.py`) stay together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..design import Design
from ..pairs import Pairs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Units:
    """The units of some pairs.

    Args:
        of_pair: The unit of each pair, 0, 1, ..., shape (pair,).
        weights: Of each pair in each unit's mean, shape (unit, pair).
        sign: 1 where a higher output speaks for what the unit's image shows, -1 where a lower one does, shape (unit,).
        place: Where each unit's image stands, shape (unit,).
        words: What they are.
    """

    of_pair: Ints
    weights: Floats
    sign: Ints
    place: Ints
    words: str

    @classmethod
    def of(cls, pairs: Pairs) -> Units:
        """Those of a task's pairs."""
        if pairs.design is None:
            each = np.arange(len(pairs))
            return cls(each, np.eye(len(pairs)), np.ones(len(pairs), dtype=np.int64), each, "pairs")
        design = pairs.design
        _, first, unit = np.unique(design.clean_image.numpy(), return_index=True, return_inverse=True)
        sign, place = design.sign.numpy()[first], design.clean_place.numpy()[first]
        return cls(unit.astype(np.int64), _weights(design, unit), sign, place, "clean images")

    def __len__(self) -> int:
        return len(self.sign)

    def means(self, values: Floats) -> Floats:
        """The mean of each unit, (..., pair) -> (..., unit)."""
        return values @ self.weights.T


def _weights(design: Design, unit: NDArray[np.intp]) -> Floats:
    """Partners of a class add up to the same for every class that the image meets."""
    inside = unit == np.arange(unit.max() + 1)[:, None]
    found = np.zeros(inside.shape)
    for side in set(design.partner_side.tolist()):
        own = inside & (design.partner_side.numpy() == side)
        found += own / np.maximum(own.sum(-1, keepdims=True), 1)
    return found / found.sum(-1, keepdims=True)
