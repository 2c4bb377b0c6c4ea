"""A few pictures to look at: from a folder, however its pictures lie in it, or from a data set by name."""

from __future__ import annotations

from itertools import islice, zip_longest
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from .data import DATA_NAMES, load_data
from .errors import DataError, did_you_mean
from .files import is_folder, user_path
from .image_sources import SUFFIXES, find_mnist, read_picture
from .preprocess import Preprocess


def load_pictures(
    images: str | Path, preprocess: Preprocess | None, n: int, *, data_dir: str | Path | None = None
) -> tuple[Float[Tensor, "image channel height width"], tuple[str, ...]]:
    """Some images ready for a model, and what each is called.

    Args:
        images: A folder of pictures, whose subfolders take turns, or `digits`, `mnist` or `sprites`, of whose test
            images the classes take turns.
        preprocess: What the model wants, usually `vit.preprocess`.
        n: At most so many.
        data_dir: Where MNIST's files lie.

    Raises:
        DataError: There are no such pictures, one cannot be read, or n is below 1.
    """
    folder = user_path(images)
    named = str(images) in DATA_NAMES
    if n < 1 or (preprocess is None and not named):
        raise DataError(
            f"load_pictures({str(images)!r}, preprocess={preprocess}, n={n}) is not possible: pass n of at least 1, "
            f"and what brings pictures to the model's size, such as vit.preprocess."
        )
    if named or find_mnist(folder):
        return _of_data(images, preprocess, n, data_dir)
    if not is_folder(folder):
        hint = did_you_mean(str(images).lower(), DATA_NAMES)
        raise DataError(
            f"there is no folder {str(images)!r} and no data of that name.{hint} Pass a folder of pictures, or "
            f"{', '.join(DATA_NAMES)}."
        )
    paths = list(islice(_in_turn(folder), n))
    if not paths:
        raise DataError(f"{folder} holds no pictures ({', '.join(SUFFIXES)}), nor do its folders: add some.")
    assert preprocess is not None
    found = torch.stack([read_picture(path, preprocess) for path in paths])
    return found, tuple(path.relative_to(folder).as_posix() for path in paths)


def _in_turn(folder: Path) -> list[Path]:
    """Pictures of each folder in turn, by name."""
    of: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not hidden:
            of.setdefault(path.parent, []).append(path)
    return [path for some in zip_longest(*of.values()) for path in some if path is not None]


def _of_data(
    images: str | Path, preprocess: Preprocess | None, n: int, data_dir: str | Path | None
) -> tuple[Tensor, tuple[str, ...]]:
    data = load_data(images, preprocess, data_dir=data_dir, limit=n)
    rows = [(data.test.labels == label).nonzero()[:, 0].tolist() for label in range(len(data.class_names))]
    chosen = [row for some in zip_longest(*rows) for row in some if row is not None][:n]
    names = (f"{data.class_names[int(data.test.labels[row])]}: {data.test.names[row]}" for row in chosen)
    return data.test.images[chosen], tuple(names)
