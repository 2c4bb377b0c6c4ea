"""What can be said about a sprite: "a large red heart in the upper left", and which word of each kind is true of it."""

from collections.abc import Collection
from itertools import product

import numpy as np
from jaxtyping import Int64

from ..errors import DataError
from .sprites import CENTRES, COLOURS, SCALES, SHAPES, SpriteFactors

SIZES = ("small", "large")
PLACES = ("in the upper left", "in the upper right", "in the lower left", "in the lower right")
# the order in which a caption says them
FACETS = {"size": SIZES, "colour": tuple(COLOURS), "shape": SHAPES, "place": PLACES}


def caption(*, shape: str, size: str = "", colour: str = "", place: str = "") -> str:
    """One caption of its parts; what is left out is not said."""
    return " ".join(part for part in ("a", size, colour, shape, place) if part)


def captions(factors: SpriteFactors, *, said: Collection[str] = tuple(FACETS)) -> tuple[str, ...]:
    """What is true of each image.

    Args:
        factors: Of the images.
        said: The facets that captions speak of; the shape is always named.
    """
    facets = facet_labels(factors)
    kept = [facet for facet in FACETS if facet in said or facet == "shape"]
    rows = zip(*(facets[facet].tolist() for facet in kept), strict=True)
    return tuple(caption(**{f: FACETS[f][i] for f, i in zip(kept, row, strict=True)}) for row in rows)


def facet_labels(factors: SpriteFactors) -> dict[str, Int64[np.ndarray, " image"]]:
    """For each facet, the index of the phrase that is true of each image.

    Size is by halves of the scales that occur, place by halves of the columns and rows in which centres can lie.
    """
    return {
        "size": _half(factors.scale, SCALES),
        "colour": factors.colour,
        "shape": factors.shape,
        "place": 2 * _half(factors.y, CENTRES) + _half(factors.x, CENTRES),
    }


def all_captions() -> tuple[str, ...]:
    """Every caption that says everything, 288 of them."""
    return tuple(caption(**dict(zip(FACETS, parts, strict=True))) for parts in product(*FACETS.values()))


def captions_saying(facet: str, phrase: str) -> tuple[str, ...]:
    """Every caption that says everything, and the phrase in it: what zero-shot prompts are averaged over.

    Raises:
        DataError: There is no such facet or phrase.
    """
    if phrase not in FACETS.get(facet, ()):
        said = "; ".join(f"{name}: {', '.join(names)}" for name, names in FACETS.items())
        raise DataError(f"Captions of sprites say nothing like {facet}={phrase!r}. They say {said}.")
    choices = {**FACETS, facet: (phrase,)}
    return tuple(caption(**dict(zip(choices, parts, strict=True))) for parts in product(*choices.values()))


def _half(values: np.ndarray, ends: tuple[float, float]) -> Int64[np.ndarray, " image"]:
    return (values >= (ends[0] + ends[1]) / 2).astype(np.int64)
