"""Discovery and evaluation are held apart: no image of one, clean or partner, is a near-duplicate of one of the other.

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

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..models.errors import TaskError
from ..models.near_duplicates import copies
from .pairs import Pairs
from .partners.partner import CORRUPTIONS, SWAPS

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
