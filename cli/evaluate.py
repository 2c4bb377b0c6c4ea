"""`vitcircuits evaluate`: a saved circuit, judged again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..circuits.checks import CHECKS
from ..models.errors import VitCircuitsError
from ..models.settings import FROM_NONE, Range
from .options import add_memory, add_model, add_number, add_task, new_parser, recorded_task

if TYPE_CHECKING:
    from ..circuits.circuit import Circuit
    from ..circuits.report import Report
    from ..circuits.tasks.task import Task

EPILOG = """\
examples:
  vitcircuits evaluate vitcircuits-demo
  vitcircuits evaluate vitcircuits-demo/circuit.json --ablation mean
  vitcircuits evaluate vitcircuits-demo/circuit.json --thorough --report judged.json --page judged.html
  vitcircuits evaluate vitcircuits-demo --patches 16 --page judged.html
  vitcircuits evaluate vitcircuits-demo/circuit.json --check spread --spread spread.svg
  vitcircuits evaluate runs/cats/circuit.json --checkpoint model.safetensors --data photos/ \\
      --target cats=281-285 --foil dogs=151-268 --report cats-again.json

Model and task are those recorded in the circuit, unless options say otherwise; so is the readout that was saved beside
it. Whatever task a circuit was found on, it is judged on clean images of target and foil, which tells whether it reads
the image at all; --sides one judges it on the target alone, as circuits were judged before.
--thorough asks what a sceptical reader asks: is it complete, can single edges go, does it pass the tests of
equivalence, independence, minimality, sufficiency and partial necessity, and what do other ablations and metrics say?
"""


def add_parser(subparsers: Any) -> None:
    """Register `evaluate`."""
    parser = new_parser(subparsers, "evaluate", "judge a saved circuit on evaluation pairs", EPILOG)
    parser.add_argument("circuit", type=Path, metavar="CIRCUIT", help="a circuit.json, or the run folder that holds it")
    add_model(parser, required=False)
    add_task(parser, required=False)
    add_number(parser, "--random", 10, "random circuits to compare with (10)", range=FROM_NONE)
    parser.add_argument("--no-curve", action="store_true", help="leave out the curve, CPR and CMD")
    parser.add_argument("--thorough", action="store_true", help="all checks, some hundreds of runs more")
    parser.add_argument("--check", action="append", default=[], metavar="NAME", help=f"one of {', '.join(CHECKS)}")
    share: dict[str, Any] = {"read": float, "range": Range(least=0, most=1), "metavar": "SHARE"}
    add_number(parser, "--tolerance", 0.01, "loss of faithfulness that counts as none (.01)", **share)
    add_number(parser, "--most-edges", 300, "edges taken out one by one; of more, a sample (300)")
    parser.add_argument(
        "--control-searches",
        action="store_true",
        help="also search again towards permuted labels, with heads exchanged and with random weights",
    )
    parser.add_argument("--spread", type=Path, metavar="PICTURE", help="also draw the spread (.svg, .png, .pdf)")
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="also write a page with everything")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="also write the report")
    add_number(parser, "--patches", 0, "pairs on which to measure what each patch carries (0)", range=FROM_NONE)
    add_memory(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the report, and writes it if asked to."""
    from ..algorithms.estimate import say_judging
    from ..circuits.advice import advice, told
    from ..circuits.checks.mask_evaluator import CheckSettings
    from ..circuits.circuit import Circuit
    from ..circuits.formats.json import circuit_file
    from ..circuits.judging.evaluation import evaluate
    from ..circuits.words import verdict

    circuit = Circuit.load(args.circuit)
    config, task = recorded_task(args, circuit, circuit_file(args.circuit))
    curve = not args.no_curve and circuit.scores is not None
    checks = args.most_edges if args.thorough else 0  # about: the longest takes each edge out
    say_judging(task, circuit.graph, n_random=args.random, curve=curve, runs_of_checks=checks)
    wanted = [*args.check, *(["spread"] if args.spread is not None else [])]
    report = evaluate(
        circuit,
        task,
        ablation=task.ablation if args.ablation else None,
        curve=not args.no_curve,
        n_random=args.random,
        checks="all" if args.thorough else wanted,
        settings=CheckSettings(tolerance=args.tolerance, most_parts=args.most_edges),
        seed=config.seed,
        memory=args.memory,
    )
    print(f"{args.circuit}: {task}")
    print(_design(circuit, task))
    print(report)
    if args.control_searches:
        from ..algorithms.control_search import controls_of

        print(controls_of(circuit, task, memory=args.memory))
    for path in _write(args, circuit, report, task):
        print(f"wrote {path}")
    run = circuit_file(args.circuit).with_name("run.json")
    known = advice(circuit, report, task.info)
    for line in (f"{verdict(report)}.", *told(known, run if _goes_on(run) else None)):
        print(line)
    return 0


def _goes_on(run: Path) -> bool:
    """Whether a `run.json` is there that a command can go on from; that of a call from Python may not say all."""
    from ..algorithms.run_config import RunConfig

    try:
        RunConfig.load(run)
    except VitCircuitsError:
        return False
    return True


def _design(circuit: Circuit, task: Task) -> str:
    """On which sides the circuit was found, and on which it is judged."""
    from ..circuits.words import ONE_SIDED

    found = "both sides" if circuit.task.get("sides") == "both" else "a one-sided task"
    judged = "both sides" if task.sides == "both" else f"one side: {ONE_SIDED}"
    return f"found on {found}; judged on {judged}"


def _write(args: argparse.Namespace, circuit: Circuit, report: Report, task: Task) -> list[Path]:
    """What patches carry, the report, the picture of the spread and the page, as far as they were asked for."""
    from ..circuits.draw.curve import curves_svg
    from ..circuits.draw.pages import write_html
    from ..circuits.figure_data import gather
    from ..circuits.formats.json import circuit_file, save_report
    from ..circuits.words import images_shown, measure

    written, effects = [], None
    if args.patches:
        from ..algorithms.patching.patch_effects import patch_effects

        effects = patch_effects(circuit, task, n=args.patches, memory=args.memory)
        print(f"{effects.method}: {effects.caveat}")
        written += effects.write(circuit_file(args.circuit).parent)
    if args.report is not None:
        written.append(save_report(report, args.report))
    if args.spread is not None:
        written.append(report.tables["spread"].draw(args.spread, title=f"{measure(report)} under each choice"))
    if args.page is not None:
        curve = curves_svg(report.curves, measure=measure(report)) if report.curves else None
        exhibit = gather(task, images=images_shown(report))
        given = {"report": report, "exhibit": exhibit, "curve_svg": curve, "patch_effects": effects}
        written.append(write_html(circuit, args.page, **given))
    return written
