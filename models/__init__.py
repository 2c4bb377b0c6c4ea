"""A Vision Transformer opened up: loading, hooks, readouts, toy models, data."""

from typing import TYPE_CHECKING

from .lazy import lazy_names

if TYPE_CHECKING:
    from .config import TokenLayout as TokenLayout
    from .config import VitConfig as VitConfig
    from .errors import VitCircuitsError as VitCircuitsError
    from .hf_text import given_tokens as given_tokens
    from .hooked import HookedViT as HookedViT
    from .load import load_vit as load_vit
    from .planted.vit import PlantedViT as PlantedViT
    from .probes import probe_readout as probe_readout
    from .readout_files import load_readout as load_readout
    from .readout_files import save_class_embeddings as save_class_embeddings
    from .readout_files import save_readout as save_readout
    from .text import text_readout as text_readout
    from .video import clips_to_images as clips_to_images
    from .video import images_to_clips as images_to_clips

__all__ = [
    "HookedViT",
    "PlantedViT",
    "TokenLayout",
    "VitCircuitsError",
    "VitConfig",
    "clips_to_images",
    "given_tokens",
    "images_to_clips",
    "load_readout",
    "load_vit",
    "probe_readout",
    "save_class_embeddings",
    "save_readout",
    "text_readout",
]

_HOMES = {
    "HookedViT": ".hooked",
    "PlantedViT": ".planted.vit",
    "TokenLayout": ".config",
    "VitCircuitsError": ".errors",
    "VitConfig": ".config",
    "clips_to_images": ".video",
    "given_tokens": ".hf_text",
    "images_to_clips": ".video",
    "load_readout": ".readout_files",
    "load_vit": ".load",
    "probe_readout": ".probes",
    "save_class_embeddings": ".readout_files",
    "save_readout": ".readout_files",
    "text_readout": ".text",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
