"""timm's models by name, and weights in files: what is read, what is refused, and how they are fitted to a module.

Safetensors cannot run code. Pickles (.pth, .pt, .bin) can, so they are opened by torch's `weights_only=True`, which
takes tensors and plain containers and nothing else.
"""

from __future__ import annotations

import argparse
import logging
import pickle
from collections.abc import Mapping
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .errors import ModelError
from .files import WEIGHT_ENDINGS, WEIGHT_FILES, require_file
from .hub import hub
from .settings import short

PICKLES = frozenset(WEIGHT_ENDINGS) - {".safetensors"}

_WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "network", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "vit.")  # of DDP, torch.compile, Lightning and others
_IMAGENET = (1000, 11821, 21841, 21843)  # numbers of classes in timm's heads that are no embedding
_OTHER_HEADS = ("classifier", "fc", "heads.head", "linear")  # what fine-tuning scripts call timm's `head`


def make_timm(architecture: str, checkpoint: Path | None, pretrained: bool, options: dict[str, Any]) -> Any:
    """One of timm's modules, in float32 and evaluation mode, without gradients.

    Args:
        architecture: timm's name.
        checkpoint: A file with weights, in place of timm's own; the number of classes is read off its head.
        pretrained: Load timm's own weights; False for random ones.
        options: Passed to `timm.create_model`.

    Raises:
        ModelError: The weights cannot be had, read or fitted.
    """
    import timm

    state = None if checkpoint is None else read_weights(checkpoint)
    if state is not None and "num_classes" not in options and (n_classes := n_classes_of(state)) is not None:
        options = {**options, "num_classes": n_classes}
    asked = not architecture.startswith("local-dir:") and ((pretrained and state is None) or ":" in architecture)
    with hub() if asked else nullcontext("") as offline:
        try:
            module: Any = timm.create_model(architecture, pretrained=pretrained and state is None, **options)
        except Exception as error:
            why = offline if offline and isinstance(error, OSError) else str(error).strip().rstrip(".")
            raise ModelError(
                f"timm could not make {short(architecture)}: {why}. Weights by name need the network or timm's cache; "
                f"pass checkpoint= for a file at hand, or a model that is shipped, such as toy/digits-2l. In Python "
                f"pretrained=False gives random weights."
            ) from error
    if state is not None and checkpoint is not None:
        fit_weights(module, state, checkpoint, architecture)
    return module.eval().float().requires_grad_(False)


def architecture_of(path: Path) -> str:
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


def with_quick_gelu(architecture: str) -> str:
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


def is_embedding(module: Any) -> bool:
    """Whether the head of a timm model is the projection of a CLIP image tower."""
    config = getattr(module, "pretrained_cfg", None) or {}
    width = config.get("num_classes")
    named = "_clip_" in str(config.get("architecture", ""))
    return named and isinstance(module.head, nn.Linear) and width == module.num_classes and width not in _IMAGENET


def timm_labels(module: Any) -> tuple[str, ...] | None:
    """What the model's own configuration calls its classes, or ImageNet's names for a model with its 1,000."""
    from timm.data import ImageNetInfo  # pyright: ignore[reportPrivateImportUsage]

    own = (getattr(module, "pretrained_cfg", None) or {}).get("label_names")
    if own and len(own) == module.num_classes:
        return tuple(str(name) for name in own)
    if module.num_classes != 1000:
        return None
    info = ImageNetInfo("imagenet-1k")
    return tuple(str(info.index_to_description(index)).split(",")[0] for index in range(1000))


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, out of the usual wrappers: `{"model": ...}`, `module.` in front of names.

    Raises:
        ModelError: There is no such file, it is damaged, needs code to be opened, or holds no tensors by name.
    """
    require_file(path, WEIGHT_FILES)
    state: Any = _read_pickle(path) if path.suffix in PICKLES else _read_safetensors(path)
    if isinstance(state, nn.Module):  # only of classes that somebody declared safe
        state = state.state_dict()
    while isinstance(state, Mapping) and (inner := _wrapped(state)) is not None:
        state = inner
    tensors = {str(key): value for key, value in state.items()} if isinstance(state, Mapping) else {}
    tensors = {key: value for key, value in tensors.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ModelError(
            f"{path} holds no tensors by name: save the weights as safetensors, "
            f'safetensors.torch.save_file(model.state_dict(), "{path.stem}.safetensors").'
        )
    return _without_prefix(tensors)


def _wrapped(state: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
    """What a training script saved as the weights among other things."""
    return next((state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping)), None)


def _without_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in _PREFIXES * 2:  # wrappers come in either order
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read as safetensors: {error}. Save it again, or download it again."
        ) from error


def _read_pickle(path: Path) -> Any:
    safe = getattr(torch.serialization, "safe_globals", None)  # torch 2.5
    # timm's and DeiT's training scripts save their options beside the weights, in a namespace that runs nothing
    allowed = nullcontext() if safe is None else safe([argparse.Namespace])
    try:
        with allowed:
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # bytes that are no pickle
            raise _unreadable(path, error) from error
        raise ModelError(
            f"{path} is a pickle that needs code to be opened, which could be anybody's: where you trust it, open it "
            f"yourself and save the weights alone, "
            f'safetensors.torch.save_file(model.state_dict(), "{path.stem}.safetensors"). torch says: '
            f"{_first_sentence(error)}."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path} cannot be read as a checkpoint of torch ({_first_sentence(error)}): download it again, or save the "
        f'weights as safetensors, safetensors.torch.save_file(model.state_dict(), "{path.stem}.safetensors").'
    )


def _first_sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line] or [str(error).split("\n")[0]]
    return lines[0].split(". ")[0].rstrip(".") or type(error).__name__


def n_classes_of(state: Mapping[str, torch.Tensor]) -> int | None:
    """How many classes a checkpoint's head has; 0 if it is a timm ViT without a head, None if it cannot be said."""
    for name in ("head", "head_dist", *_OTHER_HEADS):
        weight = state.get(f"{name}.weight")
        if weight is not None and weight.ndim == 2:
            return int(weight.shape[0])
    return 0 if "patch_embed.proj.weight" in state and "blocks.0.attn.proj.weight" in state else None


def fit_weights(module: nn.Module, state: dict[str, torch.Tensor], path: Path, architecture: str) -> None:
    """Loads a checkpoint into a timm module: every weight, and no other.

    Heads of other names are taken for `head`, and the layouts that timm itself converts (open_clip's, DINOv2's, ...)
    are converted by timm.

    Raises:
        ModelError: Weights are missing, left over, or of another shape.
    """
    wanted = module.state_dict()
    if wanted.keys() != state.keys():
        state = _converted(module, _renamed(state, wanted))
    missing = sorted(wanted.keys() - state.keys())
    extra = sorted(state.keys() - wanted.keys())
    shapes = [
        f"{key} is {tuple(state[key].shape)}, wanted {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & state.keys())
        if state[key].shape != wanted[key].shape
    ]
    if missing or extra or shapes:
        raise ModelError(
            f"the checkpoint {path} does not fit {architecture}: "
            + "; ".join(
                f"{what} {len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
                for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
                if names
            )
            + f". Pass the architecture that it was saved from{_hint(shapes)}."
        )
    module.load_state_dict(state)


def _hint(shapes: list[str]) -> str:
    """Options of timm's that change just the weights that don't fit."""
    found = {_CHANGED_BY.get(shape.split(" ")[0]) for shape in shapes}
    options = [f"{option}=" for option in ("num_classes", "img_size", "in_chans") if option in found]
    return f", with {' and '.join(options)} as it was trained" if options else ""


_CHANGED_BY = {
    **dict.fromkeys(("head.weight", "head.bias", "head_dist.weight", "head_dist.bias"), "num_classes"),
    "pos_embed": "img_size",
    "patch_embed.proj.weight": "in_chans",
}


def _renamed(state: dict[str, torch.Tensor], wanted: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The head under timm's name, where it is the only thing that is called differently."""
    if "head.weight" not in wanted or "head.weight" in state:
        return state
    for name in _OTHER_HEADS:
        if f"{name}.weight" in state:
            return {
                f"head.{key.removeprefix(f'{name}.')}" if key.startswith(f"{name}.") else key: value
                for key, value in state.items()
            }
    return state


def _converted(module: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    convert = getattr(import_module(type(module).__module__), "checkpoint_filter_fn", None)
    if convert is None or module.state_dict().keys() == state.keys():
        return state
    try:
        return dict(convert(dict(state), module))
    except Exception:  # a layout that timm does not know: what does not fit is said of the file as it is
        return state
