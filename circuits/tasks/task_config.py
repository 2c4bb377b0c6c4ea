"""Which behaviour a run asks about, as a typed value: data, classes, metric, partners, and what removed edges carry.

`class_contrast` makes the task; this is what can be written into a file and read again. Nothing here imports torch
before a task is made.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from ...models.errors import DataError, TaskError, did_you_mean
from ...models.files import is_folder, user_path
from ...models.settings import COUNTS, SEEDS, Range, Settings, setting, short
from ..ablation import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from ...models.hooked import HookedViT
    from ..partners.masks import Masks
    from ..partners.partner import Partner
    from .task import Task

ALL, DISCOVERY = "all", "discovery"
DATA = ("digits", "mnist", "sprites", "planted")
MASKS = (
    "attention, attention:last, attention:rollout:0.5 (a share of its mass), foreground (what stands out from a plain "
    "background), a .csv of boxes (name,left,top,right,bottom), or a folder of pictures of masks, named as the images "
    "are"
)
METRICS = ("logit_difference", "logit", "probability", "kl", "accuracy")
CORRUPTIONS = (
    *("class_swap", "another", "nearest", "mean", "noise", "blur", "patch_shuffle"),
    *("object_blur", "object_fill", "object_shuffle", "word"),
)
"""As `metrics` and `partners` have them, which need torch; a test compares them."""


@dataclass(frozen=True, repr=False)
class TaskConfig(Settings):
    """A class contrast in plain values; from Python `data` may also be data in memory, as `class_contrast` takes it.

    Raises:
        TaskError: A value is not known.
    """

    data: Any = setting(
        None, "digits, mnist, sprites, a folder of class folders, or planted", metavar="DATA", in_memory=True
    )
    data_dir: str | None = setting(None, "where MNIST's four files lie", metavar="DIR")
    target: str | int | None = setting(None, "3, 281-285, a label, or cats=281-285", metavar="CLASS")
    foil: str | int | None = setting(None, "what it is told from, likewise", metavar="CLASS")
    metric: str = setting(
        "logit_difference",
        "logit_difference (default), logit, probability, kl, accuracy",
        choices=METRICS,
        metavar="METRIC",
    )
    corruption: str = setting(
        "class_swap",
        "what partners are: class_swap (default: images of both classes), another (of any class), nearest (the most "
        "similar image of each class), mean, noise, blur, patch_shuffle, object_blur, object_fill, object_shuffle "
        "(these three with --mask), word",
        choices=CORRUPTIONS,
        metavar="KIND",
    )
    sides: str = setting(
        "both",
        "both (default): clean images of target and foil, each met by partners of both, so that a circuit that answers "
        "one thing to every image is found out; one: clean images of the target alone, as most of the field measures",
        choices=("both", "one"),
    )
    pairs: int | None = setting(
        None,
        "clean images of each class in discovery at most (48); with --sides one pairs (64)",
        read=int,
        range=COUNTS,
        metavar="N",
    )
    eval_pairs: int | None = setting(
        None,
        "clean images of each class in evaluation at most (64); with --sides one pairs (100)",
        read=int,
        range=COUNTS,
        metavar="N",
    )
    n_partners: int = setting(
        2, "partners of each class that a clean image meets in evaluation (2)", read=int, range=COUNTS, metavar="N"
    )
    ablation: str = setting(
        "partner",
        "what removed edges carry: partner (default), another, mean, zero, noise; optimal (`discover` searches under "
        "mean, then learns constants for the circuit; `evaluate` takes those that a circuit brings)",
        choices=get_args(Kind),
        metavar="KIND",
    )
    ablation_over: str = setting("token", "mean and noise: per token, or over tokens", choices=("token", "tokens"))
    reference: str = setting(
        ALL,
        "what means, noise and `another` are taken over: all (default: images of all classes of the data), discovery "
        "(the discovery images), or a folder of pictures",
        metavar="IMAGES",
    )
    seed: int = setting(0, "draws images and partners (0)", read=int, range=SEEDS, metavar="N")
    mask: str | None = setting(
        None,
        f"where the object is, for these and for --tokens mask: {MASKS}",
        metavar="MASKS",
    )
    mask_coordinates: str | None = setting(
        None,
        "pixels of boxes and masks: of the original picture (default), or of the model's input",
        choices=("picture", "input"),
    )
    word: str | None = setting(None, "painted on the image (the foil's name)", metavar="TEXT")
    word_place: str = setting("bottom", "bottom (default), top, top-left, ..., or row,column in 0..1", metavar="PLACE")
    word_size: float = setting(
        0.2, "height of the word's plate in the image (0.2)", read=float, range=Range(above=0, most=1), metavar="SHARE"
    )
    word_colour: str = setting("white", "of the letters: white (default), #rrggbb, ...", metavar="COLOUR")
    word_plate: str = setting("black", "behind the letters: black (default), none, ...", metavar="COLOUR")

    @classmethod
    def of(
        cls, given: Mapping[str, Any], recorded: Mapping[str, Any] | None = None, kinds: Sequence[str] = ()
    ) -> TaskConfig:
        """What is given, else what a record says, else the defaults.

        Args:
            given: Settings by name; None is not given.
            recorded: A record of a task or a circuit, of which what is no setting is left out.
            kinds: Further kinds of partner that the settings are for.

        Raises:
            TaskError: A setting is not known, does not fit, or has no use.
        """
        asked = {name: value for name, value in given.items() if value is not None}
        names = [one.name for one in dataclasses.fields(cls)]
        before = {name: value for name, value in (recorded or {}).items() if name in names and value is not None}
        found = super().of(before | asked)
        if "word" in asked and not any(kind.startswith("word") for kind in (found.corruption, *kinds)):
            raise TaskError(
                f"--word has no use with --corruption {found.corruption}: leave it out, or pass --corruption word."
            )
        return found

    def require_found(self) -> None:
        """Does nothing if the folders and files that the settings name are there; nothing is read.

        Raises:
            DataError: Something is not there.
        """
        for name, wanted, known in (
            ("data", f"{', '.join(DATA)} or a folder of class folders", DATA),
            ("data_dir", "the folder of MNIST's four files", ()),
            (
                "reference",
                "a folder of pictures, all (images of all classes of the data) or discovery",
                (ALL, DISCOVERY),
            ),
        ):
            value = getattr(self, name)
            if isinstance(value, str) and value not in known and not is_folder(user_path(value)):
                hint = did_you_mean(str(value).lower(), known)
                raise DataError(f"{name}={short(value)}: there is no such folder.{hint} Pass {wanted}.")
        if self.mask is not None and not self.mask.startswith(("attention", "foreground")):
            path = user_path(self.mask)
            if not (path.is_file() if path.suffix.lower() == ".csv" else is_folder(path)):
                raise DataError(f"mask={short(self.mask)}: there is no such file or folder. Pass {MASKS}.")

    def partner(self, kind: str | None = None) -> Partner:
        """The description of a kind of partner, by default of the corruption, with what the settings say of it."""
        from ..partners.partner import MASKED, Partner

        kind = kind or self.corruption
        if kind in MASKED:
            return Partner(kind, mask=self.mask, coordinates=self.mask_coordinates)  # type: ignore[arg-type]
        if kind != "word":
            return Partner(kind)
        plate = None if self.word_plate == "none" else self.word_plate
        return Partner(
            kind,
            word=self.word or "",
            place=_place(self.word_place),
            size=self.word_size,
            colour=self.word_colour,
            plate=plate,
        )

    def make(self, vit: HookedViT) -> Task:
        """The task for a model.

        Raises:
            TaskError: The classes overlap or don't exist, or too few images are left.
            DataError: The data cannot be found or read, or does not fit the model.
        """
        from ..ablation import Ablation
        from .contrast import class_contrast

        task = class_contrast(
            vit,
            **self._images(),
            corruption=self.partner(),
            ablation=Ablation(self.ablation, over=self.ablation_over, seed=self.seed),  # type: ignore[arg-type]
            reference=reference_folder(vit, self.reference),
            masks=None if self.partner().masks else self.masks(),
        )
        return with_reference(task, self.reference)

    def contrasts(self, vit: HookedViT, kinds: Sequence[str]) -> dict[str, Task]:
        """A task for each kind of partner, with the same clean images, by kind.

        Raises:
            TaskError: A kind is not known, or no pair is valid under all partners.
        """
        from .contrast import partner_contrasts

        partners = [self.partner(kind) for kind in kinds]
        return partner_contrasts(vit, **self._images(), partners=partners, masks=self.masks())

    def masks(self) -> Masks | None:
        """Where the object is; None where the settings don't say."""
        from ..partners.partner import as_masks

        return None if self.mask is None else as_masks(self.mask, coordinates=self.mask_coordinates)

    def _images(self) -> dict[str, Any]:
        for name in ("data", "target", "foil"):
            if getattr(self, name) is None:
                raise TaskError(f"the task has no {name}: pass --{name}.")
        return {
            "data": self.data,
            "target": self.target,
            "foil": self.foil,
            "metric": self.metric,
            "sides": self.sides,
            "n_discovery": self.pairs,
            "n_evaluation": self.eval_pairs,
            "n_partners": self.n_partners,
            "data_dir": self.data_dir,
            "seed": self.seed,
        }


def _place(text: str) -> str | tuple[float, float]:
    row, comma, column = text.partition(",")
    try:
        return (float(row), float(column)) if comma else text
    except ValueError as error:
        raise TaskError(f"--word-place {text}: pass bottom, top-left, ..., or row,column such as 0.8,0.5.") from error


def reference_folder(vit: HookedViT, reference: str) -> Tensor | None:
    """The pictures of a folder, (image, channel, height, width); None for `all` and `discovery`.

    Raises:
        DataError: There is no such folder, it holds no picture, or the model has no preprocessing to read one with.
    """
    if reference in (ALL, DISCOVERY):
        return None
    import torch

    from ...models.image_sources import SUFFIXES, read_picture

    folder = user_path(reference)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files or vit.preprocess is None:
        lacking = "no pictures are there" if vit.preprocess is not None else f"{vit.cfg.name} has no preprocessing"
        raise DataError(
            f"--reference {reference} cannot be read ({lacking}): pass a folder of pictures ({', '.join(SUFFIXES)}), "
            f"all (images of all classes of the data), or discovery (the discovery images)."
        )
    return torch.stack([read_picture(path, vit.preprocess) for path in files])


def with_reference(task: Task, reference: str) -> Task:
    """The task with the reference images that a setting names, which its record then tells."""
    if reference == DISCOVERY:
        task = dataclasses.replace(task, reference_images=None)
    told = {**task.info, "reference": reference, "n_reference": len(task.reference)}
    if reference not in (ALL, DISCOVERY):  # a folder's pictures may change under the same name
        images = task.reference.cpu().contiguous().float().numpy()
        told["reference_digest"] = hashlib.sha256(images.tobytes()).hexdigest()
    return dataclasses.replace(task, info=told)
