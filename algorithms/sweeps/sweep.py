"""Running the cells of a sweep: what is finished is not run again, what fails is a row, and what is killed goes on.

| file | content |
| --- | --- |
| table.csv, table.parquet | one row per cell (`table.py`) |
| seconds.csv | how long each took |
| index.html | the table to look at and to sort, with curves and links |
| cells/NAME/ | a run folder per cell; `error.json` where it failed |

The table and the page are written at the start, while the sweep runs, and at its end, also when that is Ctrl-C.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from ...circuits.formats.plain import require_parquet
from ...models.errors import FormatError, TaskError
from ...models.watching import progress_bar
from ..estimate import say_sweep
from .outcomes import Outcome, Work, attempt, clear, read_outcome, run_cell, write_error
from .plan import Cell
from .pool import run_jobs
from .table import save_page, save_seconds, save_table

Table = Literal["csv", "parquet"]

_EVERY = 10.0  # seconds between two writings of the table while cells end


def run_sweep(
    cells: Sequence[Cell],
    out: str | Path,
    work: Work | None = None,
    *,
    workers: int = 1,
    threads: int = 1,
    retry_failed: bool = False,
    tables: Sequence[Table] = ("csv",),
    progress: bool | None = None,
) -> list[Outcome]:
    """Runs the cells that are not finished, and returns what has become of all, in their order.

    Figures do not depend on the number of workers. With another number of threads their last digits may differ.

    Args:
        cells: The cells.
        out: The sweep's folder.
        work: Runs one cell into a run folder, as `discover` would unless told otherwise; it can be pickled.
        workers: Processes; 0 runs the cells here, one after another.
        threads: CPU threads of each.
        retry_failed: Also run cells again that failed before.
        tables: Kinds of table to write.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        FormatError: The folder cannot be written, or Parquet needs the extra `parquet`.
        TaskError: Another sweep is running there, or processes cannot start.
    """
    out = Path(out)
    if "parquet" in tables:
        require_parquet()
    with _alone(out):
        outcomes = [read_outcome(cell, out) for cell in cells]
        again = ("not run", "failed") if retry_failed else ("not run",)
        todo = [index for index, outcome in enumerate(outcomes) if outcome.status in again]
        jobs = [(cells[index], out) for index in todo]
        overview = _Overview(out, tables)
        overview.write(outcomes)
        if work is None:
            say_sweep([cell for cell, _ in jobs], workers=max(workers, 1), progress=progress)
        try:
            with progress_bar("sweep", len(todo), progress, "cell") as bar:
                for job, code in run_jobs(partial(attempt, work or run_cell), jobs, workers=workers, threads=threads):
                    outcomes[todo[job]] = _ended(cells[todo[job]], out, code)
                    bar.update()
                    overview.write_at_times(outcomes)
        finally:
            for cell, _ in jobs:
                clear(out / cell.folder)
            overview.write(outcomes)
    return outcomes


def _ended(cell: Cell, out: Path, code: int | None) -> Outcome:
    """What has become of a cell that was run; a process that died left no word, so one is written here."""
    outcome = read_outcome(cell, out)
    if outcome.status != "not run":
        return outcome
    reason = "the run left no results" if code is None else f"its process ended with exit code {code}"
    memory = ", killed from outside, which happens when memory runs out" if code == -9 else ""
    write_error(out / cell.folder, f"{reason}{memory}")
    return read_outcome(cell, out)


class _Overview:
    """The table and the page, written now and then."""

    def __init__(self, out: Path, tables: Sequence[Table]) -> None:
        self.out, self.tables, self.written = out, tables, 0.0

    def write(self, outcomes: Sequence[Outcome]) -> None:
        for kind in self.tables:
            save_table(outcomes, self.out / f"table.{kind}")
        save_seconds(outcomes, self.out / "seconds.csv")
        save_page(outcomes, self.out / "index.html")
        self.written = time.monotonic()

    def write_at_times(self, outcomes: Sequence[Outcome]) -> None:
        if time.monotonic() - self.written > _EVERY:
            self.write(outcomes)


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
