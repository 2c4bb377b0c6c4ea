"""How a clean image's corrupted partner is made.

`class_swap` and `another` take another image of the same split; the others change pixels of the clean one. All are
drawn from one seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.config import VitConfig
from ..models.errors import TaskError

SWAPS = ("class_swap", "another")


def corrupt_pixels(kind: str, clean: Tensor, cfg: VitConfig, train_mean: Tensor, generator: torch.Generator) -> Tensor:
    """Partners of clean images that are made from their own pixels, same shape (image, channel, height, width).

    Args:
        kind: `mean` (the mean training image), `noise` (Gaussian, as strong as the images' own deviation), `blur`
            (Gaussian, a sixteenth of the image wide) or `patch_shuffle` (the model's patches in another order).
        clean: Preprocessed images.
        cfg: Sizes of the model.
        train_mean: The mean training image.
        generator: Where chance comes from.

    Raises:
        TaskError: The kind is not known.
    """
    if kind not in _PIXELS:
        raise TaskError(f"corruption {kind!r} is not known: pass one of {', '.join(map(repr, (*SWAPS, *_PIXELS)))}.")
    return _PIXELS[kind](clean, cfg=cfg, train_mean=train_mean, generator=generator)


def _mean(clean: Tensor, *, train_mean: Tensor, **_: Any) -> Tensor:
    return train_mean.expand_as(clean).clone()


def _noise(clean: Tensor, *, generator: torch.Generator, **_: Any) -> Tensor:
    return clean + clean.std() * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)


def _blur(clean: Tensor, *, cfg: VitConfig, **_: Any) -> Tensor:
    sigma = max(cfg.image_size) / 16
    radius = min(math.ceil(3 * sigma), min(cfg.image_size) - 1)
    at = torch.arange(-radius, radius + 1, dtype=clean.dtype)
    kernel = torch.exp(-at.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(clean.shape[1], 1)  # channel, tap
    padded = F.pad(clean, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[:, None, :, None], groups=len(kernel))
    return F.conv2d(rows, kernel[:, None, None, :], groups=len(kernel))


def _patch_shuffle(clean: Tensor, *, cfg: VitConfig, generator: torch.Generator, **_: Any) -> Tensor:
    (height, width), (rows, columns) = cfg.patch_size, cfg.tokens.grid
    batch, channels = clean.shape[:2]
    grid = clean.view(batch, channels, rows, height, columns, width).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    order = torch.rand(batch, rows * columns, generator=generator).argsort(1)
    mixed = torch.stack([patches[places] for patches, places in zip(grid, order, strict=True)])
    mixed = mixed.view(batch, rows, columns, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return mixed.reshape(clean.shape)


_PIXELS: dict[str, Callable[..., Tensor]] = {
    "mean": _mean,
    "noise": _noise,
    "blur": _blur,
    "patch_shuffle": _patch_shuffle,
}
CORRUPTIONS = (*SWAPS, *_PIXELS)
