"""`load_vit`: from a name, a path or a module to an opened ViT."""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import external
from .adapters.find import Opener
from .adapters.hf import part_or_none
from .cards import Card, read_card
from .census import architectures
from .checkpoints import architecture_of, is_embedding, make_timm, timm_labels, with_quick_gelu
from .errors import ModelError
from .files import WEIGHT_ENDINGS, is_folder, user_path
from .hooked import HookedViT
from .planted.digit_pairs import DIGIT_PAIRS, load_digit_pairs
from .planted.load import list_planted, load_planted
from .precision import SHORT, dtype_of, wide
from .preprocess import Preprocess
from .readouts import NO_CLASSES, TextHead
from .settings import short
from .text_tower import open_hf_text_tower, open_text_tower
from .toys.registry import list_toys, load_toy, load_toy_folder, zero_shot

_SCHEMES = ("hf-hub:", "hf_hub:", "local-dir:")  # timm's own


def load_vit(
    source: str | Path | nn.Module,
    *,
    checkpoint: str | Path | None = None,
    pretrained: bool = True,
    device: str | torch.device | None = None,
    name: str | None = None,
    preprocess: Preprocess | None = None,
    labels: tuple[str, ...] | None = None,
    attention_mask: str | torch.Tensor | None = None,
    adapter: Opener | None = None,
    dtype: str | None = None,
    **timm_options: Any,
) -> HookedViT:
    """A ViT, opened up and compared with its original.

    Args:
        source: `toy/digits-2l` (shipped), `planted/neighbour-xor` (a known circuit), a timm name such as
            `deit_tiny_patch16_224`, `hf-hub:org/repo` or `local-dir:/path` (timm's own), a folder written by
            `vitcircuits train` or by timm, a file of weights whose parent folder is named after its architecture, a
            module (of a library, of one's own, or a bridge of TransformerLens'), `open_clip:ViT-B-16:openai` (a name
            and a tag of open_clip's; see `models/external.py`), or a folder that transformers saved a ViT, DeiT,
            DINOv2, CLIP or ViViT to. CLIP weights that were trained with QuickGELU are loaded into timm's QuickGELU
            architecture, and the model is called so.
        checkpoint: A file with weights for a timm name, instead of timm's own: `.safetensors`, or `.pth`, `.pt` or
            `.bin` that opens without code. The number of classes is read off its head.
        pretrained: Load timm's own weights for a timm name (from the cache or the network); False for random ones.
        device: Where to put a model loaded by name or path. A module stays where it is.
        name: What to call it, when it is not its source.
        preprocess: From a picture to the model's input, where it is not what the name says.
        labels: One name per logit, where they are not what the name says.
        attention_mask: `causal`, or a boolean tensor (target, source) that is True where a token may see another.
        adapter: From a module and its name to its parts, where they are not to be found out (see docs/models.md).
        dtype: What the passes are in: `float32`, `bfloat16` or `float16`; by default the weights' own, and float32 for
            those of 16 bits. A module is copied for it. The residual stream, readout, metrics, scores and decisions
            have float32 at least (see `models/precision.py`).
        **timm_options: Passed to `timm.create_model`, such as `num_classes=5`; a planted model's own (see
            `load_planted`): `norm`, `gain`, `trap`, `step`, `disguise`; or `image_size=32` or `(height, width)` for a
            module of one's own whose images' size is not to be found out.

    Raises:
        ModelError: The name is not known, the weights cannot be had, read or fitted, the model cannot be opened, or
            there is not one label per logit.
    """
    wanted = None if dtype is None else dtype_of(dtype)
    if isinstance(source, nn.Module):
        source, size = _unwrapped(source), timm_options.pop("image_size", None) or (preprocess and preprocess.size)
        _require_nothing_else("a module", checkpoint, timm_options)
        facts: dict[str, Any] = {"name": name or type(source).__name__, "attention_mask": attention_mask}
        vit = HookedViT(_upcast(source, wanted), **facts, adapter=adapter, image_size=size)
    else:
        if adapter is not None:
            raise ModelError(f"adapter= opens a module, but the source is {str(source)!r}: pass the module itself.")
        vit = _named(str(source), checkpoint, pretrained, name, timm_options)
        vit = _moved(vit, device, wanted and wide(wanted), attention_mask)
    if wanted in SHORT:
        vit.shorten(wanted)
    _name_outputs(vit, labels)
    vit.preprocess = preprocess or vit.preprocess
    return vit


def _moved(
    vit: HookedViT,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    attention_mask: str | torch.Tensor | None,
) -> HookedViT:
    """A model that belongs to nobody else, where and in what it is wanted."""
    vit.module.to(dtype)
    if device is not None:
        vit.module.to(device)
        vit.readout.head.to(device)
    return vit if attention_mask is None else _masked(vit, attention_mask)


def _name_outputs(vit: HookedViT, labels: tuple[str, ...] | None) -> None:
    """One name per logit; whoever names the outputs says that they are classes."""
    if labels is None:
        return
    if len(labels) != vit.cfg.n_classes:
        raise ModelError(
            f"there are {len(labels)} labels for {vit.cfg.n_classes} logits of {vit.cfg.name}: pass one name per logit."
        )
    vit.labels = labels
    if vit.readout.kind in NO_CLASSES:
        vit.readout = dataclasses.replace(vit.readout, info={**vit.readout.info, "kind": "classes"})


def _named(
    text: str, checkpoint: str | Path | None, pretrained: bool, name: str | None, timm_options: dict[str, Any]
) -> HookedViT:
    """What a name or a path stands for."""
    path = user_path(text)
    if external.is_external(text):
        return _from_external(text, checkpoint=checkpoint, pretrained=pretrained, name=name, options=timm_options)
    if text.startswith("toy/"):
        _require_nothing_else(text, checkpoint, timm_options)
        return _from_toy(text, name or text)
    if text.startswith("planted/"):
        _require_nothing_else(text, checkpoint, {})
        return load_planted(text, name=name, **timm_options)
    if is_folder(path):
        _require_nothing_else(text, checkpoint, {})
        return _from_timm_or_toy_folder(path, name or path.name, timm_options)
    if path.suffix in WEIGHT_ENDINGS and not text.startswith(_SCHEMES):
        return _from_timm(architecture_of(path), path, False, name, timm_options)
    weights = None if checkpoint is None else user_path(checkpoint)
    return _from_timm(text, weights, pretrained, name, timm_options)


def _require_nothing_else(source: str, checkpoint: Any, options: Mapping[str, Any]) -> None:
    """Does nothing if neither a checkpoint nor options were passed beside what brings its own weights.

    Raises:
        ModelError: One was.
    """
    passed = [f"checkpoint={str(checkpoint)!r}"] * (checkpoint is not None)
    passed += [f"{key}={value!r}" for key, value in options.items()]
    if passed:
        raise ModelError(
            f"{source} brings its own weights and sizes, so {', '.join(passed)} would have no effect: leave it out, or "
            f"pass a timm name, such as load_vit('vit_tiny_patch16_224', checkpoint=...)."
        )


def _masked(vit: HookedViT, attention_mask: str | torch.Tensor) -> HookedViT:
    """The same model under an attention mask, and under the same readout."""
    if type(vit) is not HookedViT:
        raise ModelError(
            f"{vit.cfg.name} has a known circuit, which holds without a mask only: leave attention_mask= out."
        )
    facts: dict[str, Any] = {"name": vit.cfg.name, "preprocess": vit.preprocess}
    found = HookedViT(vit.module, attention_mask=attention_mask, **facts)
    if isinstance(vit.readout.head, TextHead):
        return found.with_readout(vit.readout.head, vit.labels, info=vit.readout.info)
    found.labels, found.readout = vit.labels, dataclasses.replace(found.readout, info=vit.readout.info)
    return found


def known_models() -> tuple[str, ...]:
    """Names that `load_vit` knows: the shipped toys, planted circuits, then timm's Vision Transformers."""
    return (*list_toys(), *list_planted(), *architectures())


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module in what torch.compile, DataParallel and TransformerLens' bridges make of it."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(module.module)
    if type(module).__module__.startswith("transformer_lens."):
        return getattr(module, "original_model", module)
    return getattr(module, "_orig_mod", module)


def _upcast(module: nn.Module, wanted: torch.dtype | None) -> nn.Module:
    """The module itself, or a copy in float32 if it is in 16 bits or to be: a user's module is never changed."""
    parameter = next(module.parameters(), None)
    own = None if parameter is None else parameter.dtype
    return copy.deepcopy(module).float() if own in SHORT or wanted not in (None, own) else module


def _from_toy(text: str, name: str) -> HookedViT:
    if text not in list_toys():
        raise ModelError(_unknown(text, list_toys()))
    return _read_out(load_toy(text), text, name)


def _read_out(loaded: tuple[Any, Preprocess, tuple[str, ...], Card], source: str | Path, name: str) -> HookedViT:
    """A toy under its own head, or an image tower under the class embeddings that it was trained with."""
    module, preprocess, labels, card = loaded
    vit = HookedViT(module, name=name, preprocess=preprocess, labels=labels)
    if card["recipe"].get("text") is None:
        return vit
    texts = zero_shot(source)
    head = TextHead(vit.readout.head, texts.embeddings, scale=texts.scale)
    return vit.with_readout(head, texts.names, info={"kind": "text", "clip": card["name"]})


def _from_timm_or_toy_folder(path: Path, name: str, options: dict[str, Any]) -> HookedViT:
    if "architecture" in external.read_config(path):
        return _from_timm(f"local-dir:{path}", None, True, name, options)
    if read_card(path)["name"] == DIGIT_PAIRS:
        return load_digit_pairs(name, path)
    return _read_out(load_toy_folder(path), path, name)


def _from_timm(
    architecture: str, checkpoint: Path | None, pretrained: bool, name: str | None, options: dict[str, Any]
) -> HookedViT:
    import timm

    if not architecture.startswith(_SCHEMES):
        if not timm.is_model(architecture.split(".")[0]):
            raise ModelError(_unknown(architecture, known_models()))
        architecture = architecture if "act_layer" in options else with_quick_gelu(architecture)
    module = make_timm(architecture, checkpoint, pretrained, options)
    preprocess, labels = Preprocess.from_timm(module), timm_labels(module)
    vit = HookedViT(module, name=name or architecture, preprocess=preprocess, labels=labels)
    if is_embedding(module):
        vit.readout = dataclasses.replace(vit.readout, info={"kind": "embedding"})
    return vit


def _from_external(
    source: str, *, checkpoint: str | Path | None, pretrained: bool, name: str | None, options: dict[str, Any]
) -> HookedViT:
    """A ViT of another library: `open_clip:...`, or a folder that transformers saved a model to."""
    if source.startswith(external.SCHEME):
        path = None if checkpoint is None else str(user_path(checkpoint))
        return _from_open_clip(source, path, pretrained, name, options)
    if checkpoint is not None:
        raise ModelError(
            f"checkpoint= is for names of architectures, but {source} is a folder with weights of its own."
        )
    return _from_transformers(user_path(source), pretrained, name, options)


def _from_open_clip(
    source: str, checkpoint: str | None, pretrained: bool, name: str | None, options: dict[str, Any]
) -> HookedViT:
    open_clip, text = external.import_open_clip(), source.removeprefix(external.SCHEME)
    model = external.create_clip(open_clip, text, pretrained=pretrained, checkpoint=checkpoint, **options)
    model.eval().float().requires_grad_(False)
    vit = HookedViT(model, name=name or source, preprocess=external.preprocess_of_open_clip(model))
    tower = open_text_tower(model, external.open_clip_tokenizer(open_clip, external.split_name(text)[0], model))
    vit.text_tower = dataclasses.replace(tower, name=text)
    return vit


def _from_transformers(path: Path, pretrained: bool, name: str | None, options: dict[str, Any]) -> HookedViT:
    module = external.read_folder(path, pretrained=pretrained)
    if unknown := set(options) - ({"image_size"} if module.config.model_type in external.RESIZED else set()):
        raise ModelError(
            f"{path} takes no option {sorted(unknown)[0]}: a folder of transformers' says all in its config.json. "
            f"Leave it out; DINOv2's take image_size=."
        )
    if module.config.model_type in external.RESIZED:
        # the size that its own preprocessing gives pictures; its weights were trained at a larger one
        module.config.image_size = options.get("image_size") or external.shown_size(path) or module.config.image_size
    vit = HookedViT(module, name=name or path.name, labels=_class_labels(module))
    vit.preprocess = external.preprocess_of_folder(path, vit.cfg)
    if hasattr(module, "get_text_features"):
        vit.text_tower = open_hf_text_tower(module, folder=path)
    return vit


def _class_labels(module: Any) -> tuple[str, ...] | None:
    """What the configuration calls the classes, unless these are the names that transformers makes up."""
    head, names = part_or_none(module, "classifier", "cls_classifier"), module.config.id2label or {}
    labels = tuple(str(names[index]) for index in sorted(names))
    if not isinstance(head, nn.Linear) or head.out_features != len(labels):
        return None
    return None if all(label == f"LABEL_{index}" for index, label in enumerate(labels)) else labels


def _unknown(name: str, known: tuple[str, ...] | list[str]) -> str:
    near = difflib.get_close_matches(name[:100], known, 4, 0.3)
    return (
        f"there is no model {short(name)}. The nearest names are {', '.join(near) or ', '.join(known[:4])}; "
        f"`vitcircuits models` lists all."
    )
