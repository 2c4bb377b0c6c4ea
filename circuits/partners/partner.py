"""What stands in for a clean image: a frozen description of how its corrupted partner is made.

A circuit says how the model tells a clean image from its partner, so the partner decides the question:

- `class_swap`, `another`: another image. Object, background and composition all differ.
- `nearest`: the image of each class that the model's last residual finds most like the clean one (crossed tasks only).
- `mean`, `noise`, `blur`, `patch_shuffle`: the whole picture changed.
- `object_blur`, `object_fill`, `object_shuffle`: what lies under a mask blurred, filled from its surroundings, or its
  patches put in another order; the rest of the picture is the same, pixel for pixel.
- `word`: a word painted on the picture, by default the foil's name (a typographic attack).

The last four are aligned: the pair differs at known tokens only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...models.errors import DataError, TaskError
from ...models.files import is_folder, user_path
from .attention_masks import AttentionMasks
from .masks import Boxes, Coordinates, MaskFolder, Masks, given_masks
from .text_overlay import Lettering

SWAPS = ("class_swap", "another")
OTHER_IMAGES = (*SWAPS, "nearest")
WHOLE = ("mean", "noise", "blur", "patch_shuffle")
MASKED = ("object_blur", "object_fill", "object_shuffle")
CORRUPTIONS = (*OTHER_IMAGES, *WHOLE, *MASKED, "word")


@dataclass(frozen=True)
class Partner:
    """How partners are made.

    Args:
        kind: One of `CORRUPTIONS`.
        mask: Where the object is; only the `object_*` kinds take it, and they need it. See `as_masks`: `attention`,
            a .csv of boxes, a folder of masks, arrays.
        coordinates: Of the mask, `picture` or `input`; see `as_masks` for the default.
        word: What is painted; the foil's name by default. These five are for `word` only; see `Lettering`.
        place: Where.
        size: Its height as a share of the picture's.
        colour: Of its letters.
        plate: Colour behind them, or None.

    Raises:
        TaskError: The kind is not known, or a mask is missing or has no use.
        DataError: The mask means nothing.
    """

    kind: str
    mask: Any = None
    coordinates: str | None = None
    word: str = ""
    place: str | tuple[float, float] = "bottom"
    size: float = 0.2
    colour: str = "white"
    plate: str | None = "black"

    def __post_init__(self) -> None:
        if self.kind not in CORRUPTIONS:
            raise TaskError(f"corruption {self.kind!r} is not known: pass one of {', '.join(map(repr, CORRUPTIONS))}.")
        if self.kind in MASKED:
            if self.mask is None:
                raise TaskError(
                    f"{self.kind} needs to know where the object is: pass Partner({self.kind!r}, mask='attention'), or "
                    f"as mask a .csv of boxes, a folder of masks, or booleans (on the command line --mask)."
                )
            object.__setattr__(self, "mask", as_masks(self.mask, coordinates=self.coordinates))
        elif self.mask is not None:
            raise TaskError(f"{self.kind} takes no mask: leave it out, or choose one of {', '.join(MASKED)}.")
        self.lettering("word")

    @property
    def masks(self) -> Masks | None:
        """Where the object is, for the kinds that ask."""
        return self.mask

    @property
    def aligned(self) -> bool:
        """Whether clean image and partner are the same picture, changed at some places."""
        return self.kind not in OTHER_IMAGES

    def lettering(self, word: str) -> Lettering:
        """How the word is painted; `word` is what is written where none was chosen."""
        return Lettering(self.word or word, self.place, self.size, self.colour, self.plate)

    def as_dict(self, word: str = "") -> dict[str, Any]:
        """What a task's record says: the kind and the options that it has, under the command line's names."""
        record: dict[str, Any] = {"corruption": self.kind}
        if self.masks is not None:
            record |= self.masks.as_dict()
        if self.kind == "word":
            lettering = self.lettering(word)
            place = lettering.place if isinstance(lettering.place, str) else ",".join(map(str, lettering.place))
            record |= {"word": lettering.word, "word_place": place, "word_size": lettering.size}
            record |= {"word_colour": lettering.colour, "word_plate": lettering.plate or "none"}
        return record


def as_partner(partner: Partner | str) -> Partner:
    """A description, or the one that a word such as `blur` names."""
    return partner if isinstance(partner, Partner) else Partner(partner)


def as_masks(spec: Any, *, coordinates: Coordinates | str | None = None) -> Masks:
    """What a specification of masks means.

    Args:
        spec: `attention`, `attention:last`, `attention:rollout:0.4` (a share of the mass; see `AttentionMasks`), a
            .csv of boxes (see `Boxes`), a folder of pictures of masks, arrays (see `given_masks`), or masks already.
        coordinates: `picture` or `input`, for boxes, folders and arrays; by default `input` for arrays, else `picture`.

    Raises:
        DataError: It means nothing, or what it names is not there.
    """
    if isinstance(spec, Path) or (isinstance(spec, str) and not spec.startswith("attention")):
        return _from_path(user_path(spec), coordinates or "picture")
    if isinstance(spec, str):
        return AttentionMasks.parse(spec)
    if isinstance(spec, Mapping | np.ndarray | Tensor):
        return given_masks(spec, coordinates=coordinates or "input")
    if isinstance(spec, Masks):
        return spec
    raise DataError(
        f"masks of type {type(spec).__name__} are not known: pass 'attention', a .csv of boxes, a folder of masks, or "
        f"booleans of shape (image, height, width)."
    )


def _from_path(path: Path, coordinates: str) -> Masks:
    if path.suffix.lower() == ".csv":
        return Boxes.read(path, coordinates=coordinates)
    if is_folder(path):
        return MaskFolder(path, coordinates)
    raise DataError(
        f"no masks are found at {str(path)!r}: pass a .csv of boxes, a folder of pictures of masks, or 'attention'."
    )
