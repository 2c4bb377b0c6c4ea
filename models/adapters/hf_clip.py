"""The image tower of transformers' CLIP, whole (`CLIPModel`) or by itself.

A norm stands in front of the first block. What comes out is the class token's vector in the space that texts are
embedded in; `CLIPForImageClassification` averages the patches instead, without the final norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..config import TokenLayout
from ..norms import open_norm
from ..readouts import Readout
from .hf_parts import answer, open_layers, part_or_none, with_class_token
from .opened import Opened
from .sizes import pair, sizes_of

KINDS = ("CLIPModel", "CLIPVisionModelWithProjection", "CLIPVisionModel", "CLIPForImageClassification")


@dataclass(frozen=True, eq=False)
class HfClipStem:
    """Patches, class token, positions, and the norm in front of the first block.

    Args:
        tower: The image tower.
    """

    tower: Any

    def patches(self, images: Tensor) -> Tensor:
        """Patch embeddings, before positions."""
        return self.tower.embeddings.patch_embedding(images).flatten(2).transpose(1, 2)

    def content(self, patches: Tensor) -> Tensor:
        """All tokens before positions."""
        return with_class_token(self.tower.embeddings.class_embedding, patches)

    def positioned(self, patches: Tensor) -> Tensor:
        """All tokens with positions."""
        return self.content(patches) + self.tower.embeddings.position_embedding.weight

    def finish(self, tokens: Tensor) -> Tensor:
        """The residual in front of block 0."""
        return self.tower.pre_layrnorm(tokens)


def open_hf_clip(module: Any, name: str) -> Opened:
    """The parts of one of the models named in `KINDS`.

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
    layout = TokenLayout(True, 0, (size[0] // patch[0], size[1] // patch[1]))
    readout = _readout(module, tower, layout)
    pooling, channels = "token" if len(readout.tokens) == 1 else "average", embeddings.patch_embedding.in_channels
    sizes = {"head": readout.head, "read": readout.tokens, "pooling": pooling, "image": size, "patch": patch}
    cfg = sizes_of(name, blocks, layout, **sizes, n_channels=channels)
    return Opened(cfg, HfClipStem(tower), blocks, readout, tuple(layers), _forward(module))


def _readout(module: Any, tower: Any, layout: TokenLayout) -> Readout:
    identity = open_norm(nn.Identity(), "")
    classifier, projection = getattr(module, "classifier", None), getattr(module, "visual_projection", None)
    if classifier is not None:
        return Readout(tuple(range(1, layout.n_tokens)), identity, identity, classifier)
    norm = open_norm(tower.post_layernorm, "the final norm")
    if projection is None:
        return Readout((0,), norm, identity, nn.Identity())
    return Readout((0,), norm, identity, projection, info={"kind": "embedding"})


def _forward(module: Any) -> Callable[[Tensor], Tensor]:
    if not hasattr(module, "get_image_features"):
        return answer(module, "logits", "image_embeds", "pooler_output")

    def features(images: Tensor) -> Tensor:
        found = module.get_image_features(pixel_values=images)
        return found if isinstance(found, Tensor) else found.pooler_output

    return features
