"""What the heads of a model do on some images, taken from the model as plain arrays for `matching`.

Models differ in tokens, so attention is laid on one grid: what each head's readers (the tokens that the readout looks
at, and apart from them the mean patch) give to CLS and registers together, and to each cell of a grid over the picture
(of videos: all frames together), the patches' attention being divided by area.

Direct effects are what a head's write adds to chosen logits with the final norm's standard deviation held at its value
(as in `algorithms/attribution/direct`), less their mean over these classes, which no softmax sees.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...models.errors import TaskError
from ...models.hooked import HookedViT
from .matching import HeadFeatures

_BATCH = 16


def gather_heads(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    *,
    classes: Sequence[int],
    grid: tuple[int, int] | None = None,
    batch_size: int = _BATCH,
) -> HeadFeatures:
    """Attention on a common grid, and direct effects on some logits, of every head.

    Costs a hooked forward pass, and a backward pass through the readout per class.

    Args:
        vit: The opened model.
        images: Preprocessed images: the same pictures for every model that is compared.
        classes: Logits to look at, such as the task's targets and foils. They should mean the same in every model.
        grid: Rows and columns that attention is pooled to; the model's own patches by default. Pass the coarser one for
            models that differ.
        batch_size: Images at a time.

    Raises:
        TaskError: There is no class.
        DataError: The images don't fit the model.
    """
    if not len(classes):
        raise TaskError("no classes were given: pass the task's, such as classes=[3, 8].")
    cells = _cells(vit, grid or vit.cfg.tokens.grid)
    batches = [_batch(vit, batch, list(classes), cells) for batch in vit.check_images(images).split(batch_size)]
    patterns, effects, mlp_effects = (np.concatenate(parts, axis=1) for parts in zip(*batches, strict=True))
    cfg = vit.cfg
    return HeadFeatures(
        model=cfg.name,
        n_layers=cfg.n_layers,
        names=tuple(f"a{layer}.h{head}" for layer in range(cfg.n_layers) for head in range(cfg.heads_of(layer))),
        layers=np.repeat(np.arange(cfg.n_layers), [cfg.heads_of(layer) for layer in range(cfg.n_layers)]),
        patterns=patterns,
        effects=effects,
        mlp_effects=mlp_effects,
    )


def _batch(
    vit: HookedViT, images: Tensor, classes: list[int], cells: Float[Tensor, "token cell"]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Patterns, effects (head, image and feature) and effects of MLPs (block, image and feature)."""
    last = f"blocks.{vit.cfg.n_layers - 1}.hook_resid_post"
    with torch.no_grad():
        _, cache = vit.run_with_cache(
            images, lambda name: name.endswith(("hook_pattern", "hook_result", "hook_mlp_out")) or name == last
        )
    gradients = _gradients(vit, cache[last], classes)
    patterns, effects, mlps = [], [], []
    for layer in range(vit.cfg.n_layers):
        n_heads = vit.cfg.heads_of(layer)
        pattern = cache["pattern", layer][:, :n_heads].double()  # image, head, target, source
        read = pattern[:, :, _readers(vit, layer)].mean(2)
        patch = pattern[:, :, vit.cfg.tokens.patches].mean(2)
        pooled = torch.stack([read, patch], 2) @ cells  # image, head, reader, cell
        patterns.append(_by_head(pooled.transpose(0, 1)))
        written = cache["result", layer][:, :, :n_heads].double()  # image, token, head, model
        effects.append(_by_head(torch.einsum("ithd,citd->hic", written, gradients)))
        wrote = cache["mlp_out", layer] if vit.cfg.has_mlp(layer) else torch.zeros_like(cache[last])
        mlps.append(_by_head(torch.einsum("itd,citd->ic", wrote.double(), gradients)[None]))
    return np.concatenate(patterns), np.concatenate(effects), np.concatenate(mlps)


def _readers(vit: HookedViT, layer: int) -> list[int]:
    """The tokens whose attention is looked at: those that are read out, or where these only pool, all others."""
    cfg = vit.cfg
    if cfg.pools and layer < cfg.n_layers - 1:
        return list(range(cfg.tokens.n_tokens - 1))
    return list(cfg.read_tokens)


def _by_head(values: Tensor) -> NDArray[np.float64]:
    return values.flatten(1).cpu().numpy()


def _gradients(vit: HookedViT, residual: Tensor, classes: list[int]) -> Float[Tensor, "class image token model"]:
    """Gradient of each logit, less their mean, at the last residual, the readout's norms frozen."""
    found = []
    with torch.enable_grad(), vit.borrowed():
        at = residual.detach().requires_grad_(True)
        logits = vit.readout(vit.readout.select(at), freeze_norm=True)[:, classes]
        if len(classes) > 1:
            logits = logits - logits.mean(1, keepdim=True)
        for place in range(len(classes)):
            (gradient,) = torch.autograd.grad(logits[:, place].sum(), at, retain_graph=True)
            found.append(gradient.double())
    return torch.stack(found)


def _cells(vit: HookedViT, grid: tuple[int, int]) -> Float[Tensor, "token cell"]:
    """Share of each token that belongs to each cell: first CLS and registers together, then the grid row by row."""
    tokens = vit.cfg.tokens
    shares = np.einsum("rh,cw->hwrc", _parts(grid[0], tokens.grid[0]), _parts(grid[1], tokens.grid[1]))
    cells = np.zeros((tokens.n_tokens, 1 + grid[0] * grid[1]))
    cells[: tokens.n_prefix, 0] = 1.0
    cells[tokens.patches, 1:] = np.tile(shares.reshape(tokens.grid[0] * tokens.grid[1], -1), (tokens.frames, 1))
    return torch.from_numpy(cells).to(vit.device)


def _parts(n_cells: int, n_patches: int) -> NDArray[np.float64]:
    """Share of each patch's length that lies in each cell, (cell, patch); columns add up to 1."""
    cell, patch = np.arange(n_cells + 1) / n_cells, np.arange(n_patches + 1) / n_patches
    low = np.maximum(cell[:-1, None], patch[None, :-1])
    high = np.minimum(cell[1:, None], patch[None, 1:])
    return np.maximum(0.0, high - low) * n_patches
