"""`vitcircuits partners`: the circuits that several kinds of partner give, compared."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..algorithms.registry import ALGORITHMS
from ..models.errors import TaskError
from .discover import parse_options
from .options import (
    BY,
    SIZE_HELP,
    add_memory,
    add_model,
    add_task,
    load_model,
    make_partner,
    new_parser,
    parse_size,
    task_settings,
)
from .readout import save_beside

if TYPE_CHECKING:
    from pathlib import Path

    from ..circuits.task import Task
    from ..models.hooked import HookedViT

EPILOG = """\
examples:
  vitcircuits partners --model toy/digits-2l --data digits --target 3 --foil 8
  vitcircuits partners --model toy/mnist-2l --data mnist --data-dir mnist/ --target 3 --foil 8 \\
      --partners class_swap blur object_fill word --mask attention --size 0.2
  vitcircuits partners --model deit_tiny_patch16_224 --checkpoint model.safetensors --data photos/ \\
      --target cats=281-285 --foil dogs=151-268 --partners class_swap object_fill word --mask boxes.csv

All circuits are found and judged on the same clean images, of target and foil; with --sides one of the target, and a
pair stays only if it is valid under every partner.
The folder holds the tables, the circuits, and gallery.png: look at what the partners are.
"""


def add_parser(subparsers: Any) -> None:
    """Register `partners`."""
    from pathlib import Path

    parser = new_parser(subparsers, "partners", "compare the circuits that different partners give", EPILOG)
    add_model(parser, required=True)
    add_task(parser, required=True)
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--partners",
        nargs="+",
        default=["class_swap", "blur", "patch_shuffle"],
        metavar="KIND",
        help="kinds as of --corruption (class_swap blur patch_shuffle)",
    )
    group.add_argument(
        "--algorithm", default="eap_ig", metavar="NAME", help=f"eap_ig (default), {', '.join(ALGORITHMS)}"
    )
    group.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the algorithm")
    group.add_argument("--tokens", default="all", metavar="CHOICE", help="all (default), role, frame (videos), each")
    group.add_argument("--ports", default="qkv", metavar="CHOICE", help="qkv (default), head, block")
    group.add_argument(
        "--by", default="auto", choices=BY, help="how edges are ranked (auto: mean_abs, one-sided signed)"
    )
    group.add_argument("--size", type=parse_size, default=0.1, metavar="N", help=f"{SIZE_HELP} (0.1)")
    group.add_argument("--random", type=int, default=10, metavar="N", help="random circuits beside each (10)")
    group.add_argument("--show", type=int, default=4, metavar="N", help="clean images in the gallery (4)")
    add_memory(group)
    group.add_argument("--out", type=Path, default=Path("vitcircuits-partners"), metavar="DIR", help="where to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compares, writes tables, circuits and pictures, and prints a summary."""
    from ..algorithms.partners import compare_partners
    from ..circuits.graph import compile_graph

    if args.algorithm not in ALGORITHMS:
        raise TaskError(f"there is no algorithm {args.algorithm!r}: pass one of {', '.join(ALGORITHMS)}.")
    options = parse_options(args.option, ALGORITHMS[args.algorithm].options)
    settings = _settings(args)
    vit = load_model(args, settings)
    tasks = _tasks(vit, args.partners, settings)
    files = _gallery(tasks, args.out, args.show)
    print(f"the partners: {files[-1]}")
    comparison = compare_partners(
        compile_graph(vit, tokens=args.tokens, ports=args.ports),
        tasks,
        algorithm=args.algorithm,
        options=options,
        size=args.size,
        by=args.by,
        n_random=args.random,
        seed=settings["seed"],
        memory=args.memory,
        progress=True,
    )
    files += [*comparison.save(args.out), *save_beside(vit, args.out)]
    for name, circuit in zip(comparison.names, comparison.circuits, strict=True):
        files.append(circuit.save(args.out / f"circuit-{name}.json"))
    print(comparison)
    for name, splits in comparison.dropped.items():
        counts = "; ".join(f"{split}: {_counts(reasons)}" for split, reasons in splits.items())
        print(f"dropped under {name}: {counts}")
    print(f"\nfiles in {args.out}: {', '.join(sorted(path.name for path in files))}")
    return 0


def _counts(reasons: Any) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items())


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    no_use = {"corruption": "name the kinds after --partners", "ablation": "leave it out", "reference": "leave it out"}
    for option, repaired in no_use.items():
        if getattr(args, option) not in (None, "partner"):
            raise TaskError(f"--{option} has no use here, where removed edges carry the partners' values: {repaired}.")
    return task_settings(args)


def _tasks(vit: HookedViT, kinds: list[str], settings: dict[str, Any]) -> dict[str, Task]:
    from ..circuits.contrasts import partner_contrasts

    return partner_contrasts(
        vit,
        settings["data"],
        target=settings["target"],
        foil=settings["foil"],
        partners=[make_partner(kind, settings) for kind in kinds],
        metric=settings["metric"],
        sides=settings["sides"],
        n_discovery=settings["pairs"],
        n_evaluation=settings["eval_pairs"],
        n_partners=settings["n_partners"],
        data_dir=settings["data_dir"],
        seed=settings["seed"],
    )


def _gallery(tasks: dict[str, Task], folder: Path, n: int) -> list[Path]:
    from ..circuits.draw.images import draw_partners
    from ..circuits.figure_data import gather_partners

    exhibit, info = gather_partners(tasks, n=n), next(iter(tasks.values())).info
    title = f"{info['model']}: {info['target_name']} against {info['foil_name']}"
    return [draw_partners(exhibit, folder / f"gallery.{ending}", title=title) for ending in ("svg", "png")]
