"""How many threads a model is run with: one where it is so small that handing work over takes longer than the work.

Two threads take several times as long as one for a toy, the more so beside another process. What the user has set, in
the environment or by `torch.set_num_threads`, is left alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .config import VitConfig

SMALL = 10_000_000
"""Products in a block, per image, below which one thread is used: about 65 tokens of width 128."""

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

_AT_START = torch.get_num_threads()


def is_small(cfg: VitConfig) -> bool:
    """Whether a block of the model takes less work than `SMALL`."""
    return 12 * cfg.tokens.n_tokens * cfg.d_model**2 < SMALL


@contextmanager
def suited_threads(cfg: VitConfig) -> Iterator[None]:
    """As many threads as suit a model, inside the block; then as many as before."""
    before = torch.get_num_threads()
    if before == 1 or not is_small(cfg) or _is_chosen(before):
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_chosen(number: int) -> bool:
    """Whether the user chose the number of threads: else it is torch's own, one for each core or each two."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = number == _AT_START and number in (os.cpu_count(), cores, max(1, cores // 2))
    return not own or any(os.environ.get(name) for name in VARIABLES)
