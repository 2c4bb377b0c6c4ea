"""Masks from the model's own attention: the patches that hold a share of what CLS gathers.

`rollout` (Abnar & Zuidema 2020): per layer, attention averaged over heads with the residual stream beside it,
A = (I + mean over heads of the pattern) / 2, multiplied from the first layer to the last; the row of CLS says how much
of each token arrives there. `last`: the last layer's pattern at CLS, averaged over heads. A distillation token counts
as CLS does; without either, the mean over all tokens stands in for its row. Under attention pooling the last layer is
the pool, and its row is taken: what it gathers, of tokens that the blocks before have mixed. Patches are then taken
from the most attended down until they hold the share.

The model chooses its own evidence here: a circuit found with such a mask is about what the model attended to, whether
or not that is the object. Rollout ignores values and MLPs, and tokens that the model uses as scratch space
(often in the background) attract attention without showing anything: look at the gallery before trusting a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...models.attention_layers import Rollout, mean_pattern, read_layers
from ...models.data import ImageData
from ...models.errors import DataError
from ...models.hooked import HookedViT
from .masks import Pictures

Method = Literal["rollout", "last"]
_BATCH = 16  # images whose patterns of all layers are held at once


@dataclass(frozen=True)
class AttentionMasks:
    """The patches that hold a share of the attention on the clean image.

    Args:
        method: `rollout` or `last`.
        share: Of the attention that falls on patches, between 0 and 1.

    Raises:
        DataError: A choice is not possible.
    """

    method: Method | str = "rollout"
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.method not in ("rollout", "last") or not 0 < self.share < 1:
            raise DataError(
                f"attention masks of method {self.method!r} and share {self.share} are not possible: pass 'rollout' or "
                f"'last' and a share between 0 and 1, such as attention:rollout:0.5."
            )

    @classmethod
    def parse(cls, text: str) -> AttentionMasks:
        """`attention`, `attention:last` or `attention:rollout:0.4`.

        Raises:
            DataError: It is none of these.
        """
        _, _, rest = text.partition(":")
        method, _, share = rest.partition(":")
        try:
            return cls(method or "rollout", float(share or 0.5))
        except ValueError as error:
            raise DataError(f"{share!r} in {text!r} is no share: write attention:rollout:0.5.") from error

    def has(self, name: str, data: ImageData) -> bool:
        """Always: a mask is made from the image."""
        return True

    def __call__(self, pictures: Pictures) -> Bool[Tensor, "image height width"]:
        """The patches that hold the share, as pixels."""
        heights = patch_attention(pictures.vit, pictures.images, self.method)
        rows, columns = pictures.vit.cfg.patch_size
        return (
            most_of(heights.flatten(1), self.share)
            .view(heights.shape)
            .repeat_interleave(rows, 1)
            .repeat_interleave(columns, 2)
        )

    def as_dict(self) -> dict[str, Any]:
        """The method and the share, which `parse` reads back, and whose choice it was."""
        return {"mask": f"attention:{self.method}:{self.share}", "mask_chosen_by": "the model's own attention"}


def patch_attention(
    vit: HookedViT, images: Float[Tensor, "image channel height width"], method: Method | str = "rollout"
) -> Float[Tensor, "image row column"]:
    """How much of each patch CLS gathers, of a video summed over frames, in float64 on the CPU."""
    with torch.no_grad():
        found = [_gathered(vit, batch, method) for batch in images.split(_BATCH)]
    patches = torch.cat(found)[:, vit.cfg.tokens.patches]
    return patches.view(len(patches), vit.cfg.tokens.frames, *vit.cfg.tokens.grid).sum(1)


def _gathered(vit: HookedViT, images: Tensor, method: str) -> Float[Tensor, "image token"]:
    last, rollout, found = vit.cfg.n_layers - 1, Rollout(vit), []

    def take(layer: int, pattern: Tensor) -> None:
        found[:] = [rollout.add(layer, pattern) if method == "rollout" else mean_pattern(vit, pattern, layer)]

    read_layers(vit, images, take, layers=None if method == "rollout" else [last])
    return found[0][:, vit.cfg.gathering(last)].mean(1)


def most_of(values: Float[Tensor, "image place"], share: float) -> Bool[Tensor, "image place"]:
    """The fewest places that together hold at least a share of each row; equal values in their order."""
    ordered, order = values.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(1) - ordered
    chosen = before < share * values.sum(1, keepdim=True)
    return torch.zeros_like(chosen).scatter(1, order, chosen)
