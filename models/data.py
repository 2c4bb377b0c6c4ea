"""Images with labels, in a train and a test split that share no image: by name, from a folder, or as handed in.

Labels always index the whole data set's `class_names`, whichever classes are picked, so that a label of the digits
data is the digit, and the toy models' logit.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .errors import DataError, did_you_mean
from .files import is_folder, user_path
from .given_data import given_source
from .image_sources import Source, digits, find_mnist, image_folder, mnist, picture_size, rank_in_class
from .near_duplicates import copies
from .preprocess import Preprocess

DATA_NAMES = ("digits", "mnist", "sprites")


@dataclass(frozen=True, repr=False, eq=False)
class Split:
    """Images ready for a model, and their labels.

    Args:
        images: [image, channel, height, width].
        labels: Indices into the data's class names, int64.
        names: What each image is called: its path in the folder of pictures, its row in the tensors that were given,
            or split and row, such as `train/12`.
    """

    images: Float[Tensor, "image channel height width"]
    labels: Int[Tensor, " image"]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self)} images of shape {tuple(self.images.shape[1:])})"


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in two splits that share no image.

    Args:
        name: "digits", "mnist", "sprites", a folder's name, that of a data set that names its classes, or "tensors":
            labels that are the model's own classes.
        train: Where discovery draws from.
        test: Where evaluation draws from.
        class_names: What each label means.
        digest: sha256 over the images and labels as they stand here, in hexadecimal.
        n_duplicates_dropped: Test images left out because a near-duplicate stands in train (see `near_duplicates`); of
            data known by name, whose makers chose the split, only those with the same pixels.
        root: The folder that names are paths in, where they are.
        size: Height and width of every picture before preprocessing, where there is one size and it is known.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    digest: str
    n_duplicates_dropped: int = 0
    root: Path | None = None
    size: tuple[int, int] | None = None

    def __repr__(self) -> str:
        n, names = len(self.class_names), ", ".join(self.class_names[:5])
        return (
            f"ImageData({self.name!r}: {len(self.train)} train and {len(self.test)} test images, {n} classes: {names}"
            f"{', ...' * (n > 5)})"
        )

    def picture_size(self, name: str) -> tuple[int, int] | None:
        """Height and width of a picture before preprocessing; None for tensors.

        Raises:
            DataError: The picture cannot be read any more.
        """
        return self.size if self.root is None else picture_size(self.root / name)


def load_data(
    data: Any,
    preprocess: Preprocess | None,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    classes: Sequence[str | int] | None = None,
    limit: int | None = None,
) -> ImageData:
    """Images and labels, preprocessed for a model, in a train and a test split.

    Test images that are near-duplicates of train images are left out: moved by a pixel or two, a little brighter,
    compressed again. "digits", "mnist" and "sprites" keep the split that their makers chose, so that accuracies stay
    comparable: only equal pixels are looked for there (there are none).

    A data set or a loader gives (image, label) pairs, or dicts with `image` and `label`. Labels are read first: from
    `targets`, `labels` or a column where there is one, else item by item. Then only the images that are asked for are
    decoded: pictures (PIL) are preprocessed, tensors are taken as already preprocessed. A loader's order and batch size
    don't matter, its `collate_fn` does. What can only be gone through once is read whole.

    Args:
        data: "digits" (scikit-learn's, every third of a class for testing), "mnist", "sprites" (drawn shapes, see
            `toys.sprites.factors_of`), a folder with MNIST's idx files, a folder of class folders (or with train/ and
            test/ or val/ of them), a pair (images, labels) of already preprocessed tensors, a PyTorch `Dataset` or
            `DataLoader`, a Hugging Face image data set, or {"train": ..., "test": ...} of pairs or data sets.
        preprocess: What the model wants, usually `vit.preprocess`. None leaves digits, MNIST and sprites as pixels in
            [0, 1].
        data_dir: Where MNIST's files lie, for "mnist". Else they are looked for in $VITCIRCUITS_DATA/mnist and
            ~/.cache/vitcircuits/mnist, and downloaded into the latter.
        seed: Which half of a folder, a pair or a data set without splits is the test half.
        classes: Class names to read; the others are left out, labels keep their meaning.
        limit: At most so many images per class and split.

    Raises:
        DataError: Data that cannot be found or read, an empty class, missing labels, NaN, pixels in place of
            preprocessed images, or shapes that don't fit each other.
    """
    picked = None if classes is None else [str(name) for name in classes]
    return read_images(_source(data, preprocess, data_dir=data_dir, seed=seed, classes=picked), picked, limit)


def read_images(source: Source, classes: list[str] | None = None, limit: int | None = None) -> ImageData:
    """The images of a source, or of some of its classes, at most so many per class and split.

    Raises:
        DataError: As in `load_data`.
    """
    train, test = (_split(source, name, classes, limit) for name in ("train", "test"))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"Train images have shape {tuple(train.images.shape[1:])} but test images {tuple(test.images.shape[1:])}: "
            f"bring both to the model's size, with vit.preprocess.fit(pixels)."
        )
    chosen_by_makers = source.name in DATA_NAMES and source.root is None  # a folder may be called "sprites" too
    kept = copies(test.images, train.images, exact=chosen_by_makers) < 0
    if not kept.any():
        raise DataError(
            f"All {len(test)} test images of {source.name!r} also stand in train, or near-duplicates of them do, so "
            f"there is nothing held out to judge on: give test images that train lacks."
        )
    names = tuple(name for name, stays in zip(test.names, kept.tolist(), strict=True) if stays)
    unique = Split(test.images[kept], test.labels[kept], names)
    dropped = len(test) - len(unique)
    digest = _digest(train, unique)
    return ImageData(source.name, train, unique, source.class_names, digest, dropped, source.root, source.size)


def _source(
    data: Any, preprocess: Preprocess | None, *, data_dir: str | Path | None, seed: int, classes: list[str] | None
) -> Source:
    from .toys.sprites import sprites

    if not isinstance(data, str | Path):
        return given_source(data, preprocess, seed=seed)
    if data == "digits":
        return digits(preprocess)
    if data == "sprites":
        return sprites(preprocess)
    if data == "mnist":
        return mnist(preprocess, data_dir=user_path(data_dir) if data_dir else None)
    folder = user_path(data)
    if not is_folder(folder):
        hint = did_you_mean(str(data).lower(), DATA_NAMES)
        raise DataError(f"There is no data named {str(data)!r} and no such folder.{hint} Here, {_WANTED}.")
    if find_mnist(folder):
        return mnist(preprocess, data_dir=folder)
    return image_folder(folder, preprocess, seed=seed, classes=classes)


_WANTED = (
    f"data is {', '.join(map(repr, DATA_NAMES))}, a folder of class folders, a folder with MNIST's idx files, a pair "
    f'(images, labels), a PyTorch or Hugging Face data set, or {{"train": ..., "test": ...}} of such'
)


def _split(source: Source, name: str, classes: list[str] | None, limit: int | None) -> Split:
    """The rows that are picked, read and checked."""
    labels = source.labels[name]
    chosen = torch.ones_like(labels, dtype=torch.bool)
    if limit is not None:
        if limit < 1:
            raise DataError(f"limit={limit}, but at least one image per class is wanted: limit=1, or leave it out.")
        chosen &= rank_in_class(labels) < limit
    if classes is not None:
        if unknown := [name for name in classes if name not in source.class_names]:
            raise DataError(
                f"{source.name!r} has no class {unknown[0]!r}; it has {_shortened(source.class_names)}."
                f"{did_you_mean(unknown[0], source.class_names)}"
            )
        chosen &= torch.isin(labels, torch.tensor([source.class_names.index(name) for name in classes], device="cpu"))
    rows = chosen.nonzero()[:, 0]
    if not len(rows):
        raise DataError(
            f"The {name} split of {source.name!r} has no images"
            f"{'' if classes is None else f' of the classes {_shortened(classes)}'}: give each class at least two."
        )
    images = source.read(name, rows)
    if bad := int((~images.isfinite()).flatten(1).any(1).sum()):
        raise DataError(
            f"{bad} of {len(images)} {name} images of {source.name!r} hold NaN or infinity: leave those out, such as "
            f"images[images.isfinite().flatten(1).all(1)]."
        )
    return Split(images, labels[rows], tuple(source.called(name, row) for row in rows.tolist()))


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")


def _bytes(tensor: Tensor) -> np.ndarray:
    """The raw bytes of each row [row, byte]; numpy has no bfloat16, so the tensor is reinterpreted first."""
    return tensor.contiguous().flatten(1).view(torch.uint8).numpy()


def _digest(*splits: Split) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{tuple(split.images.shape)} {split.images.dtype}".encode())
        digest.update(_bytes(split.images).tobytes())
        digest.update(_bytes(split.labels[:, None]).tobytes())
    return digest.hexdigest()
