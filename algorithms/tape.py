"""One plain fused forward pass and its backward pass, with the gradient at every destination.

No split q/k/v forward is needed: a destination's gradient is taken at the fused projection's output and carried back
per head in the contraction. An alias of the residual in front of each MLP and of the readout keeps their gradients
apart from the residual's own. Only activations need gradients, never weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.hooked import HookedViT


@dataclass(frozen=True, eq=False)
class LayerTape:
    """What one block computed, and the metric's gradients in it.

    Args:
        residual: In front of attention, (pair, token, model).
        fused: The fused projection's output, (pair, token, 3 x head x d_head).
        z: Heads' outputs, (pair, head, token, d_head).
        mlp_out: What the MLP wrote, (pair, token, model).
        grad_fused: Gradient at `fused`.
        grad_mlp: Gradient at the residual that the MLP reads, (pair, token, model).
        grad_z: Gradient at `z`, where it was asked for.
    """

    residual: Tensor
    fused: Tensor
    z: Tensor
    mlp_out: Tensor
    grad_fused: Tensor
    grad_mlp: Tensor
    grad_z: Tensor | None


@dataclass(frozen=True, eq=False)
class Tape:
    """A forward and a backward pass.

    Args:
        embedded: The residual in front of block 0.
        layers: Block by block.
        grad_read: Gradient at the residual that the readout reads, (pair, read token, model).
        metric: The metric, (pair,).
    """

    embedded: Tensor
    layers: list[LayerTape]
    grad_read: Tensor
    metric: Float[Tensor, " pair"]


def record_tape(
    vit: HookedViT,
    embedded: Float[Tensor, "pair token model"],
    metric: Callable[[Tensor], Tensor],
    *,
    freeze_norm: bool,
    inside: bool = False,
) -> Tape:
    """The tape of a run that starts from the residual in front of block 0; call it under `vit.borrowed()`.

    Args:
        vit: The opened model.
        embedded: Where the run starts.
        metric: Logits -> one number per pair.
        freeze_norm: Treat norm1, norm2 and the final norm's standard deviations as constants in the backward pass.
        inside: Whether gradients at the heads' outputs are wanted too.
    """
    with torch.enable_grad():
        start = embedded.detach().requires_grad_(True)
        residual, layers = start, []
        for block in vit.blocks:
            before = residual
            fused = block.qkv(block.norm1.frozen(before) if freeze_norm else block.norm1(before))
            z = block.attend(*block.split(fused))
            residual = before + block.attn_write(z)
            seen = residual.view_as(residual)
            mlp_out = block.mlp_write(seen, freeze_norm=freeze_norm)
            residual = residual + mlp_out
            layers.append((before, fused, z, mlp_out, seen))
        read = vit.readout.select(residual.view_as(residual))
        value = metric(vit.readout(read, freeze_norm=freeze_norm))
        wanted = [[layer[place] for layer in layers] for place in ((1, 4, 2) if inside else (1, 4))]
        found = torch.autograd.grad(value.sum(), [tensor for column in wanted for tensor in column] + [read])
    n_layers = len(layers)
    grads = [found[start : start + n_layers] for start in range(0, len(found) - 1, n_layers)]
    grad_z = grads[2] if inside else [None] * n_layers
    taped = [
        LayerTape(*(tensor.detach() for tensor in layer[:4]), *gradients)
        for layer, *gradients in zip(layers, grads[0], grads[1], grad_z, strict=True)
    ]
    return Tape(start.detach(), taped, found[-1], value.detach())
