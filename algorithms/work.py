"""What a computation costs, in forward passes' worth of work.

Work is counted in floating-point operations of matrix products, convolutions and attention, forward and backward,
wherever they happen, over those of one plain forward pass of the task's model on all its discovery pairs. So neither
what an algorithm leaves out (a last block's unread tokens) nor what it adds is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper

from ..circuits.tasks.task import Task


@dataclass
class Work:
    """Forward passes' worth of work, known once the block that counts it has ended."""

    runs: float = 0.0


@contextmanager
def counted_work(task: Task) -> Iterator[Work]:
    """Counts what runs inside the block, in forward passes of the task's model over all discovery pairs."""
    work = Work()
    with _Counter() as counter:
        yield work
    with torch.no_grad(), _Counter() as one:
        task.vit(task.searched.clean[:1])
    work.runs = counter.total / (one.total * len(task.searched))


class _Counter(TorchDispatchMode):
    """Sums up torch's own formulas. Its `FlopCounterMode` also tracks modules, which fails inside `autograd.grad`."""

    def __init__(self) -> None:
        super().__init__()
        aten = torch.ops.aten
        self.total = 0
        self._formulas: dict[Any, Callable[..., int]] = {  # torch counts fused attention on GPUs; this adds the CPU's
            **flop_registry,
            aten._scaled_dot_product_flash_attention_for_cpu: shape_wrapper(_attention),
            aten._scaled_dot_product_flash_attention_for_cpu_backward: shape_wrapper(_attention_backward),
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = self._formulas.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: object, **__: object) -> int:
    return 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _attention_backward(
    gradient: Sequence[int], q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: object, **__: object
) -> int:
    return 2 * prod(q[:-1]) * k[-2] * (3 * q[-1] + 2 * v[-1])  # scores again; to q and k; to weights and v
