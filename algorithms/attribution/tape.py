"""Plain fused passes: what every source writes in a run, and the metric's gradient at every destination.

No split q/k/v forward is needed: a destination's gradient is taken at the fused projection's output and carried back
per head in the contraction. An alias of the residual in front of each MLP and of the readout keeps their gradients
apart from the residual's own. Only activations need gradients, never weights. What the last block's attention and MLP
write is computed for the tokens that the readout reads, and for no others.

a_u - a'_u: what every source writes on the clean image, less what it carries on a removed edge.

Kept small: heads stand as differences of z, as wide together as the residual, and their writes are made where they are
read. On ViT-B/16 that takes 15 MB for each pair where all writes would take 95.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...circuits.baseline import Baseline
from ...circuits.graph import first_head
from ...circuits.tasks.task import Pairs
from ...models.blocks import OpenBlock
from ...models.hooked import HookedViT

KeysValues = list[tuple[Tensor, Tensor]]


class Rules:
    """A plain pass. What a subclass changes in values is another run; what it changes in gradients another backward."""

    def attend(self, layer: int, block: OpenBlock, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each head's weighted values, (pair, head, token, d_head)."""
        return block.weigh(q, k, v)

    def attention_written(self, layer: int, written: Tensor) -> Tensor:
        """What attention adds to the residual, (pair, token, model); in the last block (pair, read token, model)."""
        return written

    def mlp(self, layer: int, block: OpenBlock, seen: Tensor, *, freeze_norm: bool) -> Tensor:
        """What the MLP writes, from the residual that it reads, likewise."""
        return block.mlp_write(seen, freeze_norm=freeze_norm)

    def mlp_written(self, layer: int, written: Tensor) -> Tensor:
        """What the MLP adds to the residual, likewise."""
        return written


PLAIN = Rules()


@dataclass(frozen=True, eq=False)
class RunWrites:
    """What a run wrote, block by block; in the last block at the read tokens only.

    Args:
        embedded: The residual in front of block 0, (pair, token, model).
        z: Heads' outputs, as the output projection reads them, each (pair, head, token, d_head).
        mlps: What the MLPs wrote, each (pair, token, model).
        read: The last residual, (pair, read token, model).
        keys_values: Per layer, keys and values, each (pair, head, token, d_head); empty where nobody asked for them.
    """

    embedded: Tensor
    z: list[Tensor]
    mlps: list[Tensor]
    read: Tensor
    keys_values: KeysValues


@dataclass(frozen=True, eq=False)
class LayerTape:
    """The metric's gradients in one block, and the activations that their use needs.

    Args:
        scaled: Gradient at the fused projection's output times norm1's 1 / standard deviation, (pair, token, 3 x head x
            d_read).
        grad_mlp: Gradient at the residual that the MLP reads, (pair, token, model); in the last block (pair, read
            token, model).
        residual: In front of attention, (pair, token, model), for unfrozen norms and recomputed heads.
        fused: The fused projection's output, for unfrozen norms and edges inside heads.
        z: Heads' weighted values, (pair, head, token, d_head), for edges inside heads.
        grad_z: Gradient at `z`, likewise.
    """

    scaled: Tensor
    grad_mlp: Tensor
    residual: Tensor | None
    fused: Tensor | None
    z: Tensor | None
    grad_z: Tensor | None


@dataclass(frozen=True, eq=False)
class Tape:
    """A forward and a backward pass.

    Args:
        writes: What the run wrote.
        layers: Block by block.
        grad_read: Gradient at the residual that the readout reads, (pair, read token, model).
    """

    writes: RunWrites
    layers: list[LayerTape]
    grad_read: Tensor


class _Layer(NamedTuple):
    """One block of a run; `seen` and everything after it at the read tokens in the last block."""

    before: Tensor
    fused: Tensor
    z: Tensor  # weighted values
    written: Tensor  # what the output projection reads, where attention's write is needed
    seen: Tensor  # an alias of the residual, which only the MLP reads
    mlp_out: Tensor
    after: Tensor


def _layers(vit: HookedViT, start: Tensor, *, freeze_norm: bool, rules: Rules = PLAIN) -> Iterator[_Layer]:
    residual = start
    for layer, block in enumerate(vit.blocks):
        before = residual
        fused = block.reads(block.norm1.frozen(before) if freeze_norm else block.norm1(before))
        q, k, v = block.split(fused)
        z = rules.attend(layer, block, q, k, v)
        select = vit.readout.select if block is vit.blocks[-1] else _all
        written = select(block.close(q, z))
        residual = select(before) + rules.attention_written(layer, block.attn_write(written))
        reads = block.mlp_input(select(before), residual)
        seen = reads.view_as(reads)
        mlp_out = rules.mlp(layer, block, seen, freeze_norm=freeze_norm)
        residual = residual + rules.mlp_written(layer, mlp_out)
        yield _Layer(before, fused, z, written, seen, mlp_out, residual)


def _all(values: Tensor) -> Tensor:
    return values


def record_writes(
    vit: HookedViT, embedded: Float[Tensor, "pair token model"], *, keys_values: bool = False
) -> RunWrites:
    """What a run from the residual in front of block 0 writes; call it under `vit.borrowed()` and without gradients.

    Args:
        vit: The opened model.
        embedded: Where the run starts.
        keys_values: Whether keys and values are wanted.
    """
    writes = RunWrites(embedded, [], [], embedded, [])
    read = embedded
    for block, layer in zip(vit.blocks, _layers(vit, embedded, freeze_norm=False), strict=True):
        writes.z.append(layer.written)
        writes.mlps.append(layer.mlp_out)
        if keys_values:
            writes.keys_values.append(block.split(layer.fused)[1:])
        read = layer.after
    return RunWrites(embedded, writes.z, writes.mlps, read, writes.keys_values)


def record_tape(
    vit: HookedViT,
    embedded: Float[Tensor, "pair token model"],
    metric: Callable[[Tensor], Tensor],
    *,
    freeze_norm: bool,
    inside: bool = False,
    residuals: bool = False,
    rules: Rules = PLAIN,
) -> Tape:
    """The tape of a run that starts from the residual in front of block 0; call it under `vit.borrowed()`.

    Args:
        vit: The opened model.
        embedded: Where the run starts.
        metric: Logits -> one number per pair.
        freeze_norm: Treat norm1, norm2 and the final norm's standard deviations as constants in the backward pass.
        inside: Whether what edges inside heads need is wanted too.
        residuals: Whether the residuals in front of attention are wanted whatever the norms.
        rules: How the pass is run and differentiated.
    """
    with torch.enable_grad():
        start = embedded.detach().requires_grad_(True)
        layers = list(_layers(vit, start, freeze_norm=freeze_norm, rules=rules))
        read = layers[-1].after.view_as(layers[-1].after)
        value = metric(vit.readout(read, freeze_norm=freeze_norm))
        wanted = [layer.fused for layer in layers] + [layer.seen for layer in layers]
        wanted += [layer.z for layer in layers] if inside else []
        # what an MLP reads has no part in the metric where there is none: its gradient is zero
        unused = any(block.mlp is None for block in vit.blocks)
        *found, grad_read = torch.autograd.grad(
            value.sum(), [*wanted, read], allow_unused=unused, materialize_grads=unused
        )
    taped = []
    for place, (block, layer) in enumerate(zip(vit.blocks, layers, strict=True)):
        grads = found[place :: len(layers)]  # at fused, seen and perhaps z
        scaled = grads[0].to(layer.before).mul_(block.norm1.inverse(layer.before.detach()))
        residual = layer.before.detach() if residuals or not freeze_norm else None
        fused = layer.fused.detach() if inside or not freeze_norm else None
        z, grad_z = (layer.z.detach(), grads[2]) if inside else (None, None)
        taped.append(LayerTape(scaled, grads[1], residual, fused, z, grad_z))
    z = [layer.written.detach() for layer in layers]
    mlps = [layer.mlp_out.detach() for layer in layers]
    own = [block.split(layer.fused.detach())[1:] for block, layer in zip(vit.blocks, layers, strict=True)]
    writes = RunWrites(start.detach(), z, mlps, read.detach(), own if inside else [])
    return Tape(writes, taped, grad_read)


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
    writes: RunWrites | None
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
    residual, found = values[0], []
    for layer, block in enumerate(vit.blocks):
        found.append(block.read(block.norm1(residual))[1:])
        written = values[first_head(vit.cfg, layer) : first_head(vit.cfg, layer + 1)]
        residual = residual + written.sum(0) + block.attn_bias
    return found


def make_deltas(vit: HookedViT, clean: RunWrites, ablated: Ablated) -> Deltas:
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
    mlps = [values[first_head(vit.cfg, layer + 1) - 1] for layer in range(len(vit.blocks))]
    mlps[-1] = vit.readout.select(mlps[-1])
    mlps = [ours - theirs for ours, theirs in zip(clean.mlps, mlps, strict=True)]
    return Deltas(clean.embedded - ablated.embedded, clean.z, mlps, values)
