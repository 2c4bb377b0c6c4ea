"""`vitcircuits evaluate`: a saved circuit, judged again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import add_memory, add_model, add_task, load_model, make_task, new_parser, task_settings

EPILOG = """\
examples:
  vitcircuits evaluate vitcircuits-demo/circuit.json
  vitcircuits evaluate vitcircuits-demo/circuit.json --ablation mean
  vitcircuits evaluate runs/cats/circuit.json --checkpoint model.safetensors --data photos/ \\
      --target cats=281-285 --foil dogs=151-268 --report cats-again.json

Model and task are those recorded in the circuit, unless options say otherwise.
"""


def add_parser(subparsers: Any) -> None:
    """Register `evaluate`."""
    parser = new_parser(subparsers, "evaluate", "judge a saved circuit on evaluation pairs", EPILOG)
    parser.add_argument("circuit", type=Path, metavar="CIRCUIT.json")
    add_model(parser, required=False)
    add_task(parser, required=False)
    parser.add_argument("--random", type=int, default=10, metavar="N", help="random circuits to compare with (10)")
    parser.add_argument("--no-curve", action="store_true", help="leave out the curve, CPR and CMD")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="also write the report")
    add_memory(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the report, and writes it if asked to."""
    from ..circuits.circuit import Circuit
    from ..circuits.evaluation import evaluate
    from ..circuits.formats.reports import save_report
    from ..models.errors import TaskError

    circuit = Circuit.load(args.circuit)
    recorded = dict(circuit.task)
    args.model = args.model or recorded.get("model")
    for side in ("target", "foil"):
        if isinstance(recorded.get(side), list):
            recorded[side] = ",".join(map(str, recorded[side]))
    recorded.update(ablation=circuit.ablation.kind, ablation_over=circuit.ablation.over)
    settings = task_settings(args, recorded)
    lacking = [name for name in ("data", "target", "foil") if not settings[name]] + ["model"] * (not args.model)
    if lacking:
        raise TaskError(f"{args.circuit} does not record its {lacking[0]}: pass --{lacking[0]}.")
    task = make_task(load_model(args), settings)
    report = evaluate(
        circuit,
        task,
        curve=not args.no_curve,
        n_random=args.random,
        seed=settings["seed"],
        memory=args.memory,
        progress=True,
    )
    print(f"{args.circuit}: {task}")
    print(report)
    if args.report is not None:
        print(f"wrote {save_report(report, args.report)}")
    return 0
