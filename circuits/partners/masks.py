"""Where the object is: masks of a model's input, given as arrays, pictures or boxes.

Masks are stated in one of two coordinates. `input`: the pixels that the model sees, after resizing and cropping.
`picture`: the pixels of the picture as it lies in its file, turned the way it is looked at; they are carried through
the same resize and centre crop as the picture itself (`Preprocess.places`), so what lies outside the crop is lost.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from ...models.data import ImageData
from ...models.errors import DataError
from ...models.files import read_text
from ...models.hooked import HookedViT

Coordinates = Literal["picture", "input"]
T = TypeVar("T")
EVERY = "*"
"""The name that stands for every image."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images that masks are wanted for.

    Args:
        vit: The opened model.
        data: The data set that they are from.
        images: Preprocessed.
        names: What they are called there.
    """

    vit: HookedViT
    data: ImageData
    images: Float[Tensor, "image channel height width"]
    names: Sequence[str]

    def places(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rows and columns of the picture at which the centres of the input's pixels lie.

        Raises:
            DataError: The images were given as tensors, or their preprocessing is not known.
        """
        size, preprocess = self.data.picture_size(name), self.vit.preprocess
        if size is None or preprocess is None:
            raise DataError(
                f"the masks are in coordinates of the original pictures, but these are not known for {self.data.name} "
                f"and {self.vit.cfg.name}: state them in pixels of the model's input and pass coordinates='input'."
            )
        if self.data.root is None and size == preprocess.size:  # digits that need no resizing are not cropped either
            return np.arange(0.5, size[0]), np.arange(0.5, size[1])
        rows, columns = preprocess.places(*size)
        return rows.numpy(), columns.numpy()


@runtime_checkable
class Masks(Protocol):
    """Something that knows where the object is in images."""

    def has(self, name: str, data: ImageData) -> bool:
        """Whether there is a mask for an image."""
        ...

    def __call__(self, pictures: Pictures) -> Bool[Tensor, "image height width"]:
        """True on the object; all False for an image that has none."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """What a task's record says about them, in plain values."""
        ...


@dataclass(frozen=True, eq=False)
class GivenMasks:
    """Masks in memory, by the image's name; `given_masks` makes them from arrays.

    Args:
        table: Name -> mask, shape (height, width); `*` is every image.
        coordinates: What their pixels are.
    """

    table: Mapping[str, NDArray[np.bool_]]
    coordinates: Coordinates | str = "input"

    def __post_init__(self) -> None:
        require_coordinates(self.coordinates)

    def has(self, name: str, data: ImageData) -> bool:
        """Whether there is a mask for an image."""
        return look_up(self.table, name, data) is not None

    def __call__(self, pictures: Pictures) -> Bool[Tensor, "image height width"]:
        """The masks of images, carried to the model's input."""
        return _carried(lambda name: look_up(self.table, name, pictures.data), pictures, self.coordinates)

    def as_dict(self) -> dict[str, Any]:
        """The kind and the coordinates; the masks themselves are in the record's digest only."""
        return {"mask": "given", "mask_coordinates": self.coordinates}


@dataclass(frozen=True)
class MaskFolder:
    """Pictures of masks, bright on the object, in folders that mirror those of the pictures.

    The mask of cats/7.jpg is looked for as cats/7.png (or another ending), then as 7.png.

    Args:
        folder: Where they lie.
        coordinates: `picture`: each as large as its picture; `input`: each as large as the model's input.
    """

    folder: Path
    coordinates: Coordinates | str = "picture"

    def __post_init__(self) -> None:
        require_coordinates(self.coordinates)
        if not self.folder.is_dir():
            raise DataError(f"there is no folder of masks at {self.folder}: pass one that holds pictures of masks.")

    def has(self, name: str, data: ImageData) -> bool:
        """Whether there is a mask for an image."""
        return self._file(name) is not None

    def __call__(self, pictures: Pictures) -> Bool[Tensor, "image height width"]:
        """The masks of images, carried to the model's input."""
        return _carried(lambda name: _read(self._file(name)), pictures, self.coordinates)

    def as_dict(self) -> dict[str, Any]:
        """The folder and the coordinates."""
        return {"mask": str(self.folder), "mask_coordinates": self.coordinates}

    def _file(self, name: str) -> Path | None:
        from ...models.image_sources import SUFFIXES

        path = Path(name)
        for tail in (Path(*path.parts[start:]) for start in range(len(path.parts))):
            for ending in SUFFIXES:
                file = self.folder / tail.with_suffix(ending)
                if file.is_file():
                    return file
        return None


def _read(file: Path | None) -> NDArray[np.bool_] | None:
    from PIL import Image

    if file is None:
        return None
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("L")) >= 128
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"the mask {file} cannot be read as a picture ({error}). Replace it or remove it.") from error


def _carried(
    find: Callable[[str], NDArray[np.bool_] | None], pictures: Pictures, coordinates: str
) -> Bool[Tensor, "image height width"]:
    """The masks that are found of images, in the model's input; nothing where there is none."""
    none = np.zeros(pictures.vit.cfg.image_size, dtype=np.bool_)
    found = ((name, find(name)) for name in pictures.names)
    every = [none if mask is None else carried(mask, pictures, name, coordinates) for name, mask in found]
    return torch.from_numpy(np.stack(every))


def carried(mask: NDArray[np.bool_], pictures: Pictures, name: str, coordinates: str) -> NDArray[np.bool_]:
    """A mask in the model's input: each pixel takes what the mask says where its centre lies.

    Raises:
        DataError: The mask is not as large as what it belongs to.
    """
    size = pictures.vit.cfg.image_size if coordinates == "input" else pictures.data.picture_size(name)
    if size is not None and mask.shape != size:
        other = "picture" if coordinates == "input" else "input"
        raise DataError(
            f"the mask of {name} has shape {mask.shape}, but {coordinates} coordinates want {size} (height, width): "
            f"resize it, or pass coordinates={other!r}."
        )
    if coordinates == "input":
        return mask
    rows, columns = (np.floor(places).astype(int) for places in pictures.places(name))
    return mask[rows[:, None], columns[None, :]]


def given_masks(values: Any, *, coordinates: Coordinates | str = "input") -> GivenMasks:
    """Masks from arrays or tensors of booleans.

    Args:
        values: [height, width] for every image, [image, height, width] for the rows of tensors given as data,
            {"train": [image, height, width], "test": ...} for data that comes in two splits (digits, MNIST, a dict
            of tensors), or {name: [height, width]} for pictures in a folder, such as {"cats/7.jpg": ...}.
        coordinates: What their pixels are.

    Raises:
        DataError: They have another form, or are not booleans.
    """
    table: dict[str, NDArray[np.bool_]] = {}
    for key, value in values.items() if isinstance(values, Mapping) else [("", values)]:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if array.dtype != np.bool_ or array.ndim not in (2, 3):
            raise DataError(
                f"a mask has shape {array.shape} and type {array.dtype}, but booleans of shape (height, width) or "
                f"(image, height, width) are wanted: pass masks > 0."
            )
        if array.ndim == 2:
            table[str(key) or EVERY] = array
        else:
            table |= {f"{key}/{row}" if key else str(row): mask for row, mask in enumerate(array)}
    return GivenMasks(table, coordinates)


def look_up(table: Mapping[str, T], name: str, data: ImageData) -> T | None:
    """What a table holds for an image: under its name, for pictures also without folders or ending, or for all."""
    if name in table:
        return table[name]
    if data.root is not None:
        parts = name.split("/")
        for tail in ("/".join(parts[start:]) for start in range(len(parts))):
            for key in (tail, tail.rpartition(".")[0]):
                if key in table:
                    return table[key]
    return table.get(EVERY)


def require_coordinates(coordinates: str) -> None:
    """Does nothing if the coordinates are known.

    Raises:
        DataError: They are not.
    """
    if coordinates not in get_args(Coordinates):
        raise DataError(
            f"coordinates={coordinates!r} are not known: pass 'picture' (pixels of the original picture) or 'input' "
            f"(pixels of the model's input)."
        )


@dataclass(frozen=True)
class Foreground:
    """What stands out from a plain background, such as a sprite or a handwritten digit.

    A pixel is the object's if it differs from the image's upper left corner, in some channel, by at least half as much
    as the pixel that differs most.
    """

    def has(self, name: str, data: ImageData) -> bool:
        """Always: a mask is made from the image."""
        return True

    def __call__(self, pictures: Pictures) -> Bool[Tensor, "image height width"]:
        """The pixels that stand out; none of an image of one colour."""
        differs = (pictures.images - pictures.images[..., :1, :1]).abs().amax(1)
        most = differs.amax((1, 2), keepdim=True)
        return (differs >= most / 2) & (most > 0)

    def as_dict(self) -> dict[str, Any]:
        """The name."""
        return {"mask": "foreground"}


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
