"""A few pictures to look at, from any folder of them or a data set by name."""

import pytest
import torch
from PIL import Image
from vitcircuits.models import load_data
from vitcircuits.models.errors import DataError
from vitcircuits.models.pictures import load_pictures
from vitcircuits.models.preprocess import Preprocess

PREPROCESS = Preprocess((4, 4), 3, (0.0,) * 3, (1.0,) * 3)


@pytest.fixture
def folder(tmp_path):
    for place, name in enumerate(["cats/1.png", "cats/2.png", "dogs/far/1.png", "top.png", ".hidden/x.png"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 6), (50 * place, 0, 0)).save(path)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_folders_take_turns_however_pictures_lie_in_them(folder):
    images, names = load_pictures(folder, PREPROCESS, 9)
    assert sorted(names) == ["cats/1.png", "cats/2.png", "dogs/far/1.png", "top.png"] and names[-1] == "cats/2.png"
    reds = {"cats/1.png": 0, "cats/2.png": 50, "dogs/far/1.png": 100, "top.png": 150}
    assert (images[:, 0, 0, 0] * 255).round().tolist() == [reds[name] for name in names]
    some, first = load_pictures(folder, PREPROCESS, 2)
    assert first == names[:2] and torch.equal(some, images[:2])


def test_classes_of_a_data_set_take_turns():
    images, names = load_pictures("digits", None, 12)
    assert [name[0] for name in names] == list("012345678901") and images.shape == (12, 1, 8, 8)
    test = load_data("digits", None).test
    assert all(torch.equal(images[at], test.images[test.names.index(n[3:])]) for at, n in enumerate(names))


@pytest.mark.parametrize(
    ("asked", "n", "said"),
    [
        ("digit", 2, "Did you mean 'digits'"),
        ("empty", 2, "holds no pictures"),
        (".", 0, "n=0"),
        ("broken", 1, "cannot be"),
    ],
)
def test_what_cannot_be_read_is_said(folder, monkeypatch, asked, n, said):
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "x.png").write_bytes(b"no picture")
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match=said):
        load_pictures(asked, PREPROCESS, n)


def test_pictures_need_a_size(folder):
    with pytest.raises(DataError, match=r"vit\.preprocess"):
        load_pictures(folder, None, 1)
