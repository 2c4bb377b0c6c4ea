"""Running the cells of a sweep: what is finished is not run again, what fails is a row, and what is killed goes on.

| file | content |
| --- | --- |
| table.csv, table.parquet | one row per cell (`table.py`) |
| seconds.csv | how long each took |
| index.html | the table to look at and to sort, with curves and links |
| cells/NAME/ | a run folder per cell, with `log.txt`; `error.json` where it failed |
| jobs/ | what submitit writes: scripts and logs of processes |

The table and the page are written at the start, while the sweep runs, and at its end, also when that is Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from ...circuits.formats.plain import require_parquet
from ...models.errors import FormatError, TaskError
from ...models.watching import progress_bar
from ..estimate import say_sweep
from .inputs import with_stale
from .launch import Launcher, require_submitit, run_here, run_local
from .outcomes import ERROR_FILE, Outcome, Work, clear, read_outcome, run_cell, to_run
from .plan import Cell
from .resources import require_fit
from .slurm import at_slurm, run_slurm, slurm_executor
from .table import save_page, save_seconds, save_table

Table = Literal["csv", "parquet"]

_EVERY = 10.0  # seconds between two writings of the table while cells end


def run_sweep(
    cells: Sequence[Cell],
    out: str | Path,
    work: Work | None = None,
    *,
    launcher: Launcher = "local",
    workers: int = 1,
    threads: int | None = None,
    retry_failed: bool = False,
    retry_stale: bool = False,
    tables: Sequence[Table] = ("csv",),
    progress: bool | None = None,
) -> list[Outcome]:
    """Runs the cells that are not finished, and returns what has become of all, in their order.

    Figures do not depend on where cells run or how many at once; with other numbers of threads their last digits may.

    Args:
        cells: The cells.
        out: The sweep's folder; for Slurm on a disk that its nodes see.
        work: Runs one cell into a run folder, as `discover` would unless told otherwise; it can be pickled.
        launcher: `local` runs the cells in processes of this machine, which end with this one; `slurm` each in a job of
            a cluster, which goes on without this one and is found again by the next.
        workers: How many at once; 0 runs the cells here, one after another.
        threads: CPU threads of each; None for the `cpus` of its resources.
        retry_failed: Also run cells again that failed before.
        retry_stale: Also remove and run again what was done with a model or images that have changed since.
        tables: Kinds of table to write.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        FormatError: The folder cannot be written, or Parquet needs the extra `parquet`.
        TaskError: Another sweep is running there, processes cannot start (submitit, of the extra `cluster`, is not
            installed; there is no Slurm), or jobs of Slurm are at the cells.
    """
    if "parquet" in tables:
        require_parquet()
    cells = cells if threads is None else [_with_threads(cell, threads) for cell in cells]
    with _alone(out := Path(out)):
        _require_no_slurm(out, launcher, workers)
        outcomes = with_stale([read_outcome(cell, out) for cell in cells])
        todo = {one.cell.folder: outcomes.index(one) for one in to_run(outcomes, retry_failed, retry_stale)}
        overview = _Overview(out, tables)
        overview.write(outcomes)
        asked = [cells[index] for index in todo.values()]
        _require_means(asked, out, launcher, workers)
        _make_way([outcomes[index] for index in todo.values()], out)
        if work is None:
            say_sweep(asked, workers=_at_once(asked, workers), progress=progress)
        try:
            with progress_bar("sweep", len(todo), progress, "cell") as bar:
                for outcome in _launched(work or run_cell, asked, out, launcher, workers):
                    outcomes[todo[outcome.cell.folder]] = outcome
                    bar.update()
                    overview.write_at_times(outcomes)
        finally:
            for cell in asked if launcher == "local" else ():
                clear(out / cell.folder)
            overview.write(outcomes)
    return outcomes


def _at_once(cells: Sequence[Cell], workers: int) -> int:
    """Processes that are at work at once, where cells ask for the most."""
    return workers * max((cell.resources.n_processes for cell in cells), default=1) or 1


def _with_threads(cell: Cell, threads: int) -> Cell:
    return dataclasses.replace(cell, resources=cell.resources.changed(cpus=threads))


def _launched(work: Work, cells: Sequence[Cell], out: Path, launcher: Launcher, workers: int) -> Iterator[Outcome]:
    if not cells:
        return iter(())
    if not workers:
        return run_here(work, cells, out)
    return (run_slurm if launcher == "slurm" else run_local)(work, cells, out, workers)


def _require_means(cells: Sequence[Cell], out: Path, launcher: Launcher, workers: int) -> None:
    """Said before anything is removed."""
    if workers and cells:
        require_submitit()
        if launcher == "local":
            require_fit({cell.resources for cell in cells}, min(workers, len(cells)))
        else:
            slurm_executor(out, cells[0].resources, workers)


def _make_way(outcomes: Sequence[Outcome], out: Path) -> None:
    """Removes what an earlier run left that keeps cells from being run again."""
    for outcome in outcomes:
        folder = out / outcome.cell.folder
        if outcome.status == "stale":
            shutil.rmtree(folder)
        (folder / ERROR_FILE).unlink(missing_ok=True)


def _require_no_slurm(out: Path, launcher: Launcher, workers: int) -> None:
    if (launcher != "slurm" or not workers) and (jobs := at_slurm(out)):
        names = ", ".join(job for job, _, _ in jobs[:5])
        raise TaskError(
            f"jobs of Slurm are at cells of {str(out)!r} ({names}): pass --launcher slurm to wait for them, or end "
            "them with scancel."
        )


class _Overview:
    """The table and the page, written now and then."""

    def __init__(self, out: Path, tables: Sequence[Table]) -> None:
        self.out, self.tables, self.written = out, tables, 0.0

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Both, of what has become of the cells by now."""
        outcomes = [_now(one, self.out) for one in outcomes]
        for kind in self.tables:
            save_table(outcomes, self.out / f"table.{kind}")
        save_seconds(outcomes, self.out / "seconds.csv")
        save_page(outcomes, self.out / "index.html")
        self.written = time.monotonic()

    def write_at_times(self, outcomes: Sequence[Outcome]) -> None:
        """The same, unless it has just been done."""
        if time.monotonic() - self.written > _EVERY:
            self.write(outcomes)


def _now(outcome: Outcome, out: Path) -> Outcome:
    """A cell that was not run yet may be running by now."""
    return read_outcome(outcome.cell, out) if outcome.status in ("not run", "running") else outcome


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keeps a second sweep out of the folder; the lock goes with the process, however that ends."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("w")
    except OSError as error:
        raise FormatError(f"cannot write {str(out)!r}: {error.strerror or error}. Pass another folder.") from error
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TaskError(
                f"another sweep is running in {str(out)!r}: wait for it, or pass another folder."
            ) from error
        except (ImportError, OSError):  # no such locks on this system, or on this disk
            pass
        clear(out)
        yield
