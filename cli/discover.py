"""`vitcircuits discover`: from a model and images to a circuit in a run folder."""

from __future__ import annotations

import argparse
from typing import Any

from ..algorithms.registry import ALGORITHMS, Option
from ..models.errors import TaskError
from .options import (
    BY,
    SIZE_HELP,
    add_memory,
    add_model,
    add_out,
    add_task,
    load_model,
    new_parser,
    parse_size,
    task_settings,
)
from .pipeline import find_circuit, print_table, summary

EPILOG = """\
examples:
  vitcircuits discover --model toy/digits-2l --data digits --target 3 --foil 8
  vitcircuits discover --model toy/mnist-2l --data mnist --data-dir mnist/ --target 4 --foil 9 --out runs/4v9
  vitcircuits discover --model deit_tiny_patch16_224 --checkpoint model.safetensors \\
      --data photos/ --target cats=281-285 --foil dogs=151-268 --out runs/cats
  vitcircuits discover --model toy/digits-2l --data digits --target 3 --foil 8 \\
      --tokens role --algorithm eap_ig --option steps=10 --option rule=left --size 40
  vitcircuits discover --model deit_tiny_patch16_224 --checkpoint model.safetensors --data photos/ \\
      --target cats=281-285 --foil dogs=151-268 --corruption object_fill --mask boxes.csv
  vitcircuits discover --model vit_small_patch16_224.dino --data photos/ --probe ridge --target cats --foil dogs
  vitcircuits discover --model vit_base_patch16_clip_224.openai --data photos/ --prompts cats='a photo of a cat' \\
      dogs='a photo of a dog' --target cats --foil dogs
  vitcircuits discover --model toy/digits-2l --data digits --target 3 --foil 8 --algorithm acdc --option tau=0.02
  vitcircuits discover --model toy/digits-2l --data digits --target 3 --foil 8 --algorithm learned_masks --size 25
  vitcircuits discover --model toy/digits-2l --data digits --target 3 --foil 8 --granularity node --size 5

--target cats=281-285 means: images from the folder cats, classes 281 to 285 of the model.
--prompts and --probe give a model other classes; their readout is saved in the run folder and used by `evaluate`.
The run folder holds circuit.html to open in a browser. The same command goes on from an interrupted run.
"""


def add_parser(subparsers: Any) -> None:
    """Register `discover`."""
    parser = new_parser(subparsers, "discover", "find, judge, draw and export the circuit of a behaviour", EPILOG)
    add_model(parser, required=True)
    add_task(parser, required=True)
    add_search(parser)
    add_out(parser, "vitcircuits-run")
    parser.set_defaults(run=run)


def add_search(parser: argparse.ArgumentParser) -> None:
    """--algorithm, its options, the graph, how edges are ranked and chosen, and what the circuit is compared with."""
    group = parser.add_argument_group("search")
    names = "; ".join(f"{entry.name}: {entry.summary}" for entry in ALGORITHMS.values())
    group.add_argument("--algorithm", default="eap_ig", metavar="NAME", help=f"eap_ig (default) or another of: {names}")
    options = ", ".join(dict.fromkeys(name for entry in ALGORITHMS.values() for name in entry.options))
    group.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help=f"of the algorithm: {options}"
    )
    group.add_argument("--tokens", default="all", metavar="CHOICE", help="all (default), role, frame (videos), each")
    group.add_argument("--ports", default="qkv", metavar="CHOICE", help="qkv (default), head, block")
    group.add_argument(
        "--by", default="auto", choices=BY, help="how edges are ranked (auto: mean_abs, one-sided signed)"
    )
    group.add_argument(
        "--granularity", default="edge", choices=("edge", "node"), help="keep edges, or heads and MLPs whole (--size N)"
    )
    size = group.add_mutually_exclusive_group()
    size.add_argument(
        "--level",
        "--faithfulness",
        dest="faithfulness",
        type=float,
        metavar="LEVEL",
        help="smallest circuit that reads the image at this level of transmission (0.8); with --sides one, that has "
        "this faithfulness",
    )
    size.add_argument("--size", type=parse_size, metavar="N", help=f"the highest {SIZE_HELP}; or N nodes")
    size.add_argument("--threshold", type=float, metavar="TAU", help="all edges that score at least TAU")
    group.add_argument("--random", type=int, default=10, metavar="N", help="random circuits to compare with (10)")
    add_memory(group)  # type: ignore[arg-type]


def run(args: argparse.Namespace) -> int:
    """Finds the circuit, writes the run folder, prints a summary."""
    from ..circuits.words import verdict

    config = configuration(args)
    vit = load_model(args, config["task"])
    found = find_circuit(vit, config, out=args.out, command=args.command_line, overwrite=args.overwrite)
    print_table(summary(found))
    print(f"\n{verdict(found.report)}")
    print(f"files in {args.out}: {', '.join(sorted(path.name for path in found.files))}")
    print(f"open {args.out / 'circuit.html'}")
    return 0


def configuration(args: argparse.Namespace) -> dict[str, Any]:
    """The resolved configuration: everything that decides the result.

    Raises:
        TaskError: There is no such algorithm or option, or a value does not fit.
    """
    if args.algorithm not in ALGORITHMS:
        raise TaskError(f"there is no algorithm {args.algorithm!r}: pass one of {', '.join(ALGORITHMS)}.")
    chosen = {name: getattr(args, name) for name in ("faithfulness", "size", "threshold")}
    options = parse_options(args.option, ALGORITHMS[args.algorithm].options)
    if ALGORITHMS[args.algorithm].finds == "circuit":
        options |= _own_selection(args.algorithm, {name: value for name, value in chosen.items() if value is not None})
    by_count = isinstance(args.size, int)
    if args.granularity == "node" and (not by_count or ALGORITHMS[args.algorithm].finds == "circuit"):
        raise TaskError(
            "--granularity node keeps the N heads and MLPs with the highest scores: pass --size N, and an algorithm "
            "that scores edges, such as --algorithm eap_ig --size 5."
        )
    return {
        **({"granularity": "node"} if args.granularity == "node" else {}),
        "model": args.model,
        "checkpoint": args.checkpoint,
        "attention_mask": args.attention_mask,
        "device": args.device or "cpu",
        "task": task_settings(args),
        "algorithm": args.algorithm,
        "options": options,
        "tokens": args.tokens,
        "ports": args.ports,
        "by": args.by,
        "faithfulness": 0.8 if args.faithfulness is None else args.faithfulness,
        "size": args.size,
        "threshold": args.threshold,
        "random": args.random,
        "memory": args.memory,
    }


def _own_selection(algorithm: str, given: dict[str, Any]) -> dict[str, Any]:
    """What the command says about the selection, as options of an algorithm that returns a circuit.

    Raises:
        TaskError: The algorithm has no such option.
    """
    known = ALGORITHMS[algorithm].options
    for name in given:
        if name not in known:
            own = ", ".join(
                f"--option {option}={known[option].default}" for option in ("size", "tau") if option in known
            )
            raise TaskError(
                f"--{name}: {algorithm} decides itself which edges stay. Leave it out, and pass for example {own}."
            )
    return given


def parse_options(texts: list[str], known: Any) -> dict[str, Any]:
    """`name=value` texts in the types of the algorithm's defaults.

    Raises:
        TaskError: A name is not known, or a value does not fit.
    """
    parsed = {name: option.default for name, option in known.items()}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known:
            raise TaskError(f"--option {text}: the algorithm's options are {', '.join(known) or 'none'}.")
        parsed[name] = _typed(text, value, known[name])
    return parsed


def _typed(text: str, value: str, option: Option) -> Any:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        typed = words[value.lower()] if isinstance(option.default, bool) else type(option.default)(value)
    except (KeyError, ValueError):
        typed = None
    if typed is None or (option.choices is not None and typed not in option.choices):
        choices = f"one of {', '.join(map(str, option.choices))}" if option.choices else type(option.default).__name__
        raise TaskError(f"--option {text}: {option.help}; pass {choices}, such as {option.default}.")
    return typed
