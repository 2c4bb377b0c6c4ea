"""Data comes in two splits that share no image, the same every time, or with a sentence that says why not."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from vitcircuits.models.data import ImageData, load_data
from vitcircuits.models.errors import DataError
from vitcircuits.models.preprocess import Preprocess

RGB = Preprocess((8, 8), 3, (0.5,) * 3, (0.5,) * 3)


def write_pictures(folder: Path, n: int, *, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *folder.name.encode()])
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(folder / f"{i}.png")


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def write_mnist(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split, n in (("train", 20), ("t10k", 10)):
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", rng.integers(0, 256, (n, 28, 28)))
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", np.arange(n) % 10)


def rows(data: ImageData, split: str) -> set[bytes]:
    return {image.numpy().tobytes() for image in getattr(data, split).images}


def tensors(n: int = 12, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(n) % classes


def test_digits_are_the_same_every_time_whatever_the_seed():
    first, second = load_data("digits", None), load_data("digits", None, seed=7)
    assert first.digest == second.digest
    assert (len(first.train), len(first.test), first.n_duplicates_dropped) == (1201, 596, 0)
    assert not rows(first, "train") & rows(first, "test")
    assert first.train.images.min() == 0 and first.train.images.max() == 1
    assert torch.bincount(first.test.labels).min() >= 55  # stratified


def test_digits_fit_the_model():
    data = load_data("digits", RGB, limit=3)
    assert data.train.images.shape == (30, 3, 8, 8)
    assert data.test.labels.dtype == torch.int64


def test_classes_and_limit_leave_labels_their_meaning():
    data = load_data("digits", None, classes=[3, "8"], limit=5)
    assert sorted(data.test.labels.tolist()) == [3] * 5 + [8] * 5
    assert len(data.class_names) == 10


def test_a_limited_read_is_the_beginning_of_the_whole():
    whole, few = load_data("digits", None, classes=["4"]), load_data("digits", None, classes=["4"], limit=6)
    assert torch.equal(few.train.images, whole.train.images[:6])


def test_the_digest_changes_with_one_pixel_and_with_one_label():
    images, labels = tensors()
    split = (images.flip(-1), labels)
    other_images, other_labels = images.clone(), labels.clone()
    other_images[0, 0, 0, 0] += 1
    other_labels[0] = 2
    pairs = [(images, labels), (other_images, labels), (images, other_labels)]
    digests = {load_data({"train": pair, "test": split}, None).digest for pair in pairs}
    assert len(digests) == 3


def test_mnist_by_folder_by_data_dir_and_by_environment(tmp_path, monkeypatch):
    write_mnist(tmp_path / "mnist")
    by_folder = load_data(tmp_path / "mnist", None)
    by_argument = load_data("mnist", None, data_dir=tmp_path / "mnist")
    monkeypatch.setenv("VITCIRCUITS_DATA", str(tmp_path))
    by_environment = load_data("mnist", None)
    assert by_folder.digest == by_argument.digest == by_environment.digest
    assert by_folder.train.images.shape == (20, 1, 28, 28)
    assert by_folder.test.labels.tolist() == list(range(10))
    assert by_folder.name == "mnist"


def test_mnist_that_is_nowhere_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("VITCIRCUITS_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def no_network(*args, **kwargs):
        raise RuntimeError("no network")

    monkeypatch.setattr("torchvision.datasets.MNIST", no_network)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.*no network.*data_dir=") as caught:
        load_data("mnist", None)
    assert str(tmp_path) in str(caught.value)


def test_a_given_data_dir_without_mnist_downloads_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.MNIST", lambda *_, **__: pytest.fail("tried to download"))
    with pytest.raises(DataError, match="data_dir="):
        load_data("mnist", None, data_dir=tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "not gzip", "not idx"])
def test_a_damaged_idx_file_is_named(tmp_path, damage):
    write_mnist(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    raw = gzip.decompress(path.read_bytes())
    new = {"truncated": gzip.compress(raw[:-5]), "not gzip": b"hello", "not idx": gzip.compress(b"hello")}
    path.write_bytes(new[damage])
    with pytest.raises(DataError, match=path.name):
        load_data(tmp_path, None)


def test_the_real_mnist():
    here = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("VITCIRCUITS_TEST_DATA", here)) / "mnist"
    if not folder.is_dir():
        pytest.skip("MNIST's idx files are not here: set VITCIRCUITS_TEST_DATA to a folder that holds mnist/.")
    data = load_data(folder, None, limit=2)
    assert data.test.labels[:4].tolist() == [7, 2, 1, 0]


def test_a_folder_of_class_folders_is_halved_class_by_class(tmp_path):
    for name, n in (("dogs", 5), ("cats", 4)):
        write_pictures(tmp_path / name, n)
    data = load_data(tmp_path, RGB)
    assert data.class_names == ("cats", "dogs")
    assert torch.bincount(data.train.labels).tolist() == [2, 3]
    assert torch.bincount(data.test.labels).tolist() == [2, 2]
    assert data.digest == load_data(str(tmp_path), RGB).digest
    assert data.digest != load_data(tmp_path, RGB, seed=1).digest


def test_only_the_pictures_asked_for_are_read(tmp_path):
    write_pictures(tmp_path / "cats", 4)
    (tmp_path / "dogs").mkdir()
    (tmp_path / "dogs" / "broken.jpg").write_text("not a picture")
    assert load_data(tmp_path, RGB, classes=["cats"]).train.labels.tolist() == [0, 0]
    with pytest.raises(DataError, match=r"broken\.jpg"):
        load_data(tmp_path, RGB)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_a_folder_with_its_own_splits_keeps_them(tmp_path, held_out):
    for split, seed in (("train", 0), (held_out, 1)):
        for name in ("a", "b"):
            write_pictures(tmp_path / split / name, 3 + seed, seed=seed)
    data = load_data(tmp_path, RGB)
    assert (len(data.train), len(data.test)) == (6, 8)


def test_a_test_image_that_stands_in_train_is_dropped_and_counted():
    images, labels = tensors()
    mixed = torch.cat([images[:2], images[:3] + 1])
    data = load_data({"train": (images, labels), "test": (mixed, labels[:5])}, None)
    assert data.n_duplicates_dropped == 2
    assert torch.equal(data.test.images, mixed[2:])
    assert torch.equal(data.test.labels, labels[2:5])


def test_nothing_but_duplicates_is_refused():
    with pytest.raises(DataError, match="also stand in train"):
        load_data({"train": tensors(), "test": tensors()}, None)


def test_tensors_are_halved_and_keep_their_dtype():
    images, labels = tensors()
    data = load_data((images.double(), labels), None)
    assert data.train.images.dtype == torch.float64
    assert torch.bincount(data.train.labels).tolist() == [2, 2, 2]
    assert rows(data, "train") | rows(data, "test") == {image.double().numpy().tobytes() for image in images}


def test_loading_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    load_data(tensors(), None, seed=3)
    assert torch.equal(before, torch.get_rng_state())


IMAGES, LABELS = tensors()
WITH_NAN = IMAGES.clone()
WITH_NAN[4, 0, 1, 1] = float("nan")
REFUSED = {
    "misspelt name": ("digit", "Did you mean 'digits'"),
    "no such folder": ("/no/such/folder", "no such folder"),
    "not data": (3, "is a int"),
    "a tensor alone": (IMAGES, "a pair"),
    "NaN": ((WITH_NAN, LABELS), "1 of 6 .* NaN"),
    "three dimensions": ((IMAGES[:, 0], LABELS), "four dimensions"),
    "fewer labels": ((IMAGES, LABELS[:5]), "12 images but labels of shape"),
    "labels that are floats": ((IMAGES, LABELS.float()), r"labels\.long"),
    "negative labels": ((IMAGES, LABELS - 1), "class numbers from 0"),
    "bytes": (((IMAGES * 255).byte(), LABELS), "already preprocessed"),
    "no images": ((IMAGES[:0], LABELS[:0]), "no images"),
    "other keys": ({"train": tensors()}, "'train' and 'test'"),
    "other sizes": ({"train": tensors(), "test": (IMAGES[..., :2], LABELS)}, "bring both"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_with_the_way_out(case):
    data, sentence = REFUSED[case]
    with pytest.raises(DataError, match=sentence):
        load_data(data, None)


def test_folders_that_cannot_be_used_are_refused_with_the_way_out(tmp_path):
    with pytest.raises(DataError, match="no class folders"):
        load_data(tmp_path, RGB)
    write_pictures(tmp_path / "cats", 2)
    with pytest.raises(DataError, match="need one size"):
        load_data(tmp_path, None)
    with pytest.raises(DataError, match="no class 'cat'"):
        load_data(tmp_path, RGB, classes=["cat"])
    (tmp_path / "dogs").mkdir()
    with pytest.raises(DataError, match="dogs holds no pictures"):
        load_data(tmp_path, RGB)
    write_pictures(tmp_path / "train" / "cats", 2)
    with pytest.raises(DataError, match="neither test/ nor val/"):
        load_data(tmp_path, RGB)
    write_pictures(tmp_path / "val" / "dogs", 2)
    with pytest.raises(DataError, match="different classes"):
        load_data(tmp_path, RGB)


def test_a_limit_below_one_is_refused():
    with pytest.raises(DataError, match="limit=0"):
        load_data("digits", None, limit=0)
