"""`vitcircuits stability`: does the circuit stay when the pairs and the seeds change?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..algorithms.discovery import Discovery
from ..models.settings import FROM_NONE, Range
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
    add_algorithm(parser, group)
    add_settings(group, Discovery, ("size",))
    add_number(group, "--resamples", 10, "bootstrap resamples of the pairs (10)", range=FROM_NONE)
    add_number(group, "--seeds", 3, "other seeds, where chance is drawn (3)", range=FROM_NONE)
    add_number(group, "--halvings", 2, "divisions into disjoint halves (2)", range=FROM_NONE)
    share = Range(least=0, below=1)
    add_number(group, "--share", 0.5, "of the consensus circuit (.5)", read=float, range=share, metavar="SHARE")
    group.add_argument("--consensus-halves", action="store_true", help="also a consensus circuit inside each half")
    add_memory(group)
    parser.add_argument(
        "--out", type=Path, default=Path("vitcircuits-stability"), metavar="DIR", help="folder (vitcircuits-stability)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the figures, and writes the folder."""
    from ..algorithms.stability import measure_stability, require_size
    from ..models.readout_files import save_beside

    discovery, config = discovery_config(args), task_config(args)
    require_size(discovery)
    vit = load_model(args, config)
    task = config.make(vit)
    found = measure_stability(
        discovery,
        discovery.graph(vit),
        task,
        n_resamples=args.resamples,
        n_seeds=args.seeds,
        n_halvings=args.halvings,
        share=args.share,
        consensus_in_halves=args.consensus_halves,
        seed=config.seed,
        memory=args.memory,
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
    print(f"{found.verdict}.")
    return 0
