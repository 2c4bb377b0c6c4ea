"""timm's blocks: standard, EVA's, and the two kinds of parallel ones; sentences for those that cannot be opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..attention import Constant, JointNorm, Rope, Scaled
from ..blocks import OpenBlock
from ..errors import ModelError
from ..mlps import ManyMlps, NoMlp, SplitMlp
from ..norms import Norm, open_norm
from ..projections import FusedReads, LinearWrites, ManyWrites, Reads, SeparateReads, beside, gated_reads


@dataclass(frozen=True, eq=False)
class Around:
    """What a block is handed by its model.

    Args:
        where: What to call the block in a message.
        rope: Rotation of queries and keys.
        mask: Added to the attention scores.
        at: Tokens that the block writes to.
    """

    where: str
    rope: Rope | None = None
    mask: Constant | None = None
    at: Constant | None = None

    @property
    def parts(self) -> dict[str, Any]:
        """What of it is a part of the block."""
        return {"rope": self.rope, "mask": self.mask, "at": self.at}


def open_block(block: nn.Module, around: Around) -> OpenBlock:
    """The canonical parts of one of timm's blocks.

    Raises:
        ModelError: It is of a kind that cannot be opened; the message says why.
    """
    for base in type(block).__mro__:
        if (opener := _OPENERS.get(f"{base.__module__}.{base.__name__}")) is not None:
            return opener(block, around)
    raise ModelError(f"{around.where} is a {type(block).__name__}: {_refusal(block)}")


def is_timm_block(module: nn.Module) -> bool:
    """Whether a module is one of timm's ViT blocks, whether it can be opened or not."""
    kind = type(module)
    return any(base.__name__ in _KINDS and base.__module__.startswith("timm.") for base in kind.__mro__)


_KINDS = {"Block", "EvaBlock", "ParallelScalingBlock", "ParallelThingsBlock"}
_KINDS |= {"ResPostBlock", "EvaBlockPostNorm", "DiffParallelScalingBlock"}  # which are refused


POST_NORM = (
    "its writes pass a norm before they are added to the residual, so that what a head adds depends on all other heads "
    "and cannot be told apart. Pass a model with pre-norm blocks."
)


def _refusal(block: nn.Module) -> str:
    kind = type(block).__name__
    if "Post" in kind:
        return POST_NORM
    if "Diff" in kind:
        return (
            "differential attention subtracts two patterns and norms each head's output, so that a head has no one "
            "pattern whose keys and values an edge could carry. Pass a model with softmax attention."
        )
    return "timm's Block, EvaBlock, ParallelScalingBlock and ParallelThingsBlock are opened. Pass a model of these."


def _open_standard(block: Any, around: Around) -> OpenBlock:
    where, attn = around.where, block.attn
    parts = open_attention(attn, where)
    return OpenBlock(
        norm1=open_norm(block.norm1, f"{where} norm1"),
        norm2=open_norm(block.norm2, f"{where} norm2"),
        writes=LinearWrites(attn.proj, _layer_scale(block, 1)),
        mlp=open_mlp(block.mlp, where),
        scale2=_layer_scale(block, 2),
        **around.parts,
        **parts,
    )


def _layer_scale(block: Any, number: int) -> nn.Module:
    """LayerScale in either spelling: a module `ls1` or a parameter `gamma_1`; Identity where there is none."""
    if hasattr(block, f"ls{number}"):
        return getattr(block, f"ls{number}")
    if getattr(block, f"gamma_{number}", None) is None:
        return nn.Identity()
    return Scaled(lambda: getattr(block, f"gamma_{number}"))


def open_attention(attn: Any, where: str) -> dict[str, Any]:
    """What timm's `Attention`, `AttentionRope` and `EvaAttention` say about heads, by the names of `OpenBlock`.

    Raises:
        ModelError: It is of another kind.
    """
    from timm.layers import Attention, AttentionRope  # pyright: ignore[reportPrivateImportUsage]
    from timm.models.eva import EvaAttention

    if not isinstance(attn, Attention | AttentionRope | EvaAttention):
        raise ModelError(f"{where} attends with {type(attn).__name__}: {_refusal(attn)}")
    reads = attention_reads(attn)
    gate = getattr(attn, "gate", None)
    norm = open_norm(attn.norm, f"{where} attn.norm")
    if gate is not None and norm.bias is not None:
        raise ModelError(
            f"{where} has a gate behind a norm with a bias, which the gate would scale: not opened. "
            f"Pass a model with one of the two."
        )
    return {
        "reads": reads if gate is None else gated_reads(reads, gate, attn.num_heads),
        "q_norm": attn.q_norm,
        "k_norm": attn.k_norm,
        "n_heads": attn.num_heads,
        "d_head": attn.head_dim,
        "scale": attn.head_dim**-0.5 if attn.fused_attn else attn.scale,
        "joint": JointNorm(norm) if norm.scales else None,
        "gated": gate is not None,
    }


def attention_reads(attn: Any) -> Reads:
    """The reading projection, fused (with its bias, or q's and v's kept apart) or separate."""
    if getattr(attn, "qkv", None) is None:
        layers = (attn.q_proj, attn.k_proj, attn.v_proj)
        return SeparateReads(layers, attn.head_dim, getattr(attn, "num_kv_groups", 1))
    if getattr(attn, "q_bias", None) is None:
        return FusedReads(lambda: (attn.qkv.weight, attn.qkv.bias))
    return FusedReads(lambda: (attn.qkv.weight, torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))))


def open_mlp(mlp: Any, where: str) -> nn.Module | None:
    """The MLP itself; None for a block that has none.

    Raises:
        ModelError: Its hidden neurons cannot be found.
    """
    if isinstance(mlp, NoMlp):
        return None
    if not hasattr(mlp, "fc2"):
        raise ModelError(f"{where} has an MLP of kind {type(mlp).__name__} without `fc2`, which is not opened.")
    return mlp


def _open_scaling(block: Any, around: Around) -> OpenBlock:
    """Attention and MLP read one norm, share the projections in and perhaps out, and both read the block's input."""
    where, hidden, bias = around.where, block.in_split[0], block.in_proj.bias
    norm = open_norm(block.in_norm, f"{where} in_norm")
    width = block.num_heads * block.head_dim
    if block.out_proj is not None:
        writes = LinearWrites(block.out_proj, block.ls, slice(0, width))
    else:
        writes = LinearWrites(block.attn_out_proj, block.ls)
    return OpenBlock(
        norm1=norm,
        norm2=norm,
        reads=FusedReads(lambda: (block.in_proj.weight[hidden:], None if bias is None else bias[hidden:])),
        q_norm=block.q_norm,
        k_norm=block.k_norm,
        writes=writes,
        mlp=SplitMlp(block),
        scale2=block.ls,
        n_heads=block.num_heads,
        d_head=block.head_dim,
        scale=block.scale,
        **around.parts,
        parallel=True,
    )


def _open_things(block: Any, around: Around) -> OpenBlock:
    """Several attentions beside one another, then several MLPs: all heads are heads, and the MLPs are one node.

    Each attention and each MLP has a norm of its own; they share everything but gamma and beta, which count as part of
    what reads them.
    """
    where = around.where
    attentions = [open_attention(part.attn, where) for part in block.attns]
    first = attentions[0]
    for found, part in zip(attentions, block.attns, strict=True):
        if found["gated"] or found["joint"] or not isinstance(part.attn.q_norm, nn.Identity):
            raise ModelError(f"{where} holds parallel attentions with norms or gates of their own: not opened.")
    gains = [open_norm(part.norm, f"{where} norm of an attention") for part in block.attns]
    writes = tuple(LinearWrites(part.attn.proj, part.ls) for part in block.attns)
    return OpenBlock(
        norm1=bare_norm(gains[0]),
        norm2=bare_norm(open_norm(block.ffns[0].norm, f"{where} norm of an MLP")),
        reads=beside([found["reads"] for found in attentions], gains),
        q_norm=first["q_norm"],
        k_norm=first["k_norm"],
        writes=ManyWrites(writes),
        mlp=ManyMlps(block.ffns),
        n_heads=sum(found["n_heads"] for found in attentions),
        d_head=first["d_head"],
        scale=first["scale"],
        **around.parts,
    )


def bare_norm(norm: Norm) -> Norm:
    """The same kind of norm without gamma and beta."""
    module: Any = norm.module
    if norm.centres:
        return Norm(nn.LayerNorm(module.normalized_shape, module.eps, elementwise_affine=False), True, True)
    return Norm(nn.RMSNorm(module.normalized_shape, module.eps, elementwise_affine=False), True, False)


_OPENERS = {
    "timm.models.vision_transformer.Block": _open_standard,
    "timm.models.eva.EvaBlock": _open_standard,
    "timm.models.vision_transformer.ParallelScalingBlock": _open_scaling,
    "timm.models.vision_transformer.ParallelThingsBlock": _open_things,
}
