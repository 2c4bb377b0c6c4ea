"""`vitcircuits heads`: the attention-head tour, every head over one's own images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..models.settings import FROM_NONE
from .options import add_memory, add_model_and_images, add_number, load_model_and_images, model_config, new_parser

KINDS = ("pattern", "score", "value_weighted", "rollout")
EPILOG = """\
examples:
  vitcircuits heads toy/mnist-2l --images mnist --to heads.html
  vitcircuits heads deit_tiny_patch16_224 --images my-photographs --to heads.html
  vitcircuits heads vit_base_patch16_clip_224.openai --images photographs --n 4 --head a11.h3 a10.h0
  vitcircuits heads deit_tiny_patch16_224 --images photographs --kind value_weighted --to heads.png

The page opens from disk, and nothing in it is loaded from elsewhere. It holds what CLS (or whatever is read out) sees
through every head on every image, and what each patch sees for as many heads and images as --full-mb holds.
"""


def add_parser(subparsers: Any) -> None:
    """Register `heads`."""
    parser = new_parser(subparsers, "heads", "every attention head over your own images, as one page", EPILOG)
    add_model_and_images(parser)
    parser.add_argument(
        "--to",
        type=Path,
        default=Path("heads.html"),
        metavar="FILE",
        help=".html (heads.html); .png, .svg, .pdf: a still",
    )
    parser.add_argument("--head", nargs="+", metavar="HEAD", help="side by side at first, and kept in full, as a3.h1")
    parser.add_argument("--kind", choices=KINDS, default="pattern", help="what is shown at first (pattern)")
    add_number(parser, "--n", 8, "images (8)")
    add_number(parser, "--full-mb", 6, "megabytes of full patterns, a byte for each weight (6)", range=FROM_NONE)
    add_memory(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes it."""
    from ..circuits.draw.head_page import written_as

    model_config(args).require_found()
    written_as(args.to)
    from ..circuits.tour import head_tour

    vit, images, names = load_model_and_images(args)
    options = {"heads": args.head, "kind": args.kind, "full_bytes": args.full_mb * 1_000_000, "memory": args.memory}
    print(f"wrote {head_tour(vit, images, names=names, **options).save(args.to)}")
    return 0
