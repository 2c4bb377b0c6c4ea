"""Masks from boxes: a table with one box a row, and what it covers of a model's input."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ...models.data import ImageData
from ...models.errors import DataError
from ...models.files import read_text
from .masks import Coordinates, Pictures, look_up, require_coordinates

Box = tuple[float, float, float, float]
COLUMNS = ("name", "left", "top", "right", "bottom")


@dataclass(frozen=True)
class Boxes:
    """Boxes of objects; an image may have several, and its mask is their union.

    A pixel of the input belongs to a box if its centre does. Pixels are counted from the top left corner, so a box
    with left 0 and right 10 covers the first ten columns.

    Args:
        table: Name of an image -> its boxes (left, top, right, bottom); `*` is every image.
        coordinates: `picture`: pixels of the original picture, carried through resizing and cropping; `input`: pixels
            of the model's input.
        origin: Where they were read from, for the record.

    Raises:
        DataError: A box has no inside, or the coordinates are not known.
    """

    table: Mapping[str, tuple[Box, ...]]
    coordinates: Coordinates | str = "picture"
    origin: str = "given"

    def __post_init__(self) -> None:
        require_coordinates(self.coordinates)
        for name, boxes in self.table.items():
            for box in boxes:
                left, top, right, bottom = box
                if not (all(map(math.isfinite, box)) and left < right and top < bottom):
                    raise DataError(
                        f"the box {box} of {name} has no inside: the order is left, top, right, bottom, with "
                        f"left < right and top < bottom."
                    )

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any]], **fields: Any) -> Boxes:
        """Boxes from rows of (name, left, top, right, bottom)."""
        table: dict[str, tuple[Box, ...]] = {}
        for name, *box in rows:
            left, top, right, bottom = map(float, box)
            table[str(name)] = (*table.get(str(name), ()), (left, top, right, bottom))
        return cls(table, **fields)

    @classmethod
    def read(cls, path: str | Path, *, coordinates: Coordinates | str = "picture") -> Boxes:
        """Boxes from a .csv with the columns name, left, top, right, bottom; others are ignored.

        Raises:
            DataError: A column is missing, or a cell is no number.
            FormatError: There is no such file.
        """
        rows = csv.DictReader(io.StringIO(read_text(path).removeprefix("\ufeff")))
        lacking = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
        if lacking:
            raise DataError(
                f"{path} has no column {lacking[0]!r}: its first line must name {', '.join(COLUMNS)}, such as "
                f"cats/7.jpg,12,30,140,200 below them."
            )
        try:
            found = [(row["name"], *(float(row[side]) for side in COLUMNS[1:])) for row in rows]
        except (TypeError, ValueError) as error:
            raise DataError(f"line {rows.line_num} of {path} does not hold four numbers ({error}): mend it.") from error
        return cls.of(found, coordinates=coordinates, origin=str(path))

    def has(self, name: str, data: ImageData) -> bool:
        """Whether there is a box for an image."""
        return look_up(self.table, name, data) is not None

    def __call__(self, pictures: Pictures) -> Bool[Tensor, "image height width"]:
        """What the boxes cover of the model's input."""
        height, width = pictures.vit.cfg.image_size
        masks = np.zeros((len(pictures.names), height, width), dtype=np.bool_)
        for mask, name in zip(masks, pictures.names, strict=True):
            boxes = look_up(self.table, name, pictures.data)
            if boxes:
                places = (np.arange(height) + 0.5, np.arange(width) + 0.5)
                rows, columns = places if self.coordinates == "input" else pictures.places(name)
                for left, top, right, bottom in boxes:
                    mask |= ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
        return torch.from_numpy(masks)

    def as_dict(self) -> dict[str, Any]:
        """Where they are from, and the coordinates."""
        return {"mask": self.origin, "mask_coordinates": self.coordinates}
