"""What makes each MLP neuron fire: the images and patches that do most, how often, and for which class.

A neuron is one number that `fc2` is handed (`blocks.{i}.mlp.hook_post`), called `m5.n12`. Its activation on an image is
the highest over the patches, or that at the token that gathers for the readout.

False alarms. The threshold for a class is the highest at which at least a share `recall` of the class's images are at
or above it; the share of false alarms is, of all images at or above that threshold, how many are of other classes. A
neuron that fires at random has 1 - (share of the class among the images). Each neuron is given the class for which its
false alarms are the smallest part of that. This is a choice among classes on the same images, so the null deals the
labels to other images and chooses again: what is below 95% of the best of all neurons in shuffles was not chosen for
its luck.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.memory import pairs_within
from ...models.errors import DataError, ModelError
from ...models.hooked import HookedViT
from ...models.hooks import HookPoint
from .head_catalogue import crop
from .neuron_table import Alarms, NeuronCatalogue, NeuronPictures
from .top import Top

At = Literal["patches", "cls"]
"""Where a neuron is looked at: the highest over the patches, or at the token that gathers for the readout."""

Labels = NDArray | Tensor | Sequence[int] | Sequence[str]
_BLOCK = 2**22  # numbers that are sorted at once


def neuron_catalogue(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    labels: Labels | None = None,
    *,
    layers: Sequence[int] | None = None,
    at: At | str = "patches",
    classes: Sequence[str] | None = None,
    recall: float = 0.5,
    n_top: int = 6,
    n_bins: int = 20,
    n_shown: int = 24,
    n_shuffles: int = 20,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
) -> NeuronCatalogue:
    """Every MLP neuron's highest images and patches, its histogram, and with labels the class it fires for.

    Costs a forward pass for each group of layers whose activations, 4 bytes x images x neurons, fit into `memory` (as a
    rule one for all). Of a group only the highest `n_top` and the histograms are kept.

    Args:
        vit: The opened model.
        images: Preprocessed images.
        labels: The class of each image, or any factor of it that is a choice: numbers or words.
        layers: Which blocks; all that have an MLP by default.
        at: Where a neuron is looked at: at the `patches`, or at `cls`.
        classes: Names of the classes, where labels are their indices.
        recall: Share of a class's images at or above its threshold.
        n_top: Images (and patches, each of another image) that are kept for each neuron.
        n_bins: Bins of the histograms, between a neuron's lowest and highest activation.
        n_shown: Neurons whose pictures are kept, for `draw`: those of fewest false alarms; without labels those whose
            highest activation is the most standard deviations above its mean.
        n_shuffles: How often labels are dealt out anew, for the null.
        seed: Deals them.
        memory: Bytes to hold at once.

    Raises:
        DataError: Images or labels don't fit each other or the model, a class has no image, or there is only one.
        ModelError: A layer has no MLP, or `at` or the recall makes no sense.
    """
    images = vit.check_images(images)
    wanted = _layers(vit, layers, at)
    if not 0 < recall <= 1:
        raise ModelError(f"recall={recall}: pass a share above 0 and at most 1, such as recall=0.5.")
    codes, names = (None, ()) if labels is None else class_codes(labels, len(images), classes)
    parts = []
    for group in _groups(vit, wanted, len(images), memory):
        values, places = _activations(vit, images, group, at, memory)
        for layer in group:
            top = Top.of(values[layer].shape[1], min(n_top, len(images)))
            where = torch.arange(len(images), device="cpu") * vit.cfg.tokens.n_patches + places[layer].T
            top = top.with_more(values[layer].T, where)
            found = values[layer].double().numpy().T  # neuron, image
            alarms = None if codes is None else find_alarms(found, codes, recall, n_shuffles, seed=seed)
            parts.append((layer, found.mean(1), found.std(1), top, _histograms(found, codes, alarms, n_bins), alarms))
    method = {"n_images": len(images), "at": at, "recall": recall, "n_shuffles": n_shuffles, "seed": seed}
    catalogue = _joined(vit, parts, names, method)
    return catalogue.with_pictures([_pictures(vit, images, catalogue, row) for row in catalogue.order()[:n_shown]])


def _layers(vit: HookedViT, layers: Sequence[int] | None, at: str) -> list[int]:
    cfg = vit.cfg
    if at not in get_args(At):
        raise ModelError(f"at={at!r} is not known: pass at='patches' or at='cls'.")
    if at == "cls" and not (cfg.tokens.has_cls or cfg.pools):
        raise ModelError(f"{cfg.name} has no token that gathers for the readout: pass at='patches'.")
    known = [i for i in range(cfg.n_layers) if cfg.has_mlp(i) and not (at == "patches" and cfg.is_pool(i))]
    if layers is None and known:
        return known
    chosen = [] if layers is None else sorted(set(layers))
    if not chosen or not set(chosen) <= set(known):
        raise ModelError(
            f"layers={layers} has a block of {cfg.name} without MLP neurons there, or none: "
            f"choose from {', '.join(map(str, known)) or 'another model; this one has none'}."
        )
    return chosen


def class_codes(
    labels: Labels, n_images: int, classes: Sequence[str] | None = None
) -> tuple[Int[np.ndarray, " image"], tuple[str, ...]]:
    """Each image's class as a number from 0, and the names of the classes that there are.

    Raises:
        DataError: There isn't one label per image, they are no choices, or all images are of one class.
    """
    values = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if values.shape != (n_images,) or values.dtype.kind == "f":
        raise DataError(
            f"labels have shape {values.shape} and type {values.dtype} for {n_images} images: pass one whole number or "
            f"word per image; cut a number into bins first."
        )
    kinds, codes = np.unique(values, return_inverse=True)
    if len(kinds) < 2:
        raise DataError("all images are of one class, so that nothing can be told apart: pass images of others, too.")
    names = [str(kind) if classes is None else str(classes[int(kind)]) for kind in kinds]
    return codes.astype(np.int64), tuple(names)


def _groups(vit: HookedViT, layers: list[int], n_images: int, memory: int) -> Iterator[list[int]]:
    """Layers whose activations fit into memory together."""
    group: list[int] = []
    for layer in layers:
        if group and 12 * (len(group) + 1) * n_images * vit.cfg.d_mlp > memory:
            yield group
            group = []
        group.append(layer)
    yield group


def _activations(
    vit: HookedViT, images: Tensor, layers: list[int], at: str, memory: int
) -> tuple[dict[int, Float[Tensor, "image neuron"]], dict[int, Int[Tensor, "image neuron"]]]:
    """Each image's activation of every neuron, by layer, and the patch where it was."""
    values: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    places: dict[int, list[Tensor]] = {layer: [] for layer in layers}

    def take(post: Tensor, hook: HookPoint) -> None:
        layer = hook.layer()
        tokens = vit.cfg.tokens.patches if at == "patches" else vit.cfg.gathering(layer)
        highest, where = post[:, tokens].max(1)
        values[layer].append(highest.float().cpu())
        places[layer].append(where.cpu() if at == "patches" else torch.zeros_like(where).cpu())

    hooks = [(f"blocks.{layer}.mlp.hook_post", take) for layer in layers]
    with torch.no_grad():
        for batch in images.split(pairs_within(vit, memory, residuals=12, hidden=4, patterns=4)):
            vit.run_with_hooks(batch, hooks)
    whole, where = ({layer: torch.cat(part) for layer, part in every.items()} for every in (values, places))
    return whole, where


def find_alarms(
    values: Float64[np.ndarray, "neuron image"],
    labels: Int[np.ndarray, " image"],
    recall: float,
    n_shuffles: int,
    *,
    seed: int,
) -> Alarms:
    """The class that each neuron fires for, its threshold, its false alarms, and those of the best in each shuffle."""
    rng = np.random.default_rng(seed)
    dealt = [labels, *(rng.permutation(labels) for _ in range(n_shuffles))]
    found: list[tuple[NDArray, ...]] = []
    null = np.full(n_shuffles, np.inf)
    step = max(1, _BLOCK // len(labels))
    for part in np.split(values, range(step, len(values), step)):
        order = np.argsort(-part, axis=1, kind="stable")
        falling = np.take_along_axis(part, order, 1)
        own, *others = (_best_class(falling, some[order], recall) for some in dealt)
        found.append(own)
        drawn = [float(np.min(false / alarms / chance)) for _, _, false, alarms, chance in others]
        null = np.minimum(null, drawn)
    classes, threshold, false, alarms, chance = (np.concatenate(one) for one in zip(*found, strict=True))
    return Alarms(classes, threshold, false, alarms, chance, null)


def _best_class(falling: NDArray, ranked: NDArray, recall: float) -> tuple[NDArray, ...]:
    """Class, threshold, false alarms, all alarms, and the share of false ones by chance, of every neuron."""
    every = np.stack([_of_class(falling, ranked == code, recall) for code in range(int(ranked.max()) + 1)])
    threshold, false, alarms, chance = every.transpose(1, 0, 2)  # each (class, neuron)
    best = np.argmin(false / alarms / chance, axis=0)
    return best, *(part[best, np.arange(len(falling))] for part in (threshold, false, alarms, chance))


def _of_class(falling: NDArray, own: NDArray, recall: float) -> NDArray:
    """Threshold, false alarms, alarms and chance of one class, (4, neuron); ties with the threshold are alarms."""
    n = int(own[0].sum())
    place = np.argmax(np.cumsum(own, axis=1) >= np.ceil(recall * n - 1e-9), axis=1)
    threshold = np.take_along_axis(falling, place[:, None], 1)
    alarm = falling >= threshold
    chance = np.full(len(own), 1 - n / own.shape[1])
    return np.stack([threshold[:, 0], (alarm & ~own).sum(1), alarm.sum(1), chance])


def _histograms(
    values: NDArray, labels: NDArray | None, alarms: Alarms | None, n_bins: int
) -> Int[np.ndarray, "neuron 2 bin"]:
    """Images in each bin between the neuron's lowest and highest: of its class (all without labels), and of others."""
    low, high = values.min(1, keepdims=True), values.max(1, keepdims=True)
    bins = ((values - low) / np.where(high > low, high - low, 1) * n_bins).astype(np.int64).clip(0, n_bins - 1)
    own = np.ones(values.shape, bool) if labels is None or alarms is None else labels == alarms.classes[:, None]
    counted = np.arange(len(values))[:, None] * 2 * n_bins + np.where(own, 0, n_bins) + bins
    return np.bincount(counted.ravel(), minlength=len(values) * 2 * n_bins).reshape(len(values), 2, n_bins)


def _joined(vit: HookedViT, parts: list, names: tuple[str, ...], method: dict) -> NeuronCatalogue:
    neurons = tuple(f"m{layer}.n{i}" for layer, mean, *_ in parts for i in range(len(mean)))
    mean, std = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    scores = torch.cat([part[3].scores for part in parts]).numpy()
    places = torch.cat([part[3].places for part in parts]).numpy()
    histograms = np.concatenate([part[4] for part in parts])
    alarms = Alarms.joined([part[5] for part in parts]) if names else None
    grid = vit.cfg.tokens.grid
    return NeuronCatalogue(vit.cfg.name, grid, neurons, mean, std, scores, places, histograms, names, alarms, method)


def _pictures(vit: HookedViT, images: Tensor, catalogue: NeuronCatalogue, row: int) -> NeuronPictures:
    whole = catalogue.method["at"] == "cls"
    places = catalogue.patches(row)
    reach = max(vit.cfg.tokens.grid) if whole else 1
    shown = [crop(vit, images[image], r, c, reach=reach) for _, image, r, c in places]
    boxes = tuple((0.0, 0.0, 0.0, 0.0) if whole else box for _, box in shown)
    return NeuronPictures(row, tuple(pixels for pixels, _ in shown), boxes)
