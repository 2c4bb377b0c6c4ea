"""Sprites as a data set: 20,000 images to train on, 4,000 to test on, and the factors behind each of them."""

from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..image_sources import Rows, Source
from ..preprocess import Preprocess
from .sprites import IMAGE_SIZE, SHAPES, SpriteFactors, draw_sprites, sample_factors

# The shipped toys were trained on these: never change them.
_SIZES = {"train": 20_000, "test": 4_000}
_SEEDS = {"train": (0, 0), "test": (0, 1)}


def sprites(preprocess: Preprocess | None) -> Source:
    """The data set; the class is the shape. An image is drawn when it is read."""

    def read(split: str, rows: Rows) -> Tensor:
        pixels = torch.from_numpy(draw_sprites(_factors(split).rows(rows.numpy()))).float() / 255
        return pixels if preprocess is None else preprocess.fit(pixels)

    labels = {split: torch.from_numpy(_factors(split).shape) for split in _SIZES}
    return Source("sprites", SHAPES, labels, read, size=(IMAGE_SIZE, IMAGE_SIZE))


def split_factors(split: Literal["train", "test"]) -> SpriteFactors:
    """The factors of all images of a split, in the order of their names `train/0`, `train/1`, ..."""
    return _factors(split)


def factors_of(names: Sequence[str]) -> SpriteFactors:
    """The factors of images by name, such as those in `data.test.names`.

    Args:
        names: `train/12` or `test/3`, from either split.

    Raises:
        DataError: A name is none of the data set's.
    """
    places = [_place(name) for name in names]
    rows = np.array([row + (_SIZES["train"] if split == "test" else 0) for split, row in places], dtype=np.int64)
    train, test = _factors("train"), _factors("test")
    joined = {f.name: np.concatenate([getattr(train, f.name), getattr(test, f.name)]) for f in fields(SpriteFactors)}
    return SpriteFactors(**joined).rows(rows)


@cache
def _factors(split: str) -> SpriteFactors:
    return sample_factors(_SIZES[split], seed=_SEEDS[split])


def _place(name: str) -> tuple[str, int]:
    split, _, row = name.partition("/")
    if split not in _SIZES or not row.isdecimal() or int(row) >= _SIZES[split]:
        raise DataError(
            f"{name!r} names no image of the sprites: names are train/0 to train/{_SIZES['train'] - 1} and test/0 to "
            f"test/{_SIZES['test'] - 1}, as in data.test.names."
        )
    return split, int(row)
