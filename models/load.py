"""`load_vit`: from a name, a path or a module to an opened ViT."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .cards import read_card
from .checkpoints import PICKLES, fit_weights, n_classes_of, read_weights
from .errors import ModelError
from .foreign import is_foreign, load_foreign
from .hooked import HookedViT
from .readouts import NO_CLASSES, TextHead

if TYPE_CHECKING:
    from .cards import Card
    from .preprocess import Preprocess

_SCHEMES = ("hf-hub:", "hf_hub:", "local-dir:")  # timm's own
_WEIGHTS = PICKLES | {".safetensors"}
_IMAGENET = (1000, 11821, 21841, 21843)  # numbers of classes in timm's heads that are no embedding


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
    **timm_options: Any,
) -> HookedViT:
    """A ViT, opened up and compared with its original.

    Args:
        source: `toy/digits-2l` (shipped), `planted/neighbour-xor` (a known circuit), a timm name such as
            `deit_tiny_patch16_224`, `hf-hub:org/repo` or `local-dir:/path` (timm's own), a folder written by
            `vitcircuits train` or by timm, a file of weights whose parent folder is named after its architecture, a
            module, `open_clip:ViT-B-16:openai` (a name and a tag of open_clip's; see `models/foreign.py`), or a folder
            that transformers saved a ViT, DINOv2, CLIP or ViViT to. CLIP weights that were trained with QuickGELU are
            loaded into timm's QuickGELU architecture, and the model is called so.
        checkpoint: A file with weights for a timm name, instead of timm's own: `.safetensors`, or `.pth`, `.pt` or
            `.bin` that opens without code. The number of classes is read off its head.
        pretrained: Load timm's own weights for a timm name (from the cache or the network); False for random ones.
        device: Where to put a model loaded by name or path. A module stays where it is.
        name: What to call it, when it is not its source.
        preprocess: From a picture to the model's input, where it is not what the name says.
        labels: One name per logit, where they are not what the name says.
        attention_mask: `causal`, or a boolean tensor (target, source) that is True where a token may see another.
        **timm_options: Passed to `timm.create_model`, such as `num_classes=5`; or a planted model's own (see
            `load_planted`): `norm`, `gain`, `trap`, `step`, `disguise`.

    Raises:
        ModelError: The name is not known, the weights cannot be had, read or fitted, the model cannot be opened, or
            there is not one label per logit.
    """
    if isinstance(source, nn.Module):
        _require_nothing_else("a module", checkpoint, timm_options)
        source = _unwrapped(source)
        vit = HookedViT(_upcast(source), name=name or type(source).__name__, attention_mask=attention_mask)
    else:
        vit = _named(str(source), checkpoint, pretrained, name, timm_options)
        if device is not None:
            vit.module.to(device)
            vit.readout.head.to(device)
        if attention_mask is not None:
            vit = _masked(vit, attention_mask)
    if labels is not None and len(labels) != vit.cfg.n_classes:
        raise ModelError(
            f"there are {len(labels)} labels for {vit.cfg.n_classes} logits of {vit.cfg.name}: pass one name per logit."
        )
    if labels is not None:
        vit.labels = labels
        if vit.readout.kind in NO_CLASSES:  # whoever names the outputs says that they are classes
            vit.readout = dataclasses.replace(vit.readout, info={**vit.readout.info, "kind": "classes"})
    vit.preprocess = preprocess or vit.preprocess
    return vit


def _named(
    text: str, checkpoint: str | Path | None, pretrained: bool, name: str | None, timm_options: dict[str, Any]
) -> HookedViT:
    """What a name or a path stands for."""
    from .planted.load import load_planted

    path = Path(text).expanduser()
    if is_foreign(text):
        return load_foreign(text, checkpoint=checkpoint, pretrained=pretrained, name=name, options=timm_options)
    if text.startswith("toy/"):
        _require_nothing_else(text, checkpoint, timm_options)
        return _from_toy(text, name or text)
    if text.startswith("planted/"):
        _require_nothing_else(text, checkpoint, {})
        return load_planted(text, name=name, **timm_options)
    if path.is_dir():
        _require_nothing_else(text, checkpoint, {})
        return _from_folder(path, name or path.name, timm_options)
    if path.suffix in _WEIGHTS and not text.startswith(_SCHEMES):
        return _from_timm(_architecture_of(path), path, False, name, timm_options)
    weights = None if checkpoint is None else Path(checkpoint).expanduser()
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
    from .census import architectures
    from .planted.load import list_planted
    from .toys import list_toys

    return (*list_toys(), *list_planted(), *architectures())


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module in what torch.compile and DataParallel make of it."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return _unwrapped(module.module)
    return getattr(module, "_orig_mod", module)


def _upcast(module: nn.Module) -> nn.Module:
    """The module itself, or a copy in float32 if it is in 16 bits: a user's module is never changed."""
    parameter = next(module.parameters(), None)
    if parameter is not None and parameter.dtype in (torch.float16, torch.bfloat16):
        return copy.deepcopy(module).float()
    return module


def _from_toy(text: str, name: str) -> HookedViT:
    from .toys import list_toys, load_toy

    if text not in list_toys():
        raise ModelError(_unknown(text, list_toys()))
    return _read_out(load_toy(text), text, name)


def _read_out(loaded: tuple[Any, Preprocess, tuple[str, ...], Card], source: str | Path, name: str) -> HookedViT:
    """A toy under its own head, or an image tower under the class embeddings that it was trained with."""
    from .toys import zero_shot

    module, preprocess, labels, card = loaded
    vit = HookedViT(module, name=name, preprocess=preprocess, labels=labels)
    if card["recipe"].get("text") is None:
        return vit
    texts = zero_shot(source)
    head = TextHead(vit.readout.head, texts.embeddings, scale=texts.scale)
    return vit.with_readout(head, texts.names, info={"kind": "text", "clip": card["name"]})


def _from_folder(path: Path, name: str, options: dict[str, Any]) -> HookedViT:
    from .planted.digit_pairs import DIGIT_PAIRS, load_digit_pairs
    from .toys import load_toy_folder

    if _is_timm_folder(path):
        return _from_timm(f"local-dir:{path}", None, True, name, options)
    if read_card(path)["name"] == DIGIT_PAIRS:
        return load_digit_pairs(name, path)
    return _read_out(load_toy_folder(path), path, name)


def _is_timm_folder(path: Path) -> bool:
    try:
        return "architecture" in json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _architecture_of(path: Path) -> str:
    """The timm name that a checkpoint's folder or file is named after."""
    import timm

    if not path.exists():
        read_weights(path)  # says what is wrong with it
    for candidate in (path.parent.resolve().name, path.stem):
        if candidate.split(".")[0] in timm.list_models():
            return candidate
    raise ModelError(
        f"{path} does not say which architecture it is for: call "
        f'load_vit("deit_tiny_patch16_224", checkpoint="{path}") with its timm name.'
    )


def _from_timm(
    architecture: str, checkpoint: Path | None, pretrained: bool, name: str | None, options: dict[str, Any]
) -> HookedViT:
    import timm

    if not architecture.startswith(_SCHEMES):
        if not timm.is_model(architecture.split(".")[0]):
            raise ModelError(_unknown(architecture, known_models()))
        architecture = architecture if "act_layer" in options else _with_quick_gelu(architecture)
    state = None if checkpoint is None else read_weights(checkpoint)
    if state is not None and "num_classes" not in options and (n_classes := n_classes_of(state)) is not None:
        options = {**options, "num_classes": n_classes}
    try:
        module: Any = timm.create_model(architecture, pretrained=pretrained and state is None, **options)
    except Exception as error:
        raise ModelError(
            f"timm could not make {architecture}: {error}. Weights by name need the network or timm's cache; pass "
            f"checkpoint= for a file at hand, or pretrained=False for random weights."
        ) from error
    if state is not None and checkpoint is not None:
        fit_weights(module, state, checkpoint, architecture)
    module.eval().float().requires_grad_(False)
    vit = HookedViT(module, name=name or architecture, preprocess=_preprocess(module), labels=_labels(module))
    if _is_embedding(module):
        vit.readout = dataclasses.replace(vit.readout, info={"kind": "embedding"})
    return vit


def _with_quick_gelu(architecture: str) -> str:
    """The name of the architecture with QuickGELU, where timm says that a name's weights were trained with it.

    timm loads OpenAI's CLIP weights under the plain names into a model with GELU, whose outputs are not CLIP's.
    """
    import timm

    plain, _, tag = architecture.partition(".")
    try:
        config = timm.get_pretrained_cfg(architecture)
    except RuntimeError as error:
        raise ModelError(
            f"timm has no weights {tag!r} for {plain}: pass one of {', '.join(timm.list_pretrained(f'{plain}.*'))}, or "
            f"{plain} for its default."
        ) from error
    quick = plain.replace("_clip_", "_clip_quickgelu_")
    if config is None or "natively QuickGELU" not in " ".join(config.notes or ()) or not timm.is_model(quick):
        return architecture
    found = f"{quick}.{tag or config.tag}"
    logging.getLogger("vitcircuits").warning(
        "%s was trained with QuickGELU and is loaded as %s; pass act_layer='gelu' for timm's own reading of the name.",
        architecture,
        found,
    )
    return found


def _is_embedding(module: Any) -> bool:
    """Whether the head of a timm model is the projection of a CLIP image tower."""
    config = getattr(module, "pretrained_cfg", None) or {}
    width = config.get("num_classes")
    named = "_clip_" in str(config.get("architecture", ""))
    return named and isinstance(module.head, nn.Linear) and width == module.num_classes and width not in _IMAGENET


def _unknown(name: str, known: tuple[str, ...] | list[str]) -> str:
    near = difflib.get_close_matches(name, known, 4, 0.3)
    return (
        f"there is no model {name!r}. The nearest names are {', '.join(near) or ', '.join(known[:4])}; "
        f"`vitcircuits models` lists all."
    )


def _preprocess(module: nn.Module) -> Any:
    from .preprocess import Preprocess

    return Preprocess.from_timm(module)


def _labels(module: Any) -> tuple[str, ...] | None:
    """What the model's own configuration calls its classes, or ImageNet's names for a model with its 1,000."""
    from timm.data import ImageNetInfo  # pyright: ignore[reportPrivateImportUsage]

    own = (getattr(module, "pretrained_cfg", None) or {}).get("label_names")
    if own and len(own) == module.num_classes:
        return tuple(str(name) for name in own)
    if module.num_classes != 1000:
        return None
    info = ImageNetInfo("imagenet-1k")
    return tuple(str(info.index_to_description(index)).split(",")[0] for index in range(1000))
