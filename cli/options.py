"""Options of the command line, made from the settings that they set."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..algorithms.discovery import Discovery
from ..algorithms.registry import ALGORITHMS
from ..circuits.tasks.task_config import TaskConfig
from ..models.errors import TaskError
from ..models.model_config import ModelConfig
from ..models.settings import settings_of

if TYPE_CHECKING:
    from ..circuits.circuit import Circuit
    from ..circuits.tasks.task import Task
    from ..models.hooked import HookedViT

MODEL = ("model", "checkpoint", "device", "attention_mask")
READOUT = ("readout", "prompts", "probe", "templates", "clip", "pool")
PARTNER = ("mask", "mask_coordinates", "word", "word_place", "word_size", "word_colour", "word_plate")
DESIGN = ("sides", "pairs", "eval_pairs", "n_partners")


def new_parser(subparsers: Any, name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
    """A command's parser, whose help ends with examples."""
    return subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_settings(group: Any, cls: type, names: Iterable[str], *, required: bool = False) -> None:
    """An option for each of some settings; one that is not given is None."""
    known = settings_of(cls)
    for name in names:
        one = known[name]
        more: dict[str, Any] = {"choices": one.choices} if one.choices else {"metavar": one.metavar}
        more |= {"nargs": "+"} if one.many else {"type": one.read}
        flags = one.flags or ("--" + name.replace("_", "-"),)
        group.add_argument(*flags, dest=name, required=required, help=one.help, **more)


def add_model(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """--model, --checkpoint, --device, and what takes the place of the model's own head."""
    group = parser.add_argument_group("model")
    add_settings(group, ModelConfig, MODEL[:1], required=required)
    add_settings(group, ModelConfig, MODEL[1:])
    add_settings(parser.add_argument_group("readout, in place of the model's own head"), ModelConfig, READOUT)


def add_task(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """--data, --target, --foil and how pairs are made."""
    group, first = parser.add_argument_group("task"), ("data", "target", "foil")
    add_settings(group, TaskConfig, first, required=required)
    rest = [name for name in settings_of(TaskConfig) if name not in (*first, *PARTNER)]
    add_settings(group, TaskConfig, rest)
    add_settings(parser.add_argument_group("partners that are the clean image, changed"), TaskConfig, PARTNER)


def add_algorithm(group: Any) -> None:
    """--algorithm, its options, the graph, and how edges are ranked."""
    names = "; ".join(f"{entry.name}: {entry.summary}" for entry in ALGORITHMS.values())
    options = ", ".join(dict.fromkeys(name for entry in ALGORITHMS.values() for name in entry.options))
    group.add_argument("--algorithm", metavar="NAME", help=f"eap_ig (default) or another of: {names}")
    group.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help=f"of the algorithm: {options}"
    )
    add_settings(group, Discovery, ("tokens", "ports", "by"))


def add_memory(parser: Any) -> None:
    """--memory."""
    parser.add_argument(
        "--memory", type=parse_bytes, default=2_000_000_000, metavar="SIZE", help="such as 2GB (default)"
    )


def add_out(parser: argparse.ArgumentParser, default: str) -> None:
    """--out and --overwrite."""
    parser.add_argument("--out", type=Path, default=Path(default), metavar="DIR", help=f"run folder ({default})")
    parser.add_argument("--overwrite", action="store_true", help="replace what another configuration left there")


def parse_bytes(text: str) -> int:
    """2GB, 500MB or a plain number -> bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)b?\s*", text.lower())
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 2GB, 500MB or a number of bytes")
    return int(float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[match[2]])


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
    return model_config(args).load(task.data, data_dir=task.data_dir, seed=task.seed, saved=saved)


def recorded_task(args: argparse.Namespace, circuit: Circuit, path: Path) -> tuple[TaskConfig, Task]:
    """A circuit's task: what the options say, else what the circuit records, for the model found likewise.

    The sides are not taken from the record: a circuit that was found on a one-sided task is judged on a crossed one,
    unless --sides one asks for the other.

    Args:
        args: The options.
        circuit: The circuit.
        path: Its file, beside which its readout lies.

    Raises:
        TaskError: Something is neither given nor recorded.
    """
    recorded = {key: value for key, value in circuit.task.items() if key != "sides"}
    recorded |= {"ablation": circuit.ablation.kind, "ablation_over": circuit.ablation.over}
    args.model = args.model or recorded.get("model")
    config = TaskConfig.of(given(args, TaskConfig), recorded)
    lacking = [name for name in ("data", "target", "foil") if getattr(config, name) is None]
    for name in [*lacking, *["model"] * (args.model is None)]:
        raise TaskError(f"{path} does not record its {name}: pass --{name}.")
    saved = (path.parent, circuit.task["readout"]) if "readout" in circuit.task else None
    return config, config.make(load_model(args, config, saved))
