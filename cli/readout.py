"""What takes the place of a model's own head: the options for it, and what they resolve to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.cards import READOUT_FILE
from ..models.errors import TaskError

if TYPE_CHECKING:
    from ..models.hooked import HookedViT

PROBE_IMAGES = 200  # of each class


def add_readout(group: Any) -> None:
    """--readout, --prompts, --probe, and what belongs to them."""
    given = group.add_mutually_exclusive_group()
    given.add_argument(
        "--readout", type=Path, metavar="FILE", help="a saved readout.safetensors, or class embeddings for a CLIP tower"
    )
    given.add_argument(
        "--prompts",
        nargs="+",
        metavar="CLASS[=TEXT]",
        help="logits of a CLIP image tower: a class name, put into --templates, or cat='a cat'; several texts of one "
        "class are averaged (needs the extra clip)",
    )
    given.add_argument(
        "--probe",
        choices=("means", "ridge"),
        help=f"fitted on at most {PROBE_IMAGES} images of each class of the data's training split: the nearest class "
        "mean, or ridge regression with a penalty chosen by leave-one-out error",
    )
    group.add_argument(
        "--templates",
        nargs="+",
        metavar="TEXT",
        help="with {} for the class name, of --prompts ('a photo of a {}.'); or openai (80 of them), simple (7)",
    )
    group.add_argument(
        "--clip",
        metavar="NAME:TAG",
        help="text tower of --prompts: ViT-B-16:openai, hf-hub:org/repo, local-dir:/path (by default the model's own)",
    )
    group.add_argument(
        "--pool",
        choices=("own", "cls", "patches"),
        help="what --probe sees: what the model's own head gets (default), the class token, the mean of the patches",
    )


def read_out(
    vit: HookedViT,
    args: argparse.Namespace,
    settings: Mapping[str, Any],
    saved: tuple[Path, Mapping[str, Any]] | None = None,
) -> HookedViT:
    """The model under the readout that the options name; else under the one that was saved with a circuit.

    Raises:
        TaskError: Options don't go together, or a circuit's readout is not where it was saved.
    """
    for option, other in (("templates", "prompts"), ("clip", "prompts"), ("pool", "probe")):
        if getattr(args, option) is not None and getattr(args, other) is None:
            raise TaskError(f"--{option} has no use without --{other}: leave it out, or pass --{other} too.")
    if args.prompts is not None:
        return _from_prompts(vit, args)
    if args.probe is not None:
        return _from_probe(vit, args, settings)
    if args.readout is not None:
        from ..models.readout_files import load_readout

        return load_readout(vit, args.readout)
    return vit if saved is None else _saved(vit, *saved)


def parse_prompts(texts: list[str], templates: list[str] | None) -> tuple[Any, Any]:
    """What `text_readout` takes as prompts and templates: names, or class name -> texts.

    Raises:
        TaskError: A text has no class, or templates are of no use.
    """
    from ..models.made_readouts import DEFAULT_TEMPLATE, TEMPLATE_SETS, class_texts

    chosen: Any = DEFAULT_TEMPLATE if templates is None else templates
    if templates is not None and len(templates) == 1 and templates[0] in TEMPLATE_SETS:
        chosen = templates[0]
    parts = [text.partition("=") for text in texts]
    if not any(equals for _, equals, _ in parts):
        return texts, chosen
    if templates is not None and all(equals for _, equals, _ in parts):
        raise TaskError("--templates have no use where every class has its text: leave them out, or the texts.")
    found: dict[str, list[str]] = {}
    for name, equals, text in parts:
        if not name.strip() or (equals and not text.strip()):
            raise TaskError(
                f"--prompts {name}{equals}{text}: pass CLASS or CLASS=TEXT, such as cat='a photo of a cat'."
            )
        found.setdefault(name, []).extend([text] if equals else class_texts([name], chosen)[name])
    return found, chosen


def _from_prompts(vit: HookedViT, args: argparse.Namespace) -> HookedViT:
    from ..models.made_readouts import text_readout

    prompts, templates = parse_prompts(args.prompts, args.templates)
    return text_readout(vit, prompts, templates=templates, clip=args.clip)


def _from_probe(vit: HookedViT, args: argparse.Namespace, settings: Mapping[str, Any]) -> HookedViT:
    from ..models.data import load_data
    from ..models.made_readouts import probe_readout

    data = load_data(
        settings["data"], vit.preprocess, data_dir=settings["data_dir"], seed=settings["seed"], limit=PROBE_IMAGES
    )
    return probe_readout(
        vit,
        data.train.images,
        data.train.labels,
        kind=args.probe,
        pool=args.pool or "own",
        classes=data.class_names,
        source=f"{data.name}, training split",
    )


def _saved(vit: HookedViT, folder: Path, recorded: Mapping[str, Any]) -> HookedViT:
    from ..models.readout_files import load_readout

    path = folder / READOUT_FILE
    if not path.is_file():
        raise TaskError(
            f"the circuit was found under another readout than the model's own ({describe(recorded)}), which is not "
            f"beside it: pass --readout {READOUT_FILE} from the folder that it was saved in."
        )
    return load_readout(vit, path, sha256=recorded["sha256"])


def describe(info: Mapping[str, Any]) -> str:
    """One line about a readout."""
    classes = [str(name) for name in info.get("classes", ())]
    shown = f" of {', '.join(classes[:4])}{f', ... ({len(classes)})' if len(classes) > 4 else ''}" if classes else ""
    more = [
        f"{name} {info[name]:.4g}" if isinstance(info[name], float) else f"{name} {info[name]}"
        for name in ("text_tower", "penalty", "pool")
        if info.get(name) not in (None, "own")
    ]
    return f"{info['kind']}{shown}" + (f" ({', '.join(more)})" if more else "")
