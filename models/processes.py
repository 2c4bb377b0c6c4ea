"""One computation on several processes: all take the same steps, and the work between them is shared out.

Every process runs the same program on the same data. Where it comes to a list of jobs, such as chunks of pairs of
images, job i is done by process i mod N alone, and all are handed every result, in the jobs' order. So all add up the
same numbers in the same order, and decide the same from the same bits, on any number of processes: as long as no job
depends on that number.

`torchrun` starts processes, and `joined` lets them find one another; a program that has called
`torch.distributed.init_process_group` is joined already. Results go through gloo, as they are sums on the CPU.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from .errors import VitCircuitsError
from .watching import show_progress

Job = TypeVar("Job")
Result = TypeVar("Result")

_LONGEST = timedelta(days=1)  # that processes wait for one another; one that dies is noticed at once
_alone: ContextVar[bool] = ContextVar("alone", default=False)


def count() -> int:
    """Processes that share the work: 1 unless several are joined, and inside `alone`."""
    together = distributed.is_available() and distributed.is_initialized() and not _alone.get()
    return distributed.get_world_size() if together else 1


def place() -> int:
    """Which of the joined processes this is, from 0."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return place() == 0


@contextmanager
def joined() -> Iterator[None]:
    """Joins the processes that `torchrun` started, if it did; only the first of them shows progress.

    Raises:
        VitCircuitsError: The others cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, timeout=_LONGEST)
    except (RuntimeError, ValueError) as error:
        raise VitCircuitsError(f"the processes could not join: {error}. Start them with torchrun.") from error
    if not is_first():
        show_progress(False)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works by itself, as what only one process does must."""
    before = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(before)


def in_order(compute: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
    """The result of every job, in order, each done by one process and handed to all.

    On one process nothing is shared out, and each job is done when its result is asked for. All processes must come
    here with the same jobs; what is computed inside a job is not shared out again.

    Args:
        compute: Does a job; its result is on the CPU and can be pickled. What it raises is raised on all processes.
        jobs: The jobs.
    """
    if count() == 1:
        yield from map(compute, jobs)
        return
    for start in range(0, len(jobs), count()):
        own = start + place()
        with alone():
            done = _attempt(compute, jobs[own]) if own < len(jobs) else (None, None)
        for result, error in _gathered(done)[: len(jobs) - start]:
            if error is not None:
                raise error
            yield result


def from_first(compute: Callable[[], Result]) -> Result:
    """What the first process computes, handed to all: a file's content, or what a clock decides."""
    if count() == 1:
        return compute()
    with alone():
        done = _attempt(lambda _: compute(), None) if is_first() else (None, None)
    result, error = _gathered(done)[0]
    if error is not None:
        raise error
    return result


def _attempt(compute: Callable[[Job], Result], job: Job) -> tuple[Any, Exception | None]:
    """A job's result, or what it raised."""
    try:
        return compute(job), None
    except Exception as error:  # the other processes wait for this one, and are to end with its reason
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an error of any library, with parts that cannot be sent
            return None, VitCircuitsError(f"{type(error).__name__} on process {place()}: {error}")
        return None, error


def _gathered(done: tuple[Any, Exception | None]) -> list[Any]:
    """What each process has done, by place."""
    found: list[Any] = [None] * count()
    try:
        distributed.all_gather_object(found, done)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise VitCircuitsError(
            f"another process of this run has ended ({reason}): its own message says why. What was found is in the "
            f"journal; the same command goes on from there."
        ) from error
    return found
