"""`vitcircuits discover`: from a model and images to a circuit in a run folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..algorithms.discovery import Discovery
from ..algorithms.run_config import SELECTIONS, RunConfig, read_settings
from ..circuits.tasks.task_config import TaskConfig
from ..models.errors import TaskError
from ..models.model_config import ModelConfig
from ..models.settings import settings_of
from .options import (
    add_algorithm,
    add_model,
    add_out,
    add_settings,
    add_task,
    given,
    new_parser,
    read_options,
)

if TYPE_CHECKING:
    from ..algorithms.discovered import Discovered

EPILOG = """\
examples:
  vitcircuits discover --model toy/digits-2l --data digits --target 3 --foil 8
  vitcircuits discover --model toy/mnist-2l --data mnist --data-dir mnist/ --target 4 --foil 9 --out runs/4v9
  vitcircuits discover --model deit_tiny_patch16_224 --checkpoint model.safetensors \\
      --data photos/ --target cats=281-285 --foil dogs=151-268 --out runs/cats
  vitcircuits discover --model toy/digits-2l --data digits --target 3 --foil 8 \\
      --tokens role --algorithm eap_ig --option steps=10 --option rule=left --size 40
  vitcircuits discover --model deit_tiny_patch16_224 --checkpoint model.safetensors --data photos/ \\
      --target cats=281-285 --foil dogs=151-268 --corruption object_fill --mask boxes.csv
  vitcircuits discover --model vit_small_patch16_224.dino --data photos/ --probe ridge --target cats --foil dogs
  vitcircuits discover --model vit_base_patch16_clip_224.openai --data photos/ --prompts cats='a photo of a cat' \\
      dogs='a photo of a dog' --target cats --foil dogs
  vitcircuits discover --model toy/digits-2l --data digits --target 3 --foil 8 --algorithm acdc --option tau=0.02
  vitcircuits discover --model toy/digits-2l --data digits --target 3 --foil 8 --algorithm learned_masks --size 25
  vitcircuits discover --model toy/digits-2l --data digits --target 3 --foil 8 --granularity node --size 5

--target cats=281-285 means: images from the folder cats, classes 281 to 285 of the model.
--prompts and --probe give a model other classes; their readout is saved in the run folder and used by `evaluate`.
The run folder holds circuit.html to open in a browser. The same command goes on from an interrupted run, also with
corrected options; only a finished run of other options is not replaced without --overwrite.
Several processes share the work and find the same: torchrun --nproc-per-node 2 -m vitcircuits discover ...
"""


def add_parser(subparsers: Any) -> None:
    """Register `discover`."""
    parser = new_parser(subparsers, "discover", "find, judge, draw and export the circuit of a behaviour", EPILOG)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings from a .toml or .json file, or of a run folder"
    )
    add_model(parser, required=False)
    add_task(parser, required=False)
    group = parser.add_argument_group("search")
    add_algorithm(parser, group)
    add_settings(group, Discovery, ("granularity",))
    add_settings(group.add_mutually_exclusive_group(), Discovery, ("level", "size", "threshold"))
    add_settings(group, RunConfig, ("random", "patches", "memory"))
    add_out(parser, "vitcircuits-run")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Finds the circuit, writes the run folder, prints a summary."""
    config = configuration(args)
    found = config.run(args.out, command=args.command_line, overwrite=args.overwrite)
    print(found)
    say_files(found, args)
    return 0


def configuration(args: argparse.Namespace) -> RunConfig:
    """What is run: what the options say, else what the file of --config says, else the defaults.

    Raises:
        TaskError: A setting does not fit, or something is neither given nor in the file.
    """
    asked = {**given(args, ModelConfig), **given(args, TaskConfig), **given(args, Discovery)}
    asked |= {name: getattr(args, name) for name in settings_of(RunConfig)}
    asked = {name: value for name, value in asked.items() if value is not None}  # 0 is asked for, too
    file = {} if args.config is None else read_settings(args.config)
    if any(name in asked for name in SELECTIONS):  # one way to say the size takes the place of another
        file = {name: value for name, value in file.items() if name not in SELECTIONS}
    same = asked.get("algorithm") in (None, file.get("algorithm"))
    options = {**(file.pop("options", {}) if same else {}), **read_options(args.option)}
    task = file.pop("task", {})
    TaskConfig.of(given(args, TaskConfig), task)  # refuses options that have no use
    task = {**task, **{name: asked.pop(name) for name in settings_of(TaskConfig) if name in asked}}
    config = RunConfig.of({**file, **asked, "task": task, "options": options})
    lacking = [name for name in ("data", "target", "foil") if getattr(config.task, name) is None]
    for name in [*["model"] * (config.model.model is None), *lacking]:
        raise TaskError(f"no {name} is named: pass --{name}, or --config with a file that names it.")
    if args.mask is not None and not config.task.corruption.startswith("object_") and config.discovery.tokens != "mask":
        raise TaskError(
            f"--mask has no use with --corruption {config.task.corruption} and --tokens {config.discovery.tokens}: "
            f"leave it out, or pass --corruption object_fill or --tokens mask."
        )
    return config


def say_files(found: Discovered, args: argparse.Namespace) -> None:
    """What was written, and what to open."""
    print(f"files in {args.out}: {', '.join(sorted(path.name for path in found.files))}")
    print(f"open {args.out / 'circuit.html'}")
