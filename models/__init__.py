"""A Vision Transformer opened up: loading, hooks, readouts, toy models, data."""

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from .config import TokenLayout as TokenLayout
    from .config import VitConfig as VitConfig
    from .errors import VitCircuitsError as VitCircuitsError
    from .hooked import HookedViT as HookedViT
    from .load import load_vit as load_vit
    from .planted.vit import PlantedViT as PlantedViT

__all__ = ["HookedViT", "PlantedViT", "TokenLayout", "VitCircuitsError", "VitConfig", "load_vit"]

_HOMES = {
    "HookedViT": ".hooked",
    "PlantedViT": ".planted.vit",
    "TokenLayout": ".config",
    "VitCircuitsError": ".errors",
    "VitConfig": ".config",
    "load_vit": ".load",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
