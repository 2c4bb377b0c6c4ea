"""`vitcircuits lens`: what every layer says at every patch, over one's own images."""

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

ENDINGS = (".html", ".htm", ".csv", ".png", ".svg", ".pdf")

EPILOG = """\
examples:
  vitcircuits lens toy/sprites-4l --images sprites --to lens.html
  vitcircuits lens deit_tiny_patch16_224 --images photographs --to lens.html --emoji emoji.json
  vitcircuits lens toy/sprites-4l --images sprites --to lens.png
  vitcircuits lens toy/sprites-4l --images sprites --n 500 --at cls --to lens.csv

The page opens from disk, and nothing in it is loaded from elsewhere. An .html, .png, .svg or .pdf shows patches, a .csv
holds agreement, KL and calibration by layer. --emoji is a JSON object, class index or name -> emoji. --through is a
lens that tuned_lens(vit, images).save("lens.safetensors") wrote, for the place that --at names.
"""


def add_parser(subparsers: Any) -> None:
    """Register `lens`."""
    parser = new_parser(subparsers, "lens", "what each layer says at each patch of your own images", EPILOG)
    add_model_and_images(parser)
    parser.add_argument("--to", type=Path, default=Path("lens.html"), metavar="FILE", help="where to (lens.html)")
    parser.add_argument("--at", choices=("patches", "all", "cls"), default="patches", help="which tokens (patches)")
    parser.add_argument("--points", choices=("pre", "mid", "post"), default="post", help="of each block (post)")
    parser.add_argument("--through", type=Path, metavar="FILE", help="a fitted lens, .safetensors")
    parser.add_argument("--emoji", type=Path, metavar="FILE", help="class index or name -> emoji, .json")
    add_number(parser, "--n", 8, "images, of which the first 12 are shown (8)")
    add_memory(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Reads and writes."""
    model_config(args).require_found()
    require_ending(args.to, ENDINGS)
    from ..algorithms import load_lens, logit_lens

    through = None if args.through is None else load_lens(args.through)
    vit, images, names = load_model_and_images(args)
    options = {"at": args.at, "points": args.points, "through": through, "names": names, "memory": args.memory}
    lens = logit_lens(vit, images, **options)
    drawn = args.to.suffix.lower() in (".png", ".svg", ".pdf")
    patches = args.at != "cls"
    written = lens.draw_patches(args.to, emoji=args.emoji) if drawn and patches else None
    written = written or (lens.draw(args.to) if drawn else lens.save(args.to, emoji=args.emoji))
    print(f"{lens}\nwrote {written}")
    return 0
