"""The logit lens: the readout applied to the residual of every layer, at what it reads and at every token.

    reading[l, t] = readout(h_l[t])        final norm, head; whatever takes the head's place, such as texts

At a token that the readout does not read it is the readout's own map *as if every token that it reads held this one's
residual*: CLS's map at a patch; behind an average the norm and head of the token alone; of a distilled model the mean
of its two heads; under attention pooling what the pool writes if it attends to this token alone (its value path, then
the pool's MLP and the head). Blocks are not run again (nostalgebraist 2020; at the patches of a ViT: Joseph 2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.figure_data import pixels
from ...circuits.memory import batch_size_for, element_bytes
from ...models.errors import ModelError
from ...models.hooked import HookedViT
from ...models.readouts import NO_CLASSES
from .lens import LensReadings, LensTable, read_lens, require_targets
from .token_readings import TokenReadings, class_indices

if TYPE_CHECKING:
    from .tuned_lens import FittedLens

At = Literal["cls", "patches", "all"]
"""Where the readout is applied: at what it reads (CLS, or what is averaged or pooled), at each patch, or each token."""
Points = Literal["pre", "mid", "post"]
"""Of each block: in front of it, between attention and MLP, or behind it (with the input in front of block 0)."""

SHOWN = 12
"""Images whose pictures are kept beside their readings."""


def logit_lens(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    targets: Int[Tensor, " image"] | None = None,
    *,
    at: At | str = "cls",
    points: Points | str = "post",
    through: FittedLens | None = None,
    classes: Sequence[int | str] | str | None = None,
    top: int = 5,
    names: Sequence[str] = (),
    n_bootstrap: int = 1000,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
) -> LensTable:
    """What the readout reads at every layer, and how far it can be trusted: agreement, KL, rank and calibration.

    The readout's basis is the last layer's, so that a layer that disagrees may hold the answer in another one. Where
    attention pooling follows the last block, every layer is pooled by it before it is read.

    Args:
        vit: The opened model, with a readout whose outputs are classes.
        images: Preprocessed images.
        targets: The class of each image whose rank is wanted, such as its label; by default the model's answer.
        at: `cls` (what the readout reads), each of the `patches`, or `all` tokens.
        points: Of each block `pre`, `mid` or `post`; the output is always the last row.
        through: Maps in front of the readout, such as `tuned_lens` fits; the plain lens has none.
        classes: Classes whose logits are kept at every token, by name or index, or `all`.
        top: As many of the highest classes are kept.
        names: What images are called, for pictures.
        n_bootstrap: Bootstrap draws of the images; 0 for no intervals of KL and rank.
        seed: Draws them.
        memory: Bytes to hold at once.

    Raises:
        DataError: Images or targets don't fit the model or each other.
        ModelError: The outputs are no classes; `at`, `points` or a class is not known; or a fitted lens is of another
            model or place.
    """
    require_lens(vit, at, points)
    if through is not None:
        through.require(vit, at, points)
    if targets is not None:
        require_targets(targets.cpu().numpy(), len(images), vit.cfg.n_classes)
    lenses = (None,) if through is None else (through, through.shuffled(seed))
    tokens, *numbers = _gathered(vit, images, targets, at, points, lenses, class_indices(vit, classes), top, memory)
    tokens = replace(tokens, names=tuple(names)[: len(images)])
    if at != "cls":
        tokens = replace(tokens, pictures=pixels(vit, images[:SHOWN])[0])
    method = {
        "targets": "the model's answer" if targets is None else "the given classes",
        "pooling": _pooling(vit, at),
        "at": at,
        "points": points,
        "lens": "logit lens" if through is None else through.kind,
        "n_tokens": len(tokens.tokens),
        "n_bootstrap": n_bootstrap,
        "seed": seed,
    }
    return LensTable(vit.cfg.name, tokens.layers, numbers[0], vit.cfg.n_classes, method, tokens, *numbers[1:])


def _gathered(
    vit: HookedViT,
    images: Tensor,
    targets: Tensor | None,
    at: str,
    points: str,
    lenses: Sequence[FittedLens | None],
    kept: tuple[int, ...],
    top: int,
    memory: int,
) -> tuple[Any, ...]:
    """What stands at each token by the first lens, and the numbers of each lens."""
    rows, where, names = layer_names(vit, points), token_names(vit, at), tuple(vit.class_names)
    tokens, numbers = [], []
    with torch.no_grad(), vit.borrowed():
        size = _batch_size(vit, len(rows) * len(where) if at != "cls" else 0, memory)
        aims = [None] * len(images) if targets is None else targets.split(size)
        for batch, wanted in zip(vit.check_images(images).split(size), aims, strict=False):
            answers = vit(batch).argmax(-1)
            wanted = answers if wanted is None and at != "cls" else wanted
            every = [torch.stack(list(read_layers(vit, batch, at, points, lens))) for lens in lenses]
            arrays = (*_kept(every[0], kept, top), answers.cpu().numpy())
            tokens.append(TokenReadings(rows, where, _grid(vit, at), names, kept, *arrays))
            numbers.append([_numbers(logits, wanted) for logits in every])
    return TokenReadings.joined(tokens), *(LensReadings.joined(parts) for parts in zip(*numbers, strict=True))


def read_layers(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    at: At | str = "cls",
    points: Points | str = "post",
    through: FittedLens | None = None,
) -> Iterator[Float[Tensor, "image token class"]]:
    """Logits of each layer at the tokens, one for all that the readout reads under `cls`; the output is the last."""
    last = len(layer_names(vit, points)) - 1
    for row, residual in enumerate(residuals(vit, images, points)):
        mapped = residual if through is None or row == last else through(row, residual, pooled=vit.cfg.pools)
        yield read_residual(vit, mapped, at)


def read_residual(
    vit: HookedViT, residual: Float[Tensor, "image position model"], at: At | str = "cls"
) -> Float[Tensor, "image token class"]:
    """Logits that the readout reads off one residual: as it does, or at each token as if it were alone."""
    if at == "cls":
        return vit.finish(residual, start=n_blocks(vit))[:, None]
    pool = residual[:, vit.readout.read] if vit.cfg.pools else None
    return read_alone(vit, residual[:, _tokens(vit, at)], pool)


def read_alone(
    vit: HookedViT, here: Float[Tensor, "image token model"], pool: Float[Tensor, "image 1 model"] | None = None
) -> Float[Tensor, "image token class"]:
    """Logits of each token as if every token that is read held its residual; `pool` is attention pooling's token."""
    if pool is not None:
        here = _pooled_alone(vit, here, pool)
    readout = vit.readout
    beside = 1 if readout.beside is None else readout.beside + 1
    copies = 2 if readout.second_head is not None else beside
    return readout(here[..., None, :].expand(*here.shape[:2], copies, here.shape[-1]))


def _pooled_alone(
    vit: HookedViT, here: Float[Tensor, "image token model"], pool: Float[Tensor, "image 1 model"]
) -> Float[Tensor, "image token model"]:
    """What attention pooling writes if all its attention is on one token: that token's values."""
    block = vit.blocks[-1]
    q, _, v = block.read_at(block.norm1(torch.cat([here, pool], 1)), slice(-1, None))
    values = v[..., :-1, :]
    z = block.close(q.expand(*values.shape[:-1], q.shape[-1]), values)
    middle = pool + block.attn_write(z)
    return middle + block.mlp_write(block.mlp_input(pool.expand_as(middle), middle))


def residuals(
    vit: HookedViT, images: Float[Tensor, "image channel height width"], points: Points | str = "post"
) -> Iterator[Float[Tensor, "image position model"]]:
    """The residual at the points of each block, then the last one; attention pooling is no block here."""
    residual = vit.embed(images)
    if points == "post":
        yield residual
    for block in vit.blocks[: n_blocks(vit)]:
        if points == "pre":
            yield residual
        _, middle = block.attended(residual)
        if points == "mid":
            yield middle
        residual = middle + block.mlp_write(block.mlp_input(residual, middle))
        if points == "post":
            yield residual
    if points != "post":
        yield residual


def require_lens(vit: HookedViT, at: At | str = "cls", points: Points | str = "post") -> None:
    """Does nothing if there are classes to read, at a place that is known.

    Raises:
        ModelError: The outputs are no classes, or `at` or `points` is not known.
    """
    if at not in get_args(At) or points not in get_args(Points):
        raise ModelError(
            f"at={at!r}, points={points!r} is not known: pass at='cls', 'patches' or 'all', and points='pre', 'mid' "
            f"or 'post'."
        )
    if vit.readout.kind in NO_CLASSES:
        raise ModelError(
            f"the outputs of {vit.cfg.name} are no classes, so the lens has nothing to answer: give it a readout, by "
            f"probe_readout(vit, images, labels) or text_readout(vit, prompts)."
        )


def n_blocks(vit: HookedViT) -> int:
    """Blocks in front of the readout; attention pooling is part of it."""
    return vit.cfg.n_layers - int(vit.cfg.pools)


def layer_names(vit: HookedViT, points: Points | str = "post") -> tuple[str, ...]:
    """What is read, in order: `input`, `block 0`, ...; or `block 0 mid`, ..., `output`."""
    layers = range(n_blocks(vit))
    if points == "post":
        return ("input", *(f"block {layer}" for layer in layers))
    return (*(f"block {layer} {points}" for layer in layers), "output")


def token_names(vit: HookedViT, at: At | str = "cls") -> tuple[str, ...]:
    """Names of the tokens that are read; one for all that the readout reads under `cls`."""
    if at == "cls":
        return ("cls" if vit.cfg.pooling == "token" else vit.cfg.pooling,)
    return vit.cfg.tokens.token_names()[_tokens(vit, at)]


def _tokens(vit: HookedViT, at: str) -> slice:
    layout = vit.cfg.tokens
    return layout.patches if at == "patches" else slice(0, layout.patches.stop)


def _grid(vit: HookedViT, at: str) -> tuple[int, int]:
    """Rows and columns of the patches that are read, frames of a video below one another."""
    layout = vit.cfg.tokens
    return (0, 0) if at == "cls" else (layout.frames * layout.grid[0], layout.grid[1])


def _pooling(vit: HookedViT, at: str) -> str:
    if not vit.cfg.pools:
        return ""
    whole = "each layer is pooled by the model's attention pooling"
    return whole if at == "cls" else "each token is read as if attention pooling attended to it alone"


def _batch_size(vit: HookedViT, n_readings: int, memory: int) -> int:
    """Images whose logits of all classes, in float64 and some copies of them, fit beside what a pass takes."""
    each = 8 * element_bytes(vit) * 2 * n_readings * vit.cfg.n_classes
    return max(1, min(batch_size_for(vit, memory), memory // max(each, 1)))


def _numbers(logits: Float[Tensor, "layer image token class"], wanted: Tensor | None) -> LensReadings:
    """Agreement and the rest, token by token."""
    rows = logits.flatten(1, 2).double().cpu().numpy()
    targets = None if wanted is None else wanted.repeat_interleave(logits.shape[2]).cpu().numpy()
    return read_lens(rows, targets)


def _kept(
    logits: Float[Tensor, "layer image token class"], classes: Sequence[int], top: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logits of some classes, log sum exp of all, and the highest classes with their logits."""
    values, order = logits.topk(min(max(top, 1), logits.shape[-1]), -1)
    chosen = logits[..., torch.tensor(classes, dtype=torch.long, device=logits.device)]
    return tuple(one.cpu().numpy() for one in (chosen, logits.logsumexp(-1), order, values))  # type: ignore[return-value]
