"""open_clip's image towers: its own `VisionTransformer`, and timm's ViTs that it wraps.

A whole model (`CLIP`, `CustomTextCLIP`) is opened at its image tower. What comes out is the vector in the space that
texts are embedded in: the projection is the head.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor, nn

from ..attention import JointNorm, Scaled
from ..blocks import OpenBlock
from ..config import TokenLayout
from ..errors import ModelError
from ..mlps import PlainMlp
from ..norms import open_norm
from ..projections import FusedReads, LinearWrites
from ..readouts import ProjectionHead, Readout
from .opened import ClassTokenStem, Opened, sizes_of
from .timm_vit import is_timm_vit, open_timm

KINDS = ("CLIP", "CustomTextCLIP", "VisionTransformer", "TimmModel")


def open_open_clip(module: Any, name: str) -> Opened:
    """The parts of one of the models named in `KINDS`.

    Args:
        module: The model, or its image tower.
        name: What to call it in a message.

    Raises:
        ModelError: The image tower is no ViT, or one of its parts is of a kind that is not opened.
    """
    tower = getattr(module, "visual", module)
    if hasattr(tower, "trunk"):
        return _open_wrapped(tower, name)
    if not hasattr(tower, "transformer") or not hasattr(tower, "positional_embedding"):
        raise ModelError(
            f"{name} has an image tower of kind {type(tower).__name__}, which is no ViT: open_clip's VisionTransformer "
            f"and timm's ViTs in it are opened, such as load_vit('open_clip:ViT-B-32', pretrained=False)."
        )
    return _open_own(tower, name)


def _open_wrapped(tower: Any, name: str) -> Opened:
    """A timm ViT with a projection behind it."""
    if not is_timm_vit(tower.trunk):
        raise ModelError(
            f"{name} has timm's {type(tower.trunk).__name__} as its image tower: VisionTransformer and Eva are opened."
        )
    opened = open_timm(tower.trunk, name)
    layers = [layer for layer in (opened.readout.head, *tower.head) if not isinstance(layer, nn.Identity | nn.Dropout)]
    if len(layers) > 1 or not all(isinstance(layer, nn.Linear) for layer in layers):
        raise ModelError(
            f"{name} ends in {' and '.join(type(layer).__name__ for layer in layers)}: one linear projection is "
            f"opened, because logits are attributed to what they are linear in. Pass a model with proj='linear'."
        )
    head = layers[0] if layers else nn.Identity()
    readout = dataclasses.replace(opened.readout, head=head, info={"kind": "embedding"})
    width = head.out_features if isinstance(head, nn.Linear) else opened.cfg.n_classes
    cfg = dataclasses.replace(opened.cfg, n_classes=width)
    return dataclasses.replace(opened, cfg=cfg, readout=readout, forward=tower)


def _open_own(tower: Any, name: str) -> Opened:
    layers = tower.transformer.resblocks
    if tower.attn_pool is not None or tower.pool_type not in ("tok", "avg"):
        raise ModelError(
            f"{name} pools by attention with many queries (CoCa), which is not opened: models that read out the class "
            f"token or the average of the patches are, such as open_clip:ViT-B-32."
        )
    if len(layers) == 0:
        raise ModelError(f"{name} has no blocks: there is nothing to open. Pass a model with at least one.")
    blocks = tuple(_open_block(layer, f"{name} block {index}") for index, layer in enumerate(layers))
    layout = TokenLayout(True, 0, (int(tower.grid_size[0]), int(tower.grid_size[1])))
    readout = _readout(tower, layout)
    size = {"image": tower.image_size, "patch": tower.patch_size, "n_channels": tower.conv1.in_channels}
    cfg = sizes_of(name, blocks, layout, readout, **size)
    stem = ClassTokenStem(
        lambda images: tower.conv1(images).flatten(2).transpose(1, 2),
        lambda: tower.class_embedding,
        lambda tokens: tower.positional_embedding,
        dropout=lambda tokens: tower.patch_dropout(tokens),
        norm=lambda tokens: tower.ln_pre(tokens),
    )
    return Opened(cfg, stem, blocks, readout, tuple(layers), lambda images: _pooled(tower(images)))


def _pooled(out: Any) -> Tensor:
    """What a tower says that may give its tokens too."""
    return out[0] if isinstance(out, tuple) else out


def _readout(tower: Any, layout: TokenLayout) -> Readout:
    norm, identity = open_norm(tower.ln_post, "ln_post"), open_norm(nn.Identity(), "")
    read = (0,) if tower.pool_type == "tok" else tuple(range(1, layout.n_tokens))
    head = nn.Identity() if tower.proj is None else ProjectionHead(tower.proj)
    norms = (identity, norm) if tower.final_ln_after_pool else (norm, identity)
    return Readout(read, *norms, head, info={"kind": "embedding"})


def _open_block(block: Any, where: str) -> OpenBlock:
    attention = block.attn
    _refuse(block, where)
    inner = getattr(attention, "ln_inner", None)
    inner = None if inner is None or isinstance(inner, nn.Identity) else open_norm(inner, f"{where} ln_inner")
    d_head = int(attention.head_dim)
    return OpenBlock(
        norm1=open_norm(block.ln_1, f"{where} ln_1"),
        norm2=open_norm(block.ln_2, f"{where} ln_2"),
        reads=FusedReads(lambda: (attention.in_proj_weight, attention.in_proj_bias)),
        q_norm=getattr(attention, "ln_q", nn.Identity()),
        k_norm=getattr(attention, "ln_k", nn.Identity()),
        writes=LinearWrites(attention.out_proj, _scale(block.ls_1)),
        mlp=PlainMlp(block.mlp.c_fc, block.mlp.gelu, block.mlp.c_proj, getattr(block.mlp, "ln", None)),
        scale2=_scale(block.ls_2),
        n_heads=int(attention.num_heads),
        d_head=d_head,
        scale=d_head**-0.5,
        joint=None if inner is None else JointNorm(inner),
    )


def _refuse(block: Any, where: str) -> None:
    """Does nothing for a block whose heads add up."""
    if not isinstance(getattr(block, "ln_attn", nn.Identity()), nn.Identity):
        raise ModelError(
            f"{where} norms what attention writes before it is added to the residual (ln_attn), so that what a head "
            f"adds depends on all other heads and cannot be told apart. Pass a model without scale_attn."
        )
    odd = [name for name in ("logit_scale", "head_scale", "bias_k") if getattr(block.attn, name, None) is not None]
    if odd or getattr(block.attn, "in_proj_weight", None) is None:
        raise ModelError(f"{where} attends with {', '.join(odd) or 'separate projections'}, which is not opened.")


def _scale(scale: nn.Module) -> nn.Module:
    """LayerScale by its parameter: open_clip's own may work in place, on weights too."""
    gamma = getattr(scale, "gamma", None)
    return scale if gamma is None else Scaled(lambda: scale.gamma)  # type: ignore[arg-type]
