"""`vitcircuits stability`: does the circuit stay when the pairs and the seeds change?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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
    make_task,
    new_parser,
    parse_size,
    task_settings,
)

EPILOG = """\
examples:
  vitcircuits stability --model toy/digits-2l --data digits --target 3 --foil 8 --size 40
  vitcircuits stability --model toy/digits-2l --data digits --target 3 --foil 8 --algorithm acdc --option tau=0.05
  vitcircuits stability --model planted/neighbour-xor --data planted --target 1 --foil 0 \\
      --algorithm exact_effects --size 13 --resamples 20 --consensus-halves

The folder holds stability.json, stability.svg and .png, and consensus.json: the circuit of the edges that more than
--share of the resamples keep, to be judged by `vitcircuits evaluate`.
"""


def add_parser(subparsers: Any) -> None:
    """Register `stability`."""
    parser = new_parser(subparsers, "stability", "find a circuit again on resampled pairs and with other seeds", EPILOG)
    add_model(parser, required=True)
    add_task(parser, required=True)
    group = parser.add_argument_group("search")
    group.add_argument("--algorithm", default="eap_ig", metavar="NAME", help=f"eap_ig or another of: {_names()}")
    group.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the algorithm")
    group.add_argument("--tokens", default="all", metavar="CHOICE", help="all (default), role, frame (videos), each")
    group.add_argument("--ports", default="qkv", metavar="CHOICE", help="qkv (default), head, block")
    group.add_argument(
        "--by", default="auto", choices=BY, help="how edges are ranked (auto: mean_abs, one-sided signed)"
    )
    group.add_argument("--size", type=parse_size, metavar="N", help=f"{SIZE_HELP}; algorithms that score need it")
    group.add_argument("--resamples", type=int, default=10, metavar="N", help="bootstrap resamples of the pairs (10)")
    group.add_argument("--seeds", type=int, default=3, metavar="N", help="other seeds, where chance is drawn (3)")
    group.add_argument("--halvings", type=int, default=2, metavar="N", help="divisions into disjoint halves (2)")
    group.add_argument("--share", type=float, default=0.5, metavar="SHARE", help="of the consensus circuit (.5)")
    group.add_argument("--consensus-halves", action="store_true", help="also a consensus circuit inside each half")
    add_memory(group)
    parser.add_argument(
        "--out", type=Path, default=Path("vitcircuits-stability"), metavar="DIR", help="folder (vitcircuits-stability)"
    )
    parser.set_defaults(run=run)


def _names() -> str:
    return ", ".join(ALGORITHMS)


def run(args: argparse.Namespace) -> int:
    """Prints the figures, and writes the folder."""
    from ..algorithms.stability import measure_stability
    from ..circuits.graph import compile_graph
    from ..models.readout_files import save_beside

    if args.algorithm not in ALGORITHMS:
        raise TaskError(f"there is no algorithm {args.algorithm!r}: pass one of {_names()}.")
    if args.size is None and ALGORITHMS[args.algorithm].finds == "scores":
        raise TaskError(f"{args.algorithm} scores edges: pass the size of each circuit, such as --size 20.")
    options = parse_options(args.option, ALGORITHMS[args.algorithm].options)
    settings = task_settings(args)
    vit = load_model(args, settings)
    task = make_task(vit, settings)
    found = measure_stability(
        args.algorithm,
        compile_graph(vit, tokens=args.tokens, ports=args.ports),
        task,
        size=args.size,
        by=args.by,
        n_resamples=args.resamples,
        n_seeds=args.seeds,
        n_halvings=args.halvings,
        share=args.share,
        consensus_in_halves=args.consensus_halves,
        seed=args.seed or 0,
        memory=args.memory,
        progress=True,
        **options,
    )
    print(task)
    print(found)
    for path in (
        *save_beside(vit, args.out),
        found.save(args.out / "stability.json"),
        found.draw(args.out / "stability.svg"),
        found.draw(args.out / "stability.png"),
        found.consensus().save(args.out / "consensus.json"),
    ):
        print(f"wrote {path}")
    return 0
