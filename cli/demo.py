"""`vitcircuits demo`: the circuit that tells a 3 from an 8, in under a minute."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ..algorithms.run_config import RunConfig
from .options import add_out, new_parser

EPILOG = """\
examples:
  vitcircuits demo
  vitcircuits demo --out somewhere/else

It opens toy/digits-2l, a ViT trained on real handwritten digits; scores its edges on pairs of a 3 and an 8; keeps the
smallest circuit that reads the image (transmission .8) on those pairs; and judges it on digits that were not used. No
network needed.
"""


def add_parser(subparsers: Any) -> None:
    """Register `demo`."""
    parser = new_parser(subparsers, "demo", "find the circuit of 3 against 8 in a toy ViT", EPILOG)
    add_out(parser, "vitcircuits-demo")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Finds the circuit, and says what was found and which file to open."""
    start = time.perf_counter()
    config = RunConfig.of({"model": "toy/digits-2l", "data": "digits", "target": 3, "foil": 8})
    found = config.run(args.out, command=args.command_line, overwrite=args.overwrite)
    print(found.table())
    print(
        f"\nFound: {len(found.circuit)} of {len(found.circuit.graph)} edges tell a 3 from an 8. On digits that were not"
    )
    print(f"used to find them, {found.ending()}")
    print(f"Done in {time.perf_counter() - start:.0f} s. Open {args.out / 'circuit.html'} in a browser.")
    return 0
