"""Emergent segmentation: how well maps over patches find the object, in numbers, beside baselines that see nothing.

Of each image a mask is known. A map keeps the patches that it scores highest: a share of them, or those above a level
between its lowest and its highest score on the image; and

    IoU     pixels that are both kept and object / pixels that are kept or object
    AUC     chance that a random pixel of the object lies in a patch of a higher score than one of the background;
            ties count half

Which share or level and which layer are taken is chosen on other images: they are dealt into folds, and each image is
judged with what is best on the mean over the other folds. `ceiling` is what
patches can reach at all. Baselines: `centre box` scores patches by how near the middle they are, its size chosen
likewise; `everything` keeps all patches; `untrained` is the same map on copies of the model whose weights are shuffled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.judging.bootstrap import Resamples
from ...circuits.report import Figure, Table, Tabular
from ...models.errors import DataError
from ...models.hooked import HookedViT
from ...models.scrambled import shuffle_weights
from ...models.watching import progress_bar
from .fitted_lens import FittedLens
from .patch_scores import Targets, layer_label, patch_scores

SHARES, LEVELS = np.arange(1, 21) / 20, np.arange(1, 20) / 20
"""What may be kept of a map: shares of the patches; scores above so much of the way from the lowest to the highest."""


@dataclass(frozen=True, eq=False)
class MapQuality:
    """One kind of map.

    Args:
        iou: Of each image, with what was chosen on others.
        auc: Of each image; NaN where a map has no order, or an image no object or no background.
        chosen: The layer, and the share or level, that are best on all images together, in words.
    """

    iou: Float64[np.ndarray, " image"]
    auc: Float64[np.ndarray, " image"]
    chosen: str


@dataclass(frozen=True, eq=False, repr=False)
class SegmentationTable(Tabular):
    """How well maps over patches find the object.

    Args:
        model: The model's name.
        judged: Name of a map -> what was found.
        method: How, in plain values.
    """

    caveat: ClassVar[str] = (  # type: ignore[override]
        "A map is as fine as the patches: compare with the ceiling. What beats the untrained model but not the centre "
        "box may only know where photographers put things."
    )

    model: str
    judged: Mapping[str, MapQuality]
    method: Mapping[str, Any]

    def __getitem__(self, name: str) -> MapQuality:
        return self.judged[name]

    @property
    def headline(self) -> str:
        """What was looked at."""
        n = len(next(iter(self.judged.values())).iou)
        masks = f", masks: {self.method['masks']}" if self.method["masks"] else ""
        return f"{self.model}: maps over patches against masks of {n:,} images{masks}"

    def figures(self, name: str) -> dict[str, Figure]:
        """`iou` and `auc` of a map, and `above`: its IoU less the centre box's, image by image."""
        one, box = self.judged[name], self.judged["centre box"]
        resamples = Resamples.draw(len(one.iou), int(self.method["n_bootstrap"]), seed=int(self.method["seed"]))
        found = {"iou": resamples.mean(one.iou, "", "mean IoU over images")}
        known = np.isfinite(one.auc)
        if known.any():
            few = Resamples.draw(int(known.sum()), int(self.method["n_bootstrap"]), seed=int(self.method["seed"]))
            found["auc"] = few.mean(one.auc[known], "", "mean AUC over images")
        else:
            found["auc"] = Figure(None, "", reason="it has no order")
        found["above"] = resamples.mean(one.iou - box.iou, "", "IoU less the centre box's, image by image")
        return found

    def table(self) -> Table:
        """One row per map."""
        rows = []
        with progress_bar("drawing images", len(self.judged), unit="map") as bar:
            for name, one in self.judged.items():
                found = self.figures(name)
                rows.append((name, found["iou"], found["auc"], found["above"], one.chosen))
                bar.update()
        return Table(("map", "IoU", "AUC", "above centre box", "kept"), tuple(rows), f"{self.headline}. {self.caveat}")


def segmentation(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    masks: Bool[Tensor, "image height width"],
    targets: Targets,
    *,
    through: FittedLens | None = None,
    untrained: int = 0,
    said: str = "",
    n_folds: int = 5,
    n_bootstrap: int = 1000,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
) -> SegmentationTable:
    """How well the lens, its labels, direct effects and attention find the object, against masks and baselines.

    Costs a forward pass, a readout of every patch at every layer and a backward pass through the heads' last step; as
    much again for each untrained copy.

    Args:
        vit: The opened model.
        images: Preprocessed images.
        masks: True on the object, in pixels of the model's input.
        targets: The class of each image's object, or several that are one to the question.
        through: A lens that was fitted at the patches, beside the plain one.
        untrained: Copies with shuffled weights; what they reach is averaged.
        said: Where the masks are from, for the headline.
        n_folds: Parts that images are dealt into.
        n_bootstrap: Bootstrap draws of the images.
        seed: Deals, draws and shuffles.
        memory: Bytes to hold at once.

    Raises:
        DataError: Images, masks and targets don't fit each other or the model, or are fewer than folds; or a mask is
            empty.
        ModelError: As `patch_scores`.
    """
    cover = coverage(vit, masks)
    if len(cover) != len(images) or len(images) < n_folds or n_folds < 2:
        raise DataError(
            f"there are {len(images)} images and {len(cover)} masks for {n_folds} folds: pass a mask for each image, "
            f"at least as many images as folds, and n_folds of at least 2."
        )
    if not bool((cover.sum(1) > 0).all()):
        empty = np.flatnonzero(cover.sum(1) == 0).tolist()
        raise DataError(f"the masks of images {empty[:10]} are empty: leave those images out.")
    folds = np.random.default_rng(seed).permutation(len(images)) % n_folds
    judged = _judge_model(vit, images, targets, cover, folds, None, memory)
    if through is not None:
        mapped = _judge_model(vit, images, targets, cover, folds, through, memory)
        judged |= {f"{through.kind}{name.removeprefix('lens')}": mapped[name] for name in ("lens", "lens labels")}
    copies = [
        _judge_model(shuffle_weights(vit, seed=seed + copy), images, targets, cover, folds, None, memory)
        for copy in range(untrained)
    ]
    judged |= {f"untrained {name}": _averaged([one[name] for one in copies]) for name in copies[0]} if copies else {}
    judged |= _baselines(vit.cfg.tokens.grid, cover, folds)
    method = {"masks": said, "n_folds": n_folds, "n_bootstrap": n_bootstrap, "seed": seed, "untrained": untrained}
    return SegmentationTable(vit.cfg.name, judged, method)


def coverage(vit: HookedViT, masks: Bool[Tensor, "image height width"]) -> Float64[np.ndarray, "image patch"]:
    """The share of each patch that is object.

    Raises:
        DataError: The masks are not as large as the model's input.
    """
    (height, width), (rows, columns) = vit.cfg.image_size, vit.cfg.tokens.grid
    if tuple(masks.shape[1:]) != (height, width):
        raise DataError(
            f"masks have {tuple(masks.shape[1:])} pixels, but {vit.cfg.name} sees {(height, width)}: pass masks of its "
            f"input, as MaskFolder(folder)(Pictures(vit, data, images, names)) makes them."
        )
    cells = masks.numpy().reshape(len(masks), rows, height // rows, columns, width // columns)
    return cells.mean((2, 4), dtype=np.float64).reshape(len(masks), rows * columns)


def _judge_model(
    vit: HookedViT,
    images: Tensor,
    targets: Targets,
    cover: NDArray[np.float64],
    folds: NDArray[np.int64],
    through: FittedLens | None,
    memory: int,
) -> dict[str, MapQuality]:
    with progress_bar("judging maps", None):
        maps = patch_scores(vit, images, targets, through=through, memory=memory)
        return {
            "lens": judge_scores(maps.lens, cover, folds, lambda layer: layer_label(vit, "lens", layer)),
            "lens labels": _judge_labels(maps.labels, cover, folds, vit),
            "direct effects": judge_scores(maps.direct[None], cover, folds, lambda _: "all layers"),
            "attention": judge_scores(maps.attention, cover, folds, lambda layer: layer_label(vit, "attention", layer)),
        }


def judge_scores(
    scores: Float[np.ndarray, "layer image patch"],
    cover: Float64[np.ndarray, "image patch"],
    folds: NDArray[np.int64],
    named: Any,
) -> MapQuality:
    """IoU with the layer and the share or level that are best on the other folds, and AUC with that layer."""
    ious = np.stack([ious_by_rule(one, cover) for one in scores])  # layer, image, rule
    n_rules = ious.shape[-1]
    picks = _picked(ious.transpose(0, 2, 1).reshape(-1, ious.shape[1]), folds)
    layers, rules = np.divmod(picks, n_rules)
    rows = np.arange(len(folds))
    areas = np.stack([aucs(one, cover) for one in scores])
    layer, rule = divmod(int(ious.mean(1).argmax()), n_rules)
    level = rule - len(SHARES)
    kept = f"{SHARES[rule]:.0%} of the patches" if level < 0 else f"scores above {LEVELS[level]:.0%} of the range"
    return MapQuality(ious[layers, rows, rules], areas[layers, rows], f"{named(layer)}, {kept}")


def _judge_labels(
    labels: Bool[np.ndarray, "layer image patch"],
    cover: Float64[np.ndarray, "image patch"],
    folds: NDArray[np.int64],
    vit: HookedViT,
) -> MapQuality:
    """IoU of the patches that name the target, at the layer that is best on the other folds."""
    kept = (labels * cover).sum(-1)
    ious = kept / (cover.sum(-1) + (labels * (1 - cover)).sum(-1))
    rows, layer = np.arange(len(folds)), int(ious.mean(1).argmax())
    found, share = _picked(ious, folds), labels[layer].mean()
    areas = np.stack([aucs(one.astype(np.float64), cover) for one in labels])
    return MapQuality(
        ious[found, rows], areas[found, rows], f"{layer_label(vit, 'lens', layer)}, {share:.0%} of the patches"
    )


def _picked(values: Float64[np.ndarray, "choice image"], folds: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each image the choice that is best on the mean over the other folds."""
    best = [int(values[:, folds != fold].mean(1).argmax()) for fold in range(int(folds.max()) + 1)]
    return np.array(best)[folds]


def ious_by_rule(
    scores: Float[np.ndarray, "image patch"], cover: Float64[np.ndarray, "image patch"]
) -> Float64[np.ndarray, "image rule"]:
    """IoU where the highest share of the patches is kept, or those above a level, for each of SHARES and LEVELS.

    Ties of a share by place.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    kept = np.cumsum(np.take_along_axis(cover, order, 1), axis=1)
    lowest, span = scores.min(1, keepdims=True), np.ptp(scores, axis=1)[:, None]
    scaled = (scores - lowest) / np.where(span > 0, span, 1)
    shares = np.broadcast_to(np.rint(SHARES * scores.shape[1]), (len(scores), len(SHARES)))
    above = (scaled[:, :, None] >= LEVELS).sum(1)
    counts = np.maximum(1, np.concatenate([shares, above], 1)).astype(np.int64)
    inside = np.take_along_axis(kept, counts - 1, 1)
    return inside / (cover.sum(1, keepdims=True) + counts - inside)


def aucs(
    scores: Float[np.ndarray, "image patch"], cover: Float64[np.ndarray, "image patch"]
) -> Float64[np.ndarray, " image"]:
    """Chance that a pixel of the object is scored above one of the background; ties count half."""
    from scipy.stats import rankdata

    higher = rankdata(scores, axis=1)[:, :, None] - rankdata(scores, axis=1)[:, None, :]
    wins = np.einsum("ip,ipq,iq->i", cover, (np.sign(higher) + 1) / 2, 1 - cover)
    pairs = cover.sum(1) * (1 - cover).sum(1)
    return np.where(pairs > 0, wins / np.where(pairs > 0, pairs, 1), np.nan)


def _averaged(copies: list[MapQuality]) -> MapQuality:
    iou, auc = (np.mean([getattr(one, name) for one in copies], axis=0) for name in ("iou", "auc"))
    return MapQuality(iou, auc, f"of each of {len(copies)} copies")


def _baselines(
    grid: tuple[int, int], cover: Float64[np.ndarray, "image patch"], folds: NDArray[np.int64]
) -> dict[str, MapQuality]:
    row, column = (np.abs(np.arange(n) - (n - 1) / 2) / n for n in grid)
    near = -np.maximum(row[:, None], column[None, :]).ravel()
    box = judge_scores(np.broadcast_to(near, (1, *cover.shape)).copy(), cover, folds, lambda _: "middle")
    none = np.full(len(cover), np.nan)
    best = ious_by_count(cover)
    return {
        "centre box": box,
        "everything": MapQuality(cover.mean(1), none, "100% of the patches"),
        "ceiling": MapQuality(best, aucs(cover, cover), "the best patches of each image"),
    }


def ious_by_count(cover: Float64[np.ndarray, "image patch"]) -> Float64[np.ndarray, " image"]:
    """The highest IoU that any set of patches has: of those with the most object, as many as are best."""
    kept = np.cumsum(-np.sort(-cover, axis=1), axis=1)
    counts = np.arange(1, cover.shape[1] + 1)
    return (kept / (cover.sum(1, keepdims=True) + counts - kept)).max(1)
