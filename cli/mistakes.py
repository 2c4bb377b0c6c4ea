"""What the library says of Python's arguments, said of the options of a command: `data_dir=` is `--data-dir` there."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection

from ..algorithms.registry import ALGORITHMS
from ..models.settings import short

_FLAGS = {  # arguments that are called otherwise than their option
    "n_random": "random",
    "n_bootstrap": "bootstrap",
    "n_discovery": "pairs",
    "n_evaluation": "eval-pairs",
    "over": "ablation-over",
    "window": "heads",
    "coordinates": "mask-coordinates",
    "place": "word-place",
    "colour": "word-colour",
    "plate": "word-plate",
}
_POSITIONAL = {"load_vit": "--model ", "load_readout": "--readout "}
_CALL = re.compile(r"\b(\w+)\(([^()]*)\)")
_ARGUMENT = re.compile(r"(?<![\w.\-'\"/])(?<!--option )(\w+)=(True\b)?(?=(\S?))")


def in_options(message: str, args: argparse.Namespace) -> str:
    """A message of the library for somebody who wrote a command line.

    Args:
        message: What an error says.
        args: The command's options; what is called like none of them stays as it is.
    """
    known = vars(args)
    message = _CALL.sub(lambda call: _options_of(call, known), message)
    return _ARGUMENT.sub(lambda found: _option(found[1], bool(found[2]), found[3], known) or found[0], message)


def exhausted(error: Exception) -> str:
    """What to do where the machine's memory, disk or files end a command; empty for any other error."""
    said = str(error)
    if isinstance(error, MemoryError) or "allocate memory" in said or type(error).__name__ == "OutOfMemoryError":
        return "memory ran out. Pass a smaller --memory, such as --memory 200MB, fewer --pairs, or a smaller model."
    if isinstance(error, OSError) and error.errno is not None:
        where = "" if error.filename is None else f" {short(str(error.filename))}"
        return f"cannot read or write{where}: {error.strerror}. Pass a path that can be, or free space on its disk."
    return ""


def _options_of(call: re.Match[str], known: Collection[str]) -> str:
    """A call in a message as the options that do the same, where its keywords are options."""
    function, arguments = call[1], call[2].split(", ")
    named = [one.partition("=") for one in arguments if re.match(r"\w+=", one)]
    if not named or not all(_flag(name, known) for name, _, _ in named):
        return call[0]
    first = _POSITIONAL.get(function, "") + arguments[0] if function in _POSITIONAL else ""
    return " ".join([*[first] * bool(first), *(f"{_flag(name, known)} {value}".strip() for name, _, value in named)])


def _option(name: str, true: bool, following: str, known: Collection[str]) -> str:
    flag = _flag(name, known)
    if flag:
        return flag if true or not re.match(r"[\w'\"./\[(-]", following) else f"{flag} "
    if "option" in known and any(name in entry.options for entry in ALGORITHMS.values()):
        return f"--option {name}="
    return ""


def _flag(name: str, known: Collection[str]) -> str:
    flag = _FLAGS.get(name, name.replace("_", "-"))
    return f"--{flag}" if flag.replace("-", "_") in known else ""
