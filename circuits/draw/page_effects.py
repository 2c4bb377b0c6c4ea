"""Patch effects in a page: pictures that need no script, and numbers that `page/effects.js` lays over the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .image_maps import effect_image, effect_map
from .images import THUMBNAIL, png_uri
from .strokes import number

if TYPE_CHECKING:
    from ..figure_data import Exhibit
    from ..patch_effects import PatchEffects


def effects_data(effects: PatchEffects | None, keys: Sequence[str]) -> dict[str, Any] | None:
    """Means with their intervals, and the effects on single images, circuit and full model, patch by patch.

    Args:
        effects: What was measured.
        keys: `Exhibit.keys` of the page's images; those that were not measured have None.
    """
    if effects is None:
        return None
    return {
        "grid": effects.grid,
        "unit": effects.unit,
        "n_pairs": effects.n_pairs,
        "subjects": [one.subject for one in effects.subjects],
        "mean": [
            {name: _numbers(values) for name, values in one.measured().items() if name in ("effect", "low", "high")}
            for one in effects.subjects
        ],
        "images": [_of_image(effects.of_image(key)) for key in keys],
    }


def _of_image(effects: PatchEffects | None) -> dict[str, Any] | None:
    """Effects on one clean image; over its partners, where it met several."""
    if effects is None:
        return None
    return {"n_pairs": effects.n_pairs, "effect": [_numbers(one.effect) for one in effects.subjects]}


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [float(f"{one:.4g}") if np.isfinite(one) else None for one in values.ravel().tolist()]


def effects_gallery(effects: PatchEffects, exhibit: Exhibit | None) -> dict[str, Any]:
    """Pictures, circuit beside full model, as (URI, caption), of the mean and of the page's images: `pairs`, `note`.

    Args:
        effects: What was measured.
        exhibit: The page's images; those that were not measured are left out.
    """
    pairs = [_pictures(effects, None, f"mean over {effects.n_pairs} pairs")]
    for at, key in enumerate(() if exhibit is None else exhibit.keys):
        single = effects.of_image(key)
        if single is not None:
            stride = max(1, max(single.images.shape[1:3]) // THUMBNAIL)
            pairs.append(_pictures(single, single.images[0, ::stride, ::stride], f"image {at + 1}"))
    caveat = effects.caveat
    return {"pairs": pairs, "note": f"{caveat[0].upper()}{caveat[1:]}."}


def _pictures(effects: PatchEffects, image: NDArray[np.floating] | None, name: str) -> list[tuple[str, str]]:
    values = [one.effect for one in effects.subjects]
    largest = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    said = f"full colour: {number(largest)} {effects.unit}"
    return [
        (
            png_uri(effect_map(own, largest) if image is None else effect_image(image, own, largest)),
            f"{name}, {one.subject}; {said}",
        )
        for one, own in zip(effects.subjects, values, strict=True)
    ]
