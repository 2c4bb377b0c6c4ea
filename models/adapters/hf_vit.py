"""transformers' `ViT...` and `Dinov2...` models, with registers or without, with a classifier or without.

DINOv2's classifier reads the class token beside the mean of the patches, a vector of twice the model's width. Models
without a classifier give the class token behind the final norm, not what `ViTModel`'s pooler (a layer with tanh) makes
of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config import TokenLayout
from ..norms import open_norm
from ..readouts import Readout
from .hf_parts import answer, open_layers, part, part_or_none, with_class_token
from .opened import Opened
from .sizes import pair, sizes_of

KINDS = (
    "ViTForImageClassification",
    "ViTModel",
    "Dinov2ForImageClassification",
    "Dinov2Model",
    "Dinov2WithRegistersForImageClassification",
    "Dinov2WithRegistersModel",
)


@dataclass(frozen=True, eq=False)
class HfStem:
    """Patches, class token, registers and positions.

    Args:
        embeddings: The model's embeddings.
        size: Height and width of an image.
        interpolates: Whether positions are fitted to the image's size (DINOv2's are).
    """

    embeddings: Any
    size: tuple[int, int]
    interpolates: bool

    def patches(self, images: Tensor) -> Tensor:
        """Patch embeddings, before positions."""
        return self.embeddings.patch_embeddings(images)

    def content(self, patches: Tensor) -> Tensor:
        """All tokens before positions; registers have none."""
        return self._with_registers(with_class_token(self.embeddings.cls_token, patches))

    def positioned(self, patches: Tensor) -> Tensor:
        """All tokens with positions."""
        tokens = with_class_token(self.embeddings.cls_token, patches)
        if self.interpolates:
            positions = self.embeddings.interpolate_pos_encoding(tokens, *self.size)
        else:
            positions = self.embeddings.position_embeddings
        return self.embeddings.dropout(self._with_registers(tokens + positions))

    def finish(self, tokens: Tensor) -> Tensor:
        """The residual in front of block 0."""
        return tokens

    def _with_registers(self, tokens: Tensor) -> Tensor:
        registers = getattr(self.embeddings, "register_tokens", None)
        if registers is None:
            return tokens
        return torch.cat([tokens[:, :1], registers.expand(len(tokens), -1, -1), tokens[:, 1:]], dim=1)


def open_hf_vit(module: Any, name: str) -> Opened:
    """The parts of one of the models named in `KINDS`.

    Args:
        module: The model.
        name: What to call it in a message.

    Raises:
        ModelError: A part is of a kind that is not opened.
    """
    base = part_or_none(module, "vit", "dinov2", "dinov2_with_registers") or module
    embeddings, patch = base.embeddings, pair(base.embeddings.patch_embeddings.patch_size)
    layers = part(base, "layers", "encoder.layer")
    blocks = open_layers(layers, name)
    is_dino = hasattr(layers[0], "layer_scale1")
    size = pair(module.config.image_size if is_dino else embeddings.patch_embeddings.image_size)
    registers = getattr(embeddings, "register_tokens", None)
    layout = TokenLayout(
        True, 0 if registers is None else registers.shape[1], (size[0] // patch[0], size[1] // patch[1])
    )
    head = getattr(module, "classifier", None)
    readout = _readout(base, head, layout, joined=is_dino and head is not None)
    channels = int(embeddings.patch_embeddings.projection.in_channels)
    read = tuple(i for i in readout.tokens if i == 0 or i >= layout.n_prefix)
    pooling = "token" if readout.beside is None else "cls+average"
    cfg = sizes_of(
        name,
        blocks,
        layout,
        head=readout.head,
        read=read,
        pooling=pooling,
        image=size,
        patch=patch,
        n_channels=channels,
    )
    forward = answer(module, "logits") if head is not None else answer(module, "last_hidden_state", first_token=True)
    return Opened(cfg, HfStem(embeddings, size, is_dino), blocks, readout, tuple(layers), forward)


def _readout(base: Any, head: nn.Module | None, layout: TokenLayout, *, joined: bool) -> Readout:
    norm, identity = open_norm(base.layernorm, "the final norm"), open_norm(nn.Identity(), "")
    if not joined:
        return Readout((0,), norm, identity, nn.Identity() if head is None else head)
    assert head is not None
    return Readout(tuple(range(layout.n_tokens)), norm, identity, head, beside=layout.n_prefix)
