"""What a computation costs, in forward passes' worth of work.

Work is counted in floating-point operations of matrix products, convolutions and attention, forward and backward,
wherever they happen, over those of one plain forward pass of the task's model on all its discovery pairs. So neither
what an algorithm leaves out (a last block's unread tokens) nor what it adds is missed. Memory is counted in bytes of
tensors, from the operation that makes one until nothing holds it: the same on every machine, without what an allocator
keeps, and without what an operation takes and gives back inside.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
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


@dataclass
class Held:
    """Bytes of the tensors made inside a block that were held at once, at most."""

    peak: int = 0


@contextmanager
def counted_memory() -> Iterator[Held]:
    """Counts the bytes of tensors that are made inside the block and held at the same time."""
    held = Held()
    gc.collect()
    with _Storages(held):
        yield held


class _Storages(TorchDispatchMode):
    """Every storage that an operation makes is counted until it is gone."""

    def __init__(self, held: Held) -> None:
        super().__init__()
        self._held, self._now = held, 0
        self._known: dict[int, Any] = {}  # address of a storage -> what tells when it is gone

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given: set[int] | None = None
        for storage in _storages(out):
            if storage._cdata in self._known:
                continue
            given = {own._cdata for own in _storages((args, kwargs))} if given is None else given
            if storage._cdata not in given:  # else a view of what was there before
                self._take(storage)
        return out

    def _take(self, storage: Any) -> None:
        address, size = storage._cdata, storage.nbytes()

        def gone(_: object) -> None:
            self._now -= size
            del self._known[address]

        self._known[address] = weakref.ref(storage, gone)
        self._now += size
        self._held.peak = max(self._held.peak, self._now)


def _storages(values: object) -> Iterator[Any]:
    return (leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))


def _attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: object, **__: object) -> int:
    return 2 * prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _attention_backward(
    gradient: Sequence[int], q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: object, **__: object
) -> int:
    return 2 * prod(q[:-1]) * k[-2] * (3 * q[-1] + 2 * v[-1])  # scores again; to q and k; to weights and v
