"""Attention pooling as one more block: its heads read all other tokens and write to a token of their own.

`AttentionPoolLatent` (SigLIP, PE) starts a second residual stream after the last block: a constant query attends to the
normed tokens, and an MLP reads what its heads wrote. Here that stream is the last token of the first one. It starts at
zero, the model's blocks neither see it nor write to it, and the pooling block writes nowhere else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import Constant, additive_mask
from ..blocks import OpenBlock
from ..config import TokenLayout
from ..errors import ModelError
from ..norms import Norm, open_norm
from ..projections import LinearWrites, PaddedWrites, constant_query, padded_reads


def open_pool(pool: Any, norm: Norm, layout: TokenLayout, *, with_prefix: bool, where: str) -> OpenBlock:
    """The pooling block.

    Args:
        pool: timm's `AttentionPoolLatent`.
        norm: The model's final norm, which stands in front of the keys and values.
        layout: The tokens, the pool's among them.
        with_prefix: Whether CLS and registers are pooled too.
        where: What to call it in a message.

    Raises:
        ModelError: It has several latents, or positions of its own.
    """
    if pool.latent_len != 1 or pool.pos_embed is not None:
        raise ModelError(f"{where} pools with {pool.latent_len} latents or positions of its own: one latent is opened.")
    if pool.mlp is None:
        raise ModelError(f"{where} pools without projection and MLP (pre-logits mode), which is not opened.")
    allowed = torch.ones(layout.n_tokens, layout.n_tokens, dtype=torch.bool)
    allowed[:, -1] = False
    allowed[:, : 0 if with_prefix else layout.n_prefix] = False
    written = torch.zeros(layout.n_tokens, 1)
    written[-1] = 1
    return OpenBlock(
        norm1=norm,
        norm2=open_norm(pool.norm, f"{where} norm"),
        reads=constant_query(lambda: _query(pool), pool.kv),
        q_norm=pool.q_norm,
        k_norm=pool.k_norm,
        writes=LinearWrites(pool.proj, nn.Identity()),
        mlp=pool.mlp,
        scale2=nn.Identity(),
        n_heads=pool.num_heads,
        d_head=pool.head_dim,
        scale=pool.scale,
        mask=additive_mask(allowed),
        at=Constant(written),
    )


def _query(pool: Any) -> Tensor:
    return pool.q(pool.latent[0, 0])


def outside_pool(layout: TokenLayout, allowed: Tensor | None) -> tuple[Constant, Constant]:
    """Mask and written tokens of a block in front of attention pooling: it neither sees nor writes the pool's token.

    Args:
        layout: The tokens, the pool's among them.
        allowed: Which targets may see which sources, without the pool's token; None for all.
    """
    n = layout.n_tokens
    seen = torch.ones(n, n, dtype=torch.bool)
    if allowed is not None:
        seen[:-1, :-1] = allowed
    seen[:, -1] = False
    written = torch.ones(n, 1)
    written[-1] = 0
    return additive_mask(seen), Constant(written)


def padded(block: OpenBlock, n_heads: int) -> OpenBlock:
    """The block with heads that neither read nor write behind its own, where blocks have different numbers."""
    if block.n_heads == n_heads:
        return block
    if block.joint is not None:
        raise ModelError(
            f"a block has a norm across its {block.n_heads} heads, and another has {n_heads}: the two are not opened "
            f"together. Pass a model whose attention pooling has as many heads as its blocks."
        )
    n_rows = n_heads * block.d_head
    reads, writes = padded_reads(block.reads, n_heads * block.d_read), PaddedWrites(block.writes, n_rows)
    return replace(block, reads=reads, writes=writes, n_heads=n_heads)
