"""How much fits into memory: the one formula by which everything decides how many pairs it holds at once.

A pair of images takes so many arrays of a residual's size (token x model), of an MLP's hidden neurons (token x d_mlp),
of patterns (head x token x token), and so many numbers beside. Callers say how many of each they hold.
"""

from __future__ import annotations

import math

import torch

from ..models.hooked import HookedViT
from ..models.threads import work
from .graph import first_head

Count = float | int

CHUNKS = 8
"""Pairs are cut into so many chunks or more, which as many processes can share."""

LEAST_WORK = 1e8
"""Products of a plain forward pass that a chunk is worth: smaller models take more pairs at once."""


def element_bytes(vit: HookedViT) -> int:
    """Bytes of a number in the model's dtype."""
    return torch.finfo(vit.dtype).bits // 8


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
    each = bytes_of_pair(vit, residuals=residuals, hidden=hidden, patterns=patterns, numbers=numbers)
    return max(1, int(memory // max(each, 1.0)))


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
