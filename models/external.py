"""Models of other libraries as they are saved, read: open_clip's CLIP towers, and folders of `transformers`.

| source | what |
| --- | --- |
| `open_clip:ViT-B-32:laion2b_s34b_b79k` | a name and a tag of open_clip's; without a tag under `pretrained=False` or `checkpoint=` |
| `open_clip:hf-hub:org/repo`, `open_clip:local-dir:/path` | as open_clip has them |
| a folder with transformers' `config.json` | ViT, DeiT, DINOv2 (with registers or without), CLIP, ViViT |

Here are their modules, tokenizers, and how they want their pictures; `load_vit` opens a ViT of them, and `text_readout`
asks a CLIP model's text tower. Needs the extra `clip` (open_clip_torch) or `video` (transformers).
"""  # noqa: E501 (a table)

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from .adapters.find import OPENERS
from .adapters.opened import pair
from .config import VitConfig
from .errors import ModelError
from .files import user_path
from .hub import hub
from .preprocess import Interpolation, Preprocess

SCHEME = "open_clip:"

Tokenizer = Callable[[list[str]], Tensor]
"""Texts -> their tokens (text, position)."""

RESIZED = ("dinov2", "dinov2_with_registers")
"""Types of transformers' models whose positions are fitted to any size."""

_CLASSES = {  # what is made of a folder whose architecture is none of the classes that are opened
    "vit": "ViTModel",
    "deit": "DeiTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "clip": "CLIPModel",
    "clip_vision_model": "CLIPVisionModel",
    "vivit": "VivitModel",
}

_TOKENIZERS = ("tokenizer.json", "vocab.json")
_SCHEMES = ("hf-hub:", "local-dir:")
_RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # PIL's numbers
_FILES = (  # and where in them
    ("preprocessor_config.json", ""),
    ("processor_config.json", "image_processor"),
    ("video_preprocessor_config.json", ""),
    ("processor_config.json", "video_processor"),
)


def is_external(source: str) -> bool:
    """Whether this is of another library than timm: `open_clip:...`, or a folder that transformers saved a model to."""
    config = read_config(user_path(source))
    return source.startswith(SCHEME) or ("model_type" in config and "architecture" not in config)  # timm's has both


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
    config = read_config(path)
    known = {kind for library, kinds, _ in OPENERS if library == "transformers" for kind in kinds}
    listed = config.get("architectures")
    named = next((kind for kind in listed if kind in known), None) if isinstance(listed, list) else None
    found = named or _CLASSES.get(str(config.get("model_type")))
    if found is None:
        raise ModelError(
            f"{path} holds a model of type {config.get('model_type')!r}, which is not opened: "
            f"{', '.join(_CLASSES)} are. timm has most ViTs by name, such as load_vit('deit_tiny_patch16_224')."
        )
    return found


def read_config(path: Path) -> dict[str, Any]:
    """A folder's `config.json`; nothing where there is none."""
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def folder_tokenizer(folder: Path, length: int) -> Tokenizer:
    """Texts -> input ids by the tokenizer in a folder, which is read when the first text comes.

    Args:
        folder: Where it is.
        length: The most ids that a text may have; longer ones are cut off.
    """

    @cache
    def read() -> Any:
        from transformers import AutoTokenizer

        try:
            if not any((folder / name).is_file() for name in _TOKENIZERS):
                raise FileNotFoundError(f"no {' or '.join(_TOKENIZERS)}")  # transformers would make an empty one
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise ModelError(
                f"{folder} has no tokenizer that can be read ({str(error).splitlines()[0]}): put the model's tokenizer "
                f"files there, or pass tokenizer=, from texts to their input ids."
            ) from error

    def tokenize(texts: list[str]) -> Tensor:
        return read()(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")["input_ids"]

    return tokenize


def import_open_clip() -> Any:
    """open_clip.

    Raises:
        ModelError: It is not installed.
    """
    try:
        import open_clip
    except ImportError as error:
        raise ModelError(
            "prompts are encoded by open_clip, which is not installed: pip install 'vitcircuits[clip]'. Or pass a file "
            "of class embeddings that was made elsewhere (see save_class_embeddings)."
        ) from error
    return open_clip


def split_name(clip: str) -> tuple[str, str]:
    """A name of open_clip's and the tag of its weights; no tag for a folder or a repository."""
    if clip.startswith(_SCHEMES):
        return clip, ""
    name, _, tag = clip.partition(":")
    return name, tag


def create_clip(
    open_clip: Any, clip: str, *, pretrained: bool = True, checkpoint: str | None = None, **options: Any
) -> Any:
    """An open_clip model.

    Args:
        open_clip: The library.
        clip: `ViT-B-16:openai`, `hf-hub:org/repo`, `local-dir:/path`.
        pretrained: Load weights; False for random ones.
        checkpoint: A file of weights, in place of a tag.
        options: Passed to `open_clip.create_model`.

    Raises:
        ModelError: The name or the tag is not known, or the weights cannot be had.
    """
    name, tag = split_name(clip)
    if not clip.startswith(_SCHEMES) and name not in (known := open_clip.list_models()):
        near = difflib.get_close_matches(name, known, 4, 0.3) or known[:4]
        raise ModelError(f"open_clip has no model {name!r}. The nearest names are {', '.join(near)}.")
    if not pretrained:
        options = {"load_weights": False, "pretrained_text": False, **options}
    elif checkpoint is not None:
        options = {"pretrained": checkpoint, **options}
    elif not clip.startswith(_SCHEMES):
        options = {"require_pretrained": True, **_checked(open_clip, name, tag), **options}
    else:
        options = {"require_pretrained": True, **options}
    with nullcontext("") if clip.startswith("local-dir:") else hub() as offline:
        try:
            return open_clip.create_model(name, **options)
        except Exception as error:
            why = offline if offline and "ownload" in str(error) else str(error).strip().rstrip(".")
            hint = (
                " Its weights need the network or the cache of Hugging Face; a folder at hand is passed as "
                "local-dir:/path."
            )
            raise ModelError(f"open_clip could not make {clip!r}: {why}.{hint if pretrained else ''}") from error


def _checked(open_clip: Any, name: str, tag: str) -> dict[str, Any]:
    """What `create_model` is to be told: the tag, and QuickGELU where the weights were trained with it."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise ModelError(
            f"the text tower {name!r} needs the tag of its weights, but got {tag!r}: pass one of "
            f"{', '.join(f'{name}:{known}' for known in tags) or 'another name, for which there are weights'}."
        )
    quick = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False))
    return {"pretrained": tag, **({"force_quick_gelu": True} if quick else {})}


def open_clip_tokenizer(open_clip: Any, name: str, model: Any) -> Tokenizer:
    """The tokenizer of a name, made when the first text comes: some need the network."""
    length = getattr(model, "context_length", None)
    read = cache(lambda: open_clip.get_tokenizer(name, context_length=length))

    def tokenize(texts: list[str]) -> Tensor:
        try:
            with hub():
                return read()(texts)
        except OSError as error:
            raise ModelError(
                f"open_clip could not make the tokenizer of {name}: {error}. It needs the network or the cache of "
                f"Hugging Face; or pass tokenizer=."
            ) from error

    return tokenize


def preprocess_of_open_clip(model: Any) -> Preprocess | None:
    """The preprocessing of an open_clip model; None where it pads pictures, which is not done here."""
    said: Mapping[str, Any] = getattr(model.visual, "preprocess_cfg", {})
    if said.get("resize_mode", "shortest") not in ("shortest", "squash") or not said:
        return None
    interpolation = str(said.get("interpolation"))
    return Preprocess(
        size=pair(said["size"]),
        channels=3,
        mean=tuple(float(value) for value in said["mean"]),
        std=tuple(float(value) for value in said["std"]),
        interpolation=interpolation if interpolation in get_args(Interpolation) else "bicubic",
        squash=said.get("resize_mode") == "squash",
    )


def preprocess_of_folder(path: Path, cfg: VitConfig) -> Preprocess | None:
    """The preprocessing that a folder of transformers' names, of one frame if the model takes clips; None without."""
    said, channels = _read_preprocessor(path), cfg.n_channels // cfg.clip_frames
    if not said or channels not in (1, 3):
        return None
    mean, std = _statistics(said, channels)
    edge = _edge(said)
    cropped = said.get("do_center_crop", False) and edge is not None
    return Preprocess(
        size=cfg.image_size,
        channels=channels,
        mean=mean,
        std=std,
        crop_pct=_crop_pct(min(cfg.image_size), edge) if cropped and edge is not None else 1.0,
        interpolation=_RESAMPLE.get(said.get("resample", 2), "bicubic"),
        squash=not cropped and edge is None,
    )


def shown_size(path: Path) -> int | tuple[int, int] | None:
    """Height and width that a folder's preprocessing crops pictures to; None where it says nothing of it."""
    said = _read_preprocessor(path)
    crop = said.get("crop_size") if said.get("do_center_crop") else said.get("size")
    if isinstance(crop, Mapping):
        return (int(crop["height"]), int(crop["width"])) if "height" in crop else None
    return int(crop) if isinstance(crop, int) else None


def _read_preprocessor(path: Path) -> dict[str, Any]:
    for name, key in _FILES:
        try:
            found = json.loads((path / name).read_text(encoding="utf-8"))
            found = found[key] if key else found
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(found, dict) and ("image_mean" in found or "size" in found):
            return found
    return {}


def _edge(said: Mapping[str, Any]) -> int | None:
    """The shorter side that a picture is resized to before it is cropped; None where it is resized to a shape."""
    size = said.get("size")
    if isinstance(size, Mapping):
        return int(size["shortest_edge"]) if size.get("shortest_edge") else None
    return int(size) if isinstance(size, int) and said.get("do_center_crop") else None


def _crop_pct(side: int, edge: int) -> float:
    """The part of the resized side that is kept, such that side / part rounds down to the edge."""
    if edge <= side:
        return 1.0
    exact = side / edge
    return exact if math.floor(side / exact) == edge else side / (edge + 0.5)


def _statistics(said: Mapping[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of pixels in [0, 1], where a processor scales pixels of 0 to 255, may subtract 1, and normalises."""
    scale = 255 * float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 255.0
    shifted = said.get("offset") or said.get("video_processor_type") == "VivitVideoProcessor"  # which always does
    offset = 1.0 if shifted and said.get("do_rescale", True) else 0.0
    normalised = said.get("do_normalize", True)
    mean = _per_channel(said.get("image_mean") if normalised else 0.0, channels, 0.0)
    std = _per_channel(said.get("image_std") if normalised else 1.0, channels, 1.0)
    return tuple((value + offset) / scale for value in mean), tuple(value / scale for value in std)


def _per_channel(values: Any, channels: int, default: float) -> tuple[float, ...]:
    found = values if isinstance(values, Sequence) else [default if values is None else values]
    found = [float(value) for value in found]
    return tuple(found) if len(found) == channels else (sum(found) / len(found),) * channels
