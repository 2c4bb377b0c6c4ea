"""What every source writes on a batch of images, from one plain fused forward pass."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ..models.hooked import HookedViT
from .graph import first_head


def source_values(
    vit: HookedViT, images: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, "source batch token model"]:
    """The input's, every head's and every MLP's write, in the graph's order of sources.

    Together with each block's attention bias they add up to the last residual. Call it under `vit.borrowed()`.
    """
    return values_from(vit, vit.embed(images))


def values_from(
    vit: HookedViT, residual: Float[Tensor, "batch token model"]
) -> Float[Tensor, "source batch token model"]:
    """The same for a run that starts from a residual in front of block 0."""
    n_heads = vit.cfg.n_heads
    values = residual.new_empty(first_head(vit.cfg, vit.cfg.n_layers), *residual.shape)
    values[0] = residual
    for layer, block in enumerate(vit.blocks):
        first = first_head(vit.cfg, layer)
        z = block.attend(*block.read(block.norm1(residual)))
        values[first : first + n_heads] = block.head_write(z).transpose(0, 1)
        middle = residual + block.attn_write(z)
        values[first + n_heads] = block.mlp_write(block.mlp_input(residual, middle))
        residual = middle + values[first + n_heads]
    return values
