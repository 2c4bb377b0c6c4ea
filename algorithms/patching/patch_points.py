"""A run taken block by block, with the places where it can be changed, and how it goes on from there.

A `PatchPoint` holds one activation of one layer and the residual that the change is added to. What attention reads or
computes changes the residual in front of the MLP, so that a run never goes on from further back than it has to.

The values that patched activations take: from another run, from statistics, or nothing at all.

From the logits of patched runs to effects and flips.

On a crossed task an effect is turned so that it says how much of the metric's speaking for what the clean image shows
a place carries (`Task.signs`), the metric of both runs likewise, and a pair flips if its answer leaves what is shown.
Only pairs of two classes are taken (`Pairs.opposed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...circuits.ablation import Ablation
from ...circuits.baseline import Baseline, generator_for
from ...circuits.graph import first_head
from ...circuits.memory import batch_size_for
from ...circuits.tasks.metrics import Metric
from ...circuits.tasks.task import Pairs, Task
from ...models.blocks import OpenBlock
from ...models.errors import TaskError
from ...models.hooked import HookedViT

What = Literal["z", "q", "k", "v", "pattern", "resid", "mlp_out", "head_out"]
"""Activations that can be patched, under the names of their hooks (`head_out` is `hook_result`)."""

PER_HEAD = ("z", "q", "k", "v", "pattern", "head_out")


PatchValues = Callable[[Pairs], Iterator[Tensor]]
"""A batch of pairs -> for each place in the order of `patch_points`, values (pair, head, token, ...); pair may be 1."""

_WRITES = ("resid", "mlp_out", "head_out")
_ROUNDING = 1e-12  # of the mean square, in float64


def require_what(what: str) -> None:
    """Does nothing if the activation is known.

    Raises:
        TaskError: It is not.
    """
    if what not in get_args(What):
        raise TaskError(
            f"what={what!r} is not known: pass one of {', '.join(map(repr, get_args(What)))}, such as what='head_out'."
        )


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """One block of a run.

    Args:
        before: Residual in front of attention, (pair, token, model).
        q: Queries, (pair, head, token, d_head); likewise `k`, `v` and `z`.
        k: Keys.
        v: Values.
        z: Weighted values.
        middle: Residual in front of the MLP.
        mlp_out: What the MLP writes.
    """

    before: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    z: Tensor
    middle: Tensor
    mlp_out: Tensor

    @property
    def after(self) -> Tensor:
        """Residual behind the block."""
        return self.middle + self.mlp_out


def layer_traces(vit: HookedViT, embedded: Float[Tensor, "pair token model"]) -> Iterator[LayerTrace]:
    """The blocks of a run from the residual in front of block 0, one at a time; call it under `vit.borrowed()`."""
    residual = embedded
    for block in vit.blocks:
        step = trace_layer(block, residual)
        yield step
        residual = step.after


def trace_layer(block: OpenBlock, residual: Float[Tensor, "pair token model"]) -> LayerTrace:
    """A block's run from the residual in front of it; call it under `vit.borrowed()`."""
    q, k, v = block.read(block.norm1(residual))
    z = block.attend(q, k, v)
    middle = residual + block.attn_write(z)
    return LayerTrace(residual, q, k, v, z, middle, block.mlp_write(block.mlp_input(residual, middle)))


@dataclass(frozen=True, eq=False)
class PatchPoint:
    """A place where a run can be changed.

    Args:
        activation: What is there, (pair, head, token, ...); one head where heads are not told apart.
        residual: What a change is added to, (pair, token, model).
        layer: The block that the run goes on with.
        skip_attention: Whether it goes on with that block's MLP.
        block: The block where the activation is; None behind the last one.
        step: That block's run, likewise.
    """

    activation: Tensor
    residual: Tensor
    layer: int
    skip_attention: bool = False
    block: OpenBlock | None = None
    step: LayerTrace | None = None


def patch_points(vit: HookedViT, embedded: Float[Tensor, "pair token model"], what: str) -> Iterator[PatchPoint]:
    """The places of one kind of activation: one for each block, and for `resid` one more behind the last."""
    residual = embedded
    for layer, (block, step) in enumerate(zip(vit.blocks, layer_traces(vit, embedded), strict=True)):
        if what == "resid":
            yield PatchPoint(step.before[:, None], step.before, layer)
        elif what == "mlp_out":
            yield PatchPoint(step.mlp_out[:, None], step.after, layer + 1)
        else:
            # what heads write does not pass the MLP of a parallel block
            place = (step.after, layer + 1, False) if block.parallel else (step.middle, layer, True)
            yield PatchPoint(_of_head(what, block, step), *place, block, step)
        residual = step.after
    if what == "resid":
        yield PatchPoint(residual[:, None], residual, vit.cfg.n_layers)


def _of_head(what: str, block: OpenBlock, step: LayerTrace) -> Tensor:
    if what == "pattern":
        return block.pattern(step.q, step.k)
    return block.head_write(step.z) if what == "head_out" else getattr(step, what)


def write_change(point: PatchPoint, what: str, donated: Tensor, heads: Tensor, at: Tensor) -> Tensor:
    """How the residual changes if heads carry other values at some tokens, (pair, candidate, token, model).

    Args:
        point: The place.
        what: The activation's kind.
        donated: The other values, of the activation's shape; a single pair's serve all.
        heads: The head of each candidate, shape (candidate,).
        at: The tokens where each candidate carries them, shape (candidate, token).
    """
    base, other, where = point.activation[:, heads], donated[:, heads], at[..., None]
    if what in ("resid", "mlp_out", "head_out"):
        return torch.where(where, other - base, 0.0)
    block, step = point.block, point.step
    assert block is not None and step is not None
    if what == "z":
        change = torch.where(where, other - base, 0.0)
    elif what == "pattern":
        q, v = step.q[:, heads], step.v[:, heads]
        change = block.close(q, torch.where(where, other, base) @ v) - step.z[:, heads]
    else:
        parts = {port: getattr(step, port)[:, heads] for port in "qkv"} | {what: torch.where(where, other, base)}
        change = block.attend(parts["q"], parts["k"], parts["v"]) - step.z[:, heads]
    return block.head_write(change, heads)


def clean_embedded(vit: HookedViT, batch: Pairs) -> Float[Tensor, "pair token model"]:
    """The clean images' residual in front of block 0."""
    return vit.embed(vit.check_images(batch.clean))


def make_patch_values(vit: HookedViT, what: str, direction: str, baseline: Baseline, memory: int) -> PatchValues:
    """What patched activations take: the clean run's under denoising, the ablation's under noising.

    Under `mean`, `zero` and `noise` the writes of heads and MLPs are those that removed edges carry, and a residual is
    the sum of all ablated writes and biases up to there. What heads read and compute (q, k, v, pattern, z) has
    statistics of its own over the reference images.

    Raises:
        TaskError: A pattern of noise, which would not be a pattern, or a learned constant of what heads compute.
    """
    kind = baseline.ablation.kind
    if direction == "denoising":
        return lambda batch: (point.activation for point in patch_points(vit, clean_embedded(vit, batch), what))
    if kind in ("partner", "another"):
        return lambda batch: (point.activation for point in patch_points(vit, baseline.start(batch), what))
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
        zero = torch.zeros((), dtype=vit.sum_dtype, device=vit.device)
        shape = (1, vit.cfg.n_heads, vit.cfg.tokens.n_tokens, 1)
        return lambda batch: iter([zero.expand(shape)] * vit.cfg.n_layers)
    assert baseline.reference is not None
    return _from_statistics(vit, what, baseline.ablation, vit.check_images(baseline.reference), memory)


def _writes(vit: HookedViT, what: str, values: Float[Tensor, "source pair token model"]) -> Iterator[Tensor]:
    heads = vit.cfg.n_heads
    layers = values[1:].split(heads + 1)
    if what == "head_out":
        return (layer[:heads].transpose(0, 1) for layer in layers)
    if what == "mlp_out":
        return (layer[heads][:, None] for layer in layers)
    written = [layer.sum(0) + block.attn_bias for layer, block in zip(layers, vit.blocks, strict=True)]
    return (residual[:, None] for residual in accumulate(written, initial=values[0]))


def _from_statistics(vit: HookedViT, what: str, ablation: Ablation, reference: Tensor, memory: int) -> PatchValues:
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
    first = first_head(cfg, layer)
    drawn = [
        [
            torch.randn(
                cfg.tokens.n_tokens, cfg.d_head, generator=generator_for(seed, pair, first + head), device="cpu"
            )
            for head in range(cfg.n_heads)
        ]
        for pair in batch.pair_ids.tolist()
    ]
    return torch.stack([torch.stack(heads) for heads in drawn]).to(device=vit.device, dtype=vit.sum_dtype)


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
            for layer, point in enumerate(patch_points(vit, vit.embed(images), what)):
                values = point.activation.double()
                sums[layer] = sums.get(layer, 0) + values.sum(axes, keepdim=True)
                squares[layer] = squares.get(layer, 0) + values.square().sum(axes, keepdim=True)
    means, stds = [], []
    for layer in sums:
        mean, square = sums[layer] / count, squares[layer] / count
        variance = square - mean.square()
        variance[variance < _ROUNDING * square] = 0  # what never varies must not depend on the batches
        means.append(mean.to(vit.sum_dtype))
        stds.append(variance.sqrt().to(vit.sum_dtype))
    return means, stds


def contrasted(task: Task, pairs: Pairs | None) -> Pairs:
    """The pairs that effects are taken over: given ones, or the discovery's, as the ablation needs them."""
    return (task.discovery if pairs is None else pairs).under(task.ablation).opposed


@dataclass(frozen=True, eq=False)
class RunContrast:
    """The clean and the corrupted run of a batch, between which patched runs lie.

    Args:
        metric: The task's.
        clean: Logits of the clean run, (pair, class).
        corrupt: Logits of the corrupted run.
        direction: `noising` or `denoising`.
        signs: 1 where a higher metric speaks for what the clean image shows, -1 where a lower one does.
        shows_foil: Where the clean image shows the foil.
        full: Logits of the full model on the clean images, which relative metrics compare with, where the runs are
            those of a circuit.
    """

    metric: Metric
    clean: Float[Tensor, "pair class"]
    corrupt: Float[Tensor, "pair class"]
    direction: str
    signs: Float[Tensor, " pair"]
    shows_foil: Bool[Tensor, " pair"]
    full: Float[Tensor, "pair class"] | None = None

    @classmethod
    def of(
        cls,
        task: Task,
        pairs: Pairs,
        clean: Float[Tensor, "pair token model"],
        corrupt: Float[Tensor, "pair token model"],
        direction: str,
    ) -> RunContrast:
        """From the pairs and the residuals in front of block 0."""
        vit = task.vit
        ends = [vit.readout.logits(vit.run_blocks(embedded)) for embedded in (clean, corrupt)]
        signs, shown = task.signs(pairs).to(vit.device), (pairs.sign < 0).to(vit.device)
        return cls(task.metric, ends[0], ends[1], direction, signs, shown)

    def __call__(self, patched: Float[Tensor, "pair candidate class"]) -> tuple[Tensor, Tensor]:
        """Effects in float64 and flips, each (pair, candidate)."""
        noising = self.direction == "noising"
        base = (self.clean if noising else self.corrupt)[:, None]
        moved = self._metric(patched) - self._metric(base)
        before, after = (self.metric.prefers_target(run) ^ self.shows_foil[:, None] for run in (base, patched))
        return (-moved, before & ~after) if noising else (moved, ~before & after)

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The metric of the clean and of the corrupted run, turned as effects are, each (pair,)."""
        clean, corrupt = (self._metric(run[:, None])[:, 0].cpu().numpy() for run in (self.clean, self.corrupt))
        return clean, corrupt

    def _metric(self, logits: Float[Tensor, "pair candidate class"]) -> Float[Tensor, "pair candidate"]:
        full = self.clean if self.full is None else self.full
        return self.signs[:, None] * self.metric(logits, full[:, None].expand_as(logits)).double()
