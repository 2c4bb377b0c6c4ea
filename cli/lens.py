"""`vitcircuits lens`: what every layer says at every patch, over one's own images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..circuits.tasks.task_config import TaskConfig
from ..models.model_config import ModelConfig
from .options import MODEL, READOUT, add_memory, add_number, add_settings, model_config, new_parser

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
    parser.add_argument("model", metavar="MODEL", help="toy/sprites-4l, a timm name, a folder, a file")
    add_settings(parser.add_argument_group("model"), ModelConfig, MODEL[1:])
    add_settings(parser.add_argument_group("readout, in place of the model's own head"), ModelConfig, READOUT)
    parser.add_argument("--images", required=True, metavar="DIR", help="a folder of pictures, digits, mnist or sprites")
    add_settings(parser, TaskConfig, ("data_dir",))
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
    config = model_config(args)
    config.require_found()
    from ..algorithms import load_lens, logit_lens
    from ..models.pictures import load_pictures

    through = None if args.through is None else load_lens(args.through)
    vit = config.load(args.images, data_dir=args.data_dir)
    images, names = load_pictures(args.images, vit.preprocess, args.n, data_dir=args.data_dir)
    options = {"at": args.at, "points": args.points, "through": through, "names": names, "memory": args.memory}
    lens = logit_lens(vit, images, **options)
    drawn = args.to.suffix.lower() in (".png", ".svg", ".pdf")
    patches = args.at != "cls"
    written = lens.draw_patches(args.to, emoji=args.emoji) if drawn and patches else None
    written = written or (lens.draw(args.to) if drawn else lens.save(args.to, emoji=args.emoji))
    print(f"{lens}\nwrote {written}")
    return 0
