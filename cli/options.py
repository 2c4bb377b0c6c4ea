"""Options of the command line, made from the settings that they set.

What the library says of Python's arguments is said of them: `data_dir=` is `--data-dir` there.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..algorithms.discovery import Discovery
from ..algorithms.registry import ALGORITHMS
from ..algorithms.run_config import RunConfig
from ..circuits.tasks.task_config import TaskConfig
from ..models.errors import FormatError, TaskError
from ..models.model_config import ModelConfig
from ..models.settings import COUNTS, Range, Setting, settings_of, short

if TYPE_CHECKING:
    from torch import Tensor

    from ..circuits.circuit import Circuit
    from ..circuits.tasks.task import Task
    from ..models.hooked import HookedViT

MODEL = ("model", "checkpoint", "device", "dtype", "attention_mask")
READOUT = ("readout", "prompts", "probe", "templates", "clip", "pool")
PARTNER = ("mask", "mask_coordinates", "word", "word_place", "word_size", "word_colour", "word_plate")
DESIGN = ("sides", "pairs", "eval_pairs", "n_partners")


class Parser(argparse.ArgumentParser):
    """A parser that says a mistake in one line, without the list of all options."""

    tells_algorithms = False

    def format_help(self) -> str:
        """The help, with the algorithms and their options before the examples where the command takes them."""
        if self.tells_algorithms:
            told = argparse.ArgumentParser.format_help(self)
            return told.replace("\nexamples:\n", f"\n{algorithms_told()}\nexamples:\n", 1)
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Raises a TaskError."""
        message = re.sub(r"^argument [^:]*: (?=--)", "", message).rstrip(".")
        message = re.sub(r"\S{200,}", lambda word: f"{word[0][:40]}...{word[0][-8:]}", message)
        raise TaskError(f"{message}. `{self.prog} --help` shows all options.")


def new_parser(subparsers: Any, name: str, summary: str, epilog: str) -> Parser:
    """A command's parser, whose help ends with examples."""
    return subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"{epilog}\nwhat partner, foil, port, transmission mean: vitcircuits --words\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_settings(group: Any, cls: type, names: Iterable[str], *, required: bool = False) -> None:
    """An option for each of some settings; one that is not given is None."""
    known = settings_of(cls)
    for name in names:
        one = known[name]
        flags = one.flags or ("--" + name.replace("_", "-"),)
        _add(group, one, *flags, dest=name, required=required)


def add_number(
    group: Any,
    flag: str,
    default: float | int | None,
    help: str,
    *,
    range: Range = COUNTS,
    read: Any = int,
    metavar: str = "N",
) -> None:
    """An option that is a number and no setting."""
    _add(group, Setting(help, read=read, range=range, metavar=metavar), flag, default=default)


def _add(group: Any, one: Setting, *flags: str, **more: Any) -> None:
    """An option whose value is checked as the setting is."""
    more |= {"metavar": one.metavar or f"{{{','.join(map(str, one.choices))}}}"}
    more |= {"nargs": "+"} if one.many else {"type": partial(_value, one, flags[0])}
    group.add_argument(*flags, help=one.help, **more)


def _value(one: Setting, flag: str, text: str) -> Any:
    try:
        return one.value(flag, text)
    except TaskError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_model(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """--model, --checkpoint, --device, and what takes the place of the model's own head."""
    group = parser.add_argument_group("model")
    add_settings(group, ModelConfig, MODEL[:1], required=required)
    add_settings(group, ModelConfig, MODEL[1:])
    add_settings(parser.add_argument_group("readout, in place of the model's own head"), ModelConfig, READOUT)


def add_model_and_images(parser: argparse.ArgumentParser) -> None:
    """A model by its place, its readout, and pictures of one's own."""
    parser.add_argument("model", metavar="MODEL", help="toy/digits-2l, a timm name, a folder, a file")
    add_settings(parser.add_argument_group("model"), ModelConfig, MODEL[1:])
    add_settings(parser.add_argument_group("readout, in place of the model's own head"), ModelConfig, READOUT)
    parser.add_argument("--images", required=True, metavar="DIR", help="a folder of pictures, digits, mnist or sprites")
    add_settings(parser, TaskConfig, ("data_dir",))


def load_model_and_images(args: argparse.Namespace) -> tuple[HookedViT, Tensor, tuple[str, ...]]:
    """The model, args.n pictures as it takes them, (image, channel, height, width), and their names."""
    from ..models.pictures import load_pictures

    vit = model_config(args).load(args.images, data_dir=args.data_dir)
    return vit, *load_pictures(args.images, vit.preprocess, args.n, data_dir=args.data_dir)


def add_task(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """--data, --target, --foil and how pairs are made."""
    group, first = parser.add_argument_group("task"), ("data", "target", "foil")
    add_settings(group, TaskConfig, first, required=required)
    rest = [name for name in settings_of(TaskConfig) if name not in (*first, *PARTNER)]
    add_settings(group, TaskConfig, rest)
    add_settings(parser.add_argument_group("partners that are the clean image, changed"), TaskConfig, PARTNER)


def add_algorithm(parser: Parser, group: Any) -> None:
    """--algorithm, its options, the graph, and how edges are ranked."""
    parser.tells_algorithms = True
    names = ", ".join(name for name in ALGORITHMS if name != "eap_ig")
    group.add_argument("--algorithm", metavar="NAME", help=f"eap_ig (default), {names}: see below")
    group.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="of the algorithm, see below; several times"
    )
    add_settings(group, Discovery, ("tokens", "ports", "by"))


def algorithms_told() -> str:
    """Each algorithm with its options, their defaults and what they can be, as help shows them."""
    lines = ["algorithms, each with what --option NAME=VALUE sets (here: to its default):"]
    for entry in ALGORITHMS.values():
        lines += ["", *_wrapped(f"{entry.name}: {entry.summary}", 2)]
        for name, option in entry.options.items():
            value = {True: "yes", False: "no"}[option.default] if type(option.default) is bool else option.default
            others = [one for one in map(str, option.choices or ()) if one not in option.help and one != str(value)]
            others = [] if type(option.default) is bool else others
            more = f"; or {', '.join(others)}" if others else "" if option.range is None else f"; {option.range}"
            lines += _wrapped(f"{name}={value}  {option.help}{more}", 4)
    return "\n".join([*lines, ""])


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent=" " * indent, subsequent_indent=" " * (indent + 4))


def add_memory(parser: Any) -> None:
    """--memory; 0 until `main` knows the device."""
    _add(parser, settings_of(RunConfig)["memory"], "--memory", default=0)


def add_out(parser: argparse.ArgumentParser, default: str) -> None:
    """--out and --overwrite."""
    parser.add_argument("--out", type=Path, default=Path(default), metavar="DIR", help=f"run folder ({default})")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished run of other options there")


def given(args: argparse.Namespace, cls: type) -> dict[str, Any]:
    """What a command line says of some settings, those that it leaves out as None."""
    return {name: getattr(args, name, None) for name in settings_of(cls)}


def model_config(args: argparse.Namespace) -> ModelConfig:
    """The model that the options name."""
    return ModelConfig.of(given(args, ModelConfig))


def task_config(args: argparse.Namespace, kinds: Iterable[str] = ()) -> TaskConfig:
    """The task that the options name; `kinds` are further kinds of partner that they are for."""
    return TaskConfig.of(given(args, TaskConfig), kinds=tuple(kinds))


def discovery_config(args: argparse.Namespace, **more: Any) -> Discovery:
    """The search that the options name."""
    return Discovery.of({**given(args, Discovery), "options": read_options(args.option), **more})


def read_options(texts: Iterable[str]) -> dict[str, str]:
    """`name=value` texts, each once.

    Raises:
        TaskError: A text has no value.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise TaskError(f"--option {text}: write NAME=VALUE, such as steps=10.")
        found[name] = value
    return found


def load_model(
    args: argparse.Namespace, task: TaskConfig, saved: tuple[Path, Mapping[str, Any]] | None = None
) -> HookedViT:
    """The model that the options name, under the readout that they name, or that was saved with a circuit."""
    task.require_found()
    return model_config(args).load(task.data, data_dir=task.data_dir, seed=task.seed, saved=saved)


def recorded_task(args: argparse.Namespace, circuit: Circuit, path: Path) -> tuple[TaskConfig, Task]:
    """A circuit's task: what the options say, else what its run folder or the circuit records, and its model likewise.

    The sides are not taken from the record: a circuit that was found on a one-sided task is judged on a crossed one,
    unless --sides one asks for the other.

    Args:
        args: The options.
        circuit: The circuit.
        path: Its file, beside which its readout lies.

    Raises:
        TaskError: Something is neither given nor recorded.
    """
    run = _run_beside(path)
    recorded = {key: value for key, value in circuit.task.items() if key != "sides"}
    recorded |= _at_sides(run.get("task", {}), args.sides or "both")
    recorded |= {"ablation": circuit.ablation.kind, "ablation_over": circuit.ablation.over}
    args.model = args.model or run.get("model") or recorded.get("model")
    if args.model == run.get("model"):
        for name in ("checkpoint", "device", "dtype", "attention_mask"):
            setattr(args, name, getattr(args, name, None) or run.get(name))
    config = TaskConfig.of(given(args, TaskConfig), recorded)
    lacking = [name for name in ("data", "target", "foil") if getattr(config, name) is None]
    for name in [*lacking, *["model"] * (args.model is None)]:
        raise TaskError(f"{path} does not record its {name}: pass --{name}.")
    saved = (path.parent, circuit.task["readout"]) if "readout" in circuit.task else None
    return config, config.make(load_model(args, config, saved))


def _run_beside(path: Path) -> dict[str, Any]:
    """The configuration of the run folder that a circuit's file is in; empty where it is in none."""
    from ..circuits.run_folder import read_run

    in_folder = path.name == "circuit.json" and path.with_name("run.json").is_file()
    return dict(read_run(path.parent)["config"]) if in_folder else {}


def _at_sides(task: Mapping[str, Any], sides: str) -> dict[str, Any]:
    """A run's settings but its sides; counts are of images or of pairs, and go too where the sides differ."""
    gone = {"sides"} if task.get("sides", "one") == sides else {"sides", "pairs", "eval_pairs"}
    return {name: value for name, value in task.items() if name not in gone}


def require_ending(path: Path, endings: Sequence[str]) -> None:
    """Does nothing if a file to write has an ending that is known, before anything is computed.

    Raises:
        FormatError: It has not.
    """
    if path.suffix.lower() not in endings:
        known = path.with_suffix(endings[0]).name
        raise FormatError(f"--to {path}: end the name in one of {', '.join(endings)}, such as --to {known}.")


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
