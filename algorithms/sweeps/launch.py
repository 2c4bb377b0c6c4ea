"""The cells of a sweep in this process, or in others on this machine, started by submitit (extra `cluster`).

Each way, and `slurm.py`'s, yields what became of a cell as it ends, in whatever order. A cell whose process died
without a word is failed, and costs no other cell.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...models.errors import TaskError
from .jobs import Job, heart
from .outcomes import LOG, Outcome, Work, attempt, read_outcome, write_error
from .plan import Cell
from .resources import Resources

if TYPE_CHECKING:
    from submitit import Job as Submitted

Launcher = Literal["local", "slurm"]

JOBS = "jobs"
"""The folder of a sweep that holds what submitit writes: each job's script, pickle and log."""

_POLL = 0.1  # seconds between two looks at the cells
_PATIENCE = 5.0  # seconds that processes get to end
_NO_LIMIT = 10 * 365 * 24 * 60  # minutes, for a job on this machine
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def run_here(work: Work, cells: Sequence[Cell], out: Path) -> Iterator[Outcome]:
    """One cell after another in this process."""
    import torch

    before = torch.get_num_threads()
    try:
        for cell in cells:
            torch.set_num_threads(cell.resources.cpus)
            attempt(work, cell, out)
            yield read_outcome(cell, out)
    finally:
        torch.set_num_threads(before)


def run_local(work: Work, cells: Sequence[Cell], out: Path, workers: int) -> Iterator[Outcome]:
    """So many processes on this machine, which end with this one, however it ends.

    Raises:
        TaskError: A process cannot start.
    """
    shutil.rmtree(out / JOBS / "local", ignore_errors=True)
    left = {Path(cell.folder).name: cell for cell in cells}
    with tempfile.TemporaryDirectory() as folder, _Crew(work, tuple(cells), out, Path(folder), workers) as crew:
        while left:
            alive = crew.alive()
            claims = {claim.name: str(claim.readlink()) for claim in crew.claims.iterdir()}
            for name in [name for name in left if name in claims]:
                outcome = read_outcome(left[name], out)
                if outcome.status not in ("done", "failed"):
                    if claims[name] in alive:
                        continue
                    outcome = ended(left[name], out, "its process died, which happens when memory runs out")
                del left[name]
                yield outcome
            busy = {claims[name] for name in left if name in claims}
            crew.fill([cell for name, cell in left.items() if name not in claims], busy, claims.values())
            time.sleep(_POLL)


@dataclass(frozen=True)
class _Worker:
    name: str
    resources: Resources
    place: int
    job: Submitted[None]


class _Crew:
    """Processes that share cells; they end with the block."""

    def __init__(self, work: Work, cells: tuple[Cell, ...], out: Path, folder: Path, most: int) -> None:
        self.work, self.cells, self.out, self.folder, self.most = work, cells, out, folder, most
        self.workers: list[_Worker] = []
        self.claims = folder / "claims"

    def __enter__(self) -> _Crew:
        self.claims.mkdir()
        self._heart = heart(self.folder)
        self._pipe = self._heart.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._heart.__exit__(None, None, None)  # whoever is at work ends
        for worker in self.workers:
            if not worker.job.done():
                os.kill(int(worker.job.job_id), signal.SIGTERM)  # whoever is only starting does, too
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and not all(worker.job.done() for worker in self.workers):
            time.sleep(_POLL / 4)

    def alive(self) -> set[str]:
        """Names of the processes that have not ended."""
        return {worker.name for worker in self.workers if not worker.job.done()}

    def fill(self, waiting: Sequence[Cell], busy: Collection[str], known: Collection[str]) -> None:
        """Starts processes where there are more cells that wait than processes that are about to take one.

        Args:
            waiting: Cells that nobody has taken.
            busy: Names of processes that are at a cell.
            known: Names of those that ever took one.

        Raises:
            TaskError: A process ended before it took a cell.
        """
        over = [worker for worker in self.workers if worker.job.done()]
        for worker in over:
            if worker.name not in known and any(cell.resources == worker.resources for cell in waiting):
                raise TaskError(_no_start(worker.job))
        self.workers = [worker for worker in self.workers if worker not in over]
        for resources in dict.fromkeys(cell.resources for cell in waiting):
            number = sum(cell.resources == resources for cell in waiting)
            number -= sum(worker.resources == resources and worker.name not in busy for worker in self.workers)
            for _ in range(min(number, self.most - len(self.workers))):
                self.workers.append(self._start(resources))

    def _start(self, resources: Resources) -> _Worker:
        from submitit import LocalExecutor

        place = min(set(range(self.most)) - {worker.place for worker in self.workers})
        name = secrets.token_hex(4)
        executor = LocalExecutor(self.out / JOBS / "local" / name)  # jobs are named by process, and names come again
        n = resources.gpus
        gpus = {"gpus_per_node": n, "visible_gpus": _gpus(place, n)} if n else {}
        executor.update_parameters(timeout_min=_NO_LIMIT, tasks_per_node=resources.n_processes, **gpus)
        cells = tuple(cell for cell in self.cells if cell.resources == resources)
        with _deaf(), environment(resources.cpus):
            job = executor.submit(Job(name, self.work, cells, self.out, self.claims, self._pipe, resources.n_processes))
        return _Worker(name, resources, place, job)


def _gpus(place: int, n: int) -> list[int]:
    """The GPUs of the job in a place, n for each; those behind the last GPU begin again with the first."""
    import torch

    known = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = known.split(",") if known else [str(number) for number in range(torch.cuda.device_count())]
    if not names or not all(name.strip().isdecimal() for name in names):
        said = f"CUDA_VISIBLE_DEVICES={known} names none by number" if known else "there is no GPU here"
        raise TaskError(f"a cell asks for a GPU, and {said}: set gpus = 0 in [resources], or another device.")
    if n > len(names):
        raise TaskError(f"a cell asks for {n} GPUs, and {len(names)} are here: set gpus = {len(names)} in [resources].")
    return [int(names[(place * n + own) % len(names)]) for own in range(n)]


def _no_start(job: Submitted[None]) -> str:
    said = (job.stderr() or "").strip().splitlines()
    return (
        f"a process could not start{f' ({said[-1]})' if said else ''}: see {job.paths.stderr}, or pass --workers 0 to "
        "run the cells in this process."
    )


def require_submitit() -> None:
    """Does nothing if submitit is installed, and this is a system that it is for.

    Raises:
        TaskError: It is not.
    """
    from importlib.util import find_spec

    if not hasattr(os, "mkfifo"):  # Windows
        raise TaskError("other processes need Linux or macOS: pass --workers 0 to run the cells in this one.")
    if find_spec("submitit") is None:
        raise TaskError(
            "other processes are started by submitit, which is not installed: pip install 'vitcircuits[cluster]', or "
            "pass --workers 0 to run the cells in this one."
        )


def ended(cell: Cell, out: Path, reason: str) -> Outcome:
    """What has become of a cell that nobody runs any more; where no word was left, one is written here."""
    outcome = read_outcome(cell, out)
    if outcome.status in ("done", "failed"):
        return outcome
    log = out / cell.folder / LOG
    write_error(out / cell.folder, reason + (f"; see {log.name} beside this" if log.exists() else ""))
    return read_outcome(cell, out)


@contextmanager
def environment(threads: int) -> Iterator[None]:
    """So many threads for libraries to read when a process that starts here loads them, torch among them."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _deaf() -> Iterator[None]:
    """A process that starts here leaves Ctrl-C to this one, which hears it after the block at the latest."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
