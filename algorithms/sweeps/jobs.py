"""What one process of a sweep does: cells, one after another, each with a log in its folder.

Jobs on this machine share their cells, and each takes the next that no other has: a process takes seconds to start, so
there are as many as run at once and not one per cell. Who takes a cell leaves a link with its name in the folder
`claims`, which the file system makes for one of them only; when a process dies, it tells which cell it died of.

Where several processes share the work of a job (`n_processes`), the first takes the cells, and all run each together.

Such a job ends at once when the sweep's process is gone, however that went, so that nobody goes on writing into a
folder that a later sweep believes to be its own. The sweep holds one end of a pipe, the heart, which breaks with it.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...models import processes
from .outcomes import LOG, Work, attempt, read_outcome
from .plan import Cell

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission


@dataclass(frozen=True)
class Job:
    """What a process does when it is called; it can be pickled.

    Args:
        name: By which it claims cells.
        work: Runs one cell.
        cells: The cells.
        out: The sweep's folder.
        claims: Where jobs write down who takes which cell; None where the cells are this job's alone.
        heart: The pipe that breaks with the sweep's process; None for a job that outlives it.
        n_processes: That are called with this job, and share its work.
    """

    name: str
    work: Work
    cells: tuple[Cell, ...]
    out: Path
    claims: Path | None = None
    heart: Path | None = None
    n_processes: int = 1

    def __call__(self) -> None:
        """Runs what no other job has taken and an earlier life of this one has not finished."""
        from tqdm import tqdm

        if self.heart is not None:
            live_with(self.heart)
        tqdm.set_lock(threading.RLock())  # its own is a semaphore that a killed process leaves behind
        if self.n_processes > 1:
            _tell_processes()
        with processes.rejoinable():
            for cell in self.cells:
                if self._is_next(cell):
                    with logged(self.out / cell.folder / LOG):
                        attempt(self.work, cell, self.out)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit runs in place of a job that was preempted: the same, which goes on from what cells left."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self)

    def _is_next(self, cell: Cell) -> bool:
        with processes.joined():
            return processes.from_first(
                lambda: self._takes(cell) and read_outcome(cell, self.out).status not in ("done", "failed")
            )

    def _takes(self, cell: Cell) -> bool:
        if self.claims is None:
            return True
        claim = self.claims / Path(cell.folder).name
        try:
            claim.symlink_to(self.name)
        except FileExistsError:
            return str(claim.readlink()) == self.name
        return True


def _tell_processes() -> None:
    """Sets what `processes.joined` reads, as `torchrun` would. Each process finds its GPU by its number."""
    from submitit.helpers import TorchDistributedEnvironment

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    os.environ["MASTER_ADDR"] = "localhost"  # a job is on one node


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Appends to a file whatever the process says meanwhile, on whichever stream and from whatever language."""
    path.parent.mkdir(parents=True, exist_ok=True)
    streams = (sys.stdout, sys.stderr)
    before = [os.dup(number) for number in (1, 2)]
    try:
        with path.open("ab") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        yield
    finally:
        for stream in streams:
            stream.flush()
        for number, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, number)
            os.close(kept)


@contextmanager
def heart(folder: Path) -> Iterator[Path]:
    """A pipe in the folder that breaks after the block, or when this process ends."""
    pipe = folder / "heart"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)
    try:
        yield pipe
    finally:
        os.close(end)


def live_with(pipe: Path) -> None:
    """Ends this process when the pipe breaks, at once if it is broken already, or when its parent is gone."""
    parent = os.getppid()
    try:
        open_pipe = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        os._exit(1)
    if not _beats(open_pipe):
        os._exit(1)
    poll = select.poll()
    poll.register(open_pipe, select.POLLIN)

    def watch() -> None:
        while _beats(open_pipe) and os.getppid() == parent:
            poll.poll(500)  # milliseconds
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="lives with the sweep").start()


def _beats(open_pipe: int) -> bool:
    try:
        return os.read(open_pipe, 1) != b""
    except BlockingIOError:  # nothing to read, but somebody who could write
        return True
