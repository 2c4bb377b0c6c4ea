"""Data sets of PyTorch and Hugging Face give the images that their items hold, and decode only those asked for."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from vitcircuits.circuits import class_contrast
from vitcircuits.models import load_vit
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import DataError
from vitcircuits.models.preprocess import Preprocess

RGB = Preprocess((8, 8), 3, (0.5,) * 3, (0.5,) * 3)
NAMES = ("cat", "dog", "owl")


def picture(row: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(row).integers(0, 256, (10, 12, 3), dtype=np.uint8))


class Photos(Dataset):
    """Pictures with labels, which counts how often one is decoded."""

    classes = NAMES

    def __init__(self, n=24, transform=None, **listed):
        self.n, self.transform, self.decoded = n, transform or (lambda image: image), []
        vars(self).update(listed or {"targets": [row % 3 for row in range(n)]})

    def __len__(self):
        return self.n

    def __getitem__(self, row):
        self.decoded.append(row)
        return self.transform(picture(row)), row % 3


class Column(list):
    pass


class Photographs:
    """As a Hugging Face data set looks: columns, features with class names, items that are dicts."""

    def __init__(self, n=24, image="image", label="label", names=NAMES):
        kinds = (type("Image", (), {})(), type("ClassLabel", (), {"names": list(names)})())
        self.features, self.n, self.decoded = dict(zip((image, label), kinds, strict=True)), n, []
        self.info = SimpleNamespace(dataset_name="photographs")

    @property
    def column_names(self):
        return list(self.features)

    def __len__(self):
        return self.n

    def __getitem__(self, key):
        if isinstance(key, str):
            assert key == self.column_names[1], "a column of images was read whole"
            return Column(row % 3 for row in range(self.n))
        self.decoded.append(key)
        return dict(zip(self.features, (picture(key), key % 3), strict=True))


def images_of(data):
    """Image bytes -> label, over both splits."""
    return {
        image.numpy().tobytes(): int(label)
        for split in (data.train, data.test)
        for image, label in zip(split.images, split.labels, strict=True)
    }


WANTED = {RGB(picture(row)).numpy().tobytes(): row % 3 for row in range(24)}


def own_batches(items):
    return {"pixel_values": torch.stack([RGB(image) for image, _ in items]), "labels": [label for _, label in items]}


class Stream(IterableDataset):
    def __iter__(self):
        return ((RGB(picture(row)), row % 3) for row in range(24))


SETS = {
    "pictures": Photos(),
    "tensors": Photos(transform=RGB),
    "without a list of labels": Photos(classes=None),
    "numbers in numpy": Photos(labels=np.arange(24) % 3),
    "a subset of a subset": Subset(Subset(Photos(48), range(30)), range(24)),
    "two in a row": ConcatDataset([Photos(24), Subset(Photos(), [])]),
    "tensors side by side": TensorDataset(torch.stack([RGB(picture(row)) for row in range(24)]), torch.arange(24) % 3),
    "a loader": DataLoader(Photos(transform=RGB), batch_size=5, shuffle=True),
    "a loader of pictures": DataLoader(Photos(), batch_size=5, collate_fn=own_batches),
    "a stream": Stream(),
    "a loader of a stream": DataLoader(Stream(), batch_size=5),
    "Hugging Face": Photographs(),
    "a loader of Hugging Face": DataLoader(Photographs(), batch_size=5),
    "other columns": Photographs(image="img", label="fine_label"),
    "two splits": {"train": Photos(12), "validation": Subset(Photos(), range(12, 24))},
}


@pytest.mark.parametrize("kind", SETS)
def test_every_kind_of_data_set_gives_the_same_images_with_the_same_labels(kind):
    data = load_data(SETS[kind], RGB)
    assert images_of(data) == WANTED
    named = "tensors" not in kind and "stream" not in kind and "without" not in kind
    assert data.class_names == (NAMES if named or kind == "tensors" else ("0", "1", "2"))


@pytest.mark.parametrize("make", [Photos, Photographs, lambda: DataLoader(Photos())])
def test_only_images_that_are_asked_for_are_decoded(make):
    data = make()
    found = load_data(data, RGB, classes=["dog"], limit=2)
    decoded = getattr(data, "dataset", data).decoded
    assert len(decoded) == len(found.train) + len(found.test) == 4 and {row % 3 for row in decoded} == {1}


def test_items_of_a_transformed_target_are_read_by_the_label_that_they_bring():
    class Turned(Photos):
        def __init__(self):
            super().__init__(targets=[row % 3 for row in range(24)], target_transform=lambda label: 2 - label)

        def __getitem__(self, row):
            image, label = super().__getitem__(row)
            return image, self.target_transform(label)

    assert images_of(load_data(Turned(), RGB)) == {image: 2 - label for image, label in WANTED.items()}


class Alone(Photos):
    def __getitem__(self, row):
        return picture(row)


REFUSED = {
    "no labels": (Alone(other=1), "an image and its label are wanted"),
    "bytes": (Photos(transform=lambda image: np.array(image)), r"uint8 .* transform be vit\.preprocess"),
    "pixels": (Photos(transform=lambda image: RGB.denormalise(RGB(image))), r"lie in \[0, 1\], so they are pixels"),
    "several sizes": (Photos(transform=lambda image: torch.randn(3, 8, image.getpixel((0, 0))[0] + 1)), "different"),
    "words as labels": (Photos(targets=["a"] * 24), "integers from 0 as labels"),
    "labels that are not those of the items": (Photos(targets=[0] * 24), "lists label 0 for an image .* label"),
    "several labels each": (Photos(targets=torch.zeros(24, 3).long()), "one class per image"),
    "a label without a name": (Photos(targets=list(range(24))), "label 23 has no name"),
    "no column of labels": (Photographs(label="caption"), "none of labels"),
    "withheld labels": (Photos(targets=[-1] * 24), "withheld"),
    "a stream of pictures": (DataLoader(Stream(), collate_fn=lambda items: [1]), "items of data are a list"),
    "streamed": (SimpleNamespace(features={}, column_names=[]), "is streamed"),
    "no test split": ({"train": Photos()}, "pass it alone"),
    "other classes": (
        {"train": Photos(), "test": Photos(classes=["a", "b", "c"], targets=[0] * 24)},
        "different class",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_with_the_way_out(case):
    data, sentence = REFUSED[case]
    if case == "no column of labels":
        data.features["caption"] = type("Value", (), {})()
    with pytest.raises(DataError, match=sentence):
        load_data(data, RGB)


def test_pictures_need_a_preprocess():
    with pytest.raises(DataError, match="need one size"):
        load_data(Photos(), None)


def test_pixels_are_taken_where_the_model_takes_pixels():
    data = Photos(transform=lambda image: RGB.denormalise(RGB(image)))
    assert len(load_data(data, Preprocess((8, 8), 3, (0.0,) * 3, (1.0,) * 3)).train)


def test_a_contrast_decodes_few_images_and_equals_that_of_the_same_tensors(monkeypatch):
    from vitcircuits.circuits.tasks import contrast

    vit, digits = load_vit("toy/digits-2l"), load_data("digits", None)
    monkeypatch.setattr(contrast, "MOST_DECODED", 40)

    class Digits(Dataset):
        classes = tuple("0123456789")

        def __init__(self, split):
            self.images, self.targets, self.decoded = split.images, split.labels, 0

        def __len__(self):
            return len(self.targets)

        def __getitem__(self, row):
            self.decoded += 1
            pixels = (255 * self.images[row, 0]).round().byte().numpy()
            return Image.fromarray(pixels), int(self.targets[row])

    sets = {"train": Digits(digits.train), "test": Digits(digits.test)}
    task = class_contrast(vit, sets, target=3, foil=8, n_discovery=8, n_evaluation=8)
    assert task.info["target_name"] == "3" and task.info["data"] == "Digits" and task.sides == "both"
    assert len(task.discovery) and task.others is not None  # of the other classes a few are read too
    for one in sets.values():
        assert one.decoded <= 2 * 40 + 8 * 8 < len(one)
    held = [image.numpy().tobytes() for image in vit.preprocess.fit((255 * digits.train.images).round() / 255)]
    assert {image.numpy().tobytes() for image in task.discovery.clean} <= set(held)
