"""a_u - a'_u: what every source writes on the clean image, less what it carries on a removed edge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..circuits.baseline import Baseline
from ..circuits.pairs import Pairs
from ..models.hooked import HookedViT
from .tape import Tape

KeysValues = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Deltas:
    """Differences of sources to their ablated values.

    Args:
        sources: a_u - a'_u, shape (source, pair, token, model).
        embedded: The ablated residual in front of block 0, (pair, token, model).
        keys_values: Per layer, the keys and values that heads read from the ablated residual, each (pair, head, token,
            d_head); empty where nobody asked for them.
    """

    sources: Float[Tensor, "source pair token model"]
    embedded: Float[Tensor, "pair token model"]
    keys_values: KeysValues


def make_deltas(vit: HookedViT, pairs: Pairs, tape: Tape, baseline: Baseline, *, inside: bool) -> Deltas:
    """The deltas of a batch; call it under `vit.borrowed()` and without gradients.

    Args:
        vit: The opened model.
        pairs: The batch.
        tape: A clean run.
        baseline: What removed edges carry.
        inside: Whether ablated keys and values are wanted.
    """
    images = baseline.images(pairs)
    if images is not None:
        return _from_images(vit, vit.embed(images), tape, inside)
    return _from_values(vit, baseline(pairs), tape, inside)


def _empty(vit: HookedViT, embedded: Tensor) -> Tensor:
    return embedded.new_empty(1 + vit.cfg.n_layers * (vit.cfg.n_heads + 1), *embedded.shape)


def _from_images(vit: HookedViT, embedded: Tensor, tape: Tape, inside: bool) -> Deltas:
    """By linearity of the output projection, a head's delta is its write of the difference of z."""
    sources, keys_values, n_heads = _empty(vit, embedded), [], vit.cfg.n_heads
    torch.sub(tape.embedded, embedded, out=sources[0])
    residual = embedded
    for layer, (block, taped) in enumerate(zip(vit.blocks, tape.layers, strict=True)):
        first = 1 + layer * (n_heads + 1)
        q, k, v = block.read(block.norm1(residual))
        if inside:
            keys_values.append((k, v))
        z = block.attend(q, k, v)
        _write_heads(taped.z - z, block.out_weight, sources[first : first + n_heads])
        residual = residual + block.attn_write(z)
        mlp_out = block.mlp_write(residual)
        torch.sub(taped.mlp_out, mlp_out, out=sources[first + n_heads])
        residual = residual + mlp_out
    return Deltas(sources, embedded, keys_values)


def _from_values(vit: HookedViT, ablated: Tensor, tape: Tape, inside: bool) -> Deltas:
    sources, keys_values, n_heads = _empty(vit, tape.embedded), [], vit.cfg.n_heads
    torch.sub(tape.embedded, ablated[0], out=sources[0])
    residual = ablated[0]
    for layer, (block, taped) in enumerate(zip(vit.blocks, tape.layers, strict=True)):
        first = 1 + layer * (n_heads + 1)
        stop = first + n_heads
        if inside:
            keys_values.append(block.read(block.norm1(residual))[1:])
        _write_heads(taped.z, block.out_weight, sources[first:stop])
        sources[first:stop].sub_(ablated[first:stop])
        torch.sub(taped.mlp_out, ablated[stop], out=sources[stop])
        residual = residual + ablated[first : stop + 1].sum(0) + block.attn_bias
    return Deltas(sources, ablated[0], keys_values)


def _write_heads(z: Tensor, out_weight: Tensor, out: Tensor) -> None:
    """z (pair, head, token, d_head) -> out (head, pair, token, model)."""
    heads = z.transpose(0, 1)
    torch.bmm(heads.flatten(1, 2), out_weight, out=out.view(len(out), -1, out.shape[-1]))
