"""What is known of kinds of devices: how much at once suits them, how much they hold, and which kernels are taken.

What stands in a batch decides the last bits of what comes out of it. So sizes depend on the kind of device and on what
is passed, never on a clock, and a GPU's share of memory is taken in steps so coarse that it is the same the next time.

On a GPU some kernels add up in the order in which threads happen to come: `index_add` (which folds q, k and v of a head
into one destination), the backward pass of fused attention, `index_put` with accumulation (the backward pass of a table
that is looked up). A decision that hangs on such a sum could fall in another way when it is made again. `reproducible`
has PyTorch take their deterministic versions, and products in float32 proper in place of TF32's 10 bits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .processes import count, in_order
from .settings import DEFAULT_MEMORY

SHARE, STEPS = 0.6, 8
"""Of a GPU's memory: the share of what is free that a run may hold, and in how many steps that is rounded down."""


@dataclass(frozen=True)
class Pace:
    """How much at once suits a kind of device.

    Args:
        hidden_bytes: Hidden neurons of an MLP, of a batch of trials.
        piece_bytes: The same, of one product.
        source_bytes: What all sources write.
        chunk_bytes: Both factors of the sum over edges, if memory allows.
        batch_work: What a batch costs once, in operations that could be done meanwhile.
        batch_cost: The most that a batch is taken to cost once, in trials.
    """

    hidden_bytes: int
    piece_bytes: int
    source_bytes: int
    chunk_bytes: int
    batch_work: float
    batch_cost: float


CPU = Pace(
    hidden_bytes=12_000_000,
    piece_bytes=6_000_000,
    source_bytes=32_000_000,
    chunk_bytes=32_000_000,
    batch_work=1e8,
    batch_cost=2.0,
)
"""Measured: more hidden neurons are slower, since memory is asked for anew each time; the rest fits into a cache."""

GPU = Pace(
    hidden_bytes=1_000_000_000,
    piece_bytes=1_000_000_000,
    source_bytes=2**62,
    chunk_bytes=1_000_000_000,
    batch_work=3e11,
    batch_cost=64.0,
)
"""Estimated: some 1,500 kernels of a pass, 10 microseconds to start each, at 2e13 operations a second."""


def pace(device: torch.device) -> Pace:
    """What suits a device."""
    return CPU if device.type == "cpu" else GPU


def free_memory(device: str) -> int:
    """What a run may hold at once unless it is told: a share of what is free on a GPU, in steps of an eighth of it.

    Joined processes take what the one with the least has, as chunks must not differ between them.
    """
    return min(in_order(lambda _: share_of(*torch.cuda.mem_get_info(device)), range(count())))


def share_of(free: int, total: int) -> int:
    """The same from the bytes that are free, and that there are."""
    step = total // STEPS
    return max(int(SHARE * (free // step) * step), min(DEFAULT_MEMORY, total // STEPS))


@contextmanager
def reproducible() -> Iterator[None]:
    """Inside, a GPU's kernels add up in one order, and multiply in full float32; what was set is put back."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which cuBLAS refuses
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic: Any = torch.utils.deterministic
    filled = deterministic.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True)
        deterministic.fill_uninitialized_memory = False  # every buffer here is written before it is read
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = filled
