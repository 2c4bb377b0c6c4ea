"""`vitcircuits models`: what can be loaded by name."""

from __future__ import annotations

import argparse
import fnmatch
from typing import Any

from .options import new_parser

EPILOG = """\
examples:
  vitcircuits models
  vitcircuits models 'deit*'
  vitcircuits models toy
  vitcircuits models planted

The toys and the models with planted circuits are shipped and need no network. timm's names are loaded with their
weights from timm's cache or the network, or with --checkpoint from a file. A planted model's options follow its name:
  planted/neighbour-xor:trap,step    planted/neighbour-xor:norm=none,gain=soft    planted/majority:disguise=1
"""


def add_parser(subparsers: Any) -> None:
    """Register `models`."""
    parser = new_parser(subparsers, "models", "list models that can be loaded by name", EPILOG)
    parser.add_argument(
        "pattern", nargs="?", default="*", metavar="PATTERN", help="part of a name, or a pattern with *"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the toys with their figures, then timm's names."""
    from ..models.errors import ModelError
    from ..models.load import known_models
    from ..models.planted.load import list_planted, planted_summary
    from ..models.toys import toy_card

    pattern = args.pattern if "*" in args.pattern else f"*{args.pattern}*"
    found = [name for name in known_models() if fnmatch.fnmatch(name, pattern)]
    if not found:
        raise ModelError(f"no model matches {args.pattern!r}: `vitcircuits models` lists all.")
    for name in found:
        if name.startswith("toy/"):
            card = toy_card(name)
            print(f"{name:<22} {card['test_accuracy']:.2%} on {card['n_test_images']} test images, shipped")
        elif name in list_planted():
            print(f"{name:<22} {planted_summary(name)}")
        else:
            print(name)
    return 0
