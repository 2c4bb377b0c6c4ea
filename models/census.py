"""timm's ViT architectures: which there are, what each looks like, and a small one of each to check.

An architecture is timm's name without the tag of the weights. What it looks like is read off a module without storage
(PyTorch's meta device). A small one has two blocks, random weights in which every part matters, and the smallest image
that two patches a side make.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .config import VitConfig
from .errors import ModelError

MODULES = ("vision_transformer", "deit", "eva")
"""timm's modules whose architectures are looked at."""

DEPTH = 2


def architectures(pattern: str = "*") -> tuple[str, ...]:
    """Names of timm's ViT architectures that a pattern with * matches."""
    import timm

    names = [name for module in MODULES for name in timm.list_models(module=module)]
    return tuple(name for name in names if fnmatch.fnmatch(name, pattern))


def describe(name: str) -> VitConfig:
    """Sizes of an architecture as timm has it, without making its weights.

    Raises:
        ModelError: It cannot be opened; the message says why.
    """
    from .adapters.find import open_module

    return open_module(_without_storage(name), name).cfg


def small_module(name: str) -> nn.Module:
    """An architecture with two blocks, random weights and the smallest image it accepts, ready to run.

    Its weights are drawn from a fixed seed, and are large enough for every part to matter: LayerScale, biases and norms
    too. The global random state is left as it was.
    """
    from timm.models.eva import Eva

    whole: Any = _without_storage(name)
    patch = whole.patch_embed.patch_size
    options: dict[str, Any] = {"depth": DEPTH, "img_size": tuple(2 * int(side) for side in patch)}
    shared = [getattr(getattr(block, "attn", None), "num_kv_heads", None) for block in whole.blocks]
    if isinstance(whole, Eva) and None not in shared:
        options["num_kv_heads"] = (shared[0], shared[-1])
    module = _without_storage(name, **options).to_empty(device="cpu")
    with _restored_random_state():
        torch.manual_seed(0)
        for part in module.modules():
            if hasattr(part, "init_non_persistent_buffers"):
                part.init_non_persistent_buffers()  # type: ignore[operator]
        for key, parameter in module.named_parameters():
            _fill(key, parameter)
    return module.eval().requires_grad_(False)


def _without_storage(name: str, **options: Any) -> nn.Module:
    import timm

    with torch.device("meta"):
        return timm.create_model(name, **options)


def _fill(key: str, parameter: nn.Parameter) -> None:
    """Random values at which every part matters."""
    with torch.no_grad():
        if parameter.ndim <= 1:
            about = 1.0 if key.endswith(("weight", "gamma", "gamma_1", "gamma_2")) else 0.0
            parameter.normal_(about, 0.1)
        elif "freqs" in key:
            parameter.uniform_(-1, 1)
        else:
            parameter.normal_(0, min(0.3, parameter[0].numel() ** -0.5))


@contextmanager
def _restored_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


def refusal(name: str) -> str:
    """Why an architecture is not opened; empty if it is."""
    try:
        describe(name)
    except ModelError as error:
        return str(error)
    return ""
