"""Which classes a task is about, as people write them: 3, range(281, 286), "281-285", "tabby", "cats=281-285"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...models.errors import TaskError, did_you_mean
from ...models.files import is_folder, user_path
from ...models.settings import short

if TYPE_CHECKING:
    from ...models.data import ImageData
    from ...models.hooked import HookedViT
    from ...models.image_sources import Source

ClassSpec = int | str | Iterable[int]


@dataclass(frozen=True)
class ClassSet:
    """One or more of a model's classes, and where their images are.

    Args:
        name: How to call it in tables and pictures.
        indices: Indices of the logits.
        folder: The data's class that holds its images, where it was named; empty for the classes' own.
    """

    name: str
    indices: tuple[int, ...]
    folder: str = ""


def parse_classes(spec: ClassSpec, vit: HookedViT, *, what: str = "target", data: Any = None) -> ClassSet:
    """The classes that a specification means.

    Args:
        spec: An index, several, or text: indices and ranges ("281-285,300"), a label ("tabby"), or either after the
            name of the folder that holds the images ("cats=281-285").
        vit: The opened model.
        what: `target` or `foil`, for messages.
        data: The images, whose folders a message may name.

    Raises:
        TaskError: A class does not exist, or there is none.
    """
    if vit.readout.kind in ("features", "embedding"):
        raise TaskError(
            f"{vit.cfg.name} has no classes: its {vit.cfg.n_classes} outputs are its {vit.readout.kind}. Give it a "
            f"readout first: text_readout(vit, prompts) or --prompts for a CLIP image tower, probe_readout(vit, "
            f"images, labels) or --probe means, load_readout(vit, file) or --readout FILE."
        )
    folder = ""
    if isinstance(spec, str):
        folder, _, text = spec.rpartition("=")
        indices = _from_text(text.strip(), vit, what, data)
    else:
        indices = (int(spec),) if isinstance(spec, (int, np.integer)) else tuple(int(index) for index in spec)
    if not indices:
        raise TaskError(f"the {what} holds no class: pass at least one, such as {what}=3.")
    for index in indices:
        if not 0 <= index < vit.cfg.n_classes:
            raise TaskError(
                f"{what} {index} does not exist: {vit.cfg.name} has the classes 0 to {vit.cfg.n_classes - 1}."
            )
    unique = tuple(dict.fromkeys(indices))
    name = folder or _name(unique, vit)
    return ClassSet(name, unique, folder)


def _from_text(text: str, vit: HookedViT, what: str, data: Any) -> tuple[int, ...]:
    if re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        indices: list[int] = []
        for part in text.split(","):
            first, _, last = part.partition("-")
            for end in (first, last or first):
                if len(end) > 9 or int(end) >= vit.cfg.n_classes:
                    raise TaskError(
                        f"{what} {end[:12]} does not exist: {vit.cfg.name} has the classes 0 to "
                        f"{vit.cfg.n_classes - 1}."
                    )
            indices += range(int(first), int(last or first) + 1)
        return tuple(indices)
    names = vit.class_names
    if text in names:
        return (names.index(text),)
    raise TaskError(f"{what} {short(text)} is no class of {vit.cfg.name}{_meant(text, names, _folders(data))}.")


def _meant(text: str, labels: Sequence[str], folders: Sequence[str]) -> str:
    """How to name what was meant, the end of a sentence: labels with that word in them, and the folder so called."""
    word = text[:100].lower()
    stems = {word, word.removesuffix("s"), word.removesuffix("es")} - {""}
    found = [index for index, label in enumerate(labels) if stems & set(re.split(r"\W+", label.lower()))]
    for folder in [text] if text in folders else difflib.get_close_matches(word, folders, 1, 0.75):
        said = f" ({', '.join(labels[index] for index in found[:6])}{', ...' * (len(found) > 6)})" if found else ""
        return (
            f". The data has a folder {folder!r}: say which of the model's classes its images show, such as "
            f"{folder}={_ranges(found) or '281-285'}{said}"
        )
    near = [labels[index] for index in found[:4]] or difflib.get_close_matches(word, labels, 4, 0.75)
    shown = f" such as {', '.join(map(repr, near))}" if near else ""
    return f": pass an index, a range such as 281-285, or a label{shown}"


def _ranges(indices: Sequence[int]) -> str:
    """282, 283, 284, 300 -> 282-284,300."""
    starts = [index for index in indices if index - 1 not in indices]
    ends = [index for index in indices if index + 1 not in indices]
    return ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in zip(starts, ends, strict=True))


def _folders(data: Any) -> tuple[str, ...]:
    """Names of the data's classes, where they can be seen without reading it."""
    if not isinstance(data, str | Path):
        return tuple(getattr(data, "class_names", ()))
    root = user_path(data)
    root = root / "train" if is_folder(root / "train") else root
    return tuple(sorted(path.name for path in root.iterdir() if path.is_dir())) if is_folder(root) else ()


def _name(indices: tuple[int, ...], vit: HookedViT) -> str:
    names = vit.class_names
    if len(indices) <= 3:
        return " or ".join(names[index] for index in indices)
    return f"{names[indices[0]]} and {len(indices) - 1} more"


def image_labels(
    classes: ClassSet, data: ImageData | Source, vit: HookedViT, *, what: str = "target"
) -> tuple[int, ...]:
    """The data's labels under which the classes' images are found; labels that come with tensors are the model's.

    Raises:
        TaskError: The data has no such class.
    """
    known = data.class_names
    if classes.folder:
        if classes.folder in known:
            return (known.index(classes.folder),)
        raise TaskError(
            f"the data {data.name!r} has no class {short(classes.folder)}: it has {', '.join(known[:10])}."
            f"{did_you_mean(classes.folder[:100], known)}"
        )
    own = tuple(known.index(vit.class_names[index]) for index in classes.indices if vit.class_names[index] in known)
    if vit.labels and len(own) == len(classes.indices):
        return own  # by name first: the model's classes may come in another order than the data's
    if len(known) == vit.cfg.n_classes or data.name == "tensors":
        return classes.indices
    if own:
        return own
    if len(known) == 1 and what == "foil":
        raise TaskError(
            f"{data.name!r} has images of one class only, {known[0]!r}, and none of the foil {classes.name!r}. Add "
            f'some, or choose partners that are made from the image, such as corruption="blur": what the circuit '
            f"transmits is then undefined, and the other figures stand."
        )
    raise TaskError(
        f"it is not clear which images of {data.name!r} show the {what} {classes.name!r}: the data's classes are "
        f"{', '.join(known[:10])}, and {vit.cfg.name} has {vit.cfg.n_classes} classes. Name the folder before the "
        f'classes, such as {what}="{known[0]}={classes.indices[0]}".'
    )
