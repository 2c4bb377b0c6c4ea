"""`vitcircuits draw`: a saved circuit as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..circuits.formats import DRAWN
from .options import add_number, new_parser

EPILOG = """\
examples:
  vitcircuits draw vitcircuits-demo circuit.svg                     always works
  vitcircuits draw vitcircuits-demo/circuit.json circuit.pdf        needs Graphviz' dot
  vitcircuits draw vitcircuits-demo/circuit.json circuit.png --max-edges 100
"""


def add_parser(subparsers: Any) -> None:
    """Register `draw`."""
    parser = new_parser(subparsers, "draw", f"draw a saved circuit ({', '.join(DRAWN)})", EPILOG)
    parser.add_argument("circuit", type=Path, metavar="CIRCUIT", help="a circuit.json, or the run folder that holds it")
    parser.add_argument("picture", type=Path, metavar="PICTURE")
    add_number(parser, "--max-edges", None, "draw the strongest N (400; in .dot all)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draws it."""
    from ..circuits.circuit import Circuit

    print(f"wrote {Circuit.load(args.circuit).draw(args.picture, max_edges=args.max_edges)}")
    return 0
