"""How many threads a model is run with: as many as there are only where they are faster than one.

Handing work over takes longer than the work itself where a model is small, and beside another busy process it always
may: then two threads take several times as long as one. Small models are run with one; of others one forward pass is
timed with one thread and with all, once in a process. What the user has set, in the environment or by
`torch.set_num_threads`, is left alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from .config import VitConfig

SMALL, LARGE = 1e7, 2e9
"""Products in a block, per image: below the one a model is small (65 tokens of width 128), above the other nothing is
timed and all threads are taken."""

GAIN = 1.1
"""All threads are taken where one takes this many times as long."""

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

_AT_START = torch.get_num_threads()
_best: dict[tuple[int, ...], int] = {}
"""What was found, by layers, tokens and width."""


def work(cfg: VitConfig) -> float:
    """Products of a block, per image."""
    return 12.0 * cfg.tokens.n_tokens * cfg.d_model**2


def is_small(cfg: VitConfig) -> bool:
    """Whether a block of the model takes less work than `SMALL`."""
    return work(cfg) < SMALL


@contextmanager
def suited_threads(cfg: VitConfig, run: Callable[[], object]) -> Iterator[None]:
    """As many threads as suit a model, inside the block; then as many as before.

    Args:
        cfg: The model's sizes.
        run: A short forward pass, which is timed where that has to decide.
    """
    before = torch.get_num_threads()
    if before == 1 or _is_chosen(before):
        yield
        return
    key = (cfg.n_layers, cfg.tokens.n_tokens, cfg.d_model)
    try:
        if key not in _best:
            best = 1 if is_small(cfg) else _faster(before, run) if work(cfg) < LARGE else before
            _best[key] = best
        torch.set_num_threads(_best[key])
        yield
    finally:
        torch.set_num_threads(before)


def _faster(threads: int, run: Callable[[], object]) -> int:
    """One thread, or as many as there are."""
    seconds = {}
    run()  # the first takes longer
    for number in (threads, 1):
        torch.set_num_threads(number)
        start = time.perf_counter()
        run()
        seconds[number] = time.perf_counter() - start
    return threads if seconds[1] > GAIN * seconds[threads] else 1


def _is_chosen(number: int) -> bool:
    """Whether the user chose the number of threads: else it is torch's own, one for each core or each two."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = number == _AT_START and number in (os.cpu_count(), cores, max(1, cores // 2))
    return not own or any(os.environ.get(name) for name in VARIABLES)
