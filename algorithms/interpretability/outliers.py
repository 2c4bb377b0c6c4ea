"""Tokens of high norm: where they are, which MLP neurons make them, and a run in which an added token takes them up.

Large ViTs turn a few patches into scratch space, with residuals many times as long as the others' (Darcet et al. 2024,
"Vision Transformers Need Registers", section 2). A patch is an outlier behind a block where

    |x| > times * median over the image's patches of |x|

A few neurons make them (Jiang et al. 2025, "Vision Transformers Don't Need Trained Registers", section 3). The residual
of an outlier is the sum of what all components wrote, so its length is the sum of their parts along its direction u:

    part of neuron n = (activation at the outlier - mean activation at the image's other patches) <what n writes, u>

in units of the residual, mean over the outliers at the block where they first are; the neurons of largest parts in this
block or in front of it make them. Jiang et al. rank by the mean activation at outliers; the part also says how much of
the norm it is.

Test-time registers (their section 4): a token of zeros is added behind all others; at each of these neurons it is given
the highest activation of the image's patches, and every other token is given 0. No weight changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ...circuits.baseline import DEFAULT_MEMORY
from ...circuits.memory import pairs_within
from ...models.errors import ModelError
from ...models.hooked import HookedViT
from ..patching.patch_points import layer_traces
from .outlier_table import MovedOutliers, Outliers, RunFigures


def find_outliers(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    *,
    times: float = 3.0,
    n_neurons: int = 20,
    memory: int = DEFAULT_MEMORY,
) -> Outliers:
    """The patches whose residual is `times` as long as the median patch's or longer, by block, and what makes them.

    Costs a forward pass, and a second one where there are any.

    Args:
        vit: The opened model.
        images: Preprocessed images.
        times: How many times the median of the image's patches.
        n_neurons: Neurons that are kept, those of the largest parts.
        memory: Bytes to hold at once.

    Raises:
        DataError: The images don't fit the model.
        ModelError: `times` is not above 1.
    """
    if not times > 1:
        raise ModelError(f"times={times}: an outlier is longer than the median, so pass a number above 1, such as 3.")
    images, patches = vit.check_images(images), vit.cfg.tokens.patches
    parts = []
    for batch in images.split(_size(vit, memory)):
        with torch.no_grad(), vit.borrowed():
            steps = zip(range(vit.cfg.n_layers - int(vit.cfg.pools)), layer_traces(vit, vit.embed(batch)), strict=False)
            parts.append(np.stack([norm_ratios(step.after[:, patches]) for _, step in steps]))
    found = Outliers(vit.cfg.name, vit.cfg.tokens.grid, times, np.concatenate(parts, 1))
    return found.made_by(*_makers(vit, images, found, n_neurons, memory)) if found.there else found


def norm_ratios(patches: Float[Tensor, "image patch model"]) -> Float64[np.ndarray, "image patch"]:
    """Length of each patch's residual over the median of its image's."""
    lengths = patches.double().norm(dim=-1).cpu()
    return (lengths / lengths.quantile(0.5, dim=1, keepdim=True)).numpy()


def _makers(
    vit: HookedViT, images: Tensor, found: Outliers, n: int, memory: int
) -> tuple[tuple[str, ...], Float64[np.ndarray, " neuron"], float]:
    """Names of the neurons of largest parts, their parts, and the outliers' mean length."""
    first, patches = found.first, vit.cfg.tokens.patches
    layers = [layer for layer in range(first + 1) if vit.cfg.has_mlp(layer)]
    writes = {layer: neuron_writes(vit, layer) for layer in layers}
    parts = {layer: torch.zeros(len(write), dtype=torch.float64, device="cpu") for layer, write in writes.items()}
    where, length, start = torch.from_numpy(found.at(first)), 0.0, 0
    for batch in images.split(_size(vit, memory)):
        here = where[start : start + len(batch)].to(vit.device)
        start += len(batch)
        if not here.any():
            continue
        seen: dict[int, Tensor] = {}
        with torch.no_grad(), vit.borrowed(), _caught(vit, layers, seen):
            steps = layer_traces(vit, vit.embed(batch))
            *_, (_, step) = zip(range(first + 1), steps, strict=False)
        residual = step.after[:, patches][here].double()  # outlier, model
        lengths = residual.norm(dim=-1, keepdim=True)
        length += float(lengths.sum())
        for layer, post in seen.items():
            values = post[:, patches].double()
            others = (values * ~here[..., None]).sum(1) / (~here).sum(1, keepdim=True).clamp_min(1)
            rise = values[here] - others.repeat_interleave(here.sum(1), 0)
            parts[layer] += (rise * (residual / lengths @ writes[layer].double().T)).sum(0).cpu()
    n_outliers = int(where.sum())
    every = [(float(part), f"m{layer}.n{i}") for layer in layers for i, part in enumerate(parts[layer])]
    best = sorted(every, key=lambda pair: -pair[0])[:n]
    return tuple(name for _, name in best), np.array([part for part, _ in best]) / n_outliers, length / n_outliers


def _size(vit: HookedViT, memory: int) -> int:
    return pairs_within(vit, memory, residuals=20, hidden=4, patterns=6)


@contextmanager
def _caught(vit: HookedViT, layers: Sequence[int], seen: dict[int, Tensor]) -> Iterator[None]:
    """What the neurons of some layers are, caught where `fc2` is handed them."""
    with ExitStack() as stack:
        for layer in layers:

            def take(_module: Any, args: Any, layer: int = layer) -> None:
                seen[layer] = args[0]

            mlp: Any = vit.blocks[layer].mlp
            stack.callback(mlp.fc2.register_forward_pre_hook(take).remove)
        yield


def neuron_writes(vit: HookedViT, layer: int) -> Float[Tensor, "neuron model"]:
    """What each neuron of a layer adds to the residual for an activation of 1, LayerScale included."""
    mlp: Any = vit.blocks[layer].mlp
    first = mlp.fc2.in_features
    with torch.no_grad(), vit.borrowed():
        asked = torch.cat([torch.zeros(1, first, device="cpu"), torch.eye(first, device="cpu")]).to(
            device=vit.device, dtype=vit.sum_dtype
        )
        said = vit.blocks[layer].scale2(mlp.fc2(asked[None]))[0]
    return said[1:] - said[:1]


def test_time_registers(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    neurons: Sequence[str] | Outliers,
    labels: Tensor | None = None,
    *,
    times: float = 3.0,
    n_neurons: int = 10,
    memory: int = DEFAULT_MEMORY,
) -> MovedOutliers:
    """What an added token that takes up the neurons of outliers does: to outliers, attention, and the answers.

    Costs two forward passes with patterns kept apart.

    Args:
        vit: The opened model, without rotary positions, masks and attention pooling, none of which know a token more.
        images: Preprocessed images.
        neurons: Names such as `m3.n7`, or outliers, whose first `n_neurons` are taken.
        labels: The class of each image, by index of the logit, for accuracy.
        times: What an outlier is, as in `find_outliers`; that of given outliers.
        n_neurons: How many of the outliers' neurons.
        memory: Bytes to hold at once.

    Raises:
        DataError: The images don't fit the model.
        ModelError: The model cannot take one more token, a neuron is not known, or there is none.
    """
    images = vit.check_images(images)
    names = neurons.neurons[:n_neurons] if isinstance(neurons, Outliers) else tuple(neurons)
    times = neurons.times if isinstance(neurons, Outliers) else times
    chosen = _neurons(vit, names)
    if any(block.rope is not None or block.mask is not None or block.at is not None for block in vit.blocks):
        raise ModelError(
            f"{vit.cfg.name} has rotary positions, a mask or attention pooling, so it takes no token more."
        )
    before = _figures(vit, images, {}, times, memory)
    after = _figures(vit, images, chosen, times, memory)
    return MovedOutliers(
        vit.cfg.name, vit.cfg.tokens.grid, names, before, after, None if labels is None else labels.cpu().numpy()
    )


test_time_registers.__test__ = False  # type: ignore[attr-defined]  # its name begins as a test's does


def _neurons(vit: HookedViT, names: Sequence[str]) -> dict[int, list[int]]:
    """Indices by layer."""
    found: dict[int, list[int]] = {}
    for name in names:
        layer, _, index = name.removeprefix("m").partition(".n")
        good = layer.isdigit() and index.isdigit() and int(layer) < vit.cfg.n_layers and vit.cfg.has_mlp(int(layer))
        mlp: Any = vit.blocks[int(layer)].mlp if good else None
        if not good or int(index) >= mlp.fc2.in_features:
            raise ModelError(f"{name!r} is no neuron of {vit.cfg.name}: pass names such as 'm0.n0'.")
        found.setdefault(int(layer), []).append(int(index))
    if not found:
        raise ModelError("there are no neurons to move: pass names, or outliers of a model that has some.")
    return found


@contextmanager
def moved(vit: HookedViT, neurons: dict[int, list[int]]) -> Iterator[None]:
    """Runs in which the last token is given the neurons' highest activation at the patches, and all others 0."""

    def change(_module: Any, args: Any, indices: list[int]) -> Any:
        post = args[0].clone()
        own = post[..., indices]
        post[..., indices] = 0
        post[:, -1, indices] = own[:, vit.cfg.tokens.patches].amax(1)
        return (post,)

    with ExitStack() as stack:
        for layer, indices in neurons.items():
            mlp: Any = vit.blocks[layer].mlp
            hook = mlp.fc2.register_forward_pre_hook(partial(change, indices=indices))
            stack.callback(hook.remove)
        yield


def _figures(vit: HookedViT, images: Tensor, neurons: dict[int, list[int]], times: float, memory: int) -> RunFigures:
    """A run with an added token that takes up some neurons; without neurons, the run as it is."""
    patches, has_cls = vit.cfg.tokens.patches, vit.cfg.tokens.has_cls
    logits, outliers, added, maps = [], [], [], []
    for batch in images.split(_size(vit, memory)):
        with torch.no_grad(), vit.borrowed(), moved(vit, neurons):
            residual = vit.embed(batch)
            if neurons:
                residual = torch.cat([residual, torch.zeros_like(residual[:, :1])], 1)
            steps = []
            for block, step in zip(vit.blocks, layer_traces(vit, residual), strict=True):
                pattern = block.pattern(step.q, step.k).double().cpu().mean(1)  # image, target, source
                rows = pattern[:, 0] if has_cls else pattern[:, patches].mean(1)
                last = rows[:, -1] if neurons else torch.zeros(len(batch), dtype=torch.float64, device="cpu")
                steps.append((norm_ratios(step.after[:, patches]) > times, last, rows[:, patches]))
                residual = step.after
            logits.append(vit.readout.logits(residual).double().cpu())
        for parts, values in zip((outliers, added, maps), zip(*steps, strict=True), strict=True):
            parts.append(np.stack(values))
    return RunFigures(torch.cat(logits).numpy(), *(np.concatenate(parts, 1) for parts in (outliers, added, maps)))
