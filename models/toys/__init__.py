"""The toy ViTs: their recipes, how they are trained, the sprites that some are trained on, and the shipped ones."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .home import list_toys as list_toys
    from .home import load_text_encoder as load_text_encoder
    from .home import load_toy as load_toy
    from .home import load_toy_folder as load_toy_folder
    from .home import toy_card as toy_card
    from .home import zero_shot as zero_shot

__all__ = ["list_toys", "load_text_encoder", "load_toy", "load_toy_folder", "toy_card", "zero_shot"]

_HOMES = dict.fromkeys(__all__, ".home")
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
