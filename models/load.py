"""`load_vit`: from a name, a path or a module to an opened ViT."""

from __future__ import annotations

import copy
import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .cards import read_card
from .errors import ModelError
from .hooked import HookedViT

if TYPE_CHECKING:
    from .preprocess import Preprocess

_PICKLES = {".pth", ".pt", ".bin", ".pkl", ".pickle", ".ckpt"}


def load_vit(
    source: str | Path | nn.Module,
    *,
    checkpoint: str | Path | None = None,
    pretrained: bool = True,
    device: str | torch.device | None = None,
    name: str | None = None,
    preprocess: Preprocess | None = None,
    labels: tuple[str, ...] | None = None,
    **timm_options: Any,
) -> HookedViT:
    """A ViT, opened up and compared with its original.

    Args:
        source: `toy/digits-2l` (shipped), `planted/neighbour-xor` (a known circuit), a timm name such as
            `deit_tiny_patch16_224`, a folder written by `vitcircuits train`, a `.safetensors` file whose parent folder
            is named after its architecture, or a module.
        checkpoint: A `.safetensors` file with weights for a timm name, instead of timm's own.
        pretrained: Load timm's own weights for a timm name (from the cache or the network); False for random ones.
        device: Where to put a model loaded by name or path. A module stays where it is.
        name: What to call it, when it is not its source.
        preprocess: From a picture to a module's input; known already for what is loaded by name.
        labels: One name per logit of a module; known already for what is loaded by name.
        **timm_options: Passed to `timm.create_model`, such as `num_classes=5`; or a planted model's own (see
            `load_planted`): `norm`, `gain`, `trap`, `step`, `disguise`.

    Raises:
        ModelError: The name is not known, the weights cannot be had, read or fitted, or the model cannot be opened.
    """
    if isinstance(source, nn.Module):
        return HookedViT(_upcast(source), name=name or type(source).__name__, preprocess=preprocess, labels=labels)
    from .planted.load import load_planted

    text = str(source)
    path = Path(text).expanduser()
    if text.startswith("toy/"):
        vit = _from_toy(text, name or text)
    elif text.startswith("planted/"):
        vit = load_planted(text, name=name, **timm_options)
    elif path.is_dir():
        vit = _from_folder(path, name or path.name)
    elif path.suffix in _PICKLES or path.suffix == ".safetensors":
        vit = _from_timm(_architecture_of(path), path, False, name, timm_options)
    else:
        weights = None if checkpoint is None else Path(checkpoint).expanduser()
        vit = _from_timm(text, weights, pretrained, name, timm_options)
    if device is not None:
        vit.module.to(device)
    return vit


def known_models() -> tuple[str, ...]:
    """Names that `load_vit` knows: the shipped toys, planted circuits, then timm's Vision Transformers."""
    import timm

    from .planted.load import list_planted
    from .toys import list_toys

    plain = timm.list_models(module="vision_transformer") + timm.list_models(module="deit")
    return (*list_toys(), *list_planted(), *(name for name in plain if "distilled" not in name))


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
    module, preprocess, labels, _ = load_toy(text)
    return HookedViT(module, name=name, preprocess=preprocess, labels=labels)


def _from_folder(path: Path, name: str) -> HookedViT:
    from .planted.digit_pairs import DIGIT_PAIRS, load_digit_pairs
    from .toys import load_toy_folder

    if read_card(path)["name"] == DIGIT_PAIRS:
        return load_digit_pairs(name, path)
    module, preprocess, labels, _ = load_toy_folder(path)
    return HookedViT(module, name=name, preprocess=preprocess, labels=labels)


def _architecture_of(path: Path) -> str:
    """The timm name that a checkpoint's folder or file is named after."""
    import timm

    if not path.exists() or path.suffix in _PICKLES:
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

    known = timm.list_models()
    if not architecture.startswith("hf-hub:") and architecture.split(".")[0] not in known:
        raise ModelError(_unknown(architecture, known_models()))
    state = None if checkpoint is None else read_weights(checkpoint)
    if state is not None and "head.weight" in state and "num_classes" not in options:
        options = {**options, "num_classes": state["head.weight"].shape[0]}
    try:
        module = timm.create_model(architecture, pretrained=pretrained and state is None, **options)
    except Exception as error:
        raise ModelError(
            f"timm could not make {architecture}: {error}. Weights by name need the network or timm's cache; pass "
            f"checkpoint= for a file at hand, or pretrained=False for random weights."
        ) from error
    if state is not None and checkpoint is not None:
        _fit(module, state, checkpoint, architecture)
    module.eval().float().requires_grad_(False)
    return HookedViT(module, name=name or architecture, preprocess=_preprocess(module), labels=_labels(module))


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file.

    Raises:
        ModelError: There is no such file, it is a pickle, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ModelError(f"there is no file {path}: pass the path of a .safetensors file.")
    if path.suffix in _PICKLES:
        raise ModelError(
            f"{path} is a pickle, which can run code when it is opened. Save the weights as safetensors instead: "
            f'safetensors.torch.save_file(model.state_dict(), "{path.stem}.safetensors").'
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read as safetensors: {error}. Save it again, or download it again."
        ) from error


def _fit(module: nn.Module, state: dict[str, torch.Tensor], path: Path, architecture: str) -> None:
    wanted = module.state_dict()
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
            + ". Pass the architecture that it was saved from, as load_vit(name, checkpoint=path)."
        )
    module.load_state_dict(state)


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
    """ImageNet's names, for a model with its 1,000 classes."""
    from timm.data import ImageNetInfo  # pyright: ignore[reportPrivateImportUsage]

    if module.num_classes != 1000:
        return None
    info = ImageNetInfo("imagenet-1k")
    return tuple(str(info.index_to_description(index)).split(",")[0] for index in range(1000))
