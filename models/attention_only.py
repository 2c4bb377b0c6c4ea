"""Blocks without an MLP: in its place stands a module that writes nothing and has nothing to learn."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


class NoMlp(nn.Module):
    """What stands in an attention-only block where others have their MLP: it writes zeros."""

    def forward(self, x: Float[Tensor, "*batch token model"]) -> Float[Tensor, "*batch token model"]:
        """Zeros of the same shape."""
        return torch.zeros_like(x)


def drop_mlps(module: "VisionTransformer") -> "VisionTransformer":
    """The same module, each block of which has lost its MLP and the norm in front of it."""
    for block in module.blocks:
        block.mlp = NoMlp()
        block.norm2 = nn.Identity()
    return module
