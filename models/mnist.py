"""MNIST from its four idx files, found on this machine or downloaded once by torchvision."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .errors import DataError
from .preprocess import Preprocess
from .sources import Source, from_pixels

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# torchvision puts its files there, below the folder it is given
_BELOW = (".", "MNIST/raw")


def find(folder: Path) -> dict[str, tuple[Path, Path]] | None:
    """The images and labels file of each split (idx, plain or .gz) in a folder, or None if one is missing."""
    for below in _BELOW:
        found = {split: tuple(_either(folder / below / name) for name in names) for split, names in FILES.items()}
        complete = {split: (paths[0], paths[1]) for split, paths in found.items() if paths[0] and paths[1]}
        if len(complete) == len(FILES):
            return complete
    return None


def mnist(preprocess: Preprocess | None, *, data_dir: Path | None = None) -> Source:
    """MNIST's 60,000 + 10,000 digits of 28 x 28 pixels.

    They are looked for in `data_dir` alone if given, else in $VITCIRCUITS_DATA/mnist and ~/.cache/vitcircuits/mnist;
    if neither holds them, they are downloaded into the latter.

    Raises:
        DataError: No folder holds all four files, the download failed, or a file is not what it should be.
    """
    files = _files(data_dir)
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


def _files(data_dir: Path | None) -> dict[str, tuple[Path, Path]]:
    cache = Path.home() / ".cache" / "vitcircuits" / "mnist"
    root = os.environ.get("VITCIRCUITS_DATA")
    folders = [data_dir] if data_dir else [*([Path(root) / "mnist"] if root else []), cache]
    for folder in folders:
        if files := find(folder):
            return files
    failure = "" if data_dir else _download(cache)
    if not data_dir and (files := find(cache)):
        return files
    names = ", ".join(f"{name}(.gz)" for pair in FILES.values() for name in pair)
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
