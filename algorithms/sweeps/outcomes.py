"""What has become of a cell, read from its folder: done, failed, running, or not run yet.

A cell is done once its run folder says so and holds its results, and failed while it holds an `error.json`. It is
running while a process holds its folder. Anything else, such as what a killed run left, is not run yet, and goes on
from what is there. Whether a done cell is stale is told by `inputs.py`, since that takes the model and the images.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...circuits.formats.json import load_report
from ...circuits.formats.plain import read_json, write_json
from ...circuits.report import Report
from ...circuits.run_folder import read_run
from ...models import processes
from ...models.errors import FormatError
from ...models.files import is_locked
from .plan import Cell

ERROR_FILE = "error.json"
ERROR_SCHEMA = "vitcircuits.error/1"
LOG = "log.txt"
"""What the process of a cell said, in the cell's folder."""

Status = Literal["done", "failed", "stale", "running", "not run"]
Work = Callable[[Cell, Path], object]
"""Runs one cell into a run folder."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A cell and what has become of it.

    Args:
        cell: The cell.
        status: `done`, `failed`, `stale` (done, with a model or images that have changed since), `running`, `not run`.
        report: The judgement of its circuit, if it is done.
        error: Why there is none, in one or more lines, if it failed or is stale.
        run: What its `run.json` says, times included, if it is done.
    """

    cell: Cell
    status: Status
    report: Report | None = None
    error: str = ""
    run: dict[str, Any] = field(default_factory=dict)


def read_outcome(cell: Cell, out: Path) -> Outcome:
    """What has become of a cell of the sweep in the folder `out`."""
    folder = out / cell.folder
    try:
        run = read_run(folder)
        if run.get("status") == "done" and (folder / "circuit.json").is_file():
            return Outcome(cell, "done", load_report(folder / "report.json"), run=run)
    except FormatError:  # absent, or damaged by somebody else: it is run again
        pass
    try:
        return Outcome(cell, "failed", error=str(read_json(folder / ERROR_FILE, ERROR_SCHEMA)["error"]))
    except (FormatError, KeyError):
        return Outcome(cell, "running" if is_locked(folder) else "not run")


def to_run(outcomes: Sequence[Outcome], retry_failed: bool, retry_stale: bool) -> list[Outcome]:
    """Those whose cells a sweep runs; a running one is another process's, or a job's of an earlier sweep."""
    again = {"not run", "running", *["failed"] * retry_failed, *["stale"] * retry_stale}
    return [outcome for outcome in outcomes if outcome.status in again]


def run_cell(cell: Cell, folder: Path) -> None:
    """Runs a cell as `discover` would.

    Raises:
        VitCircuitsError: What `discover` would say.
    """
    command = ["vitcircuits", "discover", "--config", str(folder / "run.json")]
    cell.config.run(folder, command=command, progress=False)  # cells run beside one another, and the sweep has a bar


def attempt(work: Work, cell: Cell, out: Path) -> None:
    """Runs a cell of the sweep in the folder `out`; what goes wrong is written into its folder, and not raised.

    Processes that share a job run it together, and the first of them writes.
    """
    folder = out / cell.folder
    try:
        with processes.joined():
            if processes.is_first():
                clear(folder)
            work(cell, folder)
        if processes.is_first() and read_outcome(cell, out).status not in ("done", "failed"):
            write_error(folder, "the run left no results")
    except Exception as error:  # one cell that fails must not cost the others
        if processes.is_first():
            write_error(folder, f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))


def write_error(folder: Path, error: str, details: str = "") -> Path:
    """Writes `error.json` and returns the path.

    Raises:
        FormatError: The folder cannot be written.
    """
    record = {"schema": ERROR_SCHEMA, "error": error, "traceback": details.splitlines()}
    return write_json(folder / ERROR_FILE, record)


def clear(folder: Path) -> None:
    """Removes files that a killed process was about to write, which no file's name was given to yet."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
