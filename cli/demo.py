"""`vitcircuits demo`: the circuit that tells a 3 from an 8, in under a minute."""

from __future__ import annotations

import argparse
import time
from typing import Any

from .options import DEFAULTS, add_out, new_parser
from .pipeline import find_circuit, print_table, summary

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
    from ..circuits.words import verdict
    from ..models.load import load_vit

    start = time.perf_counter()
    config = {
        "model": "toy/digits-2l",
        "task": {**DEFAULTS, "data": "digits", "target": "3", "foil": "8"},
        "algorithm": "eap_ig",
        "options": {"steps": 5, "rule": "midpoint", "freeze_norm": True},
        "tokens": "all",
        "ports": "qkv",
        "by": "auto",
        "faithfulness": 0.8,
        "size": None,
        "threshold": None,
        "random": 10,
        "memory": 2_000_000_000,
    }
    vit = load_vit("toy/digits-2l")
    found = find_circuit(vit, config, out=args.out, command=args.command_line, overwrite=args.overwrite)
    print_table(summary(found))
    print(
        f"\nFound: {len(found.circuit)} of {len(found.circuit.graph)} edges tell a 3 from an 8. On digits that were not"
    )
    print(f"used to find them, {verdict(found.report)}.")
    print(f"Done in {time.perf_counter() - start:.0f} s. Open {args.out / 'circuit.html'} in a browser.")
    return 0
