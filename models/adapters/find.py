"""From any module to its canonical parts: one of a known kind, or one's own, which is watched while it runs.

Modules of other libraries are known by the names of their classes, so that nothing is imported that a module does not
come from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..adapters import hf, open_clip_vit
from ..errors import ModelError
from .opened import Opened
from .own import open_own
from .timm_vit import is_timm_vit, open_timm
from .watching import ADAPTER

Opener = Callable[[Any, str], Opened]
"""An adapter: from a module, and what to call it in a message, to its parts."""

OPENERS: tuple[tuple[str, tuple[str, ...], Opener], ...] = (
    ("transformers", hf.VIT_KINDS, hf.open_hf_vit),
    ("transformers", hf.CLIP_KINDS, hf.open_hf_clip),
    ("transformers", hf.VIVIT_KINDS, hf.open_vivit),
    ("open_clip", open_clip_vit.KINDS, open_clip_vit.open_open_clip),
)
"""Library, names of its classes, and who opens them."""


def open_module(
    module: nn.Module,
    name: str,
    *,
    mask: str | Tensor | None = None,
    adapter: Opener | None = None,
    image_size: Any = None,
) -> Opened:
    """The parts of a module.

    Args:
        module: One of timm's ViTs, of transformers' or open_clip's that are named in `OPENERS`, or any other.
        name: What to call it in a message.
        mask: Attention mask: `causal`, or which targets may see which sources, (target, source).
        adapter: Who opens it, where that is not to be found out.
        image_size: Height and width of the images of a module of one's own, or their side; None to find them.

    Raises:
        ModelError: The module is no ViT, or one of its parts is of a kind that is not opened; the message says which.
    """
    if adapter is None and is_timm_vit(module):
        return open_timm(module, name, mask)
    if mask is not None:
        raise ModelError(
            f"attention_mask= needs a module that takes one; {name} is a {type(module).__name__}. Pass one of timm's "
            f"ViTs, or build the mask into your module's blocks."
        )
    opener = adapter or _opener_of(module)
    if opener is not None:
        return opener(module, name)
    try:
        return open_own(module, name, image_size)
    except ModelError as error:
        raise ModelError(f"{_known(module, name)}{error}") from error
    except (
        RuntimeError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
    ) as error:  # of code that nobody here knows
        said = f"{name} stopped while it was watched: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ModelError(f"{_known(module, name)}{said}. {ADAPTER}") from error


def _opener_of(module: nn.Module) -> Opener | None:
    bases = {(base.__module__.partition(".")[0], base.__name__) for base in type(module).__mro__}
    return next((opener for library, kinds, opener in OPENERS if any((library, kind) in bases for kind in kinds)), None)


def _known(module: nn.Module, name: str) -> str:
    """What is opened of the library that a module comes from; empty for a module of one's own."""
    library = type(module).__module__.partition(".")[0]
    known = [kind for home, kinds, _ in OPENERS if home == library for kind in kinds]
    if not known:
        return ""
    return (
        f"{name} is {library}'s {type(module).__name__}, which is not opened: {', '.join(known)} are. timm has "
        f"most ViTs by name, such as load_vit('deit_tiny_patch16_224'). "
    )
