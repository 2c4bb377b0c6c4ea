"""Images and attention gathered from a model and handed over as plain arrays, so that what draws needs no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A few pairs to look at.

    Args:
        clean: Clean images in [0, 1], shape (pair, height, width, channel), 1 or 3 channels.
        corrupt: Their corrupted partners, same shape.
        clean_logits: Logits of the clean images, shape (pair, class).
        corrupt_logits: Logits of the partners, shape (pair, class).
        class_names: One name per logit.
        grid: Patch rows and columns.
        n_prefix: Tokens in front of the patches.
        attention: Pattern of each head on the clean images from CLS (with a distillation token, averaged over both;
            without either, over all tokens; in attention pooling, from the pool) to every token, shape (pair, layer,
            head, token).
        frames: Frames of a video's tubelets; 1 for images.
        pictures: Number of a clean image in a report's table of images -> the image in [0, 1], shape (height, width,
            channel).
    """

    clean: NDArray[np.float32]
    corrupt: NDArray[np.float32]
    clean_logits: NDArray[np.float32]
    corrupt_logits: NDArray[np.float32]
    class_names: tuple[str, ...]
    grid: tuple[int, int]
    n_prefix: int
    attention: NDArray[np.float32]
    frames: int = 1
    pictures: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)

    def on_patches(self, pair: int, layer: int, head: int) -> NDArray[np.float32]:
        """Attention of a head on each patch, of a video summed over frames, shape (row, column)."""
        rows, columns = self.grid
        patches = self.attention[pair, layer, head, self.n_prefix :][: self.frames * rows * columns]
        return patches.reshape(self.frames, rows, columns).sum(0)


@dataclass(frozen=True, eq=False)
class PartnerExhibit:
    """A few clean images beside the partners that different corruptions give them.

    Args:
        clean: Clean images in [0, 1], shape (image, height, width, channel), 1 or 3 channels.
        partners: Corruption -> the partners, same shape.
        changed: For corruptions that change the clean image at some places: pixels that differ, shape (image, height,
            width).
        tokens: Likewise -> patches that hold such a pixel, shape (image, row, column).
        captions: `clean` or corruption -> what the model says about each image.
    """

    clean: NDArray[np.float32]
    partners: Mapping[str, NDArray[np.float32]]
    changed: Mapping[str, NDArray[np.bool_]]
    tokens: Mapping[str, NDArray[np.bool_]]
    captions: Mapping[str, tuple[str, ...]]
