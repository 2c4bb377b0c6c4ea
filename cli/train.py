"""`vitcircuits train`: a toy ViT from its recipe."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..models.cards import Card

PLANTED = "planted/digit-pairs"

EPILOG = """\
examples:
  vitcircuits train digits-2l --out my-digits              about two minutes, no download
  vitcircuits train digits-2l --out other --seed 1         other weights by the same recipe
  vitcircuits train mnist-2l --out my-mnist --data-dir folder/with/idx/files
  vitcircuits train mnist-2l --out quick --epochs 1        a quick look, less accurate
  vitcircuits train planted/digit-pairs --out my-pairs     a model trained to use a known circuit, a few minutes

The folder holds model.safetensors and card.json. Use it wherever a model is wanted:
  python -c 'from vitcircuits.models import load_vit; print(load_vit("my-digits"))'

The same recipe and seed give the same weights, byte for byte, on the same machine.
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `train`; `args.run(args)` runs it."""
    from ..models.recipes import RECIPES

    names = ", ".join([*RECIPES, PLANTED])
    parser = subparsers.add_parser(
        "train",
        help="train a toy ViT by its recipe",
        description="Train a toy ViT by its recipe and write its weights and card into a folder.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", help=f"one of {names}")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write, made if need be")
    parser.add_argument("--seed", metavar="N", type=int, help="in place of the recipe's (0)")
    parser.add_argument("--epochs", metavar="N", type=int, help="passes over the data, in place of the recipe's")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="folder with MNIST's four idx files")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, and print what came of it."""
    card = _planted(args) if args.recipe == PLANTED else _toy(args)
    rows = {
        "model": card["name"],
        "test accuracy": f"{card['test_accuracy']:.2%} ({card['n_test_correct']} of {card['n_test_images']} images)",
        "trained in": f"{card['training_seconds']:.0f} s",
        "sha256": card["weights_sha256"],
        "folder": str(args.out),
        "load it with": f'load_vit("{args.out}")',
    }
    for name, value in rows.items():
        print(f"{name:<14} {value}")
    if "certificate" in card:
        from ..models.planted.certificate import Certificate

        print(Certificate(**card["certificate"]))
    return 0


def _toy(args: argparse.Namespace) -> "Card":
    from dataclasses import replace

    from ..models.errors import ModelError
    from ..models.recipes import get_recipe
    from ..models.training import train

    recipe = get_recipe(args.recipe)
    if args.epochs is not None:
        if args.epochs < 1:
            raise ModelError(f"--epochs {args.epochs}, but at least one is wanted: --epochs 1.")
        recipe = replace(recipe, epochs=args.epochs)
    return train(recipe, out=args.out, data_dir=args.data_dir, seed=args.seed)


def _planted(args: argparse.Namespace) -> "Card":
    from ..models.errors import ModelError
    from ..models.planted.digit_pairs import train_digit_pairs

    if args.epochs is not None:
        raise ModelError(f"{PLANTED} is trained on endless pairs, without epochs: leave out --epochs.")
    return train_digit_pairs(out=args.out, seed=args.seed)
