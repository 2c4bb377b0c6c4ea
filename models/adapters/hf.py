"""The ViTs of Hugging Face's `transformers`: `ViT...`, `DeiT...`, `Dinov2...`, CLIP's image tower, and ViViT.

Names changed with the versions of the library. Attention: `q_proj, k_proj, v_proj, o_proj` in version 5,
`attention.query`, ..., `output.dense` in version 4, and `out_proj` in CLIP. MLP: `fc1, activation_fn, fc2`, or in
version 4 spread over the layer's `intermediate` and `output`.

- DINOv2's classifier reads the class token beside the mean of the patches, a vector of twice the model's width. Models
  without a classifier give the class token behind the final norm, not what `ViTModel`'s pooler (a layer with tanh)
  makes of it.
- CLIP, whole (`CLIPModel`) or its image tower by itself, has a norm in front of the first block. What comes out is the
  class token's vector in the space that texts are embedded in; `CLIPForImageClassification` averages the patches
  instead, without the final norm.
- DeiT's distillation token stands behind the class token; a model "with teacher" has a head for each.
- TransformerLens' bridges put components of theirs in the place of a model's parts, which they hold: those are taken.
- ViViT's tokens are tubelets, patches that reach over some frames of a clip. Its input is a clip as an image whose
  channels are those of all its frames (see `clips_to_images`), so that whatever takes images takes clips.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import OpenBlock
from ..config import TokenLayout
from ..errors import ModelError
from ..mlps import GatedMlp, PlainMlp
from ..norms import open_norm
from ..preprocess import images_to_clips
from ..projections import LinearWrites, SeparateReads
from ..readouts import Readout
from .opened import ClassTokenStem, Opened, pair, sizes_of

VIT_KINDS = (
    "ViTForImageClassification",
    "ViTModel",
    "Dinov2ForImageClassification",
    "Dinov2Model",
    "Dinov2WithRegistersForImageClassification",
    "Dinov2WithRegistersModel",
    "DeiTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "DeiTModel",
)
CLIP_KINDS = ("CLIPModel", "CLIPVisionModelWithProjection", "CLIPVisionModel", "CLIPForImageClassification")
VIVIT_KINDS = ("VivitForVideoClassification", "VivitModel")


def open_hf_vit(module: Any, name: str) -> Opened:
    """The parts of one of the models named in `VIT_KINDS`.

    Args:
        module: The model.
        name: What to call it in a message.

    Raises:
        ModelError: A part is of a kind that is not opened.
    """
    base = part_or_none(module, "vit", "deit", "dinov2", "dinov2_with_registers") or module
    embeddings = part(base, "embeddings")
    patch, dist = pair(embeddings.patch_embeddings.patch_size), getattr(embeddings, "distillation_token", None)
    layers = part(base, "layers", "encoder.layer")
    blocks = open_layers(layers, name)
    is_dino = hasattr(layers[0], "layer_scale1")
    size = pair(module.config.image_size if is_dino else embeddings.patch_embeddings.image_size)
    registers = getattr(embeddings, "register_tokens", None)
    layout = _layout(size, patch, n_registers=0 if registers is None else registers.shape[1], has_dist=dist is not None)
    head, second = part_or_none(module, "classifier", "cls_classifier"), part_or_none(module, "distillation_classifier")
    readout = _readout(part(base, "layernorm"), head, second)
    if is_dino and head is not None:
        norms = (readout.norm, readout.fc_norm)
        readout = Readout(tuple(range(layout.n_tokens)), *norms, head, beside=layout.n_prefix)
    channels = int(embeddings.patch_embeddings.projection.in_channels)
    pooling = None if second is None else "distilled"
    cfg = sizes_of(name, blocks, layout, readout, image=size, patch=patch, n_channels=channels, pooling=pooling)

    def positions(tokens: Tensor) -> Tensor:
        return embeddings.interpolate_pos_encoding(tokens, *size) if is_dino else embeddings.position_embeddings

    stem = ClassTokenStem(
        lambda images: embeddings.patch_embeddings(images),
        lambda: embeddings.cls_token if dist is None else torch.cat([embeddings.cls_token, dist], 1),
        positions,
        lambda: getattr(embeddings, "register_tokens", None),
        dropout=lambda tokens: embeddings.dropout(tokens),
    )
    return Opened(cfg, stem, blocks, readout, tuple(layers), _classes_or_token(module, head))


def open_hf_clip(module: Any, name: str) -> Opened:
    """The parts of one of the models named in `CLIP_KINDS`.

    Args:
        module: The model.
        name: What to call it in a message.

    Raises:
        ModelError: A part is of a kind that is not opened.
    """
    tower = part_or_none(module, "vision_model") or module
    layers, embeddings = tower.encoder.layers, tower.embeddings
    blocks = open_layers(layers, name)
    size, patch = pair(embeddings.image_size), pair(embeddings.patch_size)
    layout = _layout(size, patch)
    readout = _clip_readout(module, tower, layout)
    channels = embeddings.patch_embedding.in_channels
    cfg = sizes_of(name, blocks, layout, readout, image=size, patch=patch, n_channels=channels)
    stem = ClassTokenStem(
        lambda images: embeddings.patch_embedding(images).flatten(2).transpose(1, 2),
        lambda: embeddings.class_embedding,
        lambda tokens: embeddings.position_embedding.weight,
        norm=lambda tokens: tower.pre_layrnorm(tokens),
    )
    return Opened(cfg, stem, blocks, readout, tuple(layers), _clip_forward(module))


def _clip_readout(module: Any, tower: Any, layout: TokenLayout) -> Readout:
    identity = open_norm(nn.Identity(), "")
    classifier, projection = getattr(module, "classifier", None), getattr(module, "visual_projection", None)
    if classifier is not None:
        return Readout(tuple(range(1, layout.n_tokens)), identity, identity, classifier)
    norm = open_norm(tower.post_layernorm, "the final norm")
    if projection is None:
        return Readout((0,), norm, identity, nn.Identity())
    return Readout((0,), norm, identity, projection, info={"kind": "embedding"})


def _clip_forward(module: Any) -> Callable[[Tensor], Tensor]:
    if not hasattr(module, "get_image_features"):
        return _answer(module, "logits", "image_embeds", "pooler_output")

    def features(images: Tensor) -> Tensor:
        found = module.get_image_features(pixel_values=images)
        return found if isinstance(found, Tensor) else found.pooler_output

    return features


def open_vivit(module: Any, name: str) -> Opened:
    """The parts of one of the models named in `VIVIT_KINDS`.

    Args:
        module: The model.
        name: What to call it in a message.

    Raises:
        ModelError: A part is of a kind that is not opened.
    """
    base = part_or_none(module, "vivit") or module
    layers, embeddings = part(base, "layers", "encoder.layer"), base.embeddings
    blocks, frames = open_layers(layers, name), int(module.config.num_frames)
    projection = embeddings.patch_embeddings.projection
    depth, *patch = projection.kernel_size
    size = pair(part(embeddings.patch_embeddings, "image_size"))
    layout = _layout(size, pair(patch), frames=frames // depth)
    classifier = getattr(module, "classifier", None)
    readout, channels = _readout(base.layernorm, classifier), frames * projection.in_channels
    cfg = sizes_of(name, blocks, layout, readout, image=size, patch=patch, n_channels=channels, clip_frames=frames)
    own = _classes_or_token(module, classifier)
    stem = ClassTokenStem(
        lambda images: embeddings.patch_embeddings(images_to_clips(images, frames)),
        lambda: embeddings.cls_token,
        lambda tokens: embeddings.position_embeddings,
        dropout=lambda tokens: embeddings.dropout(tokens),
    )
    return Opened(cfg, stem, blocks, readout, tuple(layers), lambda images: own(images_to_clips(images, frames)))


def _layout(
    size: tuple[int, int], patch: tuple[int, int], *, n_registers: int = 0, frames: int = 1, has_dist: bool = False
) -> TokenLayout:
    return TokenLayout(True, n_registers, (size[0] // patch[0], size[1] // patch[1]), has_dist, frames)


def _readout(norm: Any, head: nn.Module | None, second: nn.Module | None = None) -> Readout:
    """The class token behind the final norm, and the distillation token under a head of its own."""
    norms, read = (open_norm(norm, "the final norm"), open_norm(nn.Identity(), "")), (0,) if second is None else (0, 1)
    return Readout(read, *norms, nn.Identity() if head is None else head, second)


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
            found = _held(getattr(_held(found), name, None))
        if found is not None:
            return found
    return None


def _held(found: Any) -> Any:
    """The part of the model that a component of TransformerLens' bridge stands for; anything else as it is."""
    return _held(found.original_component) if type(found).__module__.startswith("transformer_lens.") else found


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


def _classes_or_token(module: nn.Module, head: nn.Module | None) -> Callable[[Tensor], Tensor]:
    """The original's own logits; without a classifier its class token."""
    if head is not None:
        return _answer(module, "logits")
    tokens = _answer(module, "last_hidden_state")
    return lambda images: tokens(images)[:, 0]


def _answer(module: nn.Module, *names: str) -> Callable[[Tensor], Tensor]:
    """What the original answers, in the first of several fields that is there."""
    return lambda images: part(module(pixel_values=images, return_dict=True), *names)  # type: ignore[operator]
