"""Whole tokens ablated: what the residual holds at registers, or at any other tokens, is replaced block by block.

Registers are scratch space (Darcet et al. 2024): what do they carry? In front of each chosen block the residual at the
tokens takes the place of what a clean run has there:

- `mean`: the mean over reference images, token by token: that an image is there at all, but not which one.
- `another`: another image's, drawn from the reference images: a whole state of the registers, but of another image.
- `shuffle`: each token's from another image of its own: what registers hold one by one, but together no image's state.

The same images are drawn in front of every block. Shuffling an image's registers among themselves is not offered,
because it changes nothing: attention does not ask in what order it finds its keys, and registers have no rotary angle.

In front of every block (the default) the tokens never carry anything of this run; in front of one block only, later
blocks may write it there again. In front of block 0 registers and CLS are the same for every image, so that nothing
changes there. What the last block writes at the tokens is left, so a readout that looks at them still sees that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY, generator_for
from ...circuits.judging.bootstrap import Resamples
from ...circuits.memory import batch_size_for
from ...circuits.report import Figure, Table, Tabular
from ...circuits.tasks.task import Pairs, Task
from ...circuits.tokens import token_columns
from ...models.errors import TaskError
from ...models.hooked import HookedViT
from .patch_points import layer_traces, trace_layer

By = Literal["mean", "another", "shuffle"]
"""What replaces the residual at the tokens."""

Layers = Literal["all"] | int | Sequence[int]
"""In front of which blocks: all, one, or several such as range(6, 12), from block 6 on."""

Donated = dict[int, Tensor]
"""Block -> what the residual in front of it holds at the tokens, (image, token, model); one image's serve all."""


@dataclass(frozen=True, eq=False, repr=False)
class TokenEffect(Tabular):
    """How much of a metric some tokens carry.

    Args:
        effect: Mean over pairs of m(clean) - m(ablated), with its interval; positive if the tokens help.
        normalised: That over m(clean) - m(corrupted), a ratio of means.
        clean: Metric of the clean run, shape (pair,); turned on a crossed task.
        ablated: The same with the tokens ablated, shape (pair,).
    """

    effect: Figure
    normalised: Figure
    clean: NDArray[np.float64]
    ablated: NDArray[np.float64]

    @property
    def headline(self) -> str:
        """The effect, and its share of what the partners change."""
        return f"{self.effect} of the metric, {self.normalised} of m(clean) - m(corrupted)"

    def table(self) -> Table:
        """The effect in the metric's unit, and its share of m(clean) - m(corrupted)."""
        rows = (("effect", self.effect), ("of m(clean) - m(corrupted)", self.normalised))
        return Table(("ablating the tokens", "figure"), rows)

    def __str__(self) -> str:
        return self.headline


def ablate_registers(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    *,
    by: By | str = "mean",
    reference: Float[Tensor, "reference channel height width"] | None = None,
    at: Layers | str = "all",
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
) -> Float[Tensor, "image class"]:
    """Logits with the registers ablated; see `ablate_tokens`.

    Raises:
        TaskError: The model has no registers, or as `ablate_tokens` says.
    """
    if not vit.cfg.tokens.n_registers:
        raise TaskError(
            f"{vit.cfg.name} has no registers: ablate other tokens, such as ablate_tokens(vit, images, 'patch')."
        )
    return ablate_tokens(vit, images, "reg", by=by, reference=reference, at=at, seed=seed, memory=memory)


def ablate_tokens(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    tokens: str | Sequence[str] = "reg",
    *,
    by: By | str = "mean",
    reference: Float[Tensor, "reference channel height width"] | None = None,
    at: Layers | str = "all",
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
) -> Float[Tensor, "image class"]:
    """Logits with what the residual holds at some tokens replaced.

    Args:
        vit: The opened model.
        images: Preprocessed images.
        tokens: Names such as "reg", "reg0", "cls", "patch" or "r2c3", or several.
        by: `mean`, `another` or `shuffle`, as described above.
        reference: Images that are drawn on; the images themselves by default.
        at: In front of which blocks: `all`, a number, or several.
        seed: Draws the other images.
        memory: Bytes to hold at once.

    Raises:
        TaskError: A choice is not possible, or there is no other image.
        GraphError: A token is not known.
        DataError: The images don't fit the model.
    """
    images = vit.check_images(images)
    ablation = _plan(vit, tokens, by, images if reference is None else vit.check_images(reference), at, seed, memory)
    return torch.cat(list(ablation.logits(Pairs(images, images))))


def token_effect(
    task: Task,
    tokens: str | Sequence[str] = "reg",
    *,
    by: By | str = "mean",
    at: Layers | str = "all",
    pairs: Pairs | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    memory: int = DEFAULT_MEMORY,
) -> TokenEffect:
    """How much of a task's metric some tokens carry: the clean images' with and without what the residual holds there.

    On a crossed task the metric is turned, so that higher speaks for what the clean image shows, target or foil.

    Args:
        task: Its model, metric, discovery pairs and reference images are used.
        tokens: Names such as "reg", or several; see `ablate_tokens`, likewise for `by` and `at`.
        by: What replaces it.
        at: In front of which blocks.
        pairs: Other pairs than the discovery pairs; of crossed ones those of two classes are taken.
        n_bootstrap: Bootstrap draws of the pairs.
        seed: Draws other images, and the pairs of the bootstrap.
        memory: Bytes to hold at once.

    Raises:
        TaskError: A choice is not possible, or there is no other image.
        GraphError: A token is not known.
    """
    vit, pairs = task.vit, (task.discovery if pairs is None else pairs).opposed
    ablation = _plan(vit, tokens, by, vit.check_images(task.reference), at, seed, memory)
    found: list[list[Tensor]] = [[], [], []]
    with torch.no_grad():
        for batch, logits in zip(pairs.batches(ablation.batch_size), ablation.logits(pairs), strict=True):
            clean = vit(batch.clean)
            for values, some in zip(found, (clean, vit(batch.corrupt), logits), strict=True):
                values.append(task.metric(some, clean))
    signs = task.signs(pairs).numpy()
    clean, corrupt, ablated = (signs * torch.cat(values).double().cpu().numpy() for values in found)
    draws, method = Resamples.of(pairs, n_bootstrap, seed=seed), f"{ablation}, mean over {len(pairs)} pairs"
    effect = draws.mean(clean - ablated, task.metric.unit, method)
    normalised = draws.ratio(clean - ablated, clean - corrupt, "m(clean) - m(corrupted)", method)
    return TokenEffect(effect, normalised, clean, ablated)


@dataclass(frozen=True, eq=False)
class _TokenAblation:
    """What is ablated.

    Args:
        vit: The opened model.
        names: What the tokens are called.
        tokens: Their places in the sequence.
        by: What replaces them.
        layers: In front of which blocks, in order.
        reference: Images that are drawn on.
        seed: Draws.
        memory: Bytes to hold at once.
    """

    vit: HookedViT
    names: tuple[str, ...]
    tokens: Int[Tensor, " token"]
    by: str
    layers: tuple[int, ...]
    reference: Tensor
    seed: int
    memory: int

    def __str__(self) -> str:
        every = len(self.layers) == self.vit.cfg.n_layers
        where = "every block" if every else f"blocks {', '.join(map(str, self.layers))}"
        return f"{', '.join(self.names)} ablated by {self.by} in front of {where}"

    @property
    def batch_size(self) -> int:
        """Images at once."""
        return batch_size_for(self.vit, self.memory, copies=1)

    def logits(self, pairs: Pairs) -> Iterator[Tensor]:
        """Logits of the clean images, batch by batch."""
        with torch.no_grad(), self.vit.borrowed():
            mean = self._mean() if self.by == "mean" else {}
        for batch in pairs.batches(self.batch_size):
            with torch.no_grad(), self.vit.borrowed():
                embedded = self.vit.embed(self.vit.check_images(batch.clean))
                found = self._run(embedded, mean or self._others(batch))
            yield found

    def _run(self, residual: Float[Tensor, "batch token model"], donated: Donated) -> Float[Tensor, "batch class"]:
        """Logits of a run whose residual takes other values in front of some blocks."""
        last = self.layers[-1]
        for layer, block in enumerate(self.vit.blocks[: last + 1]):
            if layer in donated:
                residual = residual.clone()
                residual[:, self.tokens] = donated[layer]
            if layer < last:
                residual = trace_layer(block, residual).after
        return self.vit.finish(residual, start=last)

    def _others(self, batch: Pairs) -> Donated:
        """What clean runs of other images hold, drawn for each pair once, or for each of the tokens."""
        drawn = torch.stack(
            [self._draw(*pair) for pair in zip(batch.pair_ids, batch.clean, batch.corrupt, strict=True)]
        )
        needed, places = drawn.unique(return_inverse=True)
        parts = [self._held(self.vit.embed(self.reference[some])) for some in needed.split(self.batch_size)]
        tokens = torch.arange(len(self.tokens), device="cpu")
        return {layer: torch.cat([part[layer] for part in parts])[places, tokens] for layer in self.layers}

    def _draw(self, pair: Tensor, *own: Tensor) -> Int[Tensor, " token"]:
        """For each token, the reference image that it is taken from, which is none of the pair's own."""
        reference = self.reference
        same = [(reference == image.to(reference)).flatten(1).all(1) for image in own]
        other = torch.nonzero(~torch.stack(same).any(0).cpu()).flatten()
        if len(other) == 0:
            raise TaskError("the reference images hold no other image than the one itself: pass more as reference=.")
        n = len(self.tokens) if self.by == "shuffle" else 1
        rows = torch.randint(len(other), (n,), generator=generator_for(self.seed, int(pair), 0), device="cpu")
        return other[rows].expand(len(self.tokens))

    def _held(self, embedded: Float[Tensor, "batch token model"]) -> Donated:
        """What a clean run holds at the tokens in front of the blocks."""
        found = {}
        for layer, step in zip(range(self.layers[-1] + 1), layer_traces(self.vit, embedded), strict=False):
            if layer in self.layers:
                found[layer] = step.before[:, self.tokens]
        return found

    def _mean(self) -> Donated:
        """Mean over the reference images, summed in float64."""
        sums: dict[int, Tensor] = {}
        for images in self.reference.split(self.batch_size):
            for layer, values in self._held(self.vit.embed(images)).items():
                sums[layer] = sums.get(layer, 0) + values.double().sum(0, keepdim=True)
        return {layer: (total / len(self.reference)).to(self.vit.sum_dtype) for layer, total in sums.items()}


def _plan(
    vit: HookedViT,
    tokens: str | Sequence[str],
    by: str,
    reference: Tensor,
    at: Layers | str,
    seed: int,
    memory: int,
) -> _TokenAblation:
    columns = token_columns(vit.cfg.tokens, tokens)
    places = torch.from_numpy(np.flatnonzero(columns.member.any(0)))
    if by not in get_args(By):
        raise TaskError(f"by={by!r} is not known: pass one of {', '.join(map(repr, get_args(By)))}, such as by='mean'.")
    if len(reference) < 2:
        raise TaskError(f"by={by!r} draws on other images: pass reference= with at least two images.")
    layers = _layers(vit, at)
    return _TokenAblation(vit, columns.names, places.to(vit.device), by, layers, reference, seed, memory)


def _layers(vit: HookedViT, at: Layers | str) -> tuple[int, ...]:
    """The blocks that a choice means, in order.

    Raises:
        TaskError: There is none, or one does not exist.
    """
    n_layers = vit.cfg.n_layers
    if isinstance(at, str):
        chosen = range(n_layers) if at == "all" else ()
    else:
        chosen = (at,) if isinstance(at, int) else tuple(at)
    if not len(chosen) or not all(isinstance(layer, int) and 0 <= layer < n_layers for layer in chosen):
        raise TaskError(
            f"at={at!r} names no blocks of {vit.cfg.name}, which are 0 to {n_layers - 1}: pass at='all', a number such "
            f"as at=0, or several such as at=range({n_layers // 2}, {n_layers})."
        )
    return tuple(sorted(set(chosen)))
