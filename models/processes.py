"""One computation on several processes: all take the same steps, and the work between them is shared out.

Every process runs the same program on the same data. Where it comes to a list of jobs, such as chunks of pairs of
images, job i is done by process i mod N alone, and all are handed every result, in the jobs' order. So all add up the
same numbers in the same order, and decide the same from the same bits, on any number of processes: as long as no job
depends on that number. The first process alone writes files and shows progress.

`torchrun` starts processes, and `joined` lets them find one another; a program that has called
`torch.distributed.init_process_group` is joined already. Results go through gloo, as they are sums on the CPU.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from itertools import count as count_up
from typing import Any, TypeVar

from .errors import VitCircuitsError

Job = TypeVar("Job")
Result = TypeVar("Result")

_LONGEST = timedelta(days=1)  # that processes wait for one another; one that dies is noticed at once
_alone: ContextVar[bool] = ContextVar("alone", default=False)
_store: list[tuple[Any, int, int]] = []  # inside `rejoinable` its store, this process's place, and their number
_joins = count_up()
_over: list[bool] = []  # true once a process has ended, and nobody may be waited for


class LostProcessError(VitCircuitsError):
    """A process of this run has died, and could not tell the others why."""


def started() -> int:
    """Processes that `torchrun` started, by the environment; they need not be joined."""
    said = os.environ.get("WORLD_SIZE", "")
    return int(said) if said.isdecimal() else 1


def count() -> int:
    """Processes that share the work: 1 unless several are joined, and inside `alone`."""
    return _group().get_world_size() if _group() and not _alone.get() else 1


def place() -> int:
    """Which of the processes this is, from 0: of those that are joined, or that are about to be."""
    if _group():
        return _group().get_rank()
    return int(os.environ.get("RANK", "0")) if started() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that writes files and shows progress."""
    return place() == 0


def writes() -> bool:
    """Whether files are written here: by the first process, and by one that works alone."""
    return count() == 1 or is_first()


def _group() -> Any:
    """torch's distributed module if processes are joined; without torch, which takes long to import, none are."""
    distributed = sys.modules.get("torch.distributed")
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None


@contextmanager
def joined() -> Iterator[None]:
    """Joins the processes that `torchrun` started, if it did; what ends one of them ends all, with the same error.

    Raises:
        VitCircuitsError: The others cannot be reached.
    """
    if started() == 1 or _group():
        yield
        return
    import torch
    from torch import distributed

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        distributed.init_process_group(backend, timeout=_LONGEST, **_where())
    except (RuntimeError, ValueError) as error:
        raise VitCircuitsError(
            f"the processes could not join: {str(error).splitlines()[0].rstrip('.')}. Start them with torchrun, or "
            f"unset WORLD_SIZE to work with one."
        ) from error
    _over.clear()
    try:
        yield
        _end(None)
    except Exception as error:
        _end(_sendable(error))
        raise
    finally:
        distributed.destroy_process_group()


@contextmanager
def rejoinable() -> Iterator[None]:
    """Inside, processes can join again and again, each time under a name of its own in one store.

    A store for each time could be taken for the last one's, which is not gone yet.
    """
    if started() == 1:
        yield
        return
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://", timeout=_LONGEST))
    _store.append((store, rank, size))
    try:
        yield
    finally:
        _store.clear()


def _where() -> dict[str, Any]:
    """Where to join: in the store of `rejoinable`, or in one that torch makes."""
    if not _store:
        return {}
    from torch import distributed

    named: Any = distributed  # its stubs don't tell of all that it documents
    store, rank, size = _store[0]
    return {"store": named.PrefixStore(f"join {next(_joins)}", store), "rank": rank, "world_size": size}


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
        yield from _exchanged(compute, jobs[start : start + count()])


def at_once(compute: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    """The same in a single exchange: for results that are small, all of which are held."""
    return list(map(compute, jobs) if count() == 1 else _exchanged(compute, jobs))


def from_first(compute: Callable[[], Result]) -> Result:
    """What the first process computes, handed to all: a file's content, or what a clock decides."""
    return at_once(lambda _: compute(), [None])[0]


def _exchanged(compute: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result]:
    """The results in order, after one exchange."""
    n = count()
    with alone():
        done = [_attempt(compute, job) for job in jobs[place() :: n]]
    by_place = _gathered(done)
    for job in range(len(jobs)):
        result, error = by_place[job % n][job // n]
        if error is not None:
            raise error
        yield result


def _attempt(compute: Callable[[Job], Result], job: Job) -> tuple[Any, Exception | None]:
    """A job's result, or what it raised."""
    try:
        return compute(job), None
    except Exception as error:  # the other processes wait for this one, and are to end with its reason
        return None, _sendable(error)


def _sendable(error: Exception) -> Exception:
    """An error as other processes can be sent it: one of another library may have parts that cannot be."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return VitCircuitsError(f"{type(error).__name__} on process {place()}: {error}")
    return error


def _gathered(message: list[tuple[Any, Exception | None]] | Exception | None) -> list[Any]:
    """What each process says, by place: what it has done, what ended it, or None where it came to its end.

    Raises:
        Exception: What ended one of them.
        LostProcessError: One of them is gone.
    """
    found: list[Any] = [None] * _group().get_world_size()
    try:
        _group().all_gather_object(found, message)
    except RuntimeError as error:
        _over[:] = [True]
        reason = str(error).splitlines()[0]
        raise LostProcessError(
            f"another process of this run has ended ({reason}): the same command goes on from what is finished."
        ) from error
    ended = [one for one in found if isinstance(one, Exception)]
    if not ended and any(type(one) is not type(message) for one in found):
        ended = [
            VitCircuitsError(
                "the processes did not take the same steps: call the same functions on all of them, or what one does "
                "by itself inside processes.alone()."
            )
        ]
    if ended:
        _over[:] = [True]
        raise ended[0]
    return found


def _end(error: Exception | None) -> None:
    """Tells the other processes that this one is at its end, and raises what ended one of them."""
    if not _over:
        _gathered(error)
