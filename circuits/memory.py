"""How much fits into memory: the one formula by which everything decides how many pairs it holds at once.

A pair of images takes so many arrays of a residual's size (token x model), of an MLP's hidden neurons (token x d_mlp),
of patterns (head x token x token), and so many numbers beside. Callers say how many of each they hold.

What is asked for pairs never gets none: one pair at least is held, whatever the budget. So that this keeps the budget,
whoever starts says first what it will ask (`require_memory`), and is refused if one pair is too much.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import ContextVar

import torch

from ..models.errors import MemoryTooSmallError
from ..models.hooked import HookedViT
from ..models.threads import work
from .graph import first_head

Count = float | int

_asked: ContextVar[list[bool] | None] = ContextVar("asked", default=None)  # whether each question found room

CHUNKS = 8
"""Pairs are cut into so many chunks or more, which as many processes can share."""

LEAST_WORK = 2e9
"""Products of a plain forward pass that a chunk is worth: smaller models take more pairs at once.

Two pairs of DeiT-Tiny, of a larger model one. What chunks cost beside one batch of all pairs, by EAP's processor time:
a fifth at 1e8 (the digits' toy), an eighth at 1e9 (DeiT-Tiny), a twentieth at 2e9."""


def element_bytes(vit: HookedViT) -> int:
    """Bytes of a number in the model's dtype."""
    return torch.finfo(vit.sum_dtype).bits // 8


def width_of(vit: HookedViT, width: int) -> int:
    """Bytes of one pair's array of so many numbers for each token."""
    return element_bytes(vit) * vit.cfg.tokens.n_tokens * max(1, width)


def bytes_of_pair(
    vit: HookedViT,
    *,
    residuals: Count = 0,
    hidden: Count = 0,
    patterns: Count = 0,
    numbers: Count = 0,
) -> float:
    """Bytes that a pair takes.

    Args:
        vit: The opened model.
        residuals: Arrays (token, model).
        hidden: Arrays (token, d_mlp).
        patterns: Arrays (head, token, token).
        numbers: Numbers beside.
    """
    cfg, n_tokens = vit.cfg, vit.cfg.tokens.n_tokens
    floats = n_tokens * (residuals * cfg.d_model + hidden * cfg.d_mlp) + patterns * cfg.n_heads * n_tokens**2 + numbers
    return float(floats * element_bytes(vit))


def pairs_within(
    vit: HookedViT,
    memory: float | int,
    *,
    residuals: Count = 0,
    hidden: Count = 0,
    patterns: Count = 0,
    numbers: Count = 0,
) -> int:
    """Pairs that fit into `memory` bytes; at least 1. See `bytes_of_pair`."""
    each = max(1.0, bytes_of_pair(vit, residuals=residuals, hidden=hidden, patterns=patterns, numbers=numbers))
    note_room(memory >= each)
    return max(1, int(memory // each))


def batch_size_for(vit: HookedViT, memory: int, copies: float | int = 1.0) -> int:
    """Pairs that fit into `memory` bytes when `copies` arrays of all sources are held at once; at least 1."""
    sources = first_head(vit.cfg, vit.cfg.n_layers)
    return pairs_within(vit, memory, residuals=copies * sources + 12 * vit.cfg.n_heads, patterns=12)


def chunk_size(vit: HookedViT, n_pairs: int, most: int) -> int:
    """Pairs in a chunk, which one process computes at once (`models/processes`); it knows not how many there are.

    Args:
        vit: The opened model.
        n_pairs: How many there are.
        most: Pairs that fit into memory.
    """
    worth = math.ceil(LEAST_WORK / (work(vit.cfg) * vit.cfg.n_layers))
    size = max(1, min(most, max(worth, math.ceil(n_pairs / CHUNKS))))
    return math.ceil(n_pairs / max(1, math.ceil(n_pairs / size)))


def note_room(enough: bool) -> None:
    """Notes whether a budget holds what is needed at once, for whoever asks beforehand."""
    asked = _asked.get()
    if asked is not None:
        asked.append(enough)


def require_memory(memory: int, what: str, *sizes: Callable[[int], object], least: int = 0) -> None:
    """Does nothing if a budget is enough.

    Args:
        memory: The budget, in bytes.
        what: What it is for, such as `acdc of 32 pairs on deit_tiny_patch16_224`.
        sizes: What will be asked of a budget: functions of bytes that call `pairs_within` and the like.
        least: What something else needs that comes before or after.

    Raises:
        MemoryTooSmallError: It is not; it says the least that is.
    """
    if memory >= least and _has_room(memory, sizes):
        return
    enough = max(1, least)
    while not _has_room(enough, sizes):
        enough *= 2
    low = max(least, enough // 2)
    while enough - low > 1:
        middle = (low + enough) // 2
        low, enough = (low, middle) if _has_room(middle, sizes) else (middle, enough)
    raise MemoryTooSmallError(
        f"memory={memory} bytes don't hold {what}: pass memory={enough} or more, or a smaller model.", enough
    )


def _has_room(memory: int, sizes: tuple[Callable[[int], object], ...]) -> bool:
    found: list[bool] = []
    before = _asked.set(found)
    try:
        for size in sizes:
            size(memory)
    finally:
        _asked.reset(before)
    return all(found)
