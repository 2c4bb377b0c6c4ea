"""Filling a hole: harmonic inside, the picture outside bit for bit, flat and linear pictures restored."""

import pytest
import torch
import torch.nn.functional as F
from vitcircuits.circuits.partners.corruptions import harmonic_fill


def hole(kind, size=12):
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    if kind == "inside":
        mask[0, 3:8, 2:9] = True
    elif kind == "at the edge":
        mask[0, :5, 4:] = True
    elif kind == "two":
        mask[0, 1:4, 1:4] = mask[0, 6:11, 5:9] = True
    else:
        mask[0] = torch.rand(size, size, generator=torch.Generator().manual_seed(3)) < 0.5
    return mask


@pytest.fixture
def noise():
    return torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["inside", "at the edge", "two", "scattered"])
def test_each_filled_pixel_is_the_mean_of_its_neighbours(noise, kind):
    mask = hole(kind)
    filled = harmonic_fill(noise, mask)
    kernel = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.float64).expand(3, 1, 3, 3)
    sums = F.conv2d(filled, kernel, padding=1, groups=3)
    counts = F.conv2d(torch.ones_like(filled), kernel, padding=1, groups=3)  # fewer at the picture's edge
    torch.testing.assert_close(filled[:, :, mask[0]], (sums / counts)[:, :, mask[0]], rtol=0, atol=1e-12)
    assert torch.equal(filled[:, :, ~mask[0]], noise[:, :, ~mask[0]])
    assert filled.min() >= noise.min() and filled.max() <= noise.max()


def test_what_lies_under_the_mask_has_no_say(noise):
    mask = hole("two")
    other = torch.where(mask[:, None], 7 * noise, noise)
    assert torch.equal(harmonic_fill(noise, mask), harmonic_fill(other, mask))


@pytest.mark.parametrize("kind", ["inside", "two"])
def test_a_flat_and_an_evenly_rising_picture_are_restored(kind):
    row, column = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    picture = torch.stack([0 * row + 0.7, 2 * row - column, column / 3])[None]
    mask = hole(kind)
    filled = harmonic_fill(torch.where(mask[:, None], -9.0, picture), mask)
    torch.testing.assert_close(filled, picture, rtol=0, atol=1e-5)


def test_without_surroundings_nothing_is_filled(noise):
    everything = torch.ones(1, 12, 12, dtype=torch.bool)
    assert torch.equal(harmonic_fill(noise, everything), noise)
    assert torch.equal(harmonic_fill(noise, ~everything), noise)
