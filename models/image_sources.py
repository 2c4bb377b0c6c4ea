"""Where images come from, planned before any is read: a source knows every label and reads only the rows asked for.

Here are scikit-learn's digits, MNIST from its four idx files (found on this machine or downloaded once by torchvision),
and folders of class folders of pictures, in halves or with their own train/ and test/ (or val/).
"""

import gzip
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .errors import DataError
from .preprocess import Preprocess
from .watching import progress_bar

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
        ranks[chosen] = torch.arange(int(chosen.sum()), device="cpu")
    return ranks


def halves(labels: Int[Tensor, " image"], *, seed: int) -> dict[str, Rows]:
    """Rows of a train and a test half, class by class; the odd image of a class goes to train."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed), device="cpu")
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
    pixels, labels = (
        torch.tensor(bunch.images, device="cpu"),
        torch.tensor(bunch.target, dtype=torch.long, device="cpu"),
    )
    is_test = rank_in_class(labels) % DIGITS_TEST_EVERY == DIGITS_TEST_EVERY - 1
    chosen = {"train": ~is_test, "test": is_test}
    return from_pixels(
        "digits",
        {split: pixels[rows] for split, rows in chosen.items()},
        {split: labels[rows] for split, rows in chosen.items()},
        preprocess,
        white=16.0,
    )


MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# torchvision puts its files there, below the folder it is given
_BELOW = (".", "MNIST/raw")


def find_mnist(folder: Path) -> dict[str, tuple[Path, Path]] | None:
    """The images and labels file of each split (idx, plain or .gz) in a folder, or None if one is missing."""
    for below in _BELOW:
        found = {split: tuple(_either(folder / below / name) for name in names) for split, names in MNIST_FILES.items()}
        complete = {split: (paths[0], paths[1]) for split, paths in found.items() if paths[0] and paths[1]}
        if len(complete) == len(MNIST_FILES):
            return complete
    return None


def mnist(preprocess: Preprocess | None, *, data_dir: Path | None = None) -> Source:
    """MNIST's 60,000 + 10,000 digits of 28 x 28 pixels.

    They are looked for in `data_dir` alone if given, else in $VITCIRCUITS_DATA/mnist and ~/.cache/vitcircuits/mnist;
    if neither holds them, they are downloaded into the latter.

    Raises:
        DataError: No folder holds all four files, the download failed, or a file is not what it should be.
    """
    files = _idx_files(data_dir)
    pixels, labels = {}, {}
    for split, (images_path, labels_path) in files.items():
        pixels[split], labels[split] = read_idx(images_path), read_idx(labels_path).long()
        if pixels[split].ndim != 3 or labels[split].shape != (len(pixels[split]),):
            raise DataError(
                f"{images_path} holds an array of shape {tuple(pixels[split].shape)} and {labels_path} one of "
                f"{tuple(labels[split].shape)}, but [image, height, width] and one label per image are wanted. "
                f"Fetch both files again."
            )
    return from_pixels("mnist", pixels, labels, preprocess, white=255.0)


def read_idx(path: Path) -> Tensor:
    """The bytes of an idx file (plain or .gz) as a uint8 tensor of the shape that its header states."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}). Fetch the file again.") from error
    # big endian: two zero bytes, the type (8: unsigned byte), the number of dimensions, then their sizes
    n_dims = raw[3] if len(raw) > 3 else 0
    header = 4 + 4 * n_dims
    if raw[:3] != b"\x00\x00\x08" or len(raw) < header:
        raise DataError(f"{path} is not an idx file of bytes: it begins with {raw[:4].hex()!r}. Fetch the file again.")
    shape = struct.unpack(f">{n_dims}I", raw[4:header])
    if len(raw) - header != int(np.prod(shape)):
        raise DataError(f"{path} says it holds {shape} bytes but has {len(raw) - header}. Fetch the file again.")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=header).reshape(shape).copy())


def _idx_files(data_dir: Path | None) -> dict[str, tuple[Path, Path]]:
    cache = Path.home() / ".cache" / "vitcircuits" / "mnist"
    root = os.environ.get("VITCIRCUITS_DATA")
    folders = [data_dir] if data_dir else [*([Path(root) / "mnist"] if root else []), cache]
    for folder in folders:
        if files := find_mnist(folder):
            return files
    failure = "" if data_dir else _download(cache)
    if not data_dir and (files := find_mnist(cache)):
        return files
    names = ", ".join(f"{name}(.gz)" for pair in MNIST_FILES.values() for name in pair)
    raise DataError(
        f"MNIST is not in {' or '.join(map(str, folders))}: looked for {names}, there and in MNIST/raw below. {failure}"
        f'Put the four files into a folder and pass it: load_data("mnist", preprocess, data_dir="that/folder").'
    )


def _download(cache: Path) -> str:
    """Why the download failed, as a sentence; nothing if it did not."""
    from torchvision.datasets import MNIST

    try:
        cache.mkdir(parents=True, exist_ok=True)
        for train in (True, False):
            MNIST(str(cache), train=train, download=True)
    except (OSError, RuntimeError) as error:
        return f"Downloading them failed ({error}). "
    return ""


def _either(path: Path) -> Path | None:
    packed = path.with_name(path.name + ".gz")
    return packed if packed.is_file() else path if path.is_file() else None


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def image_folder(
    root: Path, preprocess: Preprocess | None, *, seed: int, classes: Sequence[str] | None = None
) -> Source:
    """Pictures by the folder they lie in; class names are the sorted folder names, whatever `classes` picks.

    Raises:
        DataError: No class folders, an empty one among those picked, different classes in train and test, or no
            preprocess to bring the pictures to one size.
    """
    if preprocess is None:
        raise DataError(
            f"The pictures of {root} need one size: load_data({str(root)!r}, vit.preprocess), or a Preprocess."
        )
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if (root / "train").is_dir():
        if test is None:
            raise DataError(f"{root} has train/ but neither test/ nor val/: add one, or pass the folder {root}/train.")
        names = _class_names(root / "train")
        _same_classes(names, _class_names(test), root / "train", test)
        files = {"train": _pictures(root / "train", names, classes), "test": _pictures(test, names, classes)}
    else:
        names = _class_names(root)
        every = _pictures(root, names, classes)
        rows = halves(torch.tensor([label for _, label in every], dtype=torch.long, device="cpu"), seed=seed)
        files = {split: [every[row] for row in chosen.tolist()] for split, chosen in rows.items()}

    def read(split: str, rows: Rows) -> Float[Tensor, "image channel height width"]:
        with progress_bar("reading pictures", len(rows), unit="picture") as bar:
            found = []
            for row in rows.tolist():
                found.append(read_picture(files[split][row][0], preprocess))
                bar.update()
        return torch.stack(found)

    labels = {
        split: torch.tensor([label for _, label in found], dtype=torch.long, device="cpu")
        for split, found in files.items()
    }
    called = {split: [path.relative_to(root).as_posix() for path, _ in found] for split, found in files.items()}
    return Source(root.name, names, labels, read, called, root)


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture as it is looked at, which its camera may have stored turned.

    Raises:
        DataError: It cannot be read.
    """
    from PIL import ExifTags

    with _opened(path) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # the four that swap height and width
        return (image.width, image.height) if turned else (image.height, image.width)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not names:
        raise DataError(
            f"{folder} holds no class folders. One folder per class is wanted, such as {folder}/cats/1.jpg and "
            f"{folder}/dogs/1.jpg, or MNIST's four idx files."
        )
    return names


def _same_classes(train: tuple[str, ...], test: tuple[str, ...], train_folder: Path, test_folder: Path) -> None:
    if train != test:
        raise DataError(
            f"{train_folder} and {test_folder} hold different classes: {sorted(set(train) ^ set(test))} stand in only "
            f"one of them. Give both the same class folders."
        )


def _pictures(folder: Path, names: tuple[str, ...], classes: Sequence[str] | None) -> list[tuple[Path, int]]:
    """Each picture of the picked classes with its label, by class and then by path."""
    files = []
    for label, name in enumerate(names):
        if classes is not None and name not in classes:
            continue
        found = [path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
        found = sorted(path for path in found if not path.name.startswith("."))
        if not found:
            raise DataError(
                f"The class folder {folder / name} holds no pictures ({', '.join(SUFFIXES)}). Add some, remove it, or "
                f"pass classes= without {name!r}."
            )
        files += [(path, label) for path in found]
    return files


def read_picture(path: Path, preprocess: Preprocess) -> Float[Tensor, "channel height width"]:
    """A picture as the model takes it.

    Raises:
        DataError: It cannot be read.
    """
    from PIL import ImageOps

    with _opened(path) as image:
        return preprocess(ImageOps.exif_transpose(image))  # cameras store how they were held beside the pixels


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a picture ({error}). Replace it or remove it.") from error
