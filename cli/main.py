"""`vitcircuits`: the command line. Each command is a file with `add_parser` and `run`; nothing heavy is imported.

Under `torchrun` all processes run a command of `SHARED` and divide its work; of any other the first runs it alone. Only
the first speaks, and its exit code tells what became of all.

A command never looks dead: after a second and a half without a word a terminal is told how long it has been at work, in
a line that goes with the next word. Bars tell the time themselves.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from ..algorithms.discovery import memory_on
from ..models.errors import TaskError, VitCircuitsError
from ..models.processes import LostProcessError, joined, started
from ..models.watching import say, watched
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
from .options import Parser, exhausted, in_options

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

SHARED = (demo, discover, evaluate, stability, partners, compare)
"""Commands whose work several processes share."""

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
    place = int(os.environ.get("RANK", "0")) if started() > 1 else 0
    return _told(arguments) if place == 0 else _beside_first(arguments, place)


def _beside_first(arguments: list[str], place: int) -> int:
    """The same on another process than the first: without a word, and with 0, as the first tells what became of all."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            args = make_parser().parse_args(arguments, argparse.Namespace(command_line=["vitcircuits", *arguments]))
            with _together(args) as shared:
                if shared:
                    args.run(args)
        except LostProcessError as error:
            if place == 1:  # the first may be the one that died
                print(f"vitcircuits: {error}", file=sys.__stderr__)
            return 2
        except (Exception, SystemExit, KeyboardInterrupt):
            return 0
    return 0


@contextmanager
def _together(args: argparse.Namespace) -> Iterator[bool]:
    """Joins the processes, if there are several, for a command that they share; whether it is one.

    Raises:
        TaskError: The command starts processes itself.
    """
    if started() > 1 and args.run is sweep.run:
        raise TaskError("sweep starts processes itself: call it without torchrun.")
    shared = args.run in [command.run for command in SHARED]
    with joined() if shared else nullcontext():
        yield shared


def _told(arguments: list[str]) -> int:
    args = argparse.Namespace(command_line=["vitcircuits", *arguments])
    try:
        args = make_parser().parse_args(arguments, args)
        say("loading ...")
        with heartbeat(), _together(args):
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


SILENCE = 1.5
"""Seconds."""

_CLEAR = "\r\033[K"


@contextmanager
def heartbeat() -> Iterator[None]:
    """Tells the time while the block runs and says nothing else; does nothing where nobody watches a terminal."""
    if not (watched() and sys.stderr.isatty()):
        yield
        return
    heart, before, over = _Heart(sys.stderr), (sys.stdout, sys.stderr), threading.Event()
    sys.stdout, sys.stderr = (_Heard(stream, heart) for stream in before)  # type: ignore[assignment]
    thread = threading.Thread(target=heart.beat, args=(over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        sys.stdout, sys.stderr = before


class _Heart:
    """Says on a terminal how long a command has been at work, once it has said nothing for a while."""

    def __init__(self, terminal: TextIO) -> None:
        self.terminal = terminal
        self.lock = threading.RLock()  # what is collected while a word is written may close a bar
        self.start = self.last = time.monotonic()
        self.told = False

    def beat(self, over: threading.Event) -> None:
        """Until the command is over."""
        while not over.wait(0.5):
            with self.lock:
                if time.monotonic() - self.last > SILENCE:
                    self._tell(f"{_CLEAR}... {time.monotonic() - self.start:.0f} s")
                    self.told = True
        with self.lock:
            self.clear()

    def clear(self) -> None:
        """Takes the time away, for a word to stand in its place."""
        if self.told:
            self._tell(_CLEAR)
            self.told = False

    def _tell(self, text: str) -> None:
        self.terminal.write(text)
        self.terminal.flush()


class _Heard:
    """A stream, of which every word is heard."""

    def __init__(self, stream: TextIO, heart: _Heart) -> None:
        self._stream, self._heart = stream, heart

    def write(self, text: str) -> int:
        """Writes, in place of the time."""
        with self._heart.lock:
            self._heart.clear()
            self._heart.last = time.monotonic()
            return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


if __name__ == "__main__":
    sys.exit(main())
