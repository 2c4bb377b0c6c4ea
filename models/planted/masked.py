"""A small run under a mask, for one token group and a partner's values: what certificates are measured with.

It is written apart from `circuits.run`, and gradients flow through it into the weights. Edges have the names and the
order of the graph with `tokens="all"` and `ports="qkv"`. Destination r reads

    x_r = x'_r + sum over sources u of mask[u, r] * (a_u - a'_u)

where a is this run, a' the partner's, and x'_r the partner's residual in front of r.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from ..blocks import OpenBlock
from ..config import VitConfig
from ..hooked import HookedViT


def source_names(cfg: VitConfig, n_layers: int | None = None) -> list[str]:
    """Sources in the order in which they write; those of the first `n_layers` blocks, or all."""
    names = ["input"]
    for layer in range(cfg.n_layers if n_layers is None else n_layers):
        names += [*(f"a{layer}.h{head}" for head in range(cfg.n_heads)), f"m{layer}"]
    return names


def edge_names(cfg: VitConfig) -> list[str]:
    """Every edge, in the graph's order."""
    edges = []
    for layer in range(cfg.n_layers):
        before = source_names(cfg, layer)
        ports = [f"a{layer}.h{head}<{port}>" for head in range(cfg.n_heads) for port in "qkv"]
        edges += [f"{source}->{port}" for port in ports for source in before]
        edges += [f"{source}->m{layer}" for source in source_names(cfg, layer + 1)[:-1]]
    return [*edges, *(f"{source}->logits" for source in source_names(cfg))]


def mask_of(vit: HookedViT, kept: Iterable[str]) -> Float[Tensor, " edge"]:
    """1 for the edges with these names, 0 for the others."""
    names = set(kept)
    return torch.tensor([float(edge in names) for edge in edge_names(vit.cfg)], dtype=vit.dtype, device=vit.device)


def source_values(
    vit: HookedViT, images: Float[Tensor, "batch channel height width"]
) -> Float[Tensor, "source batch token model"]:
    """What every source writes on these images."""
    residual = vit.embed(images)
    writes = [residual[None]]
    for block in vit.blocks:
        heads = block.head_write(block.attend(*block.read(block.norm1(residual)))).transpose(0, 1)
        residual = residual + heads.sum(0) + block.attn_bias
        writes += [heads, block.mlp_write(residual)[None]]
        residual = residual + writes[-1][0]
    return torch.cat(writes)


def masked_logits(
    vit: HookedViT,
    mask: Float[Tensor, " edge"],
    images: Float[Tensor, "batch channel height width"],
    partner: Float[Tensor, "source batch token model"],
) -> Float[Tensor, "batch class"]:
    """Logits on `images` where the edges that the mask leaves out carry what their sources wrote on the partner.

    Args:
        vit: The opened model.
        mask: 1 keeps an edge, 0 drops it; see `mask_of`.
        images: Preprocessed images.
        partner: The partner's `source_values`.
    """
    rows = _rows(vit.cfg, mask)
    residual = partner[0]
    differences = (vit.embed(images) - residual)[None]
    for layer, block in enumerate(vit.blocks):
        wrote = partner[len(differences) :]
        heads = _heads(block, residual, rows[2 * layer], differences)
        differences = torch.cat([differences, heads - wrote[: block.n_heads]])
        residual = residual + wrote[: block.n_heads].sum(0) + block.attn_bias
        mlp = block.mlp_write(_read(residual, rows[2 * layer + 1], differences)[0])
        differences = torch.cat([differences, (mlp - wrote[block.n_heads])[None]])
        residual = residual + wrote[block.n_heads]
    return vit.readout.logits(_read(residual, rows[-1], differences)[0])


def _rows(cfg: VitConfig, mask: Tensor) -> list[Float[Tensor, "row source"]]:
    """The mask cut into destinations: attention's ports and the MLP of each layer, then the logits."""
    widths = []
    for layer in range(cfg.n_layers):
        before = 1 + layer * (cfg.n_heads + 1)
        widths += [(3 * cfg.n_heads, before), (1, before + cfg.n_heads)]
    widths.append((1, 1 + cfg.n_layers * (cfg.n_heads + 1)))
    parts = mask.split([rows * width for rows, width in widths])
    return [part.view(shape) for part, shape in zip(parts, widths, strict=True)]


def _read(residual: Tensor, kept: Tensor, differences: Tensor) -> Float[Tensor, "row batch token model"]:
    return residual + torch.einsum("rs,sbtm->rbtm", kept, differences)


def _heads(
    block: OpenBlock, residual: Tensor, kept: Float[Tensor, "row source"], differences: Tensor
) -> Float[Tensor, "head batch token model"]:
    """What each head writes when each of its ports reads by a row of its own."""
    distinct, place = kept.unique(dim=0, return_inverse=True)  # most ports read the same
    normed = block.norm1(_read(residual, distinct, differences))
    every = torch.arange(block.n_heads, device=residual.device)
    # each head batch token d_head
    q, k, v = (block.read_port(normed[place[port::3]], port, every) for port in range(3))
    return block.head_write(block.attend(q, k, v).transpose(0, 1)).transpose(0, 1)
