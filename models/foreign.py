"""Models of other libraries by name or folder: open_clip's CLIP towers, and what `transformers` saved.

| source | what |
| --- | --- |
| `open_clip:ViT-B-32:laion2b_s34b_b79k` | a name and a tag of open_clip's; without a tag under `pretrained=False` or `checkpoint=` |
| `open_clip:hf-hub:org/repo`, `open_clip:local-dir:/path` | as open_clip has them |
| a folder with transformers' `config.json` | ViT, DINOv2 (with registers or without), CLIP, ViViT |

The whole of a CLIP model is loaded: `vit` is its image tower, and `text_readout(vit, prompts)` asks its text tower.
"""  # noqa: E501 (a table)

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .errors import ModelError
from .foreign_preprocess import preprocess_of_folder, preprocess_of_open_clip, shown_size
from .hf_text import folder_tokenizer, open_hf_text_tower
from .hooked import HookedViT
from .open_clip_text import create_clip, import_open_clip, open_text_tower, split_name

SCHEME = "open_clip:"

_CLASSES = {  # what is made of a folder whose architecture is none of the classes that are opened
    "vit": "ViTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "clip": "CLIPModel",
    "clip_vision_model": "CLIPVisionModel",
    "vivit": "VivitModel",
}
_RESIZED = ("dinov2", "dinov2_with_registers")  # whose positions are fitted to any size


def is_foreign(source: str) -> bool:
    """Whether `load_foreign` is to load this: `open_clip:...`, or a folder that transformers saved a model to."""
    config = _config(Path(source).expanduser())
    return source.startswith(SCHEME) or ("model_type" in config and "architecture" not in config)  # timm's has both


def load_foreign(
    source: str, *, checkpoint: str | Path | None, pretrained: bool, name: str | None, options: dict[str, Any]
) -> HookedViT:
    """A ViT of another library.

    Args:
        source: `open_clip:...`, or a folder.
        checkpoint: A file with weights, for a name of open_clip's.
        pretrained: Load weights; False for random ones.
        name: What to call it.
        options: Passed to `open_clip.create_model`; for a folder of DINOv2's, `image_size`.

    Raises:
        ModelError: The library is not installed, the weights cannot be had, or the model cannot be opened.
    """
    if source.startswith(SCHEME):
        path = None if checkpoint is None else str(Path(checkpoint).expanduser())
        return _from_open_clip(source, path, pretrained, name, options)
    if checkpoint is not None:
        raise ModelError(
            f"checkpoint= is for names of architectures, but {source} is a folder with weights of its own."
        )
    return _from_folder(Path(source).expanduser(), pretrained, name, options)


def _from_open_clip(
    source: str, checkpoint: str | None, pretrained: bool, name: str | None, options: dict[str, Any]
) -> HookedViT:
    open_clip, text = import_open_clip(), source.removeprefix(SCHEME)
    model = create_clip(open_clip, text, pretrained=pretrained, checkpoint=checkpoint, **options)
    model.eval().float().requires_grad_(False)
    vit = HookedViT(model, name=name or source, preprocess=preprocess_of_open_clip(model))
    tower = open_text_tower(model, _open_clip_tokenizer(open_clip, split_name(text)[0], model))
    vit.text_tower = type(tower)(tower.model, tower.tokenizer, text, tower.scale, tower.bias)
    return vit


def _open_clip_tokenizer(open_clip: Any, name: str, model: Any) -> Any:
    """The tokenizer of a name, made when the first text comes: some need the network."""
    length = getattr(model, "context_length", None)
    read = cache(lambda: open_clip.get_tokenizer(name, context_length=length))

    def tokenize(texts: list[str]) -> Tensor:
        try:
            return read()(texts)
        except OSError as error:
            raise ModelError(
                f"open_clip could not make the tokenizer of {name}: {error}. It needs the network or the cache of "
                f"Hugging Face; or pass tokenizer=."
            ) from error

    return tokenize


def _from_folder(path: Path, pretrained: bool, name: str | None, options: dict[str, Any]) -> HookedViT:
    module = read_folder(path, pretrained=pretrained)
    if unknown := set(options) - ({"image_size"} if module.config.model_type in _RESIZED else set()):
        raise ModelError(
            f"{path} takes no option {sorted(unknown)[0]}: a folder of transformers' says all in its config.json. "
            f"Leave it out; DINOv2's take image_size=."
        )
    if module.config.model_type in _RESIZED:
        # the size that its own preprocessing gives pictures; its weights were trained at a larger one
        module.config.image_size = options.get("image_size") or shown_size(path) or module.config.image_size
    vit = HookedViT(module, name=name or path.name, labels=_labels(module))
    vit.preprocess = preprocess_of_folder(path, vit.cfg)
    if hasattr(module, "get_text_features"):
        length = int(module.config.text_config.max_position_embeddings)
        vit.text_tower = open_hf_text_tower(module, folder_tokenizer(path, length), folder=path)
    return vit


def read_folder(path: Path, *, pretrained: bool = True) -> Any:
    """The module that transformers saved to a folder, ready to be opened.

    Raises:
        ModelError: transformers is not installed, the model is of a kind that is not opened, or weights are missing.
    """
    try:
        import transformers
    except ImportError as error:
        raise ModelError(
            f"{path} is a folder of transformers', which is not installed: pip install 'vitcircuits[video]'."
        ) from error
    kind: Any = getattr(transformers, _class_name(path))
    try:
        if pretrained:
            module, said = kind.from_pretrained(path, local_files_only=True, output_loading_info=True)
        else:
            module, said = kind(kind.config_class.from_pretrained(path)), {}
    except Exception as error:
        raise ModelError(f"transformers could not load {path}: {error}. Save it again by save_pretrained.") from error
    missing = sorted(key for key in said.get("missing_keys", ()) if not key.startswith("pooler."))
    if missing or said.get("mismatched_keys"):
        raise ModelError(
            f"{path} lacks {len(missing)} weights of a {kind.__name__} such as {', '.join(missing[:3]) or 'its head'}, "
            f"which would stay random: save the whole model by save_pretrained."
        )
    return module.eval().float().requires_grad_(False)


def _class_name(path: Path) -> str:
    from .adapters.find import OPENERS

    config = _config(path)
    known = {kind for library, kinds, _ in OPENERS if library == "transformers" for kind in kinds}
    named = next((kind for kind in config.get("architectures") or () if kind in known), None)
    found = named or _CLASSES.get(str(config.get("model_type")))
    if found is None:
        raise ModelError(
            f"{path} holds a model of type {config.get('model_type')!r}, which is not opened: "
            f"{', '.join(_CLASSES)} are. timm has most ViTs by name, such as load_vit('deit_tiny_patch16_224')."
        )
    return found


def _config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _labels(module: Any) -> tuple[str, ...] | None:
    """What the configuration calls the classes, unless these are the names that transformers makes up."""
    head, names = getattr(module, "classifier", None), module.config.id2label or {}
    labels = tuple(str(names[index]) for index in sorted(names))
    if not isinstance(head, nn.Linear) or head.out_features != len(labels):
        return None
    return None if all(label == f"LABEL_{index}" for index, label in enumerate(labels)) else labels
