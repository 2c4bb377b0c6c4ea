"""The values that patched activations take: from another run, from statistics, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.ablation import Ablation
from ...circuits.baseline import Baseline, generator_for
from ...circuits.memory import batch_size_for
from ...circuits.pairs import Pairs
from ...models.errors import TaskError
from ...models.hooked import HookedViT
from .walk import stops

Donor = Callable[[Pairs], Iterator[Tensor]]
"""A batch of pairs -> for each place in the order of `stops`, values (pair, head, token, ...); pair may be 1."""

_WRITES = ("resid", "mlp_out", "head_out")
_ROUNDING = 1e-12  # of the mean square, in float64


def clean_embedded(vit: HookedViT, batch: Pairs) -> Float[Tensor, "pair token model"]:
    """The clean images' residual in front of block 0."""
    return vit.embed(vit.check_images(batch.clean))


def ablated_embedded(baseline: Baseline, batch: Pairs) -> Float[Tensor, "pair token model"]:
    """The residual in front of block 0 that the corrupted run starts from: what `input` carries when it is ablated."""
    images = baseline.images(batch)
    return baseline(batch)[0] if images is None else baseline.vit.embed(images)


def make_donor(vit: HookedViT, what: str, direction: str, baseline: Baseline, memory: int) -> Donor:
    """What patched activations take: the clean run's under denoising, the ablation's under noising.

    Under `mean`, `zero` and `noise` the writes of heads and MLPs are those that removed edges carry, and a residual is
    the sum of all ablated writes and biases up to there. What heads read and compute (q, k, v, pattern, z) has
    statistics of its own over the reference images.

    Raises:
        TaskError: A pattern of noise, which would not be a pattern, or a learned constant of what heads compute.
    """
    kind = baseline.ablation.kind
    if direction == "denoising":
        return lambda batch: (stop.activation for stop in stops(vit, clean_embedded(vit, batch), what))
    if kind in ("partner", "another"):
        return lambda batch: (stop.activation for stop in stops(vit, ablated_embedded(baseline, batch), what))
    if what in _WRITES:
        return lambda batch: _writes(vit, what, baseline(batch))
    if kind == "optimal":
        raise TaskError(
            f"optimal constants are learned for what heads and MLPs write, and there are none for {what!r}: pass "
            f'task.with_ablation("mean"), or what="resid", "mlp_out" or "head_out".'
        )
    if what == "pattern" and kind == "noise":
        raise TaskError(
            "the rows of an attention pattern are shares that add up to 1, so noise in their place is no pattern: "
            'pass task.with_ablation("mean"), or what="q", "k" or "z" for noise.'
        )
    if kind == "zero":
        zero = torch.zeros((), dtype=vit.dtype, device=vit.device)
        shape = (1, vit.cfg.n_heads, vit.cfg.tokens.n_tokens, 1)
        return lambda batch: iter([zero.expand(shape)] * vit.cfg.n_layers)
    assert baseline.reference is not None
    return _from_statistics(vit, what, baseline.ablation, vit.check_images(baseline.reference), memory)


def _writes(vit: HookedViT, what: str, values: Float[Tensor, "source pair token model"]) -> Iterator[Tensor]:
    heads = vit.cfg.n_heads
    layers = [values[1 + layer * (heads + 1) :][: heads + 1] for layer in range(vit.cfg.n_layers)]
    if what == "head_out":
        return (layer[:heads].transpose(0, 1) for layer in layers)
    if what == "mlp_out":
        return (layer[heads][:, None] for layer in layers)
    written = [layer.sum(0) + block.attn_bias for layer, block in zip(layers, vit.blocks, strict=True)]
    return (residual[:, None] for residual in accumulate(written, initial=values[0]))


def _from_statistics(vit: HookedViT, what: str, ablation: Ablation, reference: Tensor, memory: int) -> Donor:
    means, stds = _statistics(vit, what, ablation, reference, memory)
    if ablation.kind == "mean":
        return lambda batch: iter(means)

    def draw(batch: Pairs) -> Iterator[Tensor]:
        for layer, (mean, std) in enumerate(zip(means, stds, strict=True)):
            yield mean + std * _noise(vit, layer, batch, ablation.seed)

    return draw


def _noise(vit: HookedViT, layer: int, batch: Pairs, seed: int) -> Float[Tensor, "pair head token d_head"]:
    """Drawn once per pair and head, whatever the batch."""
    cfg = vit.cfg
    first = 1 + layer * (cfg.n_heads + 1)
    drawn = [
        [
            torch.randn(cfg.tokens.n_tokens, cfg.d_head, generator=generator_for(seed, pair, first + head))
            for head in range(cfg.n_heads)
        ]
        for pair in batch.pair_ids.tolist()
    ]
    return torch.stack([torch.stack(heads) for heads in drawn]).to(device=vit.device, dtype=vit.dtype)


def _statistics(
    vit: HookedViT, what: str, ablation: Ablation, reference: Tensor, memory: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Mean and standard deviation of an activation over images, layer by layer, each (1, head, token, ...)."""
    axes = (0, 2) if ablation.over == "tokens" else (0,)
    sums: dict[int, Tensor] = {}
    squares: dict[int, Tensor] = {}
    count = len(reference) * (vit.cfg.tokens.n_tokens if ablation.over == "tokens" else 1)
    with torch.no_grad(), vit.borrowed():
        for images in reference.split(batch_size_for(vit, memory, copies=1)):
            for layer, stop in enumerate(stops(vit, vit.embed(images), what)):
                values = stop.activation.double()
                sums[layer] = sums.get(layer, 0) + values.sum(axes, keepdim=True)
                squares[layer] = squares.get(layer, 0) + values.square().sum(axes, keepdim=True)
    means, stds = [], []
    for layer in sums:
        mean, square = sums[layer] / count, squares[layer] / count
        variance = square - mean.square()
        variance[variance < _ROUNDING * square] = 0  # what never varies must not depend on the batches
        means.append(mean.to(vit.dtype))
        stds.append(variance.sqrt().to(vit.dtype))
    return means, stds
