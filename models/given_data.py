"""Data that is handed in: tensors, PyTorch's data sets and loaders, Hugging Face's image data sets.

Labels come first, and images are read when they are asked for, so that of a large data set only some are decoded.
Neither library is needed for what isn't used: a Hugging Face data set is what has `features` and `column_names`, a
loader what has a `dataset` and a `collate_fn`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import default_collate, default_convert

from .errors import DataError
from .image_sources import Rows, Source, halves
from .preprocess import Preprocess

TESTS = ("test", "validation", "val", "valid")
"""What a test split is called."""
IMAGE_COLUMNS = ("image", "img", "images", "pixel_values")
LABEL_COLUMNS = ("label", "labels", "target", "fine_label")


@dataclass(frozen=True)
class LazyImages:
    """Images that may not have been read yet, and their labels.

    Args:
        labels: One for each image.
        read: Rows -> their images, ready for the model.
        class_names: What each label means; empty where nothing says so, and labels are the model's own classes.
        name: What the data is called.
    """

    labels: Int[Tensor, " image"]
    read: Callable[[Rows], Float[Tensor, "row channel height width"]]
    class_names: tuple[str, ...] = ()
    name: str = "tensors"


def is_data_set(data: Any) -> bool:
    """Whether it is a data set or a loader, of which images are read one by one, or a dict of such."""
    if isinstance(data, Mapping):
        return any(map(is_data_set, data.values()))
    return hasattr(data, "__getitem__" if hasattr(data, "__len__") else "__iter__") and not isinstance(
        data, str | tuple | list | Tensor
    )


def given_source(data: Any, preprocess: Preprocess | None, *, seed: int) -> Source:
    """A pair (images, labels) or a data set, split in halves, or a dict of two: "train" and "test" (or "validation").

    An image that goes into one of the halves is still named by its row in what was given.

    Raises:
        DataError: Labels are missing, or a shape or type doesn't fit.
    """
    if isinstance(data, Mapping):
        parts = {split: part_of(data[key], key, preprocess) for split, key in _splits(data).items()}
        named = {part.class_names for part in parts.values()}
        if len(named) > 1:
            raise DataError(
                f"train and test name different classes: {_some(parts['train'].class_names)}; "
                f"{_some(parts['test'].class_names)}. Give both the same."
            )
        whole, labels, names = parts["train"], {split: part.labels for split, part in parts.items()}, {}

        def read(split: str, rows: Rows) -> Tensor:
            return parts[split].read(rows)

    else:
        whole = part_of(data, "data", preprocess)
        rows_of = halves(whole.labels, seed=seed)
        labels = {split: whole.labels[rows] for split, rows in rows_of.items()}
        names = {split: [str(row) for row in rows.tolist()] for split, rows in rows_of.items()}

        def read(split: str, rows: Rows) -> Tensor:
            return whole.read(rows_of[split][rows])

    most = max((int(found.max()) for found in labels.values() if len(found)), default=-1)
    if whole.class_names and most >= len(whole.class_names):
        raise DataError(f"label {most} has no name: {whole.name!r} names the classes {_some(whole.class_names)}.")
    class_names = whole.class_names or tuple(map(str, range(most + 1)))
    return Source(whole.name if whole.class_names else "tensors", class_names, labels, read, names)


def _splits(data: Mapping[str, Any]) -> dict[str, str]:
    """Which keys are meant as train and as test."""
    tests = [key for key in TESTS if key in data]
    if "train" not in data or not tests:
        raise DataError(
            f"The data is a dict with the keys {sorted(map(str, data))}, but 'train' and 'test' are wanted: "
            f'load_data({{"train": (images, labels), "test": (images, labels)}}, None). To split one set in halves, '
            f"pass it alone."
        )
    return {"train": "train", "test": tests[0]}


def part_of(data: Any, where: str, preprocess: Preprocess | None) -> LazyImages:
    """A pair of tensors, a data set or a loader, its labels read.

    Raises:
        DataError: It is none of these, or its labels cannot be used.
    """
    if hasattr(data, "features") and hasattr(data, "column_names"):
        return _hugging_face(data, where, preprocess)
    if hasattr(data, "dataset") and hasattr(data, "collate_fn"):
        return _loader(data, where, preprocess)
    if not is_data_set(data):
        images, labels = _checked_pair(data, where)
        return LazyImages(labels, lambda rows: images[rows])
    return _data_set(data, where, preprocess)


def _data_set(data: Any, where: str, preprocess: Preprocess | None) -> LazyImages:
    """A map-style data set of (image, label) pairs, or of dicts."""
    if not hasattr(data, "__len__"):
        return _streamed(data, where)
    labels = _checked_labels(_tensor(_labels(data), where), where)

    def read(rows: Rows) -> Tensor:
        items = [_split(data[row], where) for row in rows.tolist()]
        _require_same_labels(labels[rows], _tensor([label for _, label in items], where), where)
        return _stacked([_as_input(image, preprocess, where) for image, _ in items], preprocess, where)

    return LazyImages(labels, read, _class_names(data), type(_innermost(data)).__name__)


def _loader(loader: Any, where: str, preprocess: Preprocess | None) -> LazyImages:
    """A loader's data set, batched by its `collate_fn`; the loader's own order and batches don't matter."""
    if not hasattr(loader.dataset, "__len__"):
        return _streamed(loader, where)
    part = part_of(loader.dataset, where, preprocess)
    if loader.collate_fn in (default_collate, default_convert):
        return part

    def read(rows: Rows) -> Tensor:
        batches = [
            _split(loader.collate_fn([loader.dataset[row] for row in some.tolist()]), where)
            for some in rows.split(loader.batch_size or 1)
        ]
        _require_same_labels(part.labels[rows], _tensor([one for _, found in batches for one in found], where), where)
        images = [_as_input(image, preprocess, where) for found, _ in batches for image in found]
        return _stacked(images, preprocess, where)

    return LazyImages(part.labels, read, part.class_names, part.name)


def _streamed(batches: Any, where: str) -> LazyImages:
    """What can only be gone through from beginning to end is read whole."""
    items = [_split(item, where) for item in batches]
    singles = [isinstance(image, Tensor) and image.ndim == 3 for image, _ in items]
    images = [image[None] if single else image for (image, _), single in zip(items, singles, strict=True)]
    labels = [torch.as_tensor(label, device="cpu").reshape(-1) for _, label in items]
    if not items or not all(isinstance(image, Tensor) and image.ndim == 4 for image in images):
        raise DataError(
            f"{where} can only be gone through once and gives no batches of tensors: let it give (images, labels) "
            f"ready for the model, or pass a data set that has a length and gives one item by its index."
        )
    return part_of((torch.cat(images), torch.cat(labels)), where, None)


def _hugging_face(data: Any, where: str, preprocess: Preprocess | None) -> LazyImages:
    """A data set with a column of images and one of labels; labels are read without decoding an image."""
    if not hasattr(data, "__len__"):
        raise DataError(f"{where} is streamed, but images are drawn from it: load it whole, without streaming=True.")
    kinds = {name: type(feature).__name__ for name, feature in data.features.items()}
    image, label = _column(kinds, "Image", IMAGE_COLUMNS), _column(kinds, "ClassLabel", LABEL_COLUMNS)
    if image is None or label is None:
        missing = "images, such as 'image'" if image is None else "labels, such as 'label'"
        raise DataError(
            f"{where} has the columns {', '.join(map(repr, kinds))}, but none of {missing}: name it so, by "
            f"data.rename_column(old, new)."
        )
    plain = data.with_format(None) if hasattr(data, "with_format") else data  # a transform would want the images
    labels = _checked_labels(_tensor(list(plain[label]), where), where)

    def read(rows: Rows) -> Tensor:
        items = [data[row] for row in rows.tolist()]
        images = [one[image] if image in one else _split(one, where)[0] for one in items]
        return _stacked([_as_input(one, preprocess, where) for one in images], preprocess, where)

    info = getattr(data, "info", None)
    name = getattr(info, "dataset_name", None) or getattr(info, "builder_name", None)
    class_names = tuple(getattr(data.features[label], "names", None) or ())
    return LazyImages(labels, read, class_names, f"hf:{name}" if name else "Hugging Face")


def _column(kinds: Mapping[str, str], kind: str, names: Sequence[str]) -> str | None:
    """The column of a kind, that of a usual name before others; None where there is none."""
    usual = [name for name in names if name in kinds]
    typed = [name for name in kinds if kinds[name] == kind]
    return next((name for name in usual if name in typed), next(iter([*typed, *usual]), None))


def _innermost(data: Any) -> Any:
    """The data set that subsets were taken of; the first of several that were joined."""
    if isinstance(parts := getattr(data, "datasets", None), list) and parts:
        return _innermost(parts[0])
    return _innermost(data.dataset) if hasattr(data, "indices") and hasattr(data, "dataset") else data


def _class_names(data: Any) -> tuple[str, ...]:
    found = getattr(_innermost(data), "classes", ())
    return tuple(found) if isinstance(found, list | tuple) and all(isinstance(name, str) for name in found) else ()


def _labels(data: Any) -> Any:
    """A label for each item: those that the data set lists, else one by one, which decodes every image once."""
    if hasattr(data, "indices") and hasattr(data, "dataset"):
        within = _labels(data.dataset)
        return [within[index] for index in data.indices]
    if isinstance(parts := getattr(data, "datasets", None), list):
        return [label for part in parts for label in _labels(part)]
    if isinstance(tensors := getattr(data, "tensors", None), tuple) and len(tensors) > 1:
        return tensors[1]
    change = getattr(data, "target_transform", None) or (lambda label: label)
    for name in ("targets", "labels"):
        listed = getattr(data, name, None)
        if listed is not None and len(listed) == len(data):
            return [change(label) for label in listed]
    return [_split(data[row], "data")[1] for row in range(len(data))]


def _split(item: Any, where: str) -> tuple[Any, Any]:
    """Image and label of an item or a batch."""
    if isinstance(item, Mapping):
        found = [next((item[name] for name in names if name in item), None) for names in (IMAGE_COLUMNS, LABEL_COLUMNS)]
        if all(part is not None for part in found):
            return found[0], found[1]
        got = f"dicts with the keys {', '.join(map(repr, item))}"
    elif isinstance(item, tuple | list) and len(item) > 1:
        return item[0], item[1]
    else:
        got = f"a {type(item).__name__}"
    raise DataError(
        f"The items of {where} are {got}, but an image and its label are wanted: a pair (image, label), or a dict "
        f"with 'image' and 'label'."
    )


def _as_input(image: Any, preprocess: Preprocess | None, where: str) -> Tensor:
    """A picture or a tensor as the model takes it."""
    if hasattr(image, "convert") and hasattr(image, "getexif"):
        from PIL import ImageOps

        if preprocess is None:
            raise DataError(f"The pictures of {where} need one size: load_data(data, vit.preprocess), or a Preprocess.")
        return preprocess(ImageOps.exif_transpose(image))
    found = _tensor(image, where)
    found = found[None] if found.ndim == 2 else found
    if found.ndim != 3 or not found.is_floating_point():
        raise DataError(
            f"An image of {where} is {found.dtype} of shape {tuple(found.shape)}, but tensors are taken as already "
            f"preprocessed floats [channel, height, width]. Leave pictures as they are (PIL), or let the data set's "
            f"transform be vit.preprocess."
        )
    return found


def _stacked(images: list[Tensor], preprocess: Preprocess | None, where: str) -> Tensor:
    """Images of one size, which must not be pixels where the model wants them normalised."""
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise DataError(
            f"The images of {where} have different shapes, {' and '.join(map(str, sorted(shapes)[:2]))}: leave "
            f"pictures as they are (PIL), or let the data set's transform be vit.preprocess."
        )
    together = torch.stack(images)
    pixels = bool(together.min() >= 0) and bool(together.max() <= 1) and len(together) > 1
    if pixels and preprocess is not None and min(preprocess.mean) > 0:
        raise DataError(
            f"The images of {where} lie in [0, 1], so they are pixels, but the model takes them normalised, with mean "
            f"{preprocess.mean}: let the data set's transform be vit.preprocess in place of ToTensor(). If the model "
            f"was trained on pixels, say so: load_vit(..., preprocess=Preprocess(size, channels, mean=(0, ...), "
            f"std=(1, ...)))."
        )
    return together


def _require_same_labels(listed: Tensor, read: Tensor, where: str) -> None:
    if not torch.equal(listed, read.long()):
        row = int((listed != read.long()).nonzero()[0])
        raise DataError(
            f"{where} lists label {int(listed[row])} for an image that it gives with label {int(read[row])}: make its "
            f"`targets` say what its items say."
        )


def _tensor(values: Any, where: str) -> Tensor:
    try:
        return (
            torch.stack(values)
            if isinstance(values, list) and _tensors(values)
            else torch.as_tensor(values, device="cpu")
        )
    except (TypeError, ValueError, RuntimeError) as error:
        some = values[:3] if isinstance(values, Sequence) else type(values).__name__
        raise DataError(f"{where} holds {some!r}, but numbers are wanted: integers from 0 as labels.") from error


def _tensors(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, Tensor) for value in values)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5) if names else "none"


def _checked_pair(pair: Any, where: str) -> tuple[Tensor, Tensor]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DataError(f"{where} is a {type(pair).__name__}, but a pair is wanted: (images, labels).")
    images, labels = (
        part.detach().cpu() if isinstance(part, Tensor) else torch.as_tensor(part, device="cpu") for part in pair
    )
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
    if labels.ndim != 1:
        raise DataError(f"The labels of {where} have shape {tuple(labels.shape)}, but one class per image is wanted.")
    if len(labels) and (labels.is_floating_point() or labels.is_complex() or int(labels.min()) < 0):
        raise DataError(
            f"The labels of {where} are {labels.dtype} from {labels.min()}, but class numbers from 0 are wanted: "
            f"pass labels.long(), and no split whose labels are withheld."
        )
    return labels.long()
