"""From any module to its canonical parts: who knows this kind of module?

Modules of other libraries are known by the names of their classes, so that nothing is imported that a module does not
come from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..errors import ModelError
from . import hf, open_clip_vit
from .opened import Opened
from .timm_vit import is_timm_vit, open_timm
from .traced import find_blocks, open_traced

Opener = Callable[[Any, str], Opened]

OPENERS: tuple[tuple[str, tuple[str, ...], Opener], ...] = (
    ("transformers", hf.VIT_KINDS, hf.open_hf_vit),
    ("transformers", hf.CLIP_KINDS, hf.open_hf_clip),
    ("transformers", hf.VIVIT_KINDS, hf.open_vivit),
    ("open_clip", open_clip_vit.KINDS, open_clip_vit.open_open_clip),
)
"""Library, names of its classes, and who opens them."""


def open_module(module: nn.Module, name: str, *, mask: str | Tensor | None = None) -> Opened:
    """The parts of a module.

    Args:
        module: One of timm's ViTs, of transformers' or open_clip's that are named in `OPENERS`, or any module that runs
            a stack of timm's blocks.
        name: What to call it in a message.
        mask: Attention mask: `causal`, or which targets may see which sources, (target, source).

    Raises:
        ModelError: The module is no ViT, or one of its parts is of a kind that is not opened; the message says which.
    """
    if is_timm_vit(module):
        return open_timm(module, name, mask)
    opener = _opener_of(module)
    if opener is None and find_blocks(module) is None:
        raise ModelError(_unknown(module, name))
    if mask is not None:
        raise ModelError(
            f"attention_mask= needs a module that takes one; {name} is a {type(module).__name__}. Pass one of timm's "
            f"ViTs, or build the mask into your module's blocks."
        )
    return open_traced(module, name) if opener is None else opener(module, name)


def _opener_of(module: nn.Module) -> Opener | None:
    bases = {(base.__module__.partition(".")[0], base.__name__) for base in type(module).__mro__}
    return next((opener for library, kinds, opener in OPENERS if any((library, kind) in bases for kind in kinds)), None)


def _unknown(module: nn.Module, name: str) -> str:
    library = type(module).__module__.partition(".")[0]
    known = [kind for home, kinds, _ in OPENERS if home == library for kind in kinds]
    if known:
        return (
            f"{name} is {library}'s {type(module).__name__}, which is not opened: {', '.join(known)} are. timm has "
            f"most ViTs by name, such as load_vit('deit_tiny_patch16_224')."
        )
    return (
        f"{name} is a {type(module).__module__}.{type(module).__name__} without a stack of transformer blocks "
        f"(an nn.ModuleList or nn.Sequential of timm's Block or EvaBlock): it cannot be opened as a ViT. Build "
        f"yours of timm.models.vision_transformer.Block, or pass a name such as 'deit_tiny_patch16_224'."
    )
