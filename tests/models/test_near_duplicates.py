"""Copies that were moved, brightened, made noisy or compressed are recognised, and different images are not."""

import io
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from vitcircuits.models.data import load_data
from vitcircuits.models.errors import DataError
from vitcircuits.models.near_duplicates import copies, near_duplicates
from vitcircuits.models.preprocess import Preprocess

HERE = Path(__file__).resolve().parents[3] / "shared" / "data"
DATA = Path(os.environ.get("VITCIRCUITS_TEST_DATA", HERE))
PHOTO = Preprocess((224, 224), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SHIFTS = [(0, 1), (1, 0), (-1, -1), (1, -1)]


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", None)


@pytest.fixture(scope="module")
def mnist():
    if not (DATA / "mnist").is_dir():
        pytest.skip("MNIST's idx files are not here: set VITCIRCUITS_TEST_DATA to a folder that holds mnist/.")
    return load_data("mnist", None, data_dir=DATA / "mnist", limit=100)


@pytest.fixture(scope="module")
def photographs():
    if not (DATA / "cats_dogs").is_dir():
        pytest.skip("The photographs are not here: set VITCIRCUITS_TEST_DATA to a folder that holds cats_dogs/.")
    files = [sorted((DATA / "cats_dogs" / kind).iterdir())[:20] for kind in ("cats", "dogs")]
    return [Image.open(path).convert("RGB") for path in [*files[0], *files[1]]]


def scene(n, size, channels=3, seed=0):
    """Smooth random pictures in [.2, .8], different from one another, with a little detail."""
    generator = torch.Generator().manual_seed(seed)
    coarse, fine = (torch.rand(n, channels, side, side, generator=generator) for side in (7, size))
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return 0.2 + 0.5 * smooth + 0.1 * fine


def moved(images, down, right):
    """The images moved, with nothing known about what comes into view."""
    return torch.roll(images, (down, right), (-2, -1))


def inputs(pictures):
    return torch.stack([PHOTO(picture) for picture in pictures])


def compressed(picture, quality):
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=quality)
    return Image.open(packed).convert("RGB")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 5), (48, 3), (160, 3)])
def test_copies_are_found_at_every_size_in_their_own_row(size, channels, dtype):
    images = scene(6, size, channels).to(dtype)
    generator = torch.Generator().manual_seed(1)
    changed = {f"moved by {shift}": moved(images, *shift) for shift in SHIFTS}
    if size > 32:
        changed |= {f"moved by {shift}": moved(images, *shift) for shift in [(2, 0), (-2, 2)]}
    changed["the same bytes"] = images.clone()
    changed["brighter"] = 1.1 * images + 0.05
    changed["noisy"] = images + 0.003 * torch.randn(images.shape, generator=generator, dtype=dtype)
    changed["normalised by channel"] = images - torch.linspace(0, 1, channels, dtype=dtype)[:, None, None]
    for what, copied in changed.items():
        assert copies(copied[[4, 1, 3]], images).tolist() == [4, 1, 3], what
    assert not near_duplicates(scene(6, size, channels, seed=2).to(dtype), images).any()
    assert not near_duplicates(1 - images, images).any()  # a negative is no copy


def test_a_larger_shift_is_another_image():
    images = scene(6, 28, 1)
    assert not near_duplicates(moved(images, 3, 0), images).any()
    assert not near_duplicates(moved(scene(6, 160), 0, 9), scene(6, 160)).any()


def test_a_flat_image_is_a_copy_of_the_same_bytes_only():
    flat = torch.tensor([0.0, 0.3, 0.7])[:, None, None, None].expand(3, 1, 8, 8).clone()
    assert copies(flat, flat).tolist() == [0, 1, 2]
    assert not near_duplicates(flat + 0.01, flat).any()
    assert not near_duplicates(scene(3, 8, 1), flat).any() and not near_duplicates(flat, scene(3, 8, 1)).any()
    dotted = flat.clone()
    dotted[:, :, 0, 0] += 0.1  # what differs goes out of view when the image is moved
    assert not near_duplicates(dotted, flat).any()


def test_images_below_8_pixels_are_compared_by_bytes():
    images = torch.rand(500, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    assert not near_duplicates(images[:250], images[250:]).any()
    assert near_duplicates(images[:3], images).all() and not near_duplicates(images[:3] + 0.1, images[:3]).any()


def test_repeated_images_and_none_at_all():
    images = scene(3, 28, 1)
    assert copies(images[[2, 0, 2]].flip(0), moved(images, 1, 0)[[0, 0, 2, 2]]).tolist() == [2, 0, 2]
    assert copies(images, images[:0]).tolist() == [-1] * 3 and copies(images[:0], images).tolist() == []
    assert copies(moved(images, 1, 0), images, exact=True).tolist() == [-1] * 3


def test_images_of_another_shape_are_refused(unchecked):
    with pytest.raises(DataError, match="one size"):
        near_duplicates(scene(2, 28), scene(2, 32))


def test_different_digits_are_different_and_moved_ones_are_not(digits):
    train, test = digits.train.images.float(), digits.test.images.float()
    assert not near_duplicates(test, train).any()
    padded = torch.nn.functional.pad(test[:, :, 1:-1, 1:-1], (1, 1, 1, 1))  # nothing at the edge is lost when moved
    assert all(near_duplicates(moved(padded, *shift), padded).all() for shift in SHIFTS)
    assert not near_duplicates(PHOTO.fit(test[:40]), PHOTO.fit(train[:150])).any()  # as a large model sees them


def test_different_digits_of_mnist_are_different_and_moved_ones_are_not(mnist):
    train, test = mnist.train.images, mnist.test.images
    assert not near_duplicates(test, train).any()
    assert all(near_duplicates(moved(test, *shift), test).all() for shift in SHIFTS)
    assert near_duplicates(0.8 * test + 0.1, test).all()
    noise = torch.randn(test.shape, generator=torch.Generator().manual_seed(0))
    assert near_duplicates(test + 0.01 * noise, test).all()


def test_photographs_are_recognised_when_moved_or_stored_again(photographs):
    images, n = inputs(photographs), len(photographs)
    assert copies(inputs([compressed(picture, 60) for picture in photographs]), images).tolist() == list(range(n))
    smaller = [picture.resize((picture.width * 4 // 5, picture.height * 4 // 5)) for picture in photographs]
    assert near_duplicates(inputs(smaller), images).all()
    assert copies(images[..., 2:, :-2], images[..., :-2, 2:]).tolist() == list(range(n))
    pixels = PHOTO.denormalise(images)
    assert near_duplicates(PHOTO.normalise((0.9 * pixels + 0.05).clamp(0, 1)), images).all()


def test_different_photographs_are_different(photographs):
    images = inputs(photographs)
    assert not near_duplicates(images[::2], images[1::2]).any()
    assert not near_duplicates(images, images.flip(-1)).any()
