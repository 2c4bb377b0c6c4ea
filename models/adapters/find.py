"""From any module to its canonical parts: who knows this kind of module?"""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import ModelError
from .observed import find_blocks, open_observed
from .opened import Opened
from .timm_vit import is_timm_vit, open_timm


def open_module(module: nn.Module, name: str, *, mask: str | Tensor | None = None) -> Opened:
    """The parts of a module.

    Args:
        module: One of timm's ViTs, or any module that runs a stack of timm's blocks.
        name: What to call it in a message.
        mask: Attention mask: `causal`, or which targets may see which sources, (target, source).

    Raises:
        ModelError: The module is no ViT, or one of its parts is of a kind that is not opened; the message says which.
    """
    if is_timm_vit(module):
        return open_timm(module, name, mask)
    if find_blocks(module) is None:
        raise ModelError(
            f"{name} is a {type(module).__module__}.{type(module).__name__} without a stack of transformer blocks "
            f"(an nn.ModuleList or nn.Sequential of timm's Block or EvaBlock): it cannot be opened as a ViT. Build "
            f"yours of timm.models.vision_transformer.Block, or pass a name such as 'deit_tiny_patch16_224'."
        )
    if mask is not None:
        raise ModelError(
            f"attention_mask= needs a module that takes one; {name} is a {type(module).__name__}. Pass one of timm's "
            f"ViTs, or build the mask into your module's blocks."
        )
    return open_observed(module, name)
