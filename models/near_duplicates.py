"""Which images are copies of others: moved by a pixel or two, a little brighter, noisier, or compressed again.

Bytes tell only exact copies apart. Here two images a and b are near-duplicates if, for some shift s of a few pixels,
what they show in common is the same up to one gain and one brightness per channel:

    correlation(a, b, s) = <unit(a moved by s), unit(b)>  >  SAME

where `unit` cuts out the part that both show after the shift, averages it over areas to at most 32 pixels a side
(compression and noise average out, and so do thousands of pixels that need not be compared), takes off each channel's
mean, and divides by the length of the rest. Equal bytes always count, flat images and images below 8 pixels by
nothing else: they hold too little for a correlation to mean anything.

How near are different images, and how far copies? The nearest neighbours over all shifts, measured:

    different   MNIST, test against train (600 million pairs)        .9916    two ones
                scikit-learn's digits, test against train            .9880    two ones
                200 photographs of cats and dogs, all pairs, 224 px  .758
    copies      those photographs compressed again at quality 50     .9961    the lowest of 200
                resized to .5 to 1.1 of their size and back          .9952
                noise with a standard deviation of .05               .9951    of .02: .9992
                brighter by .1, white clipped                        .9905    all but the lowest 1%: .9944
                MNIST, noise with a standard deviation of .01        .9971    the lowest of 10,000
                MNIST, contrast 1.2, white clipped                   .9955
                digits, noise with a standard deviation of .02       .9972    the lowest of 596

So digits, which are much alike, set SAME. Comparing all pairs at every shift is spared in two steps: pictures of 128
pixels and more are first compared as they stand, at 16 pixels a side, and only those that look alike at all are
shifted; and unit vectors that agree to SAME lie within sqrt(2 - 2 SAME) of each other in every orthonormal projection
too, so that a tree over 24 low frequencies finds the few that are worth comparing in full.

Weak spots: crops and zooms (a crop to .95 of a photograph's sides keeps .95), mirror images, turns, and grey copies of
coloured pictures are not recognised, nor is a change of brightness that clips much. Of thousands of near-equal images
only the CANDIDATES nearest in the projection are compared in full. Drawn images whose positions mean something
(sprites) have neighbours that differ by a shift and are different all the same: compare the bytes of those (`exact`).
"""

import hashlib
import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .errors import DataError

SAME = 0.995  # between the most alike of different images and copies: see the table above
SMALLEST_SIDE = 8  # pixels; below, unit vectors have so few numbers that different images agree by chance
THUMBNAIL = 32  # pixels a side that images are compared at
FEW_PIXELS = 32  # up to this side an image is moved by one pixel, a larger one by two
# Larger pictures must look alike before they are shifted. Moved by (2, 2) at 224 pixels, photographs keep .969 and even
# white noise .695; of 19,900 pairs of different photographs 20 exceed .65.
LARGE, COARSE, ALIKE = 128, 16, 0.65
LOW = 5  # frequencies per axis in the tree
CANDIDATES = 8  # an exact copy is the nearest in the tree; the others make room for noise
FLAT = 1e-5  # of an image's length: what rounding leaves of a flat one after its mean is taken off
BLOCK = 256  # images, or pairs of thumbnails, at a time


def near_duplicates(
    images: Float[Tensor, "image channel height width"], others: Float[Tensor, "other channel height width"]
) -> Bool[Tensor, " image"]:
    """For each image, whether a near-duplicate stands among the others; see `copies`."""
    return copies(images, others) >= 0


def copies(
    images: Float[Tensor, "image channel height width"],
    others: Float[Tensor, "other channel height width"],
    *,
    exact: bool = False,
) -> Int[Tensor, " image"]:
    """For each image, the row of a near-duplicate among the others; -1 where there is none.

    Args:
        images: Those that may be copies.
        others: What they may be copies of, as many channels and pixels.
        exact: Compare bytes only.

    Raises:
        DataError: The images differ in shape.
    """
    if images.shape[1:] != others.shape[1:]:
        raise DataError(
            f"Images of shape {tuple(images.shape[1:])} cannot be compared with images of shape "
            f"{tuple(others.shape[1:])}: bring both to one size, with vit.preprocess.fit(pixels)."
        )
    images, others = (group.detach().cpu().float() for group in (images, others))
    keys, known = _keys(images), _first_rows(_keys(others))
    found = {key: known.get(key, -1) for key in keys}
    left = {key: row for key, row in _first_rows(keys).items() if found[key] < 0}
    if left and known and not exact and min(images.shape[-2:]) >= SMALLEST_SIDE:
        distinct = torch.tensor(list(known.values()), device="cpu")
        places = _alike(images[list(left.values())], others[distinct])
        found |= {key: int(distinct[place]) for key, place in zip(left, places, strict=True) if place >= 0}
    return torch.tensor([found[key] for key in keys], dtype=torch.long, device="cpu")


def _keys(images: Tensor) -> list[bytes]:
    """A hash of each image."""
    return [hashlib.blake2b(row.tobytes()).digest() for row in images.contiguous().numpy()]


def _first_rows(keys: list[bytes]) -> dict[bytes, int]:
    """Each hash once, in order -> the first row that has it."""
    return {key: row for row, key in reversed(list(enumerate(keys)))}


def _alike(images: Tensor, others: Tensor) -> list[int]:
    """For each image, the row of another whose correlation after a shift exceeds SAME, or -1."""
    size = min(images.shape[-2:])
    found = np.full(len(images), -1)
    near, near_others = _look_alike(images, others) if size >= LARGE else map(np.arange, (len(images), len(others)))
    reach = (0, -1, 1) if size <= FEW_PIXELS else (0, -1, 1, -2, 2)
    for right in reach:
        near = near[found[near] < 0]
        if not len(near) or not len(near_others):
            break
        narrow, narrow_others = _averaged(images[near], right), _averaged(others[near_others], -right)
        for down in reach:
            places = _same(_unit(narrow, down), _unit(narrow_others, -down))
            found[near] = np.where(places >= 0, near_others[places], found[near])
    return found.tolist()


def _look_alike(images: Tensor, others: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the images and of the others that have a counterpart which looks alike in small, without a shift."""
    small = _unit(_averaged(others, 0, COARSE), 0, COARSE).flatten(1)
    rows, columns = [], torch.zeros(len(others), dtype=torch.bool, device="cpu")
    for block in _unit(_averaged(images, 0, COARSE), 0, COARSE).flatten(1).split(BLOCK):
        pairs = block @ small.T > ALIKE
        rows.append(pairs.any(1))
        columns |= pairs.any(0)
    return np.flatnonzero(torch.cat(rows).numpy()), np.flatnonzero(columns.numpy())


def _same(units: Tensor, others: Tensor) -> np.ndarray:
    """For each unit vector, the row of another that it agrees with, or -1."""
    from scipy.spatial import KDTree

    tree = KDTree(_low_frequencies(others).numpy())
    reach = math.sqrt(2 - 2 * SAME)
    nearest, places = tree.query(_low_frequencies(units).numpy(), k=CANDIDATES, distance_upper_bound=reach)
    row, rank = np.nonzero(np.isfinite(nearest))
    place, found = np.asarray(places)[row, rank], np.full(len(units), -1)
    for start in range(0, len(row), BLOCK):
        some = slice(start, start + BLOCK)
        same = ((units[row[some]] * others[place[some]]).flatten(1).sum(1) > SAME).numpy()
        found[row[some][same]] = place[some][same]
    return found


def _averaged(
    images: Float[Tensor, "image channel height width"], right: int, side: int = THUMBNAIL
) -> Float[Tensor, "image channel height column"]:
    """Rows of pixels averaged to at most `side` columns, without those that a shift to the right takes out of view."""
    weights = _areas(images.shape[-1], right, side).T
    return torch.cat([block @ weights for block in images.split(BLOCK)])


def _unit(
    narrow: Float[Tensor, "image channel height column"], down: int, side: int = THUMBNAIL
) -> Float[Tensor, "image channel row column"]:
    """Columns averaged likewise; then each channel centred and the image brought to length 1, or 0 if it is flat."""
    small = _areas(narrow.shape[-2], down, side) @ narrow
    centred = small - small.mean((-2, -1), keepdim=True)
    length, whole = (values.flatten(1).norm(dim=1)[:, None, None, None] for values in (centred, small))
    return torch.where(length > FLAT * whole, centred / length.clamp_min(1e-30), 0.0)


def _areas(pixels: int, shift: int, side: int) -> Float[Tensor, "place pixel"]:
    """How much of each pixel goes into each of at most `side` averages over those that stay in view after a shift."""
    first, seen = max(shift, 0), pixels - abs(shift)
    step = seen / min(seen, side)
    starts = first + step * torch.arange(min(seen, side), dtype=torch.float64, device="cpu")[:, None]
    left = torch.arange(pixels, dtype=torch.float64, device="cpu")
    shared = torch.minimum(starts + step, left + 1) - torch.maximum(starts, left)
    return (shared.clamp_min(0) / step).float()


def _low_frequencies(units: Float[Tensor, "image channel row column"]) -> Float[Tensor, "image frequency"]:
    """Each image on the same few orthonormal cosines, channels together."""
    rows, columns = (_cosines(side) for side in units.shape[-2:])
    summed = units.sum(1) / math.sqrt(units.shape[1])
    return (rows @ summed @ columns.T).flatten(1)


def _cosines(side: int) -> Float[Tensor, "frequency place"]:
    """The lowest LOW rows of the orthonormal discrete cosine transform."""
    places, frequencies = torch.arange(side, device="cpu") + 0.5, torch.arange(LOW, device="cpu")[:, None]
    waves = math.sqrt(2 / side) * torch.cos(math.pi * frequencies * places / side)
    waves[0] /= math.sqrt(2)
    return waves
