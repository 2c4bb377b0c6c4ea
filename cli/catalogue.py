"""`vitcircuits catalogue`: what every head or neuron looks at, over one's own images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import (
    add_memory,
    add_model_and_images,
    add_number,
    load_model_and_images,
    model_config,
    new_parser,
    require_ending,
)

ENDINGS = (".csv", ".png", ".svg", ".pdf")
EPILOG = """\
examples:
  vitcircuits catalogue toy/digits-2l --images digits --to heads.png
  vitcircuits catalogue deit_tiny_patch16_224 --images photographs --n 100 --to heads.csv
  vitcircuits catalogue toy/digits-2l --images digits --of neurons --to neurons.png

Heads are named by the position pattern that they follow, whatever the image: offset, same, near, row, column, corner,
edge, modulus. A .csv holds every figure, a .png, .svg or .pdf is a contact sheet: where each looks, and the patches
that it takes most from. docs/heads.md says how they are measured.
"""


def add_parser(subparsers: Any) -> None:
    """Register `catalogue`."""
    parser = new_parser(subparsers, "catalogue", "name every head by what it looks at, on your own images", EPILOG)
    add_model_and_images(parser)
    parser.add_argument("--of", choices=("heads", "neurons"), default="heads", help="what is described (heads)")
    parser.add_argument("--to", type=Path, default=Path("heads.csv"), metavar="FILE", help="where to (heads.csv)")
    add_number(parser, "--n", 100, "images (100)")
    add_memory(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Describes and writes."""
    model_config(args).require_found()
    require_ending(args.to, ENDINGS)
    from ..algorithms import head_catalogue, neuron_catalogue

    vit, images, _ = load_model_and_images(args)
    describe: Any = head_catalogue if args.of == "heads" else neuron_catalogue
    found = describe(vit, images, memory=args.memory)
    written = found.save(args.to) if args.to.suffix.lower() == ".csv" else found.draw(args.to)
    print(f"{found!r}\nwrote {written}")
    return 0
