"""What stands in for a clean image: a frozen description of how its corrupted partner is made.

A circuit says how the model tells a clean image from its partner, so the partner decides the question:

- `class_swap`, `another`: another image. Object, background and composition all differ.
- `nearest`: the image of each class that the model's last residual finds most like the clean one (crossed tasks only).
- `mean`, `noise`, `blur`, `patch_shuffle`: the whole picture changed.
- `object_blur`, `object_fill`, `object_shuffle`: what lies under a mask blurred, filled from its surroundings, or its
  patches put in another order; the rest of the picture is the same, pixel for pixel.
- `word`: a word painted on the picture, by default the foil's name (a typographic attack).

The last four are aligned: the pair differs at known tokens only.

Partners made from the image's own pixels: everything with chance in it is drawn from one generator. The aligned kinds
leave all pixels outside the mask, or outside the word's box, bit for bit as they were.

`object_fill` fills a hole from its surroundings, by the smoothest surface over the hole that meets its rim. Inside the
mask every pixel is the mean of its neighbours above, below, left and right (those that the picture has), which is
Laplace's equation,

    sum over neighbours j of i of (u_j - u_i) = 0,    u = the picture outside the mask,

solved exactly rather than iterated (a sparse factorisation, the same numbers every time). Where the hole reaches the
picture's edge no slope is asked for there. So nothing new is invented: no value lies outside the range of the rim, a
flat or evenly rising surrounding is continued as it is, and the object's texture and outline are gone.

Weak spots: the filled place has no texture, which the surroundings of a photograph do have, and single noisy pixels
of the rim smear a little way into it. A rim that still holds part of the object bleeds its colour into the fill, so a
mask had better be a little too wide than too tight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from ...models.config import VitConfig
from ...models.errors import DataError, TaskError
from ...models.files import is_folder, user_path
from ...models.preprocess import Preprocess
from ...models.settings import brief
from .attention_masks import AttentionMasks
from .masks import Boxes, Coordinates, Foreground, MaskFolder, Masks, given_masks
from .text_overlay import Lettering, paint_word

SWAPS = ("class_swap", "another")
OTHER_IMAGES = (*SWAPS, "nearest")
WHOLE = ("mean", "noise", "blur", "patch_shuffle")
MASKED = ("object_blur", "object_fill", "object_shuffle")
CORRUPTIONS = (*OTHER_IMAGES, *WHOLE, *MASKED, "word")


@dataclass(frozen=True)
class Partner:
    """How partners are made.

    Args:
        kind: One of `CORRUPTIONS`.
        mask: Where the object is; only the `object_*` kinds take it, and they need it. See `as_masks`: `attention`,
            a .csv of boxes, a folder of masks, arrays.
        coordinates: Of the mask, `picture` or `input`; see `as_masks` for the default.
        word: What is painted; the foil's name by default. These five are for `word` only; see `Lettering`.
        place: Where.
        size: Its height as a share of the picture's.
        colour: Of its letters.
        plate: Colour behind them, or None.

    Raises:
        TaskError: The kind is not known, or a mask is missing or has no use.
        DataError: The mask means nothing.
    """

    kind: str
    mask: Any = None
    coordinates: str | None = None
    word: str = ""
    place: str | tuple[float, float] = "bottom"
    size: float = 0.2
    colour: str = "white"
    plate: str | None = "black"

    def __repr__(self) -> str:
        return brief(self)

    def __post_init__(self) -> None:
        if self.kind not in CORRUPTIONS:
            raise TaskError(f"corruption {self.kind!r} is not known: pass one of {', '.join(map(repr, CORRUPTIONS))}.")
        if self.kind in MASKED:
            if self.mask is None:
                raise TaskError(
                    f"{self.kind} needs to know where the object is: pass Partner({self.kind!r}, mask='attention'), or "
                    f"as mask a .csv of boxes, a folder of masks, or booleans (on the command line --mask)."
                )
            object.__setattr__(self, "mask", as_masks(self.mask, coordinates=self.coordinates))
        elif self.mask is not None:
            raise TaskError(f"{self.kind} takes no mask: leave it out, or choose one of {', '.join(MASKED)}.")
        self.lettering("word")

    @property
    def masks(self) -> Masks | None:
        """Where the object is, for the kinds that ask."""
        return self.mask

    @property
    def aligned(self) -> bool:
        """Whether clean image and partner are the same picture, changed at some places."""
        return self.kind not in OTHER_IMAGES

    def lettering(self, word: str) -> Lettering:
        """How the word is painted; `word` is what is written where none was chosen."""
        return Lettering(self.word or word, self.place, self.size, self.colour, self.plate)

    def as_dict(self, word: str = "") -> dict[str, Any]:
        """What a task's record says: the kind and the options that it has, under the command line's names."""
        record: dict[str, Any] = {"corruption": self.kind}
        if self.masks is not None:
            record |= self.masks.as_dict()
        if self.kind == "word":
            lettering = self.lettering(word)
            place = lettering.place if isinstance(lettering.place, str) else ",".join(map(str, lettering.place))
            record |= {"word": lettering.word, "word_place": place, "word_size": lettering.size}
            record |= {"word_colour": lettering.colour, "word_plate": lettering.plate or "none"}
        return record


def as_partner(partner: Partner | str) -> Partner:
    """A description, or the one that a word such as `blur` names."""
    return partner if isinstance(partner, Partner) else Partner(partner)


def as_masks(spec: Any, *, coordinates: Coordinates | str | None = None) -> Masks:
    """What a specification of masks means.

    Args:
        spec: `attention`, `attention:last`, `attention:rollout:0.4` (a share of the mass; see `AttentionMasks`),
            `foreground` (see `Foreground`), a .csv of boxes (see `Boxes`), a folder of pictures of masks, arrays (see
            `given_masks`), or masks already.
        coordinates: `picture` or `input`, for boxes, folders and arrays; by default `input` for arrays, else `picture`.

    Raises:
        DataError: It means nothing, or what it names is not there.
    """
    if isinstance(spec, str) and spec == "foreground":
        return Foreground()
    if isinstance(spec, Path) or (isinstance(spec, str) and not spec.startswith("attention")):
        return _from_path(user_path(spec), coordinates or "picture")
    if isinstance(spec, str):
        return AttentionMasks.parse(spec)
    if isinstance(spec, Mapping | np.ndarray | Tensor):
        return given_masks(spec, coordinates=coordinates or "input")
    if isinstance(spec, Masks):
        return spec
    raise DataError(
        f"masks of type {type(spec).__name__} are not known: pass 'attention', a .csv of boxes, a folder of masks, or "
        f"booleans of shape (image, height, width)."
    )


def _from_path(path: Path, coordinates: str) -> Masks:
    if path.suffix.lower() == ".csv":
        return Boxes.read(path, coordinates=coordinates)
    if is_folder(path):
        return MaskFolder(path, coordinates)
    raise DataError(
        f"no masks are found at {str(path)!r}: pass a .csv of boxes, a folder of pictures of masks, or 'attention'."
    )


def harmonic_fill(
    images: Float[Tensor, "image channel height width"], masks: Bool[Tensor, "image height width"]
) -> Float[Tensor, "image channel height width"]:
    """The images with what lies under the masks filled from around; the rest is left bit for bit.

    A mask that leaves no surroundings is left unfilled. Solved in float64 on the CPU; a photograph of 224 x 224 pixels
    with a quarter of it masked takes about a tenth of a second.

    Args:
        images: Images of any range.
        masks: True inside the hole.
    """
    filled = images.clone()
    for row, (image, mask) in enumerate(zip(images, masks, strict=True)):
        if bool(mask.any()) and not bool(mask.all()):
            hole = mask.cpu().numpy()
            values = _solve(image.double().cpu().numpy(), hole)
            filled[row][:, mask] = torch.from_numpy(values).to(filled)
    return filled


def _solve(image: NDArray[np.float64], hole: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values in the hole, shape (channel, pixel of the hole)."""
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import splu

    size = int(hole.sum())
    number = np.full(hole.shape, -1)
    number[hole] = np.arange(size)
    degree, known = np.zeros(size), np.zeros((size, len(image)))
    rows, columns = [np.arange(size)], [np.arange(size)]
    for here, there in _neighbours():
        inside, other = number[here], number[there]
        mine, both = inside >= 0, (inside >= 0) & (other >= 0)
        degree[inside[mine]] += 1  # no pixel has two neighbours on one side, so nothing is counted twice
        rim = mine & (other < 0)
        known[inside[rim]] += image[(slice(None), *there)][:, rim].T
        rows.append(inside[both])
        columns.append(other[both])
    entries = np.concatenate([degree, -np.ones(sum(map(len, rows[1:])))])
    matrix = coo_array((entries, (np.concatenate(rows), np.concatenate(columns))), shape=(size, size)).tocsc()
    # symmetric and positive definite, so the ordering for such matrices is the quick one and no pivots are needed
    factors: Any = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return factors.solve(known).T


def _neighbours() -> list[tuple[Any, Any]]:
    """Slices of pixels and of their neighbours above, below, left and right."""
    every, first, last = slice(None), slice(1, None), slice(None, -1)
    return [
        ((first, every), (last, every)),
        ((last, every), (first, every)),
        ((every, first), (every, last)),
        ((every, last), (every, first)),
    ]


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
            `object_blur` (as strong), `object_fill` (see `harmonic_fill`), `object_shuffle` (the patches that lie
            wholly under the mask, each of them moved), or `word` (see `text_overlay.py`).
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


def object_tokens(masks: Bool[Tensor, "image height width"], cfg: VitConfig) -> Bool[Tensor, "image token"]:
    """The tokens of patches with any pixel of the object, so that none of it is background."""
    inside = patches_of(masks[:, None], cfg).flatten(2).any(-1)
    behind = cfg.tokens.n_tokens - cfg.tokens.patches.stop
    return F.pad(inside, (cfg.tokens.n_prefix, behind), value=False)


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
    return clean + clean.std() * torch.randn(clean.shape, generator=means.generator, dtype=clean.dtype, device="cpu")


def _blur(clean: Tensor, means: _Means) -> Tensor:
    size = means.cfg.image_size
    sigma = max(size) / 16
    radius = min(math.ceil(3 * sigma), min(size) - 1)
    at = torch.arange(-radius, radius + 1, dtype=clean.dtype, device="cpu")
    kernel = torch.exp(-at.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(clean.shape[1], 1)  # channel, tap
    padded = F.pad(clean, (radius,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[:, None, :, None], groups=len(kernel))
    return F.conv2d(rows, kernel[:, None, None, :], groups=len(kernel))


def _patch_shuffle(clean: Tensor, means: _Means) -> Tensor:
    patches = patches_of(clean, means.cfg)
    order = torch.rand(patches.shape[:2], generator=means.generator, device="cpu").argsort(1)
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
        tour = places[torch.randperm(len(places), generator=means.generator, device="cpu")]
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
