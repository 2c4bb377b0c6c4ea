"""What can be read off the residual by a linear map: per layer and point, per group of tokens, and patch by patch.

A probe is a ridge regression on one-hot labels, as in `factors.py`: each image is answered by the fit that left its
fold out, its penalty chosen within the other folds, and the answer is the class with the highest prediction. Features
are the mean over a group's tokens of the residual, before any norm.

The probe of the mean over the patches is linear, so what it says of an image is the mean of what it says of its
patches. Their scores, by the fit that left the image out, are the map: how much of each class each patch holds.

Folds hold as many images of each class as each other; else a probe that knows nothing but how often classes come would
be wrong more often than chance. The null deals the labels to other images of the same fold and does everything again. A
probe says what is there to be read, not that the
model reads it (Alain and Bengio 2017; Hewitt and Liang 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import starmap
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.memory import batch_size_for
from ...circuits.tokens import token_columns
from ...models.errors import DataError, ModelError
from ...models.hooked import HookedViT
from ...models.watching import progress_bar
from ..patching.patch_points import layer_traces
from .factors import PENALTIES, left_out_predictions, ridge_predictions, turned_into_span
from .neuron_catalogue import Labels, class_codes
from .probe_table import PatchMaps, ProbeTable

Point = Literal["pre", "mid", "post"]
"""The residual in front of a block, in front of its MLP, and behind it."""


def probe(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    labels: Labels,
    *,
    tokens: str | Sequence[str] = "role",
    masks: Bool[Tensor, "image row column"] | None = None,
    points: Sequence[Point] | str = ("pre", "mid", "post"),
    layers: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    maps: bool = True,
    n_folds: int = 5,
    n_shuffles: int = 20,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> ProbeTable:
    """How well the class of the image can be read off the residual, by layer, point and group of tokens.

    Costs two forward passes (one without maps), and per place and group `n_folds` decompositions of (image x model);
    holds images x groups x places x model numbers, so "each" is for few layers or few images.

    Args:
        vit: The opened model.
        images: Preprocessed images: ten for each fold at least.
        labels: The class of each image, or any factor of it that is a choice: numbers or words.
        tokens: Groups, each read by a probe of its own: `role` (CLS, registers, mean over patches), `each` (every patch
            by itself), or names such as "cls", "patch", "r2c3".
        masks: Where the object is, of pixels or of patches; adds the groups `object` and `background`, the mean over
            patches at least half of which is object, and over the others.
        points: `pre`, `mid`, `post`, or several. What is in front of a block is what is behind the one before.
        layers: Which blocks; all by default.
        classes: Names of the classes, where labels are their indices.
        maps: Whether to keep what each patch holds (a map per place, image and class).
        n_folds, n_shuffles: Parts that images are dealt into; how often labels are dealt out anew, for the null.
        seed: Deals both.
        memory: Bytes to hold at once, beside the features.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        DataError: Images, labels or masks don't fit each other or the model, or are too few.
        ModelError: A layer or a point is not known.
        GraphError: A token is not known.
    """
    images = _enough(vit.check_images(images), n_folds)
    codes, names = class_codes(labels, len(images), classes)
    places = _places(vit, points, layers)
    groups, weights = _groups(vit, tokens, masks, len(images))
    folds, found = balanced_folds(codes, n_folds, seed=seed), None
    with progress_bar("probe", (1 + maps) * len(places), progress, "place") as bar:
        features = _features(vit, images, places, weights, memory)
        hits, null = _answers(features, codes, folds, n_shuffles, seed, bar)
        if maps:
            means = features if "patch" in groups else _features(vit, images, places, _patch_mean(vit), memory)
            column = groups.index("patch") if means is features else 0
            fits = _fits([part[:, column] for part in means], np.eye(len(names))[codes], folds, bar)
            objects = None if masks is None else patch_masks(vit, masks)
            found = PatchMaps(_maps(vit, images, places, fits, memory), codes, objects)
    method = {"n_images": len(images), "n_folds": n_folds, "n_shuffles": n_shuffles, "seed": seed}
    return ProbeTable(vit.cfg.name, tuple(starmap(_said, places)), groups, names, hits, null, method, found)


def _enough(images: Tensor, n_folds: int) -> Tensor:
    if n_folds < 2 or len(images) < 10 * n_folds:
        raise DataError(f"{len(images)} images in {n_folds} folds are too few: pass ten for each of two folds or more.")
    return images


def _fits(features: list[NDArray], one_hot: NDArray, folds: NDArray, bar: Any) -> list[tuple[NDArray, NDArray]]:
    """What `patch_fits` finds at each place."""
    found = []
    for part in features:
        found.append(patch_fits(part, one_hot, folds))
        bar.update()
    return found


def _answers(
    features: list[Float64[np.ndarray, "image group model"]],
    codes: NDArray,
    folds: NDArray,
    n_shuffles: int,
    seed: int,
    bar: Any,
) -> tuple[Bool[np.ndarray, "place group image"], Float64[np.ndarray, "shuffle place group"]]:
    """Whether each image is answered rightly, and the share of right answers where labels are dealt out anew."""
    orders = [_dealt_anew(folds, np.random.default_rng([seed, 1, shuffle])) for shuffle in range(n_shuffles)]
    dealt = [codes, *(codes[order] for order in orders)]
    targets = [np.eye(codes.max() + 1)[some] for some in dealt]
    right = np.zeros((1 + n_shuffles, len(features), features[0].shape[1], len(codes)), dtype=bool)
    for place, part in enumerate(features):
        for group in range(right.shape[2]):
            spanned, _ = spanning(part[:, group])
            guesses = left_out_predictions(spanned, targets, folds)
            right[:, place, group] = [guess.argmax(1) == some for guess, some in zip(guesses, dealt, strict=True)]
        bar.update()
    return right[0], right[1:].mean(-1)


def balanced_folds(codes: Int[np.ndarray, " image"], n_folds: int, *, seed: int) -> Int[np.ndarray, " image"]:
    """The fold of each image: folds, and each class in them, of sizes that differ by one at most."""
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.permutation(len(codes)), codes))
    folds = np.empty(len(codes), dtype=np.int64)
    folds[order] = np.arange(len(codes)) % n_folds
    return folds


def _dealt_anew(folds: Int[np.ndarray, " image"], rng: np.random.Generator) -> Int[np.ndarray, " image"]:
    """Whose label each image gets: another's of the same fold."""
    order = np.arange(len(folds))
    for fold in np.unique(folds):
        order[folds == fold] = rng.permutation(np.flatnonzero(folds == fold))
    return order


def _places(vit: HookedViT, points: Sequence[str] | str, layers: Sequence[int] | None) -> list[tuple[int, str]]:
    """Layer and point, in the order in which they are reached, each residual once."""
    wanted = (points,) if isinstance(points, str) else tuple(points)
    blocks = range(vit.cfg.n_layers - int(vit.cfg.pools))
    chosen = list(blocks) if layers is None else sorted(set(layers))
    if not wanted or not set(wanted) <= set(get_args(Point)):
        raise ModelError(f"points={points!r}: pass one or several of 'pre', 'mid', 'post'.")
    if not chosen or not set(chosen) <= set(blocks):
        raise ModelError(f"layers={layers!r}: {vit.cfg.name} has blocks 0 to {blocks[-1]}; pass some of them.")
    every = [(layer, point) for layer in chosen for point in get_args(Point) if point in wanted]
    return [one for one in every if not (one[1] == "pre" and (one[0] - 1, "post") in every)]


def _said(layer: int, point: str) -> str:
    return "input" if (layer, point) == (0, "pre") else f"block {layer}" + {"post": ""}.get(point, f" {point}")


def _groups(
    vit: HookedViT, tokens: str | Sequence[str], masks: Tensor | None, n_images: int
) -> tuple[tuple[str, ...], Float[Tensor, "image group token"]]:
    """Names of groups, and the weights of each one's mean; a single image's serve all."""
    columns = token_columns(vit.cfg.tokens, tokens)
    weights = torch.from_numpy(columns.member).to(vit.sum_dtype)[None]
    names = columns.names
    if masks is not None:
        patches = torch.from_numpy(patch_masks(vit, masks)).flatten(1)
        if len(patches) != n_images:
            raise DataError(f"there are {len(patches)} masks for {n_images} images: pass one for each.")
        if bool((patches.all(1) | ~patches.any(1)).any()):
            row = int((patches.all(1) | ~patches.any(1)).nonzero()[0])
            raise DataError(f"in image {row} every patch is object, or none is: leave it out, or repair its mask.")
        own = torch.zeros(n_images, 2, vit.cfg.tokens.n_tokens, dtype=vit.sum_dtype, device="cpu")
        own[:, :, vit.cfg.tokens.patches] = torch.stack([patches, ~patches], 1).to(vit.sum_dtype)
        weights, names = torch.cat([weights.expand(n_images, -1, -1), own], 1), (*names, "object", "background")
    return names, (weights / weights.sum(-1, keepdim=True)).to(vit.device)


def _patch_mean(vit: HookedViT) -> Float[Tensor, "1 1 token"]:
    weights = torch.zeros(1, 1, vit.cfg.tokens.n_tokens, dtype=vit.sum_dtype, device=vit.device)
    weights[..., vit.cfg.tokens.patches] = 1 / vit.cfg.tokens.n_patches
    return weights


def patch_masks(vit: HookedViT, masks: Bool[Tensor, "image height width"]) -> Bool[np.ndarray, "image row column"]:
    """Which patches are object: those at least half of whose pixels are; masks of patches as they stand.

    Raises:
        DataError: They have neither the size of the model's images nor that of its grid.
    """
    cfg, size = vit.cfg, tuple(masks.shape[1:])
    if size == cfg.tokens.grid:
        return masks.cpu().numpy()
    if size != cfg.image_size:
        raise DataError(
            f"masks are {size}, but images {cfg.image_size} and patches {cfg.tokens.grid}: bring them to either size."
        )
    (rows, columns), (height, width) = cfg.tokens.grid, cfg.patch_size
    cut = masks[:, : rows * height, : columns * width].float().cpu()
    return (cut.reshape(-1, rows, height, columns, width).mean((2, 4)) >= 0.5).numpy()


def _residuals(
    vit: HookedViT, images: Tensor, places: list[tuple[int, str]], memory: int
) -> Iterator[tuple[int, int, Float[Tensor, "image token model"]]]:
    """First image, place, and the residual there."""
    size, last = batch_size_for(vit, memory), max(layer for layer, _ in places)
    for start in range(0, len(images), size):
        with torch.no_grad(), vit.borrowed():
            steps = layer_traces(vit, vit.embed(images[start : start + size]))
            for layer, step in zip(range(last + 1), steps, strict=False):
                here = {"pre": step.before, "mid": step.middle, "post": step.after}
                for place, (of, point) in enumerate(places):
                    if of == layer:
                        yield start, place, here[point]


def _features(
    vit: HookedViT, images: Tensor, places: list[tuple[int, str]], weights: Tensor, memory: int
) -> list[Float64[np.ndarray, "image group model"]]:
    """The mean over each group's tokens at every place."""
    shape = len(images), weights.shape[1], vit.cfg.d_model
    found = [np.empty(shape) for _ in places]
    for start, place, residual in _residuals(vit, images, places, memory):
        here = slice(start, start + len(residual))
        own = weights if len(weights) == 1 else weights[here]
        found[place][here] = (own @ residual).double().cpu().numpy()
    return found


def spanning(
    features: Float64[np.ndarray, "image model"],
) -> tuple[Float64[np.ndarray, "image rank"], Callable[[NDArray], NDArray]]:
    """`condensed` features, and the map that takes others of the same kind there."""
    middle = features.mean(0)
    turned = turned_into_span(features)
    scale = np.sqrt(np.square(turned).sum() / turned.shape[1]) if turned.shape[1] else 1.0
    # turned = (features - middle) @ basis, with the basis orthonormal in their span
    basis = np.linalg.lstsq(features - middle, turned, rcond=None)[0]
    return turned / scale, lambda other: (other - middle) @ basis / scale


def patch_fits(
    features: Float64[np.ndarray, "image model"],
    one_hot: Float64[np.ndarray, "image class"],
    folds: Int[np.ndarray, " image"],
) -> tuple[Float64[np.ndarray, "image model class"], Float64[np.ndarray, "image class"]]:
    """Weights and bias of the fit that left each image's fold out, for residuals as they stand."""
    spanned, into = spanning(features)
    n, model = spanned.shape[1], features.shape[1]
    asked = np.vstack([np.zeros((1, n)), np.eye(n)])  # what a linear map says at these is its bias and its weights
    weights, biases = np.empty((len(folds), model, one_hot.shape[1])), np.empty_like(one_hot)
    turn, origin = into(np.eye(model)) - into(np.zeros((1, model))), into(np.zeros((1, model)))
    penalties = np.asarray(PENALTIES)
    for fold in np.unique(folds):
        held = folds == fold
        said = ridge_predictions(spanned[~held], one_hot[~held], asked, np.array([0, one_hot.shape[1]]), penalties)
        slope = said[1:] - said[:1]
        weights[held], biases[held] = turn @ slope, said[0] + (origin @ slope)[0]
    return weights, biases


def _maps(
    vit: HookedViT,
    images: Tensor,
    places: list[tuple[int, str]],
    fits: list[tuple[NDArray, NDArray]],
    memory: int,
) -> Float64[np.ndarray, "place image row column class"]:
    layout, n_classes = vit.cfg.tokens, fits[0][1].shape[1]
    found = np.empty((len(places), len(images), layout.n_patches, n_classes))
    for start, place, residual in _residuals(vit, images, places, memory):
        here = slice(start, start + len(residual))
        weights, bias = (part[here] for part in fits[place])
        found[place, here] = residual[:, layout.patches].double().cpu().numpy() @ weights + bias[:, None]
    return found.reshape(*found.shape[:2], layout.frames * layout.grid[0], layout.grid[1], n_classes)
