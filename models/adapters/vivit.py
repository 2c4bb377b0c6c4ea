"""transformers' ViViT: the tokens are tubelets, patches that reach over some frames of a clip.

The input is a clip as an image whose channels are those of all its frames (see `models/video.py`), so that whatever
takes images takes clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..config import TokenLayout
from ..norms import open_norm
from ..readouts import Readout
from ..video import images_to_clips
from .hf_parts import answer, open_layers, part, part_or_none, with_class_token
from .opened import Opened
from .sizes import pair, sizes_of

KINDS = ("VivitForVideoClassification", "VivitModel")


@dataclass(frozen=True, eq=False)
class TubeletStem:
    """Tubelets, class token and positions.

    Args:
        embeddings: The model's embeddings.
        frames: Frames of a clip.
    """

    embeddings: Any
    frames: int

    def patches(self, images: Tensor) -> Tensor:
        """Tubelet embeddings, frame by frame and row by row, before positions."""
        return self.embeddings.patch_embeddings(images_to_clips(images, self.frames))

    def content(self, patches: Tensor) -> Tensor:
        """All tokens before positions."""
        return with_class_token(self.embeddings.cls_token, patches)

    def positioned(self, patches: Tensor) -> Tensor:
        """All tokens with positions."""
        return self.embeddings.dropout(self.content(patches) + self.embeddings.position_embeddings)

    def finish(self, tokens: Tensor) -> Tensor:
        """The residual in front of block 0."""
        return tokens


def open_vivit(module: Any, name: str) -> Opened:
    """The parts of one of the models named in `KINDS`.

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
    layout = TokenLayout(True, 0, (size[0] // patch[0], size[1] // patch[1]), frames=frames // depth)
    classifier = getattr(module, "classifier", None)
    identity = open_norm(nn.Identity(), "")
    readout = Readout((0,), open_norm(base.layernorm, "the final norm"), identity, classifier or nn.Identity())
    sizes = {"head": readout.head, "read": (0,), "pooling": "token", "image": size, "patch": patch}
    cfg = sizes_of(name, blocks, layout, **sizes, n_channels=frames * projection.in_channels, clip_frames=frames)
    own = answer(module, "logits") if classifier is not None else answer(module, "last_hidden_state", first_token=True)
    stem = TubeletStem(embeddings, frames)
    return Opened(cfg, stem, blocks, readout, tuple(layers), lambda images: own(images_to_clips(images, frames)))
