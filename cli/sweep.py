"""`vitcircuits sweep`: models x tasks x algorithms x seeds, each a run folder, and one table."""

from __future__ import annotations

import argparse
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
  vitcircuits sweep sweep.toml --out runs/sweep --dry-run        list the cells and what has become of them
  vitcircuits sweep sweep.toml --out runs/sweep --retry-failed   also those that failed

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

Every option of `vitcircuits discover` can be set: those of the model and its readout in [[models]], those of the task
and its partners in [[tasks]], those of the search in [[algorithms]], any of them for all cells in [defaults]. A model
or an algorithm that needs no more is written as its name. Seeds are --seed, and the algorithm's own seed where it has
one. Paths are seen from where the command runs.

The same command goes on from an interrupted sweep. A finished cell is not run again; delete its folder if the weights
or images behind a name have changed. A cell that fails is a row with its error, and the exit code is then 1.
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
    add_number(parser, "--workers", 1, "processes, each with a model (1); 0: run in this one", range=few)
    add_number(parser, "--threads", 1, "CPU threads of each (1); others may change last digits", range=few)
    parser.add_argument("--retry-failed", action="store_true", help="run cells again that failed before")
    parser.add_argument("--parquet", action="store_true", help="also table.parquet (needs the extra parquet)")
    parser.add_argument("--dry-run", action="store_true", help="list the cells, and run nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs what is not finished, and prints where the table is; 1 if a cell failed."""
    from ..algorithms.sweeps.outcomes import read_outcome
    from ..algorithms.sweeps.plan import read_sweep
    from ..algorithms.sweeps.sweep import run_sweep

    cells = read_sweep(args.sweep).cells()
    if args.dry_run:
        outcomes = [read_outcome(cell, args.out) for cell in cells]
        for outcome in outcomes:
            print(f"{outcome.status:<8}{outcome.cell.folder}")
        print(_counts(outcomes))
        return 0
    outcomes = run_sweep(
        cells,
        args.out,
        workers=args.workers,
        threads=max(args.threads, 1),
        retry_failed=args.retry_failed,
        tables=("csv", "parquet") if args.parquet else ("csv",),
    )
    _say(outcomes, args.out)
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _say(outcomes: Sequence[Outcome], out: Path) -> None:
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed[:_SAID]:
        print(f"failed: {outcome.cell}: {outcome.error}")
    if len(failed) > _SAID:
        print(f"and {len(failed) - _SAID} more, which the table names")
    print(_counts(outcomes) + " --retry-failed tries those again that failed." * bool(failed))
    print(f"table in {out / 'table.csv'}\nopen {out / 'index.html'}")


def _counts(outcomes: Sequence[Outcome]) -> str:
    counts = {status: sum(outcome.status == status for outcome in outcomes) for status in ("done", "failed", "not run")}
    return f"{len(outcomes)} cells: " + ", ".join(f"{n} {status}" for status, n in counts.items() if n) + "."
