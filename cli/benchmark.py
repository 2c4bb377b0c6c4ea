"""`vitcircuits benchmark`: every algorithm on every model whose circuit is known."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.settings import SEEDS
from .options import add_number, new_parser

if TYPE_CHECKING:
    from ..algorithms.benchmark import Row

EPILOG = """\
examples:
  vitcircuits benchmark
  vitcircuits benchmark --only exact_effects --only xor
  vitcircuits benchmark --only 'eap*' --pairs 16 --out benchmark/

--out writes the table as CSV and JSON, and as a picture in SVG and PNG.
"""

HEADER = """\
AUC: ROC-AUC of all edges against the true ones, by |mean over pairs| and by mean of |each pair|. AP: average precision.
prec, recall, T (transmission), L (leakage), R^2: at the true size; of the set as it is (no AUC) where an algorithm
returns a circuit. runs: forward passes' worth of work over all pairs, counted in floating-point operations."""

COLUMNS = (
    ("AUC", "roc_auc", ".3f"),
    ("AUC|.|", "roc_auc_per_pair", ".3f"),
    ("AP", "average_precision", ".3f"),
    ("prec", "precision", ".3f"),
    ("recall", "recall", ".3f"),
    ("T", "transmission", ".2f"),
    ("L", "leakage", ".2f"),
    ("R^2", "reproduced_variation", ".2f"),
    ("size", "size", "d"),
    ("true", "n_true", "d"),
    ("edges", "n_edges", "d"),
    ("runs", "runs", ".1f"),
    ("seconds", "seconds", ".2f"),
)


def add_parser(subparsers: Any) -> None:
    """Register `benchmark`."""
    parser = new_parser(subparsers, "benchmark", "compare algorithms on models whose circuit is known", EPILOG)
    parser.add_argument(
        "--only", action="append", default=[], metavar="PATTERN", help="part of an algorithm's or model's name"
    )
    add_number(parser, "--pairs", 64, "pairs of images (64)")
    add_number(parser, "--seed", 0, "draws them (0)", range=SEEDS)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the table and the picture, made if need be")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the table, and writes it if asked to."""
    from ..algorithms.benchmark import run_benchmark, save_benchmark

    rows = run_benchmark(only=args.only, n=args.pairs, seed=args.seed)
    print(HEADER)
    for line in table(rows):
        print(line)
    if args.out is not None:
        for path in save_benchmark(rows, args.out):
            print(f"wrote {path}")
    return 0


def table(rows: list[Row]) -> list[str]:
    """The rows as lines of text, a headline for each model."""
    width = max(len(row.algorithm) for row in rows)
    lines, model = [], ""
    for row in rows:
        if row.model != model:
            model = row.model
            lines += ["", model, f"  {'':<{width}} " + " ".join(f"{head:>7}" for head, _, _ in COLUMNS)]
        cells = " ".join(f"{_cell(getattr(row, name), form):>7}" for _, name, form in COLUMNS)
        lines.append(f"  {row.algorithm:<{width}} {row.error or cells}")
    return lines


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
