"""`vitcircuits train`: a toy ViT from its recipe."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..models.settings import SEEDS
from .options import add_number, new_parser

if TYPE_CHECKING:
    from ..models.cards import Card
    from ..models.toys.recipes import Recipe

PLANTED = "planted/digit-pairs"

EPILOG = """\
examples:
  vitcircuits train digits-2l --out my-digits              about two minutes, no download
  vitcircuits train sprites-2l@1 --out other               the recipe sprites-2l with seed 1, no download
  vitcircuits train mnist-2l --out my-mnist --data-dir folder/with/idx/files
  vitcircuits train mnist-2l --out quick --epochs 1        a quick look, less accurate
  vitcircuits train digits-2l --out grown --checkpoints 10 also grown/step-00380, ..., to follow a circuit
  vitcircuits train digits-2l --out grown --checkpoints 0,100,1000
  vitcircuits train my.toml --out mine                     a recipe of your own
  vitcircuits train planted/digit-pairs --out my-pairs     a model trained to use a known circuit, a few minutes

A recipe of your own says what it changes (`vitcircuits train mnist-2l --print` shows all keys):
  base = "mnist-2l"
  layers = 3
  attention_only = true

The folder holds model.safetensors, card.json, and the curves as training.csv and training.svg. Use it, or one of its
checkpoints, wherever a model is wanted:
  python -c 'from vitcircuits.models import load_vit; print(load_vit("my-digits"))'

The same recipe and seed give the same weights, byte for byte, on the same machine.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `train`; `args.run(args)` runs it."""
    from ..models.toys.recipe_book import RECIPES

    names = ", ".join([*(name for name in RECIPES if "@" not in name), PLANTED])
    summary = "train a toy ViT by its recipe and write its weights, card and curves into a folder"
    parser = new_parser(subparsers, "train", summary, EPILOG)
    parser.add_argument(
        "recipe", metavar="RECIPE", help=f"a .toml file, or one of {names}; NAME@7 is the recipe with seed 7"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder to write, made if need be")
    add_number(parser, "--seed", None, "in place of the recipe's (0)", range=SEEDS)
    add_number(parser, "--epochs", None, "passes over the data, in place of the recipe's")
    parser.add_argument(
        "--checkpoints",
        metavar="N",
        type=parse_checkpoints,
        default=0,
        help="also keep the model N times on the way, evenly; or after these steps, such as 0,100,1000",
    )
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="folder with MNIST's four idx files")
    parser.add_argument("--print", action="store_true", help="print the recipe as TOML and train nothing")
    parser.set_defaults(run=run)


def parse_checkpoints(text: str) -> int | list[int]:
    """10, or 0,100,1000 (one step alone: 100,)."""
    if re.fullmatch(r"\d+", text):
        return int(text)
    if re.fullmatch(r"\d+(,\d+)*,?", text):
        return [int(part) for part in text.split(",") if part]
    raise argparse.ArgumentTypeError(f"{text!r} is no number of checkpoints and no list of steps: write 10 or 0,100")


def run(args: argparse.Namespace) -> int:
    """Train, and print what came of it."""
    from ..models.errors import ModelError

    if args.print:
        from ..models.toys.recipe_book import write_recipe

        print(write_recipe(_recipe(args)), end="")
        return 0
    if args.out is None:
        raise ModelError(f"No folder to write into: vitcircuits train {args.recipe} --out my-model.")
    _report(_planted(args) if args.recipe == PLANTED else _toy(args), args.out)
    return 0


def _report(card: "Card", out: Path) -> None:
    rows = {
        "model": card["name"],
        "test accuracy": f"{card['test_accuracy']:.2%} ({card['n_test_correct']} of {card['n_test_images']} images)",
        **{method.replace("_", " "): _shares(found) for method, found in card.get("accuracies", {}).items()},
        "trained in": f"{card['training_seconds']:.0f} s",
        "sha256": card["weights_sha256"],
        "folder": str(out),
        "load it with": f'load_vit("{out}")',
    }
    if steps := sorted(path.name for path in out.glob("step-*")):
        rows["checkpoints"] = f"{len(steps)}, {steps[0]} to {steps[-1]}"
    for name, value in rows.items():
        print(f"{name:<14} {value}")
    if "certificate" in card:
        from ..circuits.truths.certificate import Certificate

        print(Certificate(**card["certificate"]))


def _shares(found: dict[str, float]) -> str:
    return ", ".join(f"{facet} {share:.2%}" for facet, share in found.items())


def _recipe(args: argparse.Namespace) -> "Recipe":
    from dataclasses import replace

    from ..models.toys.recipe_book import get_recipe, read_recipe

    recipe = read_recipe(args.recipe) if args.recipe.endswith(".toml") else get_recipe(args.recipe)
    if args.epochs is not None:
        recipe = replace(recipe, epochs=args.epochs)
    if args.seed is None:
        return recipe
    return replace(recipe, name=recipe.name.partition("@")[0], seed=args.seed)


def _toy(args: argparse.Namespace) -> "Card":
    from ..models.toys.training import train

    return train(_recipe(args), out=args.out, data_dir=args.data_dir, checkpoints=args.checkpoints)


def _planted(args: argparse.Namespace) -> "Card":
    from ..circuits.truths.certificate import train_digit_pairs
    from ..models.errors import ModelError

    if args.epochs is not None:
        raise ModelError(f"{PLANTED} is trained on endless pairs, without epochs: leave out --epochs.")
    if args.checkpoints:
        raise ModelError(f"{PLANTED} keeps no checkpoints: leave out --checkpoints.")
    return train_digit_pairs(out=args.out, seed=args.seed)
