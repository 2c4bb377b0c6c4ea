"""Where images come from, planned before any is read: a source knows every label and reads only the rows asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .errors import DataError
from .preprocess import Preprocess

# Every third image of a class is a test image of "digits". The shipped toy was trained on the others: never change it.
DIGITS_TEST_EVERY = 3

Rows = Int[Tensor, " row"]


@dataclass(frozen=True)
class Source:
    """Labels per split, and how to read images.

    Args:
        name: What the data is called in reports.
        class_names: What each label means.
        labels: "train" and "test": one label per image.
        read: Split and rows -> the images of those rows, ready for the model [image, channel, height, width].
        names: "train" and "test": what each image is called; else "train/0", "train/1", ...
        root: The folder that the names are paths in, where they are.
        size: Height and width of every picture before preprocessing, where there is one size.
    """

    name: str
    class_names: tuple[str, ...]
    labels: Mapping[str, Int[Tensor, " image"]]
    read: Callable[[str, Rows], Float[Tensor, "image channel height width"]]
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    root: Path | None = None
    size: tuple[int, int] | None = None

    def called(self, split: str, row: int) -> str:
        """What an image is called."""
        return self.names[split][row] if split in self.names else f"{split}/{row}"


def rank_in_class(labels: Int[Tensor, " image"]) -> Int[Tensor, " image"]:
    """How many earlier images have the same label."""
    ranks = torch.zeros_like(labels)
    for label in labels.unique():
        chosen = labels == label
        ranks[chosen] = torch.arange(int(chosen.sum()))
    return ranks


def halves(labels: Int[Tensor, " image"], *, seed: int) -> dict[str, Rows]:
    """Rows of a train and a test half, class by class; the odd image of a class goes to train."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    to_train = rank_in_class(labels[order]) % 2 == 0
    return {"train": order[to_train].sort().values, "test": order[~to_train].sort().values}


def from_pixels(
    name: str,
    pixels: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    preprocess: Preprocess | None,
    *,
    white: float,
) -> Source:
    """Grey digits in memory [image, height, width], black 0 and white `white`, as a source with classes 0 to 9."""

    def read(split: str, rows: Rows) -> Tensor:
        scaled = pixels[split][rows][:, None].float() / white
        return scaled if preprocess is None else preprocess.fit(scaled)

    height, width = pixels["train"].shape[-2:]
    return Source(name, tuple("0123456789"), labels, read, size=(height, width))


def digits(preprocess: Preprocess | None) -> Source:
    """Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, every third of a class for testing."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pixels, labels = torch.tensor(bunch.images), torch.tensor(bunch.target, dtype=torch.long)
    is_test = rank_in_class(labels) % DIGITS_TEST_EVERY == DIGITS_TEST_EVERY - 1
    chosen = {"train": ~is_test, "test": is_test}
    return from_pixels(
        "digits",
        {split: pixels[rows] for split, rows in chosen.items()},
        {split: labels[rows] for split, rows in chosen.items()},
        preprocess,
        white=16.0,
    )


def from_tensors(data: Any, *, seed: int) -> Source:
    """A pair (images, labels), split in halves, or {"train": (images, labels), "test": (images, labels)}.

    An image of a pair is named by its row in what was given, also where it went into the test half.
    """
    if isinstance(data, Mapping):
        if set(data) != {"train", "test"}:
            raise DataError(
                f"The data is a dict with the keys {sorted(map(str, data))}, but 'train' and 'test' are wanted: "
                f'load_data({{"train": (images, labels), "test": (images, labels)}}, None).'
            )
        splits = {split: _checked_pair(data[split], split) for split in ("train", "test")}
        names = {}
    else:
        images, labels = _checked_pair(data, "data")
        rows_of = halves(labels, seed=seed)
        splits = {split: (images[rows], labels[rows]) for split, rows in rows_of.items()}
        names = {split: [str(row) for row in rows.tolist()] for split, rows in rows_of.items()}
    n_classes = 1 + max((int(labels.max()) for _, labels in splits.values() if len(labels)), default=-1)
    return Source(
        "tensors",
        tuple(map(str, range(n_classes))),
        {split: labels for split, (_, labels) in splits.items()},
        lambda split, rows: splits[split][0][rows],
        names,
    )


def _checked_pair(pair: Any, where: str) -> tuple[Tensor, Tensor]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DataError(f"{where} is a {type(pair).__name__}, but a pair is wanted: (images, labels).")
    images, labels = (part.detach().cpu() if isinstance(part, Tensor) else torch.as_tensor(part) for part in pair)
    if images.ndim != 4:
        raise DataError(
            f"The images of {where} have shape {tuple(images.shape)}, but four dimensions are wanted: "
            f"[image, channel, height, width]. For grey images without a channel pass images[:, None]."
        )
    if not images.is_floating_point():
        raise DataError(
            f"The images of {where} are {images.dtype}, but tensors are taken as already preprocessed floats. "
            f"Pass vit.preprocess.fit(images / 255)."
        )
    if labels.shape != (len(images),):
        raise DataError(
            f"{where} has {len(images)} images but labels of shape {tuple(labels.shape)}: each image needs one label. "
            f"Pass one integer per image, such as labels[:{len(images)}]."
        )
    return images, _checked_labels(labels, where)


def _checked_labels(labels: Tensor, where: str) -> Tensor:
    if len(labels) and (labels.is_floating_point() or labels.is_complex() or int(labels.min()) < 0):
        raise DataError(
            f"The labels of {where} are {labels.dtype} from {labels.min()}, but class numbers from 0 are wanted: "
            f"pass labels.long()."
        )
    return labels.long()
