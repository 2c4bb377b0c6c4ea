"""How a clean image's corrupted partner is made from its own pixels; `partner.py` says which ways there are.

Everything with chance in it is drawn from one generator. The aligned kinds leave all pixels outside the mask, or
outside the word's box, bit for bit as they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ...models.config import VitConfig
from ...models.errors import TaskError
from ...models.preprocess import Preprocess
from .fill import harmonic_fill
from .lettering import paint_word
from .partner import CORRUPTIONS, SWAPS, Partner, as_partner

__all__ = ["CORRUPTIONS", "SWAPS", "changed_tokens", "corrupt_pixels", "usable"]


@dataclass(frozen=True, eq=False)
class _Means:
    """What a corruption may need beside the clean images."""

    partner: Partner
    cfg: VitConfig
    train_mean: Tensor
    generator: torch.Generator
    masks: Tensor | None
    preprocess: Preprocess | None
    word: str

    @property
    def hole(self) -> Bool[Tensor, "image 1 height width"]:
        """The masks, ready to be held against images."""
        if self.masks is None:
            raise TaskError(f"{self.partner.kind} needs masks: pass masks=, booleans [image, height, width].")
        return self.masks[:, None]


def corrupt_pixels(
    partner: Partner | str,
    clean: Float[Tensor, "image channel height width"],
    cfg: VitConfig,
    train_mean: Tensor,
    generator: torch.Generator,
    *,
    masks: Bool[Tensor, "image height width"] | None = None,
    preprocess: Preprocess | None = None,
    word: str = "",
) -> Float[Tensor, "image channel height width"]:
    """Partners of clean images that are made from their own pixels.

    Args:
        partner: `mean` (the mean training image), `noise` (Gaussian, as strong as the images' own deviation), `blur`
            (Gaussian, a sixteenth of the image wide), `patch_shuffle` (the model's patches in another order),
            `object_blur` (as strong), `object_fill` (see `fill.py`), `object_shuffle` (the patches that lie wholly
            under the mask, each of them moved), or `word` (see `lettering.py`).
        clean: Preprocessed images.
        cfg: Sizes of the model.
        train_mean: The mean training image.
        generator: Where chance comes from.
        masks: Where the object is, for the three that ask.
        preprocess: What makes colours of the model's input, for `word`.
        word: What is painted if the description does not say.

    Raises:
        TaskError: The kind is not known or takes another image, or something that it needs is missing.
    """
    chosen = as_partner(partner)
    if chosen.kind not in _PIXELS:
        raise TaskError(f"{chosen.kind} takes other images and changes no pixels: pass one of {', '.join(_PIXELS)}.")
    return _PIXELS[chosen.kind](clean, _Means(chosen, cfg, train_mean, generator, masks, preprocess, word))


def usable(partner: Partner, masks: Bool[Tensor, "image height width"], cfg: VitConfig) -> Bool[Tensor, " image"]:
    """Which masks leave something to change and something to keep; for shuffling, at least two whole patches."""
    flat = masks.flatten(1)
    if partner.kind == "object_shuffle":
        return whole_patches(masks, cfg).sum(1) >= 2
    return flat.any(1) & ~flat.all(1)


def changed_tokens(
    cfg: VitConfig,
    clean: Float[Tensor, "pair channel height width"],
    corrupt: Float[Tensor, "pair channel height width"],
) -> Bool[Tensor, "pair token"]:
    """The tokens whose pixels differ in a pair; CLS, registers and others without pixels count as unchanged."""
    differs = patches_of((clean != corrupt).any(1, keepdim=True), cfg).flatten(2).any(-1)
    behind = cfg.tokens.n_tokens - cfg.tokens.patches.stop
    return F.pad(differs, (cfg.tokens.n_prefix, behind), value=False)


def whole_patches(masks: Bool[Tensor, "image height width"], cfg: VitConfig) -> Bool[Tensor, "image patch"]:
    """The patches that lie wholly under the mask."""
    return patches_of(masks[:, None], cfg).flatten(2).all(-1)


def patches_of(images: Tensor, cfg: VitConfig) -> Tensor:
    """Images cut into the model's patches, [image, patch, channel, height, width]."""
    (height, width), (rows, columns) = cfg.patch_size, cfg.tokens.grid
    cut = images.view(len(images), images.shape[1], rows, height, columns, width)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def _joined(patches: Tensor, cfg: VitConfig) -> Tensor:
    """Patches put together again, [image, channel, height, width]."""
    (height, width), (rows, columns) = cfg.patch_size, cfg.tokens.grid
    images = patches.view(len(patches), rows, columns, -1, height, width).permute(0, 3, 1, 4, 2, 5)
    return images.reshape(len(patches), -1, rows * height, columns * width)


def _mean(clean: Tensor, means: _Means) -> Tensor:
    return means.train_mean.expand_as(clean).clone()


def _noise(clean: Tensor, means: _Means) -> Tensor:
    return clean + clean.std() * torch.randn(clean.shape, generator=means.generator, dtype=clean.dtype)


def _blur(clean: Tensor, means: _Means) -> Tensor:
    size = means.cfg.image_size
    sigma = max(size) / 16
    radius = min(math.ceil(3 * sigma), min(size) - 1)
    at = torch.arange(-radius, radius + 1, dtype=clean.dtype)
    kernel = torch.exp(-at.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(clean.shape[1], 1)  # channel, tap
    padded = F.pad(clean, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[:, None, :, None], groups=len(kernel))
    return F.conv2d(rows, kernel[:, None, None, :], groups=len(kernel))


def _patch_shuffle(clean: Tensor, means: _Means) -> Tensor:
    patches = patches_of(clean, means.cfg)
    order = torch.rand(patches.shape[:2], generator=means.generator).argsort(1)
    return _joined(torch.stack([some[places] for some, places in zip(patches, order, strict=True)]), means.cfg)


def _object_blur(clean: Tensor, means: _Means) -> Tensor:
    return torch.where(means.hole, _blur(clean, means), clean)


def _object_fill(clean: Tensor, means: _Means) -> Tensor:
    return harmonic_fill(clean, means.hole[:, 0])


def _object_shuffle(clean: Tensor, means: _Means) -> Tensor:
    patches = patches_of(clean, means.cfg).clone()
    for image, inside in zip(patches, whole_patches(means.hole[:, 0], means.cfg), strict=True):
        places = inside.nonzero().flatten()
        # one round trip through all of them in a random order, so that no patch stays where it was
        tour = places[torch.randperm(len(places), generator=means.generator)]
        image[tour] = image[tour.roll(1)]
    return _joined(patches, means.cfg)


def _word(clean: Tensor, means: _Means) -> Tensor:
    if means.preprocess is None:
        raise TaskError(
            f"a word can't be painted for {means.cfg.name}, because it is not known which numbers are black and white "
            f"there: pass preprocess=Preprocess(...) to load_vit, or set vit.preprocess."
        )
    return paint_word(clean, means.partner.lettering(means.word), means.preprocess)


_PIXELS: dict[str, Callable[[Tensor, _Means], Tensor]] = {
    "mean": _mean,
    "noise": _noise,
    "blur": _blur,
    "patch_shuffle": _patch_shuffle,
    "object_blur": _object_blur,
    "object_fill": _object_fill,
    "object_shuffle": _object_shuffle,
    "word": _word,
}
