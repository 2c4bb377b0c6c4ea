"""Clips for video models: a clip is an image whose channels are those of all its frames, one frame behind the other.

So whatever takes a batch of images takes a batch of clips: tasks, corruptions of pixels, algorithms, drawings.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from .errors import DataError


def clips_to_images(
    clips: Float[Tensor, "batch frame channel height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Clips as images of frame x channel channels, the first frame's first: what a video model is handed here.

    `torch.stack([vit.preprocess(frame) for frame in frames])[None]` is a clip, for a ViT with `cfg.clip_frames` frames.
    """
    if clips.ndim != 5:
        raise DataError(
            f"clips have shape {tuple(clips.shape)}, but (batch, frame, channel, height, width) was wanted. For a "
            f"single clip pass clip[None]."
        )
    return clips.flatten(1, 2)


def images_to_clips(
    images: Float[Tensor, "batch channels height width"], frames: int
) -> Float[Tensor, "batch frame channel height width"]:
    """The clips again.

    Args:
        images: What `clips_to_images` gave.
        frames: Frames of a clip, a ViT's `cfg.clip_frames`.
    """
    if images.ndim != 4 or images.shape[1] % frames:
        raise DataError(
            f"images have shape {tuple(images.shape)}, but (batch, {frames} frames x channels, height, width) was "
            f"wanted: make them by clips_to_images."
        )
    return images.unflatten(1, (frames, -1))
