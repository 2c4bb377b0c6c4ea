"""`vitcircuits compare`: circuits of several models, tasks or seeds, side by side."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..circuits.tasks.task_config import TaskConfig
from ..models.errors import FormatError, TaskError
from ..models.files import is_folder
from ..models.settings import FROM_NONE, SEEDS, Range
from .options import DESIGN, add_memory, add_number, add_settings, new_parser, recorded_task

if TYPE_CHECKING:
    from ..circuits.circuit import Circuit
    from ..circuits.compare.result import Comparison
    from ..circuits.compare.subject import Subject
    from ..circuits.tasks.task import Task

EPILOG = """\
examples:
  vitcircuits compare runs/3v8 runs/3v8-mean --out comparison
  vitcircuits compare vit=runs/vit-0 vit=runs/vit-1 vit=runs/vit-2 clip=runs/clip-0 clip=runs/clip-1 clip=runs/clip-2
  vitcircuits compare first.json second.json --structure
  vitcircuits compare runs/vit runs/clip --resamples 10 --heads free

Circuits that are given one KIND are seeds of one kind of model; without seeds nothing can be said of kinds.
Models and tasks are those that the run folders or the circuits record; but all are measured on clean images of target
and foil, unless --sides one asks for the target alone. Curves are measured on the pairs that are valid for every model;
with --structure nothing is run. Open comparison.html in the folder: it needs no network.
"""

_TASK_OPTIONS = ("data", "data_dir", "sides", "pairs", "eval_pairs", "n_partners", "device")


def add_parser(subparsers: Any) -> None:
    """Register `compare`."""
    parser = new_parser(subparsers, "compare", "set circuits side by side, and say what seeds and chance allow", EPILOG)
    parser.add_argument("circuits", nargs="+", metavar="[KIND=]PATH", help="a run folder or a circuit.json; of KIND")
    parser.add_argument(
        "--out", type=Path, default=Path("vitcircuits-comparison"), metavar="DIR", help="where to write"
    )
    group = parser.add_argument_group("what is run")
    group.add_argument("--structure", action="store_true", help="compare what the files hold, and run no model")
    add_number(group, "--resamples", 0, "find each again on N resamples (0)", range=FROM_NONE)
    group.add_argument("--data", metavar="DATA", help="instead of the data that is recorded")
    group.add_argument("--data-dir", metavar="DIR", help="where MNIST's four files lie")
    add_settings(group, TaskConfig, DESIGN)
    group.add_argument("--device", metavar="DEVICE", help="cpu (default), cuda, mps")
    add_memory(group)
    group = parser.add_argument_group("comparison")
    group.add_argument("--figure", action="append", metavar="NAME", help="to test, instead of the six by default")
    inside: dict[str, Any] = {"read": float, "range": Range(above=0, below=1), "metavar": "P"}
    add_number(group, "--level", 0.05, "chance of any false claim (.05)", **inside)
    add_number(group, "--rbo-p", 0.98, "of rank-biased overlap (.98)", **inside)
    add_number(group, "--rounds", 3, "of Weisfeiler-Lehman (3)", range=Range(least=1, most=100))
    group.add_argument(
        "--heads", type=_window, default="block", metavar="WHERE", help="matched inside a `block`, `free`, or a depth"
    )
    add_number(group, "--random", 20, "random circuits like each (20)", range=FROM_NONE)
    add_number(group, "--bootstrap", 1000, "draws of the pairs (1000)", range=Range(least=1, most=100_000))
    add_number(group, "--seed", 0, "draws chance (0)", range=SEEDS)
    parser.set_defaults(run=run)


def _window(text: str) -> float | str:
    try:
        return text if text in ("block", "free") else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: write block, free, or a depth such as 0.1") from error


@dataclass(frozen=True, eq=False)
class Given:
    """A circuit that the command line names.

    Args:
        kind: The kind that it is a seed of.
        path: Its run folder or file.
        circuit: The circuit.
    """

    kind: str
    path: Path
    circuit: Circuit


def run(args: argparse.Namespace) -> int:
    """Compares, writes the folder and prints what was found."""
    given = _given(args.circuits)
    subjects, pairs = (_structure(given), {}) if args.structure else _measured(args, given)
    comparison = _compare(args, subjects, pairs)
    print(comparison)
    files = comparison.save(args.out)
    print(f"\nfiles in {args.out}: {', '.join(sorted(path.name for path in files))}")
    print(f"open {args.out / 'comparison.html'}")
    return 0


def _compare(args: argparse.Namespace, subjects: dict[str, list[Subject]], pairs: dict[str, Any]) -> Comparison:
    from ..circuits.compare.comparison import compare

    return compare(
        subjects,
        figures=args.figure,
        level=args.level,
        rbo_p=args.rbo_p,
        rounds=args.rounds,
        window=args.heads,
        n_random=args.random,
        n_bootstrap=args.bootstrap,
        pairs=pairs,
        seed=args.seed,
    )


def _given(texts: list[str]) -> list[Given]:
    """The circuits, each with its kind: what stands before `=`, or the folder's or the file's name."""
    from ..circuits.circuit import Circuit

    found = []
    for text in texts:
        kind, equals, rest = text.partition("=")
        named = bool(equals) and not Path(text).exists()
        path = Path(rest if named else text)
        folder = is_folder(path)
        found.append(Given(kind if named else _name(path, folder), path, Circuit.load(path)))
    if len(found) < 2:
        raise FormatError("one circuit alone cannot be compared: pass two or more, such as runs/vit runs/clip.")
    return _apart(found, texts)


def _name(path: Path, folder: bool) -> str:
    if folder:
        return path.resolve().name
    return path.resolve().parent.name if path.name == "circuit.json" else path.stem


def _apart(found: list[Given], texts: list[str]) -> list[Given]:
    """Circuits that got one name by chance, and not by a kind that was given, are numbered."""
    names = [one.kind for one in found]
    given = ["=" in text and not Path(text).exists() for text in texts]
    apart = []
    for place, (one, named) in enumerate(zip(found, given, strict=True)):
        again = not named and names.count(one.kind) > 1
        kind = f"{one.kind} ({1 + names[:place].count(one.kind)})" if again else one.kind
        apart.append(Given(kind, one.path, one.circuit))
    return apart


def _structure(given: list[Given]) -> dict[str, list[Subject]]:
    from ..circuits.compare.subject import Subject

    found: dict[str, list[Subject]] = {}
    for one in given:
        found.setdefault(one.kind, []).append(Subject(one.circuit))
    return found


def _measured(args: argparse.Namespace, given: list[Given]) -> tuple[dict[str, list[Subject]], dict[str, Any]]:
    """The circuits with what running their models on common pairs gives."""
    from ..algorithms.comparing import common_pairs, finder_of, measure_subjects, resampled_circuits

    tasks, pairs, heads = [_task(args, one) for one in given], {}, True
    try:
        common = common_pairs(tasks)
    except TaskError as error:  # other pictures: the question may be about tasks
        print(f"each circuit is measured on its own pairs: {error}")
        heads = False
    else:
        tasks, pairs = list(common.tasks), common.as_dict()
        print(common)
    kinds: dict[str, list[tuple[Circuit, Task]]] = {}
    again: dict[str, list[Any]] = {}
    for one, task in zip(given, tasks, strict=True):
        kinds.setdefault(one.kind, []).append((one.circuit, task))
        find = finder_of(one.circuit, memory=args.memory) if args.resamples else None
        circuits = () if find is None else resampled_circuits(find, task, args.resamples, seed=args.seed)
        again.setdefault(one.kind, []).append(circuits)
    measured = measure_subjects(kinds, heads=heads, resampled=again, memory=args.memory)
    return measured, pairs


def _task(args: argparse.Namespace, given: Given) -> Task:
    """The task that a run folder or a circuit records, less what options say; a saved readout is taken."""
    from ..circuits.formats.json import circuit_file

    _require_findable(args, given, args.sides or "both")
    options = argparse.Namespace(model=None, **{name: getattr(args, name) for name in _TASK_OPTIONS})
    return recorded_task(options, given.circuit, circuit_file(given.path))[1]


def _require_findable(args: argparse.Namespace, given: Given, sides: str) -> None:
    """Does nothing unless a circuit would be found again on a task of another kind than its own.

    Raises:
        TaskError: It would.
    """
    own = given.circuit.task.get("sides", "one")
    if args.resamples and own != sides:
        repaired = f"pass --sides {own}, " if own == "one" else "leave --sides out, "
        raise TaskError(
            f"{given.path} was found on {_SIDES[own]} and cannot be found again on {_SIDES[sides]}: {repaired}or do "
            f"without --resamples."
        )


_SIDES = {"both": "a crossed task", "one": "a one-sided task"}
