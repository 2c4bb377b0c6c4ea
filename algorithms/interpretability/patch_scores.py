"""How much each patch speaks for a class, by what lenses read, by direct effects and by attention; higher is more.

    lens       log odds of the target at the patch, as the readout says it there: log p(target) / p(others)
    labels     whether the class that the readout names at the patch is (one of) the target
    direct     what the patch's values add to the target's log odds through every head at the tokens that are read,
               with patterns, norms and the log odds' gradient held (Gandelsman, Efros and Steinhardt 2024, section 3.2)
    attention  weight of the patch in the pattern of the tokens that are read, mean over heads

The lens and attention have a map per layer. A target that is one class against all others is not named by a patch only
because it stands out: where classes take turns, a model that cannot see is at chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.memory import batch_size_for
from ...models.errors import DataError, ModelError
from ...models.hooked import HookedViT
from ..patching.patch_points import layer_traces
from .logit_lens import n_blocks, read_layers, require_lens

if TYPE_CHECKING:
    from .fitted_lens import FittedLens

Targets = Int[Tensor, " image"] | Sequence[Sequence[int]]
"""Of each image a class, or several that are one to the question."""


@dataclass(frozen=True, eq=False)
class PatchScores:
    """Maps of each image.

    Args:
        lens: Of the input and behind each block.
        labels: Likewise.
        direct: Of all layers together.
        attention: Of each block.
    """

    lens: Float[np.ndarray, "layer image patch"]
    labels: Bool[np.ndarray, "layer image patch"]
    direct: Float[np.ndarray, "image patch"]
    attention: Float[np.ndarray, "block image patch"]

    @classmethod
    def joined(cls, parts: Sequence[PatchScores]) -> PatchScores:
        """Maps of several batches as those of one."""
        axes = {"lens": 1, "labels": 1, "direct": 0, "attention": 1}
        return cls(**{name: np.concatenate([getattr(one, name) for one in parts], axis) for name, axis in axes.items()})


def patch_scores(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    targets: Targets,
    *,
    through: FittedLens | None = None,
    memory: int = DEFAULT_MEMORY,
) -> PatchScores:
    """The four kinds of map for each image.

    Args:
        vit: The opened model.
        images: Preprocessed images.
        targets: Of each image.
        through: A lens that was fitted at the patches.
        memory: Bytes to hold at once.

    Raises:
        DataError: The images don't fit the model, or there are other numbers of targets, or a target is no class or
            all of them.
        ModelError: The outputs are no classes, images are videos, or heads share a norm.
    """
    require_lens(vit)
    vit.require_separate_heads("direct effects of patches")
    if vit.cfg.tokens.frames > 1:
        raise ModelError(f"{vit.cfg.name} sees videos, and patches of one image are wanted: pass a model of images.")
    if through is not None:
        through.require(vit, "patches", "post")
    inside = target_mask(targets, len(images), vit.cfg.n_classes).to(vit.device)
    each = batch_size_for(vit, memory, copies=4)
    each = max(1, min(each, memory // (32 * vit.cfg.tokens.n_patches * vit.cfg.n_classes)))
    found = []
    with vit.borrowed():
        for batch, some in zip(vit.check_images(images).split(each), inside.split(each), strict=True):
            found.append(_maps(vit, batch, some, through))
    return PatchScores.joined(found)


def target_mask(targets: Targets, n_images: int, n_classes: int) -> Bool[Tensor, "image class"]:
    """True at the classes that are each image's target.

    Raises:
        DataError: There are other numbers of targets, or a target is no class or all of them.
    """
    rows = [
        [one] if isinstance(one, int) else list(one)
        for one in (t.tolist() if isinstance(t, Tensor) else t for t in targets)
    ]
    inside = torch.zeros(len(rows), n_classes, dtype=torch.bool, device="cpu")
    for row, some in zip(inside, rows, strict=True):
        if not some or not all(0 <= one < n_classes for one in some) or len(set(some)) == n_classes:
            raise DataError(f"target {some} is no class of 0 to {n_classes - 1}, or all of them: pass some, not all.")
        row[some] = True
    if len(rows) != n_images:
        raise DataError(f"there are {len(rows)} targets for {n_images} images: pass one class, or a list, for each.")
    return inside


def log_odds(logits: Float[Tensor, "*place class"], inside: Bool[Tensor, "image class"]) -> Float[Tensor, "*place"]:
    """log p(target) / p(others); the first axis of the logits is the image."""
    among = inside.reshape(len(inside), *[1] * (logits.ndim - 2), inside.shape[1])
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~among, lowest).logsumexp(-1) - logits.masked_fill(among, lowest).logsumexp(-1)


def _maps(
    vit: HookedViT, images: Tensor, inside: Bool[Tensor, "image class"], through: FittedLens | None
) -> PatchScores:
    with torch.no_grad():
        logits = list(read_layers(vit, images, "patches", "post", through))
        lens = torch.stack([log_odds(one, inside) for one in logits])
        named = torch.stack([inside.gather(1, one.argmax(-1)) for one in logits])
    direct, attention = through_heads(vit, images, inside)
    patches = vit.cfg.tokens.patches
    arrays = (lens, named, direct[:, patches], attention[..., patches])
    return PatchScores(*(one.cpu().numpy() for one in arrays))


def through_heads(
    vit: HookedViT, images: Tensor, inside: Bool[Tensor, "image class"]
) -> tuple[Float[Tensor, "image token"], Float[Tensor, "block image token"]]:
    """Direct effects of tokens through heads, and the attention that they get from what is read.

    Attention pooling is a block.
    """
    with torch.no_grad():
        seen, residual = [], vit.embed(images)
        for block, step in zip(vit.blocks, layer_traces(vit, residual), strict=True):
            seen.append((step.q, block.pattern(step.q, step.k), step.v))
            residual = step.after
    with torch.enable_grad():
        read = vit.readout.select(residual).detach().requires_grad_(True)
        value = log_odds(vit.readout(read, freeze_norm=True), inside).sum()
        (gradient,) = torch.autograd.grad(value, read)
    direct = torch.zeros(len(images), vit.cfg.tokens.n_tokens, dtype=vit.sum_dtype, device=vit.device)
    rows = []
    for layer, (block, (q, pattern, v)) in enumerate(zip(vit.blocks, seen, strict=True)):
        with torch.enable_grad():
            values = v.detach().requires_grad_(True)
            written = vit.readout.select(block.attn_write(block.close(q, pattern @ values)))
            (slope,) = torch.autograd.grad((written * gradient).sum(), values)
        direct += (slope * v).sum((1, 3))
        rows.append(pattern[:, :, vit.cfg.gathering(layer)].mean((1, 2)))
    return direct, torch.stack(rows)


def layer_label(vit: HookedViT, kind: str, layer: int) -> str:
    """Name of a layer of a kind of map."""
    if kind == "attention":
        return "pool" if layer == n_blocks(vit) else f"block {layer}"
    return "input" if layer == 0 else f"block {layer - 1}"
