"""`vitcircuits partners`: the circuits that several kinds of partner give, compared."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..algorithms.discovery import Discovery
from ..models.errors import TaskError
from ..models.settings import Range
from .options import (
    add_algorithm,
    add_memory,
    add_model,
    add_number,
    add_settings,
    add_task,
    discovery_config,
    load_model,
    new_parser,
    task_config,
)

if TYPE_CHECKING:
    from ..circuits.tasks.task import Task

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
    add_algorithm(parser, group)
    add_settings(group, Discovery, ("size",))
    add_number(group, "--random", 10, "random circuits beside each (10)")
    add_number(group, "--show", 4, "clean images in the gallery (4)", range=Range(least=1, most=100))
    add_memory(group)
    group.add_argument("--out", type=Path, default=Path("vitcircuits-partners"), metavar="DIR", help="where to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compares, writes tables, circuits and pictures, and prints a summary."""
    from ..algorithms.partners import compare_partners, sized
    from ..models.readout_files import save_beside

    _require_useful(args)
    discovery, config = sized(discovery_config(args)), task_config(args, args.partners)
    vit = load_model(args, config)
    tasks = config.contrasts(vit, args.partners)
    files = _gallery(tasks, args.out, args.show)
    print(f"the partners: {files[-1]}")
    comparison = compare_partners(
        discovery.graph(vit),
        tasks,
        algorithm=discovery,
        n_random=args.random,
        seed=config.seed,
        memory=args.memory,
    )
    files += [*comparison.save(args.out), *save_beside(vit, args.out)]
    for name, circuit in zip(comparison.names, comparison.circuits, strict=True):
        files.append(circuit.save(args.out / f"circuit-{name}.json"))
    print(comparison)
    for name, splits in comparison.dropped.items():
        counts = "; ".join(f"{split}: {_counts(reasons)}" for split, reasons in splits.items())
        print(f"dropped under {name}: {counts}")
    print(f"\n{comparison.verdict}.")
    print(f"files in {args.out}: {', '.join(sorted(path.name for path in files))}")
    return 0


def _counts(reasons: Any) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items())


def _require_useful(args: argparse.Namespace) -> None:
    no_use = {"corruption": "name the kinds after --partners", "ablation": "leave it out", "reference": "leave it out"}
    for option, repaired in no_use.items():
        if getattr(args, option) not in (None, "partner"):
            raise TaskError(f"--{option} has no use here, where removed edges carry the partners' values: {repaired}.")


def _gallery(tasks: dict[str, Task], folder: Path, n: int) -> list[Path]:
    from ..circuits.draw.images import draw_partners
    from ..circuits.figure_data import gather_partners

    exhibit, info = gather_partners(tasks, n=n), next(iter(tasks.values())).info
    title = f"{info['model']}: {info['target_name']} against {info['foil_name']}"
    return [draw_partners(exhibit, folder / f"gallery.{ending}", title=title) for ending in ("svg", "png")]
