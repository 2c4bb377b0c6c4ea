"""timm's `VisionTransformer`, `VisionTransformerDistilled` and `Eva`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import LearntTable, Rope, additive_mask, prefixed_rope, prefixed_table
from ..blocks import OpenBlock
from ..config import TokenLayout, VitConfig
from ..errors import ModelError
from ..norms import open_norm
from ..readouts import Readout
from .opened import Opened, PooledStem, Stem, allowed_pairs
from .pooling import open_pool, outside_pool, padded
from .timm_blocks import Around, open_block


@dataclass(frozen=True, eq=False)
class TimmStem:
    """Patches, positions, CLS and registers, and CLIP's pre-norm, as timm has them.

    Args:
        module: A timm `VisionTransformer` or `Eva`.
    """

    module: Any

    def patches(self, images: Tensor) -> Tensor:
        """Patch embeddings, before positions."""
        return self.module.patch_embed(images)

    def content(self, patches: Tensor) -> Tensor:
        """All tokens before positions."""
        flat = patches.reshape(patches.shape[0], -1, patches.shape[-1])
        names = ("cls_token", "dist_token", "reg_token")
        prefix = [token for token in (getattr(self.module, name, None) for name in names) if token is not None]
        return torch.cat([*(token.expand(len(flat), -1, -1) for token in prefix), flat], dim=1)

    def positioned(self, patches: Tensor) -> Tensor:
        """All tokens with positions; rotary ones act in attention."""
        found = self.module._pos_embed(patches)
        return found[0] if isinstance(found, tuple) else found

    def finish(self, tokens: Tensor) -> Tensor:
        """The residual in front of block 0."""
        return self.module.norm_pre(tokens)


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
        with_prefix = getattr(module, "pool_include_prefix", None)
        blocks.append(_pool_block(module, norm, layout, with_prefix, name))
    cfg = _config(module, blocks, layout, pooling, name)
    given = {} if allowed is None else {"attn_mask": allowed}
    stem: Stem = TimmStem(module)
    return Opened(
        cfg,
        PooledStem(stem) if layout.has_pool else stem,
        tuple(padded(block, cfg.n_heads) for block in blocks),
        _readout(module, cfg, name),
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


def _pool_block(module: Any, norm: Any, layout: TokenLayout, with_prefix: bool | None, name: str) -> OpenBlock:
    # Eva pools every token; VisionTransformer says whether CLS and registers are pooled too
    every = True if with_prefix is None else bool(with_prefix)
    return open_pool(module.attn_pool, norm, layout, with_prefix=every, where=f"{name} attn_pool")


def _config(module: Any, blocks: list[OpenBlock], layout: TokenLayout, pooling: str, name: str) -> VitConfig:
    patch = module.patch_embed
    heads, mlps = tuple(block.n_heads for block in blocks), tuple(block.mlp is not None for block in blocks)
    parallel, joint = tuple(block.parallel for block in blocks), tuple(block.joint is not None for block in blocks)
    outs = [getattr(block.mlp, "fc2", None) for block in blocks]
    return VitConfig(
        name=name,
        n_layers=len(blocks),
        n_heads=max(heads),
        d_model=module.embed_dim,
        d_head=max(block.d_head for block in blocks),
        d_mlp=max([int(out.in_features) for out in outs if out is not None], default=0),
        n_classes=module.num_classes or module.num_features,
        image_size=_pair(patch.img_size),
        patch_size=_pair(patch.patch_size),
        n_channels=module.in_chans,
        tokens=layout,
        read_tokens=_read_tokens(module, layout, pooling),
        pooling=pooling,
        heads=heads if len(set(heads)) > 1 else (),
        mlps=() if all(mlps) else mlps,
        parallel=parallel if any(parallel) else (),
        joint=joint if any(joint) else (),
    )


def _read_tokens(module: Any, layout: TokenLayout, pooling: str) -> tuple[int, ...]:
    if pooling == "token":
        return (0,)
    if pooling == "distilled":
        return (0, 1)
    if pooling == "map":
        return (layout.n_tokens - 1,)
    start = 0 if getattr(module, "pool_include_prefix", False) else layout.n_prefix
    return tuple(range(start, layout.n_tokens))


def _readout(module: Any, cfg: VitConfig, name: str) -> Readout:
    identity = open_norm(nn.Identity(), name)
    norm = identity if cfg.pools else open_norm(module.norm, f"{name} norm")
    if cfg.pooling == "distilled":
        return Readout(cfg.read_tokens, norm, identity, module.head, second_head=module.head_dist)
    return Readout(cfg.read_tokens, norm, open_norm(module.fc_norm, f"{name} fc_norm"), module.head)


def _pair(size: Any) -> tuple[int, int]:
    first, second = size
    return int(first), int(second)
