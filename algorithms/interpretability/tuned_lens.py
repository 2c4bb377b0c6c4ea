"""The tuned lens: an affine map per layer, learned so that the readout says there what it says at the end.

    reading[l, t] = readout(h + A h + b),  h = h_l[t]        minimise mean KL(output || reading)

(Belrose et al. 2023, section 3.) A and b start at 0, where it is the logit lens, or at the least squares of the last
residual on the layer's (a ridge regression in closed form). Images are dealt into three parts: maps are learned on
the first by Adam on cached residuals, learning stops when the second reads no better, and figures are those of the
third, which neither has seen. At patches each is learned from some of an image's patches, and the output is what the
last layer reads at the same patch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.judging.bootstrap import Resamples
from ...circuits.memory import batch_size_for, element_bytes
from ...models.errors import DataError, ModelError
from ...models.hooked import HookedViT
from ...models.watching import progress_bar
from .fitted_lens import FittedLens
from .logit_lens import At, Points, layer_names, n_blocks, read_alone, require_lens, residuals

FEWEST = 16  # images that three parts can be made of
_ENOUGH = 1e-7  # nats; an improvement below this is none


@dataclass(frozen=True)
class _Learning:
    """How the maps are learned."""

    start: str
    penalty: float
    rate: float
    decay: float
    epochs: int
    patience: int
    batch: int


@dataclass(frozen=True, eq=False)
class Cached:
    """Residuals at the tokens that are read, or at single patches, of each layer; the output's are the last.

    Args:
        residuals: Of each layer; attention pooling's own token stands last.
        images: Which image each row is from.
        pooled: Whether the last position is attention pooling's.
        read: Logits of rows, (row, position, model) -> (row, class).
    """

    residuals: Float[Tensor, "layer row position model"]
    images: Int[Tensor, " row"]
    pooled: bool
    read: Callable[[Tensor], Tensor]

    def log_probabilities(self, rows: Float[Tensor, "row position model"]) -> Float[Tensor, "row class"]:
        """What the readout says of residuals."""
        return self.read(rows).log_softmax(-1)

    def bare(self, residuals: Float[Tensor, "row position model"]) -> Float[Tensor, "sample model"]:
        """The residuals that are mapped, one under another."""
        return (residuals[:, :-1] if self.pooled else residuals).flatten(0, 1)

    def mapped(
        self, residuals: Float[Tensor, "row position model"], add: Tensor, bias: Tensor
    ) -> Float[Tensor, "row position model"]:
        """h + A h + b, but for attention pooling's own token."""
        found = residuals + residuals @ add.T + bias
        return torch.cat([found[:, :-1], residuals[:, -1:]], 1) if self.pooled else found


def tuned_lens(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    *,
    at: Literal["cls", "patches"] | str = "cls",
    points: Points | str = "post",
    start: Literal["identity", "ridge"] | str = "identity",
    penalty: float = 1.0,
    rate: float = 1e-3,
    decay: float = 1e-3,
    epochs: int = 100,
    patience: int = 5,
    batch: int = 64,
    n_patches: int = 16,
    data: str = "",
    n_bootstrap: int = 1000,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
    progress: bool | None = None,
) -> FittedLens:
    """An affine map per layer in front of the readout, with its figures on images that it was not fitted on.

    A half of the images are fitted, a quarter stop the learning, a quarter are held out. Costs one forward pass, and
    per layer and epoch a pass of the readout over what is cached.

    Args:
        vit: The opened model, with a readout whose outputs are classes.
        images: Preprocessed images, some hundreds at least for maps of some hundred dimensions.
        at: Where maps are learned and used: at what the readout reads, or at the patches.
        points: Of each block `pre`, `mid` or `post`.
        start: `identity` (the logit lens) or `ridge` (least squares of the last residual on the layer's).
        penalty: Of the ridge, on the squares of its weights (scikit-learn's `alpha`).
        rate: Adam's learning rate; 0 epochs leave the start as it is.
        decay: Pull of A and b to 0, decoupled from the gradient.
        epochs, patience: At most so many passes, and how many of them without a better reading end the learning.
        batch: Rows per update.
        n_patches: Patches of each image, drawn by chance, under `at="patches"`.
        data: What the images are, for the card.
        n_bootstrap: Bootstrap draws of the held-out images.
        seed: Deals the images, draws patches and orders updates.
        memory: Bytes to hold at once.
        progress: Show a bar on stderr; None where somebody watches.

    Raises:
        DataError: There are too few images, more than fit into memory, or they don't fit the model.
        ModelError: The outputs are no classes, or an option is not known.
    """
    require_lens(vit, at, points)
    how = _Learning(start, penalty, rate, decay, epochs, patience, batch)
    _require_possible(how, at, n_patches, len(images))
    parts = deal(len(images), torch.Generator().manual_seed(seed))
    with vit.borrowed():
        cached = cache_residuals(vit, images, at, points, n_patches=n_patches, seed=seed, memory=memory)
        resamples = Resamples.draw(len(parts[2]), n_bootstrap, seed=seed)
        adds, biases, figures = _fit_all(cached, layer_names(vit, points)[:-1], parts, how, seed, resamples, progress)
    counts = {"n_patches": n_patches if at == "patches" else 0, "n_fitted": len(parts[0]), "n_held_out": len(parts[2])}
    found = {"layers": [row["layer"] for row in figures], **counts, "figures": figures}
    card = lens_card(vit, images, at, points, data, seed) | vars(how) | found
    eye = torch.eye(vit.cfg.d_model, dtype=vit.sum_dtype, device=vit.device)
    return FittedLens("tuned lens", torch.stack([eye + add for add in adds]), torch.stack(biases), card)


def _require_possible(how: _Learning, at: str, n_patches: int, n_images: int) -> None:
    if (
        at == "all"
        or how.start not in ("identity", "ridge")
        or how.penalty < 0
        or min(how.epochs, how.patience - 1, n_patches - 1) < 0
    ):
        raise ModelError(
            f"at={at!r}, start={how.start!r}, penalty={how.penalty}, epochs={how.epochs}, patience={how.patience} "
            f"cannot be fitted: pass at='cls' or 'patches', start='identity' or 'ridge', and numbers of at least 0."
        )
    if n_images < FEWEST:
        raise DataError(f"a lens is fitted on one part of the images and judged on another: pass at least {FEWEST}.")


def _fit_all(
    cached: Cached,
    layers: Sequence[str],
    parts: Sequence[Tensor],
    how: _Learning,
    seed: int,
    resamples: Resamples,
    progress: bool | None,
) -> tuple[list[Tensor], list[Tensor], list[dict[str, Any]]]:
    """A and b of each layer, and the figures on the images that are held out."""
    rows = [torch.isin(cached.images, part.to(cached.images.device)).nonzero()[:, 0] for part in parts]
    with torch.no_grad():
        final = cached.log_probabilities(cached.residuals[-1])
    adds, biases, figures = [], [], []
    with progress_bar("tuned_lens", len(layers), progress) as bar:
        for layer, name in enumerate(layers):
            add, bias, n = _fit(cached, layer, final, rows, how, torch.Generator().manual_seed(seed))
            adds.append(add)
            biases.append(bias)
            held_out = judge(cached, layer, final, rows[2], add, bias, resamples)
            figures.append({"layer": name, "epochs": n, **held_out})
            bar.update(1)
    return adds, biases, figures


def deal(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images to fit, to stop by, and held out: a half, a quarter, a quarter."""
    order = torch.randperm(n, generator=generator, device="cpu")
    return order[: n - 2 * (n // 4)], order[n - 2 * (n // 4) : n - n // 4], order[n - n // 4 :]


def cache_residuals(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    at: At | str = "cls",
    points: Points | str = "post",
    *,
    n_patches: int = 16,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
) -> Cached:
    """Residuals of all layers at what is read, or at some patches of each image.

    Raises:
        DataError: They don't fit into memory, or the images don't fit the model.
    """
    layout, pooled = vit.cfg.tokens, vit.cfg.pools
    read = slice(0, layout.n_tokens) if pooled else vit.readout.read
    each = min(n_patches, layout.n_patches) if at == "patches" else 1
    width = each * (1 + pooled) if at == "patches" else read.stop - read.start
    bytes_each = len(layer_names(vit, points)) * width * vit.cfg.d_model * element_bytes(vit)
    if bytes_each * len(images) > memory:
        raise DataError(
            f"residuals of {len(images):,} images at {width} tokens take {bytes_each * len(images) / 1e9:.1f} GB: pass "
            f"at most {max(1, memory // bytes_each):,} images, or memory={bytes_each * len(images)} bytes."
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.stack(
        [torch.randperm(layout.n_patches, generator=generator, device="cpu")[:each] for _ in range(len(images))]
    )
    places = drawn.to(vit.device) + layout.n_prefix
    parts, start = [], 0
    with torch.no_grad():
        for batch in vit.check_images(images).split(batch_size_for(vit, memory)):
            some = places[start : start + len(batch)]
            start += len(batch)
            parts.append(torch.stack([_at(one, at, some, read, pooled) for one in residuals(vit, batch, points)]))
    rows = torch.arange(len(images), device=vit.device).repeat_interleave(each)

    def patch(positions: Tensor) -> Tensor:
        return read_alone(vit, positions[:, :1], positions[:, 1:] if pooled else None)[:, 0]

    whole = (lambda positions: vit.finish(positions, start=n_blocks(vit))) if pooled else vit.readout
    return Cached(torch.cat(parts, 1), rows, pooled, patch if at == "patches" else whole)


def _at(residual: Tensor, at: str, places: Tensor, read: slice, pooled: bool) -> Float[Tensor, "row position model"]:
    if at != "patches":
        return residual[:, read]
    some = residual.gather(1, places[..., None].expand(-1, -1, residual.shape[-1]))
    some = some.flatten(0, 1)[:, None]
    pool = residual[:, -1:].repeat_interleave(places.shape[1], 0)
    return torch.cat([some, pool], 1) if pooled else some


def ridge_map(
    x: Float[Tensor, "sample model"], y: Float[Tensor, "sample model"], penalty: float
) -> tuple[Float[Tensor, "model model"], Float[Tensor, " model"]]:
    """W and b that minimise sum |y - W x - b|^2 + penalty |W|^2, in float64."""
    x, y = x.double(), y.double()
    centre, aim = x.mean(0), y.mean(0)
    gram = (x - centre).T @ (x - centre) + penalty * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.lstsq(gram, (x - centre).T @ (y - aim)).solution.T
    return weight, aim - weight @ centre


def _fit(
    cached: Cached,
    layer: int,
    final: Float[Tensor, "row class"],
    rows: Sequence[Tensor],
    how: _Learning,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, int]:
    """A and b of the epoch that the second part of the images is read best by, and how many were passed."""
    residual = cached.residuals[layer]
    add, bias = torch.zeros_like(residual[0, 0].outer(residual[0, 0])), torch.zeros_like(residual[0, 0])
    if how.start == "ridge":
        last = cached.residuals[-1]
        weight, offset = ridge_map(cached.bare(residual[rows[0]]), cached.bare(last[rows[0]]), how.penalty)
        add, bias = (weight - torch.eye(len(weight), dtype=weight.dtype, device=weight.device)).to(add), offset.to(add)

    def loss(some: Tensor) -> Tensor:
        log_q, log_p = cached.log_probabilities(cached.mapped(residual[some], add, bias)), final[some]
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def stopping() -> float:
        with torch.no_grad():
            return float(torch.cat([loss(some) for some in rows[1].split(4096)]).mean())

    best, kept, waited, epoch = stopping(), (add.clone(), bias.clone()), 0, 0
    add.requires_grad_(True)
    bias.requires_grad_(True)
    adam = torch.optim.AdamW([add, bias], lr=how.rate, weight_decay=how.decay)
    while epoch < how.epochs and waited < how.patience and best > _ENOUGH:
        order = torch.randperm(len(rows[0]), generator=generator, device="cpu").to(rows[0].device)
        with torch.enable_grad():
            for some in rows[0][order].split(how.batch):
                adam.zero_grad()
                loss(some).mean().backward()
                adam.step()
        epoch, waited = epoch + 1, waited + 1
        if (found := stopping()) < best - _ENOUGH:
            best, kept, waited = found, (add.detach().clone(), bias.detach().clone()), 0
    return *kept, epoch


def judge(
    cached: Cached,
    layer: int,
    final: Float[Tensor, "row class"],
    rows: Int[Tensor, " some"],
    add: Tensor,
    bias: Tensor,
    resamples: Resamples,
) -> dict[str, list[float | str | None]]:
    """KL from the output and agreement with it on the held-out images, plain and mapped: value, unit, low, high."""
    found = {}
    log_p, residual = final[rows], cached.residuals[layer][rows]
    with torch.no_grad():
        for end, one in (("_plain", residual), ("", cached.mapped(residual, add, bias))):
            log_q = cached.log_probabilities(one)
            kl = (log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0)
            hits = (log_q.argmax(-1) == log_p.argmax(-1)).double()
            for name, values, unit in (("kl", kl, "nats"), ("agreement", hits, "share")):
                figure = resamples.mean(_per_image(values, cached.images[rows]), unit, "")
                found[name + end] = [figure.value, unit, figure.low, figure.high, figure.reason]
    return found


def _per_image(values: Tensor, images: Tensor) -> np.ndarray:
    """Means over the rows of each image."""
    order = torch.argsort(images, stable=True)
    return values[order].reshape(images.unique().numel(), -1).double().mean(1).cpu().numpy()


def lens_card(vit: HookedViT, images: Tensor, at: str, points: str, data: str, seed: int) -> dict[str, Any]:
    """What every lens says of itself."""
    pixels = images.detach().cpu().contiguous().numpy().tobytes()
    return {
        "model": vit.cfg.name,
        "digest": vit.digest(),
        "at": at,
        "points": points,
        "data": data,
        "images_sha256": hashlib.sha256(pixels).hexdigest(),
        "n_images": len(images),
        "seed": seed,
    }
