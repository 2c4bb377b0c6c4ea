"""A folder of class folders of pictures, in halves or with its own train/ and test/ (or val/)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import DataError
from .preprocess import Preprocess
from .sources import Rows, Source, halves

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
        files = {"train": _files(root / "train", names, classes), "test": _files(test, names, classes)}
    else:
        names = _class_names(root)
        every = _files(root, names, classes)
        rows = halves(torch.tensor([label for _, label in every], dtype=torch.long), seed=seed)
        files = {split: [every[row] for row in chosen.tolist()] for split, chosen in rows.items()}

    def read(split: str, rows: Rows) -> Float[Tensor, "image channel height width"]:
        return torch.stack([read_picture(files[split][row][0], preprocess) for row in rows.tolist()])

    labels = {split: torch.tensor([label for _, label in found], dtype=torch.long) for split, found in files.items()}
    called = {split: [path.relative_to(root).as_posix() for path, _ in found] for split, found in files.items()}
    return Source(root.name, names, labels, read, called, root)


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture as it is looked at, which its camera may have stored turned.

    Raises:
        DataError: It cannot be read.
    """
    from PIL import ExifTags, Image

    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # the four that swap height and width
            return (image.width, image.height) if turned else (image.height, image.width)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a picture ({error}). Replace it or remove it.") from error


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


def _files(folder: Path, names: tuple[str, ...], classes: Sequence[str] | None) -> list[tuple[Path, int]]:
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
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            # cameras store how they were held beside the pixels
            return preprocess(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a picture ({error}). Replace it or remove it.") from error
