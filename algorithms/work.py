"""What a computation costs, in forward passes' worth of work.

Work is counted in floating-point operations of matrix products, convolutions and attention, forward and backward,
wherever they happen, over those of one plain forward pass of the task's model on all its discovery pairs. So neither
what an algorithm leaves out (a last block's unread tokens) nor what it adds is missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..circuits.task import Task


@dataclass
class Work:
    """Forward passes' worth of work, known once the block that counts it has ended."""

    runs: float = 0.0


@contextmanager
def counted_work(task: Task) -> Iterator[Work]:
    """Counts what runs inside the block, in forward passes of the task's model over all discovery pairs."""
    work = Work()
    with _counter() as counter:
        yield work
    with torch.no_grad(), _counter() as one:
        task.vit(task.discovery.clean[:1])
    work.runs = counter.get_total_flops() / (one.get_total_flops() * len(task.discovery))


def _attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: object, **__: object) -> int:
    return 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _attention_backward(
    gradient: Sequence[int], q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: object, **__: object
) -> int:
    return 2 * prod(q[:-1]) * k[-2] * (3 * q[-1] + 2 * v[-1])  # scores again; to q and k; to weights and v


def _counter() -> FlopCounterMode:
    """torch counts fused attention on GPUs; this adds the CPU's."""
    aten = torch.ops.aten
    ours = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=ours)
