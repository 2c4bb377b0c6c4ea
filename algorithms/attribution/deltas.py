"""a_u - a'_u: what every source writes on the clean image, less what it carries on a removed edge.

Kept small: heads stand as differences of z, as wide together as the residual, and their writes are made where they are
read. On ViT-B/16 that takes 15 MB for each pair where all writes would take 95.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.baseline import Baseline
from ...circuits.pairs import Pairs
from ...models.hooked import HookedViT
from .tape import KeysValues, Writes, record_writes


@dataclass(frozen=True, eq=False)
class Deltas:
    """Differences of sources to their ablated values; in the last block at the read tokens only.

    Args:
        embedded: a_u - a'_u of the input, (pair, token, model).
        z: Per layer, what heads' differences are written from, (pair, head, token, d_head): the difference of z to the
            ablated run's, or where ablated writes are given, z itself.
        mlps: Per layer, a_u - a'_u of the MLP, (pair, token, model).
        ablated: Ablated writes to take off the heads', (source, pair, token, model).
    """

    embedded: Float[Tensor, "pair token model"]
    z: list[Tensor]
    mlps: list[Tensor]
    ablated: Float[Tensor, "source pair token model"] | None


@dataclass(frozen=True, eq=False)
class Ablated:
    """What removed edges carry in a batch.

    Args:
        embedded: The ablated residual in front of block 0, (pair, token, model).
        writes: The run on the ablated images, for the ablations that take their values from images.
        values: Every source's ablated value for the others, (source, pair, token, model).
        keys_values: Per layer, the keys and values that heads read from the ablated residual, each (pair, head, token,
            d_head); empty where nobody asked for them.
    """

    embedded: Float[Tensor, "pair token model"]
    writes: Writes | None
    values: Float[Tensor, "source pair token model"] | None
    keys_values: KeysValues


def make_ablated(vit: HookedViT, pairs: Pairs, baseline: Baseline, *, inside: bool) -> Ablated:
    """What removed edges carry; call it under `vit.borrowed()` and without gradients.

    Args:
        vit: The opened model.
        pairs: The batch.
        baseline: What removed edges carry.
        inside: Whether ablated keys and values are wanted.
    """
    images = baseline.images(pairs)
    if images is not None:
        writes = record_writes(vit, vit.embed(images), keys_values=inside)
        return Ablated(writes.embedded, writes, None, writes.keys_values)
    values = baseline(pairs)
    return Ablated(values[0], None, values, _keys_values(vit, values) if inside else [])


def _keys_values(vit: HookedViT, values: Tensor) -> KeysValues:
    residual, found, n_heads = values[0], [], vit.cfg.n_heads
    for layer, block in enumerate(vit.blocks):
        first = 1 + layer * (n_heads + 1)
        found.append(block.read(block.norm1(residual))[1:])
        residual = residual + values[first : first + n_heads + 1].sum(0) + block.attn_bias
    return found


def make_deltas(vit: HookedViT, clean: Writes, ablated: Ablated) -> Deltas:
    """The deltas of a batch. They take the place of the ablated run's writes, which are gone afterwards.

    By linearity of the output projection, a head's delta is its write of the difference of z.
    """
    if ablated.writes is not None:
        pairs = zip(clean.z + clean.mlps, ablated.writes.z + ablated.writes.mlps, strict=True)
        found = [torch.sub(ours, theirs, out=theirs) for ours, theirs in pairs]
        n_layers = len(vit.blocks)
        return Deltas(clean.embedded - ablated.embedded, found[:n_layers], found[n_layers:], None)
    values = ablated.values
    assert values is not None
    mlps = [values[(layer + 1) * (vit.cfg.n_heads + 1)] for layer in range(len(vit.blocks))]
    mlps[-1] = vit.readout.select(mlps[-1])
    mlps = [ours - theirs for ours, theirs in zip(clean.mlps, mlps, strict=True)]
    return Deltas(clean.embedded - ablated.embedded, clean.z, mlps, values)
