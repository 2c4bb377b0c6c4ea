"""`vitcircuits export`: a saved circuit in another format."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..circuits.formats import SAVED
from .options import new_parser

EPILOG = """\
examples:
  vitcircuits export vitcircuits-demo edges.csv                        for pandas or a spreadsheet
  vitcircuits export vitcircuits-demo/circuit.json circuit.graphml     for networkx, Gephi, Cytoscape
  vitcircuits export vitcircuits-demo/circuit.json circuit.dot         for Graphviz
  vitcircuits export vitcircuits-demo/circuit.json copy.json           lossless
"""


def add_parser(subparsers: Any) -> None:
    """Register `export`."""
    parser = new_parser(subparsers, "export", f"write a saved circuit as {', '.join(SAVED)}", EPILOG)
    parser.add_argument("circuit", type=Path, metavar="CIRCUIT", help="a circuit.json, or the run folder that holds it")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes it."""
    from ..circuits.circuit import Circuit

    print(f"wrote {Circuit.load(args.circuit).save(args.file)}")
    return 0
