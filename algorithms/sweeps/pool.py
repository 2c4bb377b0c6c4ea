"""Jobs done by several processes, of which any may die without taking the others or their jobs along.

Each worker is a fresh process (spawned, not forked: forked ones inherit locks and an initialised GPU). It takes one job
after another. One that dies, of its own or for want of memory, is replaced, and its job is reported with the exit code.
Workers ignore Ctrl-C, which is the parent's to handle, and end at once when the parent is gone, however it went: nobody
goes on writing into a folder that a later sweep believes to be its own.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

from ...models.errors import TaskError

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_PATIENCE = 5.0  # seconds that a process gets to end before it is killed


def run_jobs(
    work: Callable[[Any], object], jobs: Sequence[Any], *, workers: int = 1, threads: int = 1
) -> Iterator[tuple[int, int | None]]:
    """Yields the index of each job as it ends, and the exit code of its process if that died meanwhile, else None.

    Args:
        work: Does a job; it can be pickled, and handles its own errors.
        jobs: What it is given, which can be pickled.
        workers: Processes; 0 does the jobs here, one after another.
        threads: CPU threads of each.

    Raises:
        TaskError: A process cannot even start.
    """
    if workers == 0:
        yield from _run_here(work, jobs, threads)
        return
    waiting, crew = deque(range(len(jobs))), []
    try:
        crew += [_Worker(work, threads) for _ in range(min(workers, len(jobs)))]
        while crew:
            for worker in _heard(crew):
                alive, done = worker.listen(), worker.job
                if done is not None:
                    yield done, None if alive else worker.exit_code()
                elif not alive:
                    raise TaskError(_no_start(worker.exit_code()))
                if alive and waiting:
                    worker.give(job := waiting.popleft(), jobs[job])
                    continue
                crew.remove(worker)
                worker.dismiss()
                if waiting:
                    crew.append(_Worker(work, threads))
    finally:
        for worker in crew:
            worker.end()


def _run_here(work: Callable[[Any], object], jobs: Sequence[Any], threads: int) -> Iterator[tuple[int, None]]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for index, job in enumerate(jobs):
            work(job)
            yield index, None
    finally:
        torch.set_num_threads(before)


class _Worker:
    """A process, and the job it has; None before it said that it is ready."""

    def __init__(self, work: Callable[[Any], object], threads: int) -> None:
        context = get_context("spawn")
        self.job: int | None = None
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_serve, args=(end, work))
        # for libraries to read when they load, torch among them
        with _environment(dict.fromkeys(_THREADS, str(threads))):
            self.process.start()
        end.close()  # so that the pipe ends when the process does

    def listen(self) -> bool:
        """Takes the message that is there; False if the process has died instead of sending one."""
        try:
            self.pipe.recv()
        except (EOFError, OSError):
            return False
        return True

    def give(self, index: int, job: Any) -> None:
        """Hands over a job."""
        self.job = index
        with suppress(BrokenPipeError):  # died since: listening will tell
            self.pipe.send((job,))

    def dismiss(self) -> None:
        """Lets a process that is idle or dead end by itself."""
        self.pipe.close()
        self.process.join(_PATIENCE)
        self.end()

    def exit_code(self) -> int | None:
        """Of a process that has died; negative for a signal."""
        self.process.join(_PATIENCE)
        return self.process.exitcode

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
        self.pipe.close()
        for stop in (self.process.terminate, self.process.kill):
            if self.process.is_alive():
                stop()
                self.process.join(_PATIENCE)


def _heard(crew: Sequence[_Worker]) -> list[_Worker]:
    """Waits until a worker sends something, or dies."""
    ready = wait([worker.pipe for worker in crew])
    return [worker for worker in crew if worker.pipe in ready]


def _serve(pipe: Connection, work: Callable[[Any], object]) -> None:
    """What a worker does: one job after another, until the pipe closes."""
    from tqdm import tqdm

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that a killed process leaves behind
    try:
        pipe.send(None)
        while True:
            (job,) = pipe.recv()
            work(job)
            pipe.send(None)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """These variables set for a moment, for a process that starts in it."""
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _no_start(code: int | None) -> str:
    return (
        f"a worker process could not start (exit code {code}). In a script, start the sweep below "
        f'`if __name__ == "__main__":`, since each worker reads the script again; or pass workers=0.'
    )
