"""Where the canonical parts are in timm's `VisionTransformer`, and sentences for what cannot be opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from .blocks import OpenBlock
from .config import TokenLayout, VitConfig
from .errors import ModelError
from .norms import open_norm
from .readouts import Readout


@dataclass(frozen=True, eq=False)
class Opened:
    """The parts of a module: nothing is copied.

    Args:
        cfg: Sizes.
        blocks: The canonical blocks.
        readout: From the last residual to the logits.
    """

    cfg: VitConfig
    blocks: tuple[OpenBlock, ...]
    readout: Readout


def open_module(module: nn.Module, name: str) -> Opened:
    """The parts of a timm `VisionTransformer`.

    Raises:
        ModelError: The module, one of its blocks or its pooling is of a kind that is not opened.
    """
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(module, VisionTransformer):
        raise ModelError(
            f"{name} is a {type(module).__module__}.{type(module).__name__}, not timm's VisionTransformer: only that "
            f"class with its standard Block is opened. Pass such a module, or a name such as 'deit_tiny_patch16_224'."
        )
    _refuse_variants(module, name)
    blocks = tuple(_open_block(block, f"{name} block {i}") for i, block in enumerate(module.blocks))
    cfg = _config(module, blocks, name)
    readout = Readout(
        cfg.read_tokens,
        open_norm(module.norm, f"{name} norm"),
        open_norm(module.fc_norm, f"{name} fc_norm"),
        module.head,
    )
    return Opened(cfg, blocks, readout)


def _refuse_variants(module: Any, name: str) -> None:
    """Sentences for what a VisionTransformer can be that its standard blocks do not show."""
    refusal = ""
    if hasattr(module, "dist_token"):
        refusal = "has a distillation token with a second head; two readouts are not opened"
    elif module.attn_pool is not None:
        refusal = f"pools with attention ({module.global_pool!r}), which starts a second residual stream"
    elif module.global_pool not in ("token", "avg"):
        refusal = f"pools with {module.global_pool!r}; token and average pooling are opened"
    elif not isinstance(module.head, nn.Linear):
        refusal = "has no classifier head (num_classes=0), so that there are no logits to explain"
    elif len(module.blocks) == 0:
        refusal = "has no blocks"
    if refusal:
        raise ModelError(f"{name} {refusal}. Pass a timm VisionTransformer with token or average pooling and a head.")


def _open_block(block: Any, where: str) -> OpenBlock:
    from timm.models.vision_transformer import Attention, Block  # pyright: ignore[reportPrivateImportUsage]

    if type(block) is not Block:
        reason = "its writes pass a norm before they are added" if "Post" in type(block).__name__ else "not standard"
        raise ModelError(f"{where} is a {type(block).__name__} ({reason}): only timm's standard Block is opened.")
    attn: Any = block.attn
    if type(attn) is not Attention:
        raise ModelError(f"{where} attends with {type(attn).__name__}: only timm's standard Attention is opened.")
    if not isinstance(attn.norm, nn.Identity):
        raise ModelError(f"{where} has a norm across all heads before the projection, which couples them: not opened.")
    if getattr(attn, "gate", None) is not None:
        raise ModelError(f"{where} gates its attention output, which is not opened.")
    if not hasattr(block.mlp, "fc2"):
        raise ModelError(f"{where} has an MLP of kind {type(block.mlp).__name__} without `fc2`, which is not opened.")
    return OpenBlock(
        norm1=open_norm(block.norm1, f"{where} norm1"),
        norm2=open_norm(block.norm2, f"{where} norm2"),
        qkv=attn.qkv,
        q_norm=attn.q_norm,
        k_norm=attn.k_norm,
        proj=attn.proj,
        scale1=block.ls1,
        mlp=block.mlp,
        scale2=block.ls2,
        n_heads=attn.num_heads,
        d_head=attn.head_dim,
        scale=attn.head_dim**-0.5 if attn.fused_attn else attn.scale,
    )


def _config(module: Any, blocks: tuple[OpenBlock, ...], name: str) -> VitConfig:
    heads = {(block.n_heads, block.d_head) for block in blocks}
    if len(heads) > 1:
        raise ModelError(f"{name} has blocks with different numbers or widths of heads {sorted(heads)}: not opened.")
    ((n_heads, d_head),) = heads
    patch = module.patch_embed
    rows, columns = (int(n) for n in patch.grid_size)
    layout = TokenLayout(module.has_class_token, module.num_reg_tokens, (rows, columns))
    if module.global_pool == "token":
        read: tuple[int, ...] = (0,)
    else:
        read = tuple(range(0 if module.pool_include_prefix else layout.n_prefix, layout.n_tokens))
    return VitConfig(
        name=name,
        n_layers=len(blocks),
        n_heads=n_heads,
        d_model=module.embed_dim,
        d_head=d_head,
        d_mlp=module.blocks[0].mlp.fc2.in_features,
        n_classes=module.num_classes,
        image_size=_pair(patch.img_size),
        patch_size=_pair(patch.patch_size),
        n_channels=module.in_chans,
        tokens=layout,
        read_tokens=read,
        pooling={"token": "token", "avg": "average"}[module.global_pool],
    )


def _pair(size: Any) -> tuple[int, int]:
    first, second = size
    return int(first), int(second)
