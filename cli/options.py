"""Options that several commands share, and what they resolve to."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.errors import TaskError
from .readout import add_readout, read_out
from .reference import ALL, reference_folder, with_reference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..circuits.circuit import Circuit
    from ..circuits.partners.partner import Partner
    from ..circuits.task import Task
    from ..models.hooked import HookedViT


def new_parser(subparsers: Any, name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
    """A command's parser, whose help ends with examples."""
    return subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """--model, --checkpoint, --device, and what takes the place of the model's own head."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        required=required,
        metavar="NAME",
        help="toy/digits-2l, planted/neighbour-xor, a timm name (or hf-hub:..., local-dir:...), a folder, a file",
    )
    group.add_argument(
        "--checkpoint", metavar="FILE", help="weights for a timm name: .safetensors, .pth, .pt or .bin without code"
    )
    group.add_argument("--device", metavar="DEVICE", help="cpu (default), cuda, mps")
    group.add_argument(
        "--attention-mask",
        metavar="MASK",
        help="causal, or a .npy file of booleans (token, token), True where a row's token may see a column's",
    )
    add_readout(parser.add_argument_group("readout, in place of the model's own head"))


def add_task(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """--data, --target, --foil and how pairs are made."""
    group = parser.add_argument_group("task")
    group.add_argument(
        "--data",
        required=required,
        metavar="DATA",
        help="digits, mnist, sprites, a folder of class folders, or planted",
    )
    group.add_argument("--data-dir", metavar="DIR", help="where MNIST's four files lie")
    group.add_argument("--target", required=required, metavar="CLASS", help="3, 281-285, a label, or cats=281-285")
    group.add_argument("--foil", required=required, metavar="CLASS", help="what it is told from, likewise")
    group.add_argument(
        "--metric", metavar="METRIC", help="logit_difference (default), logit, probability, kl, accuracy"
    )
    group.add_argument(
        "--corruption",
        metavar="KIND",
        help="what partners are: class_swap (default: images of both classes), another (of any class), nearest (the "
        "most similar image of each class), mean, noise, blur, patch_shuffle, object_blur, object_fill, "
        "object_shuffle (these three with --mask), word",
    )
    add_design(group)
    group.add_argument(
        "--ablation",
        metavar="KIND",
        help="what removed edges carry: partner (default), another, mean, zero, noise; optimal (`discover` searches "
        "under mean, then learns constants for the circuit; `evaluate` takes those that a circuit brings)",
    )
    group.add_argument("--ablation-over", choices=("token", "tokens"), help="mean and noise: per token, or over tokens")
    group.add_argument(
        "--reference",
        metavar="IMAGES",
        help="what means, noise and `another` are taken over: all (default: images of all classes of the data), "
        "discovery (the discovery images), or a folder of pictures",
    )
    group.add_argument("--seed", type=int, metavar="N", help="draws images and partners (0)")
    _add_partner(parser.add_argument_group("partners that are the clean image, changed"))


def add_design(group: Any) -> None:
    """--sides, and how many images stand on each."""
    group.add_argument(
        "--sides",
        choices=("both", "one"),
        help="both (default): clean images of target and foil, each met by partners of both, so that a circuit that "
        "answers one thing to every image is found out; one: clean images of the target alone, as most of the field "
        "measures",
    )
    group.add_argument(
        "--pairs",
        type=int,
        metavar="N",
        help="clean images of each class in discovery at most (48); with --sides one pairs (64)",
    )
    group.add_argument(
        "--eval-pairs",
        type=int,
        metavar="N",
        help="clean images of each class in evaluation at most (64); with --sides one pairs (100)",
    )
    group.add_argument(
        "--n-partners", type=int, metavar="N", help="partners of each class that a clean image meets in evaluation (2)"
    )


def _add_partner(group: Any) -> None:
    """--mask and --word, with what belongs to them."""
    group.add_argument(
        "--mask",
        metavar="MASKS",
        help="where the object is: attention, attention:last, attention:rollout:0.5 (a share of its mass), a .csv of "
        "boxes (name,left,top,right,bottom), or a folder of pictures of masks, named as the images are",
    )
    group.add_argument(
        "--mask-coordinates",
        choices=("picture", "input"),
        help="pixels of boxes and masks: of the original picture (default), or of the model's input",
    )
    group.add_argument("--word", metavar="TEXT", help="painted on the image (the foil's name)")
    group.add_argument(
        "--word-place", metavar="PLACE", help="bottom (default), top, top-left, ..., or row,column in 0..1"
    )
    group.add_argument("--word-size", type=float, metavar="SHARE", help="height of the word's plate in the image (0.2)")
    group.add_argument("--word-colour", metavar="COLOUR", help="of the letters: white (default), #rrggbb, ...")
    group.add_argument("--word-plate", metavar="COLOUR", help="behind the letters: black (default), none, ...")


def add_memory(parser: Any) -> None:
    """--memory."""
    parser.add_argument(
        "--memory", type=parse_bytes, default=2_000_000_000, metavar="SIZE", help="such as 2GB (default)"
    )


SIZE_HELP = "edges on paths from input to logits: at most N of them, or a share of the graph's below 1, such as 0.1"


def parse_size(text: str) -> int | float:
    """A number of edges, or a share of them below 1."""
    try:
        size = int(text) if text.isdigit() else float(text)
    except ValueError:
        size = 0
    if not (isinstance(size, int) and size) and not 0 < size < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size: write a number of edges such as 40, or a share such as 0.1"
        )
    return size


def parse_bytes(text: str) -> int:
    """2GB, 500MB or a plain number -> bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)b?\s*", text.lower())
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 2GB, 500MB or a number of bytes")
    return int(float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[match[2]])


def load_model(
    args: argparse.Namespace, settings: Mapping[str, Any], saved: tuple[Path, Mapping[str, Any]] | None = None
) -> HookedViT:
    """The model that the options name, on their device, under the readout that they name.

    Args:
        args: The options.
        settings: The task's, with the data that a probe is fitted on.
        saved: The folder of a circuit and what it records of its readout, which is used where no option names one.
    """
    from ..models.load import load_vit

    mask, device = read_mask(args.attention_mask), usable_device(args.device)
    vit = load_vit(args.model, checkpoint=args.checkpoint, device=device, attention_mask=mask)
    return read_out(vit, args, settings, saved)


def read_mask(text: str | None) -> Any:
    """The attention mask that an option names: None, `causal`, or a boolean tensor from a .npy file.

    Raises:
        ModelError: The file is not there, or does not hold booleans.
    """
    if text is None or not text.endswith(".npy"):
        return text
    import numpy as np
    import torch

    from ..models.errors import ModelError

    try:
        mask = np.load(text, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{text} cannot be read as an attention mask ({error}): write one with numpy.save.") from error
    if mask.dtype != bool:
        raise ModelError(f"{text} holds {mask.dtype}, but a mask is boolean: save mask.astype(bool).")
    return torch.from_numpy(mask)


def usable_device(device: str | None) -> str | None:
    """The device, if this machine has it.

    Raises:
        TaskError: It has not.
    """
    if device in (None, "cpu"):
        return device
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TaskError(
            f"the device {device!r} cannot be used: {str(error).splitlines()[0]}. Pass --device cpu."
        ) from error
    return device


def make_partner(kind: str, settings: dict[str, Any]) -> Partner:
    """The description of a kind of partner, with those of the settings that it takes; a useless one is left out."""
    from ..circuits.partners.partner import MASKED, Partner

    if kind in MASKED:
        return Partner(kind, mask=settings["mask"], coordinates=settings["mask_coordinates"])
    if kind != "word":
        return Partner(kind)
    plate = None if settings["word_plate"] == "none" else settings["word_plate"]
    return Partner(
        kind,
        word=settings["word"] or "",
        place=_place(settings["word_place"]),
        size=settings["word_size"],
        colour=settings["word_colour"],
        plate=plate,
    )


def _place(text: str) -> str | tuple[float, float]:
    row, comma, column = text.partition(",")
    try:
        return (float(row), float(column)) if comma else text
    except ValueError as error:
        raise TaskError(f"--word-place {text}: pass bottom, top-left, ..., or row,column such as 0.8,0.5.") from error


def make_task(vit: HookedViT, settings: dict[str, Any]) -> Task:
    """The task of resolved settings (see `task_settings`)."""
    from ..circuits.ablation import Ablation
    from ..circuits.contrast import class_contrast

    ablation = Ablation(settings["ablation"], over=settings["ablation_over"], seed=settings["seed"])
    task = class_contrast(
        vit,
        settings["data"],
        target=settings["target"],
        foil=settings["foil"],
        metric=settings["metric"],
        corruption=make_partner(settings["corruption"], settings),
        ablation=ablation,
        sides=settings["sides"],
        n_discovery=settings["pairs"],
        n_evaluation=settings["eval_pairs"],
        n_partners=settings["n_partners"],
        reference=reference_folder(vit, settings["reference"]),
        data_dir=settings["data_dir"],
        seed=settings["seed"],
    )
    return with_reference(task, settings["reference"])


BY = ("auto", "signed", "abs_mean", "mean_abs")
"""How edges are ranked; see `Scores.top`."""

DEFAULTS: dict[str, Any] = {
    "data": None,
    "data_dir": None,
    "target": None,
    "foil": None,
    "metric": "logit_difference",
    "corruption": "class_swap",
    "ablation": "partner",
    "ablation_over": "token",
    "sides": "both",
    "pairs": None,
    "eval_pairs": None,
    "n_partners": 2,
    "reference": ALL,
    "seed": 0,
    "mask": None,
    "mask_coordinates": None,
    "word": None,
    "word_place": "bottom",
    "word_size": 0.2,
    "word_colour": "white",
    "word_plate": "black",
}


def task_settings(args: argparse.Namespace, recorded: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the options say, else what a circuit's record says, else the defaults."""
    base = {**DEFAULTS, **{key: value for key, value in (recorded or {}).items() if key in DEFAULTS}}
    given = {key: getattr(args, key, None) for key in DEFAULTS}
    settings = {**base, **{key: value for key, value in given.items() if value is not None}}
    kinds = [settings["corruption"], *(getattr(args, "partners", None) or [])]
    for option, having in (("mask", "object_"), ("word", "word")):
        if given[option] is not None and not any(kind.startswith(having) for kind in kinds):
            raise TaskError(
                f"--{option} has no use with --corruption {settings['corruption']}: leave it out, or pass "
                f"--corruption {'object_fill' if option == 'mask' else 'word'}."
            )
    return settings


def recorded_settings(args: argparse.Namespace, circuit: Circuit) -> dict[str, Any]:
    """The task's settings: what the options say, else what the circuit records; `args.model` is filled in likewise.

    The sides are not taken from the record: a circuit that was found on a one-sided task is judged on a crossed one,
    unless --sides one asks for the other.

    Raises:
        TaskError: Something is neither given nor recorded.
    """
    recorded = {key: value for key, value in circuit.task.items() if key != "sides"}
    args.model = args.model or recorded.get("model")
    for side in ("target", "foil"):
        if isinstance(recorded.get(side), list):
            recorded[side] = ",".join(map(str, recorded[side]))
    recorded.update(ablation=circuit.ablation.kind, ablation_over=circuit.ablation.over)
    settings = task_settings(args, recorded)
    lacking = [name for name in ("data", "target", "foil") if not settings[name]] + ["model"] * (not args.model)
    if lacking:
        raise TaskError(f"{args.circuit} does not record its {lacking[0]}: pass --{lacking[0]}.")
    return settings


def add_out(parser: argparse.ArgumentParser, default: str) -> None:
    """--out and --overwrite."""
    parser.add_argument("--out", type=Path, default=Path(default), metavar="DIR", help=f"run folder ({default})")
    parser.add_argument("--overwrite", action="store_true", help="replace what another configuration left there")
