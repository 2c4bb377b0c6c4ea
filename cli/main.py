"""`vitcircuits`: the command line. Each command is a file with `add_parser` and `run`; nothing heavy is imported."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from ..algorithms.discovery import memory_on
from ..models.errors import VitCircuitsError
from ..models.watching import say
from . import (
    benchmark,
    catalogue,
    compare,
    demo,
    discover,
    doctor,
    draw,
    evaluate,
    export,
    heads,
    lens,
    models,
    partners,
    stability,
    sweep,
    train,
)
from .heartbeat import heartbeat
from .mistakes import exhausted, in_options
from .options import Parser

COMMANDS = (
    demo,
    discover,
    evaluate,
    stability,
    sweep,
    partners,
    compare,
    draw,
    export,
    heads,
    lens,
    catalogue,
    benchmark,
    models,
    train,
    doctor,
)

EPILOG = """\
start here:
  vitcircuits demo                                  3 against 8 on real digits, in under a minute
  vitcircuits discover --help                       the same for your model and images

`vitcircuits COMMAND --help` teaches each command by example. What partner, foil, port and
transmission are: `vitcircuits --words`.
"""


class _Words(argparse.Action):
    """Prints the glossary and ends."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from ..circuits.draw.pages import glossary

        print(glossary().replace("**", ""))
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(
        prog="vitcircuits",
        description="Circuit discovery for Vision Transformers: which heads, MLPs and patches produce a behaviour.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vitcircuits {version('vitcircuits')}")
    parser.add_argument("--words", action=_Words, help="what the words that are used here mean")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 2 for a mistake that its message repairs, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = argparse.Namespace(command_line=["vitcircuits", *arguments])
    try:
        args = make_parser().parse_args(arguments, args)
        say("loading ...")
        with heartbeat():
            if getattr(args, "memory", None) == 0:
                args.memory = memory_on(getattr(args, "device", None) or "cpu")
            return args.run(args)
    except VitCircuitsError as error:
        print(f"vitcircuits: {in_options(str(error), args)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "vitcircuits: interrupted; a search or a run goes on from what is finished if given again.", file=sys.stderr
        )
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except (MemoryError, OSError, RuntimeError) as error:
        if not (said := exhausted(error)):
            raise
        print(f"vitcircuits: {said}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
