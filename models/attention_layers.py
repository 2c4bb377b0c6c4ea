"""Reading attention: each layer's weights, scores or written lengths, handed on as soon as they are known.

This is the one place where attention is read. What the kinds are, with their sources, stands in
`circuits/attention.py`, which keeps what this hands on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .blocks import OpenBlock
from .errors import ModelError
from .hooked import HookedViT

Take = Callable[[int, Tensor], None]
_FORBIDDEN = torch.finfo(torch.float32).min / 8  # masks add a quarter of the smallest number (`additive_mask`)


def read_layers(
    vit: HookedViT,
    images: Float[Tensor, "image channel height width"],
    take: Take,
    *,
    layers: Iterable[int] | None = None,
    kind: str = "pattern",
) -> Float[Tensor, "image class"]:
    """Runs the model, hands each layer's attention to a function as soon as it is known, and returns the logits.

    The function gets the layer and its maps, (image, head, target, source) over all tokens, the pool among them; of
    tokens that a block does not write to the rows mean nothing. Nothing is kept here.

    Args:
        vit: The opened model.
        images: Preprocessed images, all at once.
        take: Called with layer and maps; a layer that has fewer heads than others is padded.
        layers: Which; all by default.
        kind: `pattern`, `score` or `value_weighted`.
    """
    hooks: list[tuple[str, Callable[..., None]]] = []
    wanted = range(vit.cfg.n_layers) if layers is None else set(layers)
    for layer in range(vit.cfg.n_layers):
        at = f"blocks.{layer}.attn.hook_"
        if layer not in wanted:
            hooks.append((f"{at}pattern", _let_pass))
        elif kind == "pattern":
            hooks.append((f"{at}pattern", partial(_hand_on, take, layer)))
        elif kind == "score":
            hooks.append((f"{at}attn_scores", partial(_hand_on_scores, take, layer, vit.blocks[layer])))
        else:
            hooks += [(f"{at}{part}", one) for part, one in _written_by(take, layer, vit.blocks[layer]).items()]
    return vit.run_with_hooks(images, hooks)


def _let_pass(maps: Tensor, hook: Any) -> None:
    """Every layer is computed unfused, so that a choice of layers changes no bit."""


def _hand_on(take: Take, layer: int, maps: Tensor, hook: Any) -> None:
    take(layer, maps)


def _hand_on_scores(take: Take, layer: int, block: OpenBlock, scores: Tensor, hook: Any) -> None:
    if block.mask is not None:
        scores = scores.masked_fill(block.mask.like(scores) < _FORBIDDEN, -torch.inf)
    take(layer, scores)


def _written_by(take: Take, layer: int, block: OpenBlock) -> dict[str, Callable[..., None]]:
    """Hooks that keep a layer's queries and values until its pattern is known."""
    known: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: Any, *, port: str) -> None:
        known[port] = value.transpose(1, 2)

    def write(pattern: Tensor, hook: Any) -> None:
        take(layer, pattern * _lengths(block, known.pop("q"), pattern, known.pop("v")))

    return {"q": partial(keep, port="q"), "v": partial(keep, port="v"), "pattern": write}


def _lengths(block: OpenBlock, q: Tensor, pattern: Tensor, v: Tensor) -> Float[Tensor, "image head rows source"]:
    """How long what a head writes is for each unit of weight on a source; `rows` is 1 where targets are alike."""
    if block.gated and block.joint is not None:
        raise ModelError(
            "value-weighted attention of heads that are gated and share a norm is not known: take kind='pattern'."
        )
    if block.gated:
        gates = q[..., block.d_head :].sigmoid()
        return torch.stack([_length(block.head_write(v * gate[..., None, :])) for gate in gates.unbind(2)], 2)
    if block.joint is None:
        return _length(block.head_write(v))[:, :, None]
    norm, weights = block.joint.norm, block.writes.weight()
    gamma = weights.new_ones(len(weights)) if norm.weight is None else norm.weight
    written = block.head_write(v * gamma.view(block.n_heads, 1, block.d_head))
    if norm.centres:  # the mean over all heads' channels, of which this head's value is a part
        written = written - v.sum(-1, keepdim=True) / len(weights) * (gamma @ weights)
    inverse = norm.inverse((pattern @ v).transpose(1, 2).flatten(2))  # image, target, 1
    return _length(written)[:, :, None] * inverse[:, None]


def _length(written: Tensor) -> Tensor:
    return torch.linalg.vector_norm(written, dim=-1)


class Rollout:
    """The product of layers' mean patterns with the residual stream beside them, (image, target, source), in float64.

    A token that a layer does not write to keeps what it has.
    """

    def __init__(self, vit: HookedViT) -> None:
        self._vit = vit
        self._product: Tensor | None = None

    def add(self, layer: int, pattern: Float[Tensor, "image head target source"]) -> Tensor:
        """The product up to this layer, on the CPU; layers come in order."""
        identity = torch.eye(pattern.shape[-1], dtype=torch.float64, device="cpu")
        before = identity if self._product is None else self._product
        self._product = (mean_pattern(self._vit, pattern, layer) + identity) / 2 @ before
        return self._product


def mean_pattern(
    vit: HookedViT, pattern: Float[Tensor, "image head target source"], layer: int
) -> Float[Tensor, "image target source"]:
    """A layer's pattern averaged over its heads, in float64 on the CPU; a token not written to sees itself."""
    mean = pattern[:, : vit.cfg.heads_of(layer)].double().mean(1).cpu()
    at = vit.blocks[layer].at
    if at is None:
        return mean
    return torch.where(at.value.bool().cpu(), mean, torch.eye(mean.shape[-1], dtype=torch.float64, device="cpu"))
