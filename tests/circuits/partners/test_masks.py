"""Masks reach the right pixels: through resize and crop, by name, from arrays, pictures and boxes."""

import numpy as np
import pytest
import torch
from PIL import Image
from vitcircuits.circuits.partners.masks import Boxes, MaskFolder, Pictures, given_masks
from vitcircuits.circuits.partners.partner import as_masks
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import DataError
from vitcircuits.models.load import load_vit
from vitcircuits.models.preprocess import Preprocess

WANTED = Preprocess((32, 32), 1, (0.4,), (0.3,), crop_pct=0.875)
SIZES = {"wide": (60, 101), "tall": (97, 50), "square": (64, 64), "small": (20, 29)}
BOXES = {"wide": (40, 20, 58, 37), "tall": (12, 40, 30, 58), "square": (9, 5, 28, 25), "small": (9, 5, 18, 14)}
ROWS = [(kind, *box) for kind, box in BOXES.items()]  # left, top, right, bottom


@pytest.fixture(scope="module")
def vit(tiny_module):
    module = tiny_module(img_size=32, patch_size=8, dtype=torch.float32)
    return load_vit(module, name="tiny", preprocess=WANTED)


def drawn_box(kind, white=255, holes=()):
    """White in the box and black outside; holes in quarters of the box make another picture of the same extent."""
    picture = np.zeros(SIZES[kind], dtype=np.uint8)
    left, top, right, bottom = BOXES[kind]
    picture[top:bottom, left:right] = white
    row, column = (top + bottom) // 2, (left + right) // 2
    if "upper left" in holes:
        picture[top + 2 : row, left + 2 : column] = 0
    if "lower right" in holes:
        picture[row : bottom - 2, column : right - 2] = 0
    return picture


def bright(image, white=255):
    """Where a resized picture of the box is nearer to white than to black.

    At a corner two half-covered sides multiply, so rows and columns are told apart.
    """
    shown = WANTED.denormalise(image)[0] > white / 510
    return shown.any(1)[:, None] & shown.any(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of the box itself, in which only the box is white."""
    root = tmp_path_factory.mktemp("pictures")
    for name, holes in (("a", ()), ("b", ("upper left",))):  # no two pictures are the same, or one brighter
        (root / name).mkdir()
        for kind in SIZES:
            Image.fromarray(drawn_box(kind, holes=holes)).save(root / name / f"{kind}.png")
    return root


@pytest.fixture(scope="module")
def pictures(vit, folder):
    data = load_data(folder, vit.preprocess)
    return [Pictures(vit, data, split.images, split.names) for split in (data.train, data.test)]


def test_a_box_reaches_the_pixels_that_its_picture_reaches(pictures):
    boxes = Boxes.of(ROWS)
    for some in pictures:
        assert len(some.names) == 4
        for image, name, mask in zip(some.images, some.names, boxes(some), strict=True):
            white = int(np.asarray(Image.open(some.data.root / name)).max())
            assert torch.equal(mask, bright(image, white)), name


def test_a_turned_photograph_is_boxed_as_it_is_looked_at(vit, tmp_path):
    for name, first in (("a", ()), ("b", ("upper left",))):
        (tmp_path / name).mkdir()
        for copy, second in enumerate([(), ("lower right",)]):
            exif = Image.Exif()
            exif[0x0112] = 6  # the camera was turned: the picture is stored lying on its side
            stored = np.rot90(drawn_box("wide", holes=(*first, *second)), 1)
            Image.fromarray(stored.copy()).save(tmp_path / name / f"{copy}.png", exif=exif)
    data = load_data(tmp_path, vit.preprocess)
    assert data.picture_size(data.train.names[0]) == (60, 101)
    some = Pictures(vit, data, data.train.images, data.train.names)
    assert torch.equal(Boxes.of([("*", *BOXES["wide"])])(some)[0], bright(some.images[0]))


def test_a_picture_of_a_mask_reaches_the_same_pixels_as_its_box(pictures, tmp_path):
    (tmp_path / "a").mkdir()
    for kind in SIZES:
        mask = drawn_box(kind)
        Image.fromarray(mask).save(tmp_path / "a" / f"{kind}.png")
        Image.fromarray(mask).save(tmp_path / f"{kind}.bmp")  # found for b, without its folder
    masks, boxes = as_masks(tmp_path), Boxes.of(ROWS)
    assert isinstance(masks, MaskFolder)
    for some in pictures:
        assert torch.equal(masks(some), boxes(some)) and bool(masks(some).any())
    wrong = Image.fromarray(np.zeros((3, 3), dtype=np.uint8))
    for kind in SIZES:
        wrong.save(tmp_path / "a" / f"{kind}.png")
    with pytest.raises(DataError, match=r"shape \(3, 3\)"):
        [masks(some) for some in pictures]


def test_input_coordinates_are_taken_as_they_are(pictures):
    mask = Boxes.of([("*", 2, 3, 5, 9)], coordinates="input")(pictures[0])[0]
    wanted = torch.zeros(32, 32, dtype=torch.bool)
    wanted[3:9, 2:5] = True
    assert torch.equal(mask, wanted)
    assert torch.equal(as_masks(wanted.numpy())(pictures[0])[1], wanted)


def test_boxes_are_found_by_name_and_add_up(pictures, tmp_path):
    table = "name,left,top,right,bottom,who\na/wide.png,0,0,9,9,x\na/wide.png,50,20,70,50,x\ntall,1,30,44,40,y\n"
    (tmp_path / "boxes.csv").write_text("\ufeff" + table)
    boxes = as_masks(tmp_path / "boxes.csv")
    data = pictures[0].data
    assert [boxes.has(name, data) for name in ("a/wide.png", "b/tall.png", "b/wide.png")] == [True, True, False]
    for some in pictures:
        single = [Boxes.of([("*", *box)])(some) for box in ((0, 0, 9, 9), (50, 20, 70, 50), (1, 30, 44, 40))]
        for row, (name, mask) in enumerate(zip(some.names, boxes(some), strict=True)):
            if name == "a/wide.png":
                assert torch.equal(mask, single[0][row] | single[1][row])
            elif name.endswith("tall.png"):
                assert torch.equal(mask, single[2][row]) and bool(mask.any())
            else:
                assert not mask.any()


def test_boxes_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(DataError, match="no inside"):
        Boxes.of([("x", 5, 0, 4, 9)])
    with pytest.raises(DataError, match="'picture'"):
        Boxes.of([("x", 0, 0, 4, 9)], coordinates="model")
    (tmp_path / "a.csv").write_text("name,left,top,right\n")
    with pytest.raises(DataError, match="bottom"):
        as_masks(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("name,left,top,right,bottom\nx,1,2,three,4\n")
    with pytest.raises(DataError, match="line 2"):
        as_masks(tmp_path / "b.csv")
    for nothing in (tmp_path / "none", 7, "attention:last:2", "attention:most"):
        with pytest.raises(DataError):
            as_masks(nothing)


def test_arrays_belong_to_the_rows_that_were_given(vit):
    images = torch.rand(8, 1, 32, 32)
    labels = torch.tensor([0, 1] * 4)
    masks = torch.rand(8, 32, 32) < 0.3
    data = load_data((images, labels), None)
    for split in (data.train, data.test):
        found = given_masks(masks)(Pictures(vit, data, split.images, split.names))
        for image, mask in zip(split.images, found, strict=True):
            row = next(row for row in range(8) if torch.equal(images[row], image))
            assert torch.equal(mask, masks[row])
    two = {"train": (images[:4], labels[:4]), "test": (images[4:], labels[4:])}
    data = load_data(two, None)
    given = given_masks({"train": masks[:4], "test": masks[4:]})
    assert torch.equal(given(Pictures(vit, data, data.test.images, data.test.names)), masks[4:])
    assert not given_masks(masks).has("train/0", data)  # rows alone would not say of which split
    with pytest.raises(DataError, match="coordinates='input'"):
        Boxes.of([("*", 0, 0, 4, 9)])(Pictures(vit, data, images, data.test.names))
    with pytest.raises(DataError, match="masks > 0"):
        given_masks(masks.float())
    with pytest.raises(DataError, match="shape"):
        given_masks(masks[:, :5])(Pictures(vit, load_data((images, labels), None), images, ["0"]))


def test_digits_have_picture_coordinates_of_their_own():
    vit = load_vit("toy/digits-2l")
    data = load_data("digits", vit.preprocess, limit=2)
    assert data.train.names[:2] == ("train/0", "train/1") and data.picture_size("train/0") == (8, 8)
    mask = Boxes.of([("*", 1, 2, 3, 8)])(Pictures(vit, data, data.train.images[:1], data.train.names[:1]))[0]
    assert mask.nonzero().min(0).values.tolist() == [2, 1] and int(mask.sum()) == 12
