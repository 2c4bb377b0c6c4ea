"""`vitcircuits sweep`: models x tasks x algorithms x seeds, each a run folder, and one table."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.settings import Range
from .options import add_number, new_parser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..algorithms.sweeps.outcomes import Outcome

EPILOG = """\
examples:
  vitcircuits sweep sweep.toml --out runs/sweep --workers 4
  vitcircuits sweep sweep.toml --out runs/sweep --dry-run        list the cells, how long they take, and what is stale
  vitcircuits sweep sweep.toml --out runs/sweep --status         what has become of each, also while it runs
  vitcircuits sweep sweep.toml --out runs/sweep --retry-failed   also those that failed
  vitcircuits sweep sweep.toml --out runs/sweep --launcher slurm --workers 50

sweep.toml:
  seeds = [0, 1, 2]
  models = ["toy/digits-2l", "toy/mnist-2l"]

  [[tasks]]
  data = "digits"
  target = 3
  foil = 8
  models = ["toy/digits-2l"]                    # only for these

  [[tasks]]
  name = "four against nine"                    # in tables and folders; otherwise 4 vs 9
  data = "mnist"
  data_dir = "mnist/"
  target = 4
  foil = 9
  models = ["toy/mnist-2l"]

  [[algorithms]]
  algorithm = "eap_ig"
  options = { steps = 10 }

  [[algorithms]]
  algorithm = "acdc"
  options = { tau = 0.02 }
  tokens = "role"

  [defaults]                                    # for every cell
  pairs = 32

  [resources]                                   # of a job; in [[models]], [[tasks]] and [[algorithms]]: resources = {}
  memory = "16GB"                               # main memory
  cpus = 4
  time = "4h"                                   # and for Slurm: partition, account, qos, constraint, cells (of a job)

Every option of `vitcircuits discover` can be set: those of the model and its readout in [[models]], those of the task
and its partners in [[tasks]], those of the search in [[algorithms]], any of them for all cells in [defaults]. A model
or an algorithm that needs no more is written as its name. Seeds are --seed, and the algorithm's own seed where it has
one. Paths are seen from where the command runs.

The same command goes on from an interrupted sweep. A finished cell is not run again; where weights or images behind a
name have changed since, it is stale, says so, and is run again with --retry-stale. A cell that fails is a row with its
error. The exit code is 1 where a cell failed or is stale.

--launcher local and slurm start processes by submitit (pip install 'vitcircuits[cluster]'): local ones end with this
command, jobs of Slurm go on without it and are found again by the next. Each cell's log.txt is in its folder.
"""

_SAID = 10  # failures that are printed; the table has all


def add_parser(subparsers: Any) -> None:
    """Register `sweep`."""
    parser = new_parser(subparsers, "sweep", "many circuits: models x tasks x algorithms x seeds, in one table", EPILOG)
    parser.add_argument("sweep", type=Path, metavar="SWEEP.toml", help="what is crossed with what")
    parser.add_argument(
        "--out", type=Path, default=Path("vitcircuits-sweep"), metavar="DIR", help="folder (vitcircuits-sweep)"
    )
    few = Range(least=0, most=1024)
    parser.add_argument(
        "--launcher", choices=("local", "slurm"), default="local", help="where cells run: here (local), on a cluster"
    )
    add_number(parser, "--workers", 1, "cells at once (1); 0: one after another in this process", range=few)
    threads = "CPU threads of each (cpus of [resources], or 1); others may change last digits"
    add_number(parser, "--threads", None, threads, range=few)
    parser.add_argument("--retry-failed", action="store_true", help="run cells again that failed before")
    parser.add_argument("--retry-stale", action="store_true", help="run cells again whose weights or images changed")
    parser.add_argument("--parquet", action="store_true", help="also table.parquet (needs the extra parquet)")
    looks = parser.add_mutually_exclusive_group()
    looks.add_argument("--dry-run", action="store_true", help="say what would run, how long and how large; run nothing")
    looks.add_argument("--status", action="store_true", help="say what has become of each cell; run nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs what is not finished, and prints where the table is; 1 if a cell failed or is stale."""
    from ..algorithms.sweeps.outcomes import read_outcome
    from ..algorithms.sweeps.plan import read_sweep
    from ..algorithms.sweeps.sweep import run_sweep

    cells = read_sweep(args.sweep).cells()
    if args.status or args.dry_run:
        outcomes = [read_outcome(cell, args.out) for cell in cells]
        return _look(outcomes, args)
    outcomes = run_sweep(
        cells,
        args.out,
        launcher=args.launcher,
        workers=args.workers,
        threads=None if args.threads is None else max(args.threads, 1),
        retry_failed=args.retry_failed,
        retry_stale=args.retry_stale,
        tables=("csv", "parquet") if args.parquet else ("csv",),
    )
    _say(outcomes, args.out)
    return int(any(outcome.status != "done" for outcome in outcomes))


def _look(outcomes: Sequence[Outcome], args: argparse.Namespace) -> int:
    """Prints what has become of the cells; a dry run opens the models to say what is stale, and how long it takes."""
    from ..algorithms.sweeps.outcomes import to_run
    from ..algorithms.sweeps.slurm import at_slurm

    if args.dry_run:
        from ..algorithms.sweeps.inputs import with_stale

        outcomes = with_stale(outcomes)
    jobs = {cell.folder: f"job {job} of Slurm, {state}" for job, state, cells in at_slurm(args.out) for cell in cells}
    for outcome in outcomes:
        said = outcome.error.partition("\n")[0]
        if outcome.status in ("not run", "running"):
            said = jobs.get(outcome.cell.folder, "")
        print(f"{outcome.status:<8} {outcome.cell.folder}  {said}".rstrip())
    print(_counts(outcomes))
    if args.dry_run:
        from ..algorithms.estimate import SweepEstimate

        if todo := to_run(outcomes, args.retry_failed, args.retry_stale):
            print(SweepEstimate.of([outcome.cell for outcome in todo]))
    return 0


def _say(outcomes: Sequence[Outcome], out: Path) -> None:
    wrong = [outcome for outcome in outcomes if outcome.status in ("failed", "stale")]
    for outcome in wrong[:_SAID]:
        print(f"{outcome.status}: {outcome.cell}: {outcome.error}")
    if len(wrong) > _SAID:
        print(f"and {len(wrong) - _SAID} more, which the table names")
    failed = any(outcome.status == "failed" for outcome in outcomes)
    print(_counts(outcomes) + " --retry-failed tries those again that failed." * failed)
    print(f"table in {out / 'table.csv'}\nopen {out / 'index.html'}")


def _counts(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcome.status for outcome in outcomes)
    order = ("done", "failed", "stale", "running", "not run")
    return f"{len(outcomes)} cells: " + ", ".join(f"{counts[one]} {one}" for one in order if counts[one]) + "."
