"""What the ViTs of Hugging Face's `transformers` have in common: layers, names that changed with its versions, answers.

Attention: `q_proj, k_proj, v_proj, o_proj` in version 5, `attention.query`, ..., `output.dense` in version 4, and
`out_proj` in CLIP. MLP: `fc1, activation_fn, fc2`, or in version 4 spread over the layer's `intermediate` and `output`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import OpenBlock
from ..errors import ModelError
from ..mlps import GatedMlp, PlainMlp
from ..norms import open_norm
from ..projections import LinearWrites, SeparateReads


def part(module: Any, *paths: str) -> Any:
    """The first of several dotted names that a module has.

    Raises:
        ModelError: It has none of them.
    """
    found = part_or_none(module, *paths)
    if found is None:
        raise ModelError(
            f"a {type(module).__name__} has none of {', '.join(paths)}: this version of transformers lays it out in a "
            f"way that is not opened. Versions 4.50 to 5.24 are known."
        )
    return found


def part_or_none(module: Any, *paths: str) -> Any:
    """The same, or None."""
    for path in paths:
        found = module
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is not None:
            return found
    return None


def open_layers(layers: Any, name: str) -> tuple[OpenBlock, ...]:
    """The canonical blocks of an encoder's layers.

    Raises:
        ModelError: There are none, or a part of one is of a kind that is not opened.
    """
    if len(layers) == 0:
        raise ModelError(f"{name} has no blocks: there is nothing to open. Pass a model with at least one.")
    return tuple(_open_layer(layer, f"{name} block {index}") for index, layer in enumerate(layers))


def _open_layer(layer: Any, where: str) -> OpenBlock:
    attention = part(layer, "self_attn", "attention")
    layers = tuple(part(attention, f"{x[0]}_proj", f"attention.{x}") for x in ("query", "key", "value"))
    n_heads = int(part(attention, "num_attention_heads", "num_heads", "attention.num_attention_heads"))
    d_head = int(layers[0].out_features) // n_heads
    return OpenBlock(
        norm1=open_norm(part(layer, "layernorm_before", "norm1", "layer_norm1"), f"{where} norm1"),
        norm2=open_norm(part(layer, "layernorm_after", "norm2", "layer_norm2"), f"{where} norm2"),
        reads=SeparateReads((layers[0], layers[1], layers[2]), d_head),
        q_norm=nn.Identity(),
        k_norm=nn.Identity(),
        writes=LinearWrites(part(attention, "o_proj", "out_proj", "output.dense"), _scale(layer, 1)),
        mlp=open_hf_mlp(layer, where),
        scale2=_scale(layer, 2),
        n_heads=n_heads,
        d_head=d_head,
        scale=float(part_or_none(attention, "scaling", "scale", "attention.scaling") or d_head**-0.5),
    )


def _scale(layer: Any, number: int) -> nn.Module:
    """DINOv2's LayerScale, or none."""
    return part_or_none(layer, f"layer_scale{number}") or nn.Identity()


def open_hf_mlp(layer: Any, where: str) -> nn.Module:
    """The MLP of an encoder's layer, with its own layers by reference.

    Raises:
        ModelError: Its hidden neurons cannot be found.
    """
    fc1, fc2 = part_or_none(layer, "mlp.fc1", "intermediate.dense"), part_or_none(layer, "mlp.fc2", "output.dense")
    act = part_or_none(layer, "mlp.activation_fn", "mlp.activation", "intermediate.intermediate_act_fn")
    if isinstance(act, nn.Module) and fc1 is not None and fc2 is not None:
        return PlainMlp(fc1, act, fc2)
    gated = [part_or_none(layer, f"mlp.{name}") for name in ("gate_proj", "up_proj", "act_fn", "down_proj")]
    if all(isinstance(module, nn.Module) for module in gated):
        return GatedMlp(*gated)
    raise ModelError(
        f"{where} has an MLP of kind {type(getattr(layer, 'mlp', layer)).__name__} whose layers are not found: plain "
        f"ones and SwiGLU with gate_proj, up_proj and down_proj are opened. Version 5 of transformers has those."
    )


def with_class_token(token: Tensor, patches: Tensor) -> Tensor:
    """Patches behind the class token, (batch, token, model)."""
    return torch.cat([token.expand(len(patches), 1, -1), patches], dim=1)


def answer(module: nn.Module, *names: str, first_token: bool = False) -> Callable[[Tensor], Tensor]:
    """The original's own logits, from one of several fields of what it answers.

    Args:
        module: The original.
        names: Of fields: the first that is there.
        first_token: Whether the logits are what stands at token 0.
    """

    def forward(images: Tensor) -> Tensor:
        out: Any = module(pixel_values=images, return_dict=True)
        found = part(out, *names)
        return found[:, 0] if first_token else found

    return forward
