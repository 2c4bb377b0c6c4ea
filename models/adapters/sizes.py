"""The sizes of an opened ViT, read off its parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from ..blocks import OpenBlock
from ..config import TokenLayout, VitConfig


def sizes_of(
    name: str,
    blocks: tuple[OpenBlock, ...],
    layout: TokenLayout,
    *,
    head: nn.Module,
    read: tuple[int, ...],
    pooling: str,
    image: Any,
    patch: Any,
    n_channels: int,
    clip_frames: int = 1,
) -> VitConfig:
    """Sizes of a ViT whose blocks are all alike, each with an MLP.

    Args:
        name: What to call the model.
        blocks: Its canonical blocks.
        layout: Its tokens.
        head: From the pooled vector to the logits.
        read: Tokens that the readout looks at.
        pooling: What it makes of them.
        image: Height and width of an image, or its side.
        patch: Height and width of a patch, or its side.
        n_channels: Channels of the input, of all frames.
        clip_frames: Frames of the input.
    """
    first = blocks[0]
    mlp: Any = first.mlp
    d_model = first.reads.weight.shape[1]
    width = 2 * d_model if pooling == "cls+average" else d_model
    return VitConfig(
        name=name,
        n_layers=len(blocks),
        n_heads=first.n_heads,
        d_model=d_model,
        d_head=first.d_head,
        d_mlp=int(mlp.fc2.in_features),
        n_classes=int(getattr(head, "out_features", width)),
        image_size=pair(image),
        patch_size=pair(patch),
        n_channels=n_channels,
        tokens=layout,
        read_tokens=read,
        pooling=pooling,
        clip_frames=clip_frames,
    )


def pair(size: Any) -> tuple[int, int]:
    """Height and width, of both or of a side."""
    if isinstance(size, Iterable):
        first, second = size
        return int(first), int(second)
    return int(size), int(size)
