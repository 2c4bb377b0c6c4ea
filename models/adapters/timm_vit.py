"""timm's `VisionTransformer`, `VisionTransformerDistilled` and `Eva`.

Attention pooling is one more block: `AttentionPoolLatent` (SigLIP, PE) starts a second residual stream after the last
block, in which a constant query attends to the normed tokens, and an MLP reads what its heads wrote. Here that stream
is the last token of the first one. It starts at zero, the model's blocks neither see it nor write to it, and the
pooling block writes nowhere else.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import Constant, LearntTable, Rope, additive_mask, prefixed_rope, prefixed_table
from ..blocks import OpenBlock
from ..config import TokenLayout
from ..errors import ModelError
from ..norms import Norm, open_norm
from ..projections import LinearWrites, ManyWrites, constant_query, padded_reads
from ..readouts import Readout
from .opened import Opened, allowed_pairs, sizes_of
from .timm_blocks import Around, open_block


@dataclass(frozen=True, eq=False)
class TimmStem:
    """Patches, positions, CLS and registers, and CLIP's pre-norm, as timm has them.

    Args:
        module: A timm `VisionTransformer` or `Eva`.
        pooled: Whether the token that attention pooling writes to stands behind all others; it starts at zero.
    """

    module: Any
    pooled: bool = False

    def patches(self, images: Tensor, /) -> Tensor:
        """Patch embeddings, before positions."""
        return self.module.patch_embed(images)

    def content(self, patches: Tensor, /) -> Tensor:
        """All tokens before positions."""
        flat = patches.reshape(patches.shape[0], -1, patches.shape[-1])
        names = ("cls_token", "dist_token", "reg_token")
        prefix = [token for token in (getattr(self.module, name, None) for name in names) if token is not None]
        return torch.cat([*(token.expand(len(flat), -1, -1) for token in prefix), flat], dim=1)

    def positioned(self, patches: Tensor, /) -> Tensor:
        """All tokens with positions; rotary ones act in attention."""
        found = self.module._pos_embed(patches)
        return found[0] if isinstance(found, tuple) else found

    def finish(self, tokens: Tensor, /) -> Tensor:
        """The residual in front of block 0."""
        residual = self.module.norm_pre(tokens)
        return F.pad(residual, (0, 0, 0, 1)) if self.pooled else residual


def is_timm_vit(module: nn.Module) -> bool:
    """Whether a module is one of the classes that are opened here."""
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(module, VisionTransformer | Eva)


def open_timm(module: Any, name: str, mask: str | Tensor | None = None) -> Opened:
    """The parts of one of timm's ViTs.

    Args:
        module: A timm `VisionTransformer`, `VisionTransformerDistilled` or `Eva`.
        name: What to call it in a message.
        mask: `causal`, or which targets may see which sources, (target, source).

    Raises:
        ModelError: One of its blocks or its pooling is of a kind that is not opened.
    """
    pooling = _pooling(module, name)
    if mask is not None and "attn_mask" not in inspect.signature(module.forward).parameters:
        raise ModelError(
            f"{name} is a {type(module).__name__}, whose forward pass takes no attn_mask=: give it one, or leave "
            f"attention_mask= out."
        )
    layout = _layout(module)
    allowed = allowed_pairs(mask, layout.n_tokens - int(layout.has_pool), name)
    blocks = [open_block(block, around) for block, around in _surroundings(module, name, layout, allowed)]
    if layout.has_pool:
        norm = open_norm(module.norm, f"{name} norm")
        # Eva pools every token; VisionTransformer says whether CLS and registers are pooled too
        every = bool(getattr(module, "pool_include_prefix", True))
        blocks.append(open_pool(module.attn_pool, norm, layout, with_prefix=every, where=f"{name} attn_pool"))
    readout, patch = _readout(module, layout, pooling, name), module.patch_embed
    size = {"image": patch.img_size, "patch": patch.patch_size, "n_channels": module.in_chans}
    cfg = sizes_of(name, blocks, layout, readout, **size, pooling=pooling)
    given = {} if allowed is None else {"attn_mask": allowed}
    return Opened(
        cfg,
        TimmStem(module, layout.has_pool),
        tuple(padded(block, cfg.n_heads) for block in blocks),
        readout,
        tuple(module.blocks),
        partial(_forward, module, given),
    )


def _forward(module: nn.Module, given: dict[str, Tensor], images: Tensor) -> Tensor:
    return module(images, **{key: value.to(images.device) for key, value in given.items()})


def _pooling(module: Any, name: str) -> str:
    """What the readout does; a sentence for what is not opened."""
    kinds = {"token": "token", "avg": "average", "map": "map"}
    if hasattr(module, "dist_token"):
        return "distilled"
    if module.global_pool not in kinds:
        raise ModelError(
            f"{name} pools with {module.global_pool!r}; token, average and map pooling are opened. Make it with "
            f"global_pool='token' or 'avg', such as load_vit({name!r}, global_pool='avg')."
        )
    if hasattr(module.patch_embed, "backbone"):
        raise ModelError(
            f"{name} has a convolutional network in front of its blocks, so that its tokens are no patches of the "
            f"picture: not opened. Pass a model whose patch embedding is one convolution."
        )
    if len(module.blocks) == 0:
        raise ModelError(f"{name} has no blocks: there is nothing to open. Pass a model with at least one.")
    return kinds[module.global_pool]


def _layout(module: Any) -> TokenLayout:
    rows, columns = (int(n) for n in module.patch_embed.grid_size)
    has_dist, has_cls = hasattr(module, "dist_token"), module.cls_token is not None
    n_registers = module.num_prefix_tokens - int(has_cls) - int(has_dist)
    return TokenLayout(has_cls, n_registers, (rows, columns), has_dist, has_pool=module.attn_pool is not None)


def _surroundings(
    module: Any, name: str, layout: TokenLayout, allowed: Tensor | None
) -> Iterator[tuple[nn.Module, Around]]:
    """Each block with its rotation, its mask and the tokens that it writes to."""
    mask, at = None if allowed is None else additive_mask(allowed), None
    if layout.has_pool:
        mask, at = outside_pool(layout, allowed)
    for layer, (block, rope) in enumerate(zip(module.blocks, _ropes(module, layout), strict=True)):
        yield block, Around(f"{name} block {layer}", rope, mask, at)


def _ropes(module: Any, layout: TokenLayout) -> list[Rope | None]:
    """The rotation of each block: the same for all, or (mixed) a learnt one for each head of each."""
    rope, n_behind = getattr(module, "rope", None), int(layout.has_pool)
    if rope is None:
        return [None] * len(module.blocks)
    halves = [getattr(block.attn, "rotate_half", False) for block in module.blocks]
    if not module.rope_mixed:
        with torch.no_grad():
            one = prefixed_rope(_tables(module, layout), layout.n_prefix, halves[0], n_behind)
        return [one] * len(module.blocks)

    def table(layer: int) -> Tensor:
        return prefixed_table(_tables(module, layout)[layer], layout.n_prefix, n_behind)

    return [Rope(LearntTable(rope.freqs, partial(table, layer)), half) for layer, half in enumerate(halves)]


def _tables(module: Any, layout: TokenLayout) -> Tensor:
    """Sines and cosines as the model makes them: (token, 2 x d_head), or mixed (layer, head, token, 2 x d_head)."""
    if module.dynamic_img_size or not hasattr(module.rope, "feat_shape"):
        return module.rope.get_embed(shape=list(layout.grid))
    return module.rope.get_embed()


def _read_tokens(module: Any, layout: TokenLayout, pooling: str) -> tuple[int, ...]:
    if pooling == "token":
        return (0,)
    if pooling == "distilled":
        return (0, 1)
    if pooling == "map":
        return (layout.n_tokens - 1,)
    start = 0 if getattr(module, "pool_include_prefix", False) else layout.n_prefix
    return tuple(range(start, layout.n_tokens))


def _readout(module: Any, layout: TokenLayout, pooling: str, name: str) -> Readout:
    identity, tokens = open_norm(nn.Identity(), name), _read_tokens(module, layout, pooling)
    norm = identity if layout.has_pool else open_norm(module.norm, f"{name} norm")
    if pooling == "distilled":
        return Readout(tokens, norm, identity, module.head, second_head=module.head_dist)
    return Readout(tokens, norm, open_norm(module.fc_norm, f"{name} fc_norm"), module.head)


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
    allowed = torch.ones(layout.n_tokens, layout.n_tokens, dtype=torch.bool, device="cpu")
    allowed[:, -1] = False
    allowed[:, : 0 if with_prefix else layout.n_prefix] = False
    written = torch.zeros(layout.n_tokens, 1, device="cpu")
    written[-1] = 1
    return OpenBlock(
        norm1=norm,
        norm2=open_norm(pool.norm, f"{where} norm"),
        reads=constant_query(lambda: pool.q(pool.latent[0, 0]), pool.kv),
        q_norm=pool.q_norm,
        k_norm=pool.k_norm,
        writes=LinearWrites(pool.proj, nn.Identity()),
        mlp=pool.mlp,
        n_heads=pool.num_heads,
        d_head=pool.head_dim,
        scale=pool.scale,
        mask=additive_mask(allowed),
        at=Constant(written),
    )


def outside_pool(layout: TokenLayout, allowed: Tensor | None) -> tuple[Constant, Constant]:
    """Mask and written tokens of a block in front of attention pooling: it neither sees nor writes the pool's token.

    Args:
        layout: The tokens, the pool's among them.
        allowed: Which targets may see which sources, without the pool's token; None for all.
    """
    n = layout.n_tokens
    seen = torch.ones(n, n, dtype=torch.bool, device="cpu")
    if allowed is not None:
        seen[:-1, :-1] = allowed
    seen[:, -1] = False
    written = torch.ones(n, 1, device="cpu")
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
    reads, writes = padded_reads(block.reads, n_heads * block.d_read), ManyWrites((block.writes,), n_rows)
    return replace(block, reads=reads, writes=writes, n_heads=n_heads)
