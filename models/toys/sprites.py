"""Sprites: one coloured shape on black, drawn here from six factors that are all known.

    shape, colour      which of six (uniform)
    scale              distance from the shape's centre to its farthest point, in pixels (uniform)
    orientation        how far it is turned anticlockwise, in radians (uniform, up to a twelfth of a turn each way)
    x, y               its centre's distance from the left and the upper edge, in pixels (uniform)

The factors are independent of one another and every shape lies wholly inside the image. Turned so little, no shape
looks like itself turned otherwise (a star would after a fifth of a turn), so that orientation can be seen.

A shape is its outline in polar coordinates, r(angle): how far the outline is in each direction. A pixel at distance d
from the centre is covered by

    clip(1/2 + (r - d) / sqrt(1 + (r' / r)^2), 0, 1)

the last factor turning a radial distance into one across the outline, to first order; so edges are antialiased. All is
computed in float64 and rounded to 8 bits once, so that the same factors give the same bytes everywhere.

As a data set there are 20,000 images to train on and 4,000 to test on, and of each is known what a caption can say: "a
large red heart in the upper left", and which phrase of each kind is true of it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, UInt8

from ..errors import DataError

if TYPE_CHECKING:
    from ..image_sources import Source
    from ..preprocess import Preprocess

SHAPES = ("square", "ellipse", "triangle", "heart", "star", "cross")
COLOURS = {
    "red": (230, 40, 40),
    "green": (40, 190, 60),
    "blue": (60, 90, 250),
    "yellow": (235, 215, 40),
    "cyan": (40, 210, 220),
    "magenta": (220, 60, 200),
}
IMAGE_SIZE = 32
SCALES = (6.0, 10.0)
ORIENTATIONS = (-np.pi / 6, np.pi / 6)
CENTRES = (10.0, 22.0)  # as near to an edge as the largest shape can be
_ANGLES = 4096
_CHUNK = 256  # images drawn at a time, so that all fits into a processor's cache


@dataclass(frozen=True, eq=False)
class SpriteFactors:
    """What is in each of a number of images; one entry per image.

    Args:
        shape: Index into SHAPES.
        colour: Index into COLOURS.
        scale: In pixels.
        orientation: In radians, anticlockwise from upright.
        x: Pixels from the left edge.
        y: Pixels from the upper edge.
    """

    shape: Int64[np.ndarray, " image"]
    colour: Int64[np.ndarray, " image"]
    scale: Float64[np.ndarray, " image"]
    orientation: Float64[np.ndarray, " image"]
    x: Float64[np.ndarray, " image"]
    y: Float64[np.ndarray, " image"]

    def __len__(self) -> int:
        return len(self.shape)

    def __repr__(self) -> str:
        return f"SpriteFactors({len(self)} images)"

    def rows(self, rows: Sequence[int] | np.ndarray | slice) -> "SpriteFactors":
        """The factors of some of the images."""
        rows = rows if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        return SpriteFactors(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def columns(self) -> dict[str, Float64[np.ndarray, "image column"]]:
        """Each factor as columns that a linear model can predict or be given.

        Shape and colour are one column per choice, the others a number.
        """
        return {
            "shape": np.eye(len(SHAPES))[self.shape],
            "colour": np.eye(len(COLOURS))[self.colour],
            "scale": self.scale[:, None],
            "orientation": self.orientation[:, None],
            "x": self.x[:, None],
            "y": self.y[:, None],
        }


def sample_factors(n: int, *, seed: int | Sequence[int]) -> SpriteFactors:
    """Factors drawn uniformly and independently; the first of a longer draw are those of a shorter one."""
    uniform = np.random.default_rng(seed).random((n, 6)).T
    return SpriteFactors(
        shape=np.floor(uniform[0] * len(SHAPES)).astype(np.int64),
        colour=np.floor(uniform[1] * len(COLOURS)).astype(np.int64),
        scale=_between(uniform[2], SCALES),
        orientation=_between(uniform[3], ORIENTATIONS),
        x=_between(uniform[4], CENTRES),
        y=_between(uniform[5], CENTRES),
    )


def draw_sprites(factors: SpriteFactors) -> UInt8[np.ndarray, "image 3 height width"]:
    """The images of some factors, 32 x 32 pixels each."""
    images = np.empty((len(factors), 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    colours = np.array(list(COLOURS.values()), dtype=np.float64)
    for start in range(0, len(factors), _CHUNK):
        part = factors.rows(slice(start, start + _CHUNK))
        lit = _coverage(part)[:, None] * colours[part.colour][:, :, None, None]
        images[start : start + _CHUNK] = np.floor(lit + 0.5)
    return images


def sprite_masks(factors: SpriteFactors) -> Bool[np.ndarray, "image height width"]:
    """True where the shape covers at least half of a pixel."""
    return _coverage(factors) >= 0.5


def outline(shape: str) -> Float[np.ndarray, " angle"]:
    """r of a shape of scale 1 at equally spaced angles, anticlockwise from the right."""
    return _outlines()[0][SHAPES.index(shape)]


def _between(uniform: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    return ends[0] + (ends[1] - ends[0]) * uniform


def _coverage(factors: SpriteFactors) -> Float64[np.ndarray, "image height width"]:
    """How much of each pixel lies inside the shape."""
    radii, steepness = _outlines()
    centres = np.arange(IMAGE_SIZE) + 0.5
    right = centres[None, None, :] - factors.x[:, None, None]
    up = factors.y[:, None, None] - centres[None, :, None]
    turns = (np.arctan2(up, right) - factors.orientation[:, None, None]) / (2 * np.pi)
    place = (turns - np.floor(turns)) * _ANGLES
    before = np.floor(place).astype(np.int64)
    shape = factors.shape[:, None, None]
    low, high = radii[shape, before % _ANGLES], radii[shape, (before + 1) % _ANGLES]
    radius = factors.scale[:, None, None] * (low + (place - before) * (high - low))
    across = (radius - np.sqrt(right**2 + up**2)) * steepness[shape, before % _ANGLES]
    return np.clip(0.5 + across, 0, 1)


@cache
def _outlines() -> tuple[np.ndarray, np.ndarray]:
    """r of every shape, and 1 / sqrt(1 + (r' / r)^2), each [shape, angle]."""
    angles = np.arange(_ANGLES) * 2 * np.pi / _ANGLES
    makers = {
        "square": lambda: _polygon(angles, [(1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0)]),
        "ellipse": lambda: 0.6 / np.sqrt((0.6 * np.cos(angles)) ** 2 + np.sin(angles) ** 2),
        "triangle": lambda: _polygon(angles, _spokes([1.0, 1.0, 1.0])),
        "heart": lambda: _polygon(angles, _heart()),
        "star": lambda: _polygon(angles, _spokes([1.0, 0.42] * 5)),
        "cross": lambda: _polygon(angles, _cross(0.33)),
    }
    radii = np.stack([made / made.max() for made in (makers[shape]() for shape in SHAPES)])
    slope = (np.roll(radii, -1, axis=1) - np.roll(radii, 1, axis=1)) * _ANGLES / (4 * np.pi)
    return radii, 1 / np.sqrt(1 + (slope / radii) ** 2)


def _polygon(angles: np.ndarray, corners: Sequence[tuple[float, float]]) -> np.ndarray:
    """r of a polygon that is seen whole from the origin.

    The ray t (cos, sin) meets the line through the corners p and q where t = (p x q) / ((cos, sin) x (q - p)).
    """
    p = np.asarray(corners, dtype=np.float64)
    side = np.roll(p, -1, axis=0) - p
    q = p + side
    across = np.cos(angles)[:, None] * side[:, 1] - np.sin(angles)[:, None] * side[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        along = (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]) / across
        meet = along[..., None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)[:, None]
        share = ((meet - p) * side).sum(-1) / (side**2).sum(-1)
    inside = (along > 0) & (share > -1e-9) & (share < 1 + 1e-9)
    return np.where(inside, along, 0).max(axis=1)


def _spokes(lengths: Sequence[float]) -> list[tuple[float, float]]:
    """Corners at equal angles, anticlockwise from the top."""
    angles = np.pi / 2 + np.arange(len(lengths)) * 2 * np.pi / len(lengths)
    return [(r * np.cos(a), r * np.sin(a)) for r, a in zip(lengths, angles, strict=True)]


def _cross(half: float) -> list[tuple[float, float]]:
    quarter = [(1.0, -half), (1.0, half), (half, half)]
    turns = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    return [(c * x - s * y, s * x + c * y) for c, s in turns for x, y in quarter]


def _heart() -> list[tuple[float, float]]:
    """The well-known curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, centred, with straight sides.

    The curve's own tip is a needle thinner than a pixel.
    """
    t = -np.arange(240) * 2 * np.pi / 240  # anticlockwise
    t = t[(np.abs(t + np.pi) > 0.7) | (np.abs(t + np.pi) < 1e-9)]
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [(float(across), float(up)) for across, up in zip(16 * np.sin(t) ** 3, y + 2, strict=True)]


SIZES = ("small", "large")
PLACES = ("in the upper left", "in the upper right", "in the lower left", "in the lower right")
# the order in which a caption says them
FACETS = {"size": SIZES, "colour": tuple(COLOURS), "shape": SHAPES, "place": PLACES}


def caption(*, shape: str, size: str = "", colour: str = "", place: str = "") -> str:
    """One caption of its parts; what is left out is not said."""
    return " ".join(part for part in ("a", size, colour, shape, place) if part)


def captions(factors: SpriteFactors, *, said: Collection[str] = tuple(FACETS)) -> tuple[str, ...]:
    """What is true of each image.

    Args:
        factors: Of the images.
        said: The facets that captions speak of; the shape is always named.
    """
    facets = facet_labels(factors)
    kept = [facet for facet in FACETS if facet in said or facet == "shape"]
    rows = zip(*(facets[facet].tolist() for facet in kept), strict=True)
    return tuple(caption(**{f: FACETS[f][i] for f, i in zip(kept, row, strict=True)}) for row in rows)


def facet_labels(factors: SpriteFactors) -> dict[str, Int64[np.ndarray, " image"]]:
    """For each facet, the index of the phrase that is true of each image.

    Size is by halves of the scales that occur, place by halves of the columns and rows in which centres can lie.
    """
    return {
        "size": _half(factors.scale, SCALES),
        "colour": factors.colour,
        "shape": factors.shape,
        "place": 2 * _half(factors.y, CENTRES) + _half(factors.x, CENTRES),
    }


def all_captions() -> tuple[str, ...]:
    """Every caption that says everything, 288 of them."""
    return tuple(caption(**dict(zip(FACETS, parts, strict=True))) for parts in product(*FACETS.values()))


def captions_saying(facet: str, phrase: str) -> tuple[str, ...]:
    """Every caption that says everything, and the phrase in it: what zero-shot prompts are averaged over.

    Raises:
        DataError: There is no such facet or phrase.
    """
    if phrase not in FACETS.get(facet, ()):
        said = "; ".join(f"{name}: {', '.join(names)}" for name, names in FACETS.items())
        raise DataError(f"Captions of sprites say nothing like {facet}={phrase!r}. They say {said}.")
    choices = {**FACETS, facet: (phrase,)}
    return tuple(caption(**dict(zip(choices, parts, strict=True))) for parts in product(*choices.values()))


def _half(values: np.ndarray, ends: tuple[float, float]) -> Int64[np.ndarray, " image"]:
    return (values >= (ends[0] + ends[1]) / 2).astype(np.int64)


# The shipped toys were trained on these: never change them.
_N_IMAGES = {"train": 20_000, "test": 4_000}
_SEEDS = {"train": (0, 0), "test": (0, 1)}


def sprites(preprocess: "Preprocess | None") -> "Source":
    """The data set; the class is the shape. An image is drawn when it is read."""
    import torch

    from ..image_sources import Rows, Source

    def read(split: str, rows: Rows) -> torch.Tensor:
        pixels = torch.from_numpy(draw_sprites(split_factors(split).rows(rows.numpy()))).float() / 255
        return pixels if preprocess is None else preprocess.fit(pixels)

    labels = {split: torch.from_numpy(split_factors(split).shape) for split in _N_IMAGES}
    return Source("sprites", SHAPES, labels, read, size=(IMAGE_SIZE, IMAGE_SIZE))


@cache
def split_factors(split: str) -> SpriteFactors:
    """The factors of all images of a split, in the order of their names `train/0`, `train/1`, ..."""
    return sample_factors(_N_IMAGES[split], seed=_SEEDS[split])


def factors_of(names: Sequence[str]) -> SpriteFactors:
    """The factors of images by name, such as those in `data.test.names`.

    Args:
        names: `train/12` or `test/3`, from either split.

    Raises:
        DataError: A name is none of the data set's.
    """
    places = [_place(name) for name in names]
    rows = np.array([row + (_N_IMAGES["train"] if split == "test" else 0) for split, row in places], dtype=np.int64)
    train, test = split_factors("train"), split_factors("test")
    joined = {f.name: np.concatenate([getattr(train, f.name), getattr(test, f.name)]) for f in fields(SpriteFactors)}
    return SpriteFactors(**joined).rows(rows)


def _place(name: str) -> tuple[str, int]:
    split, _, row = name.partition("/")
    if split not in _N_IMAGES or not row.isdecimal() or int(row) >= _N_IMAGES[split]:
        raise DataError(
            f"{name!r} names no image of the sprites: names are train/0 to train/{_N_IMAGES['train'] - 1} and test/0 "
            f"to test/{_N_IMAGES['test'] - 1}, as in data.test.names."
        )
    return split, int(row)
