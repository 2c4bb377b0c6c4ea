"""Whether an architecture is opened faithfully: the laws on a small one with random weights.

1. The opened logits are the original's, and what all sources and biases write adds up to the original's last residual.
2. With all edges kept a run is the clean one, with none it is the corrupted one, over one token group and by role.

Each is compared at 1e-4 x max(1, largest value), in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...models.census import small_module
from ...models.config import VitConfig
from ...models.errors import ModelError
from ...models.hooked import HookedViT
from ...models.load import load_vit
from ..baseline import source_values
from ..circuit import Circuit
from ..graph import compile_graph
from ..run import run_circuit

TOLERANCE = 1e-4


@dataclass(frozen=True)
class ArchitectureCheck:
    """What came of a check.

    Args:
        name: The architecture.
        cfg: Sizes of the small one; None if it is not opened.
        refusal: Why it is not opened; empty if it is.
        differences: The largest difference of each law over what is accepted, so that at most 1 is right.
    """

    name: str
    cfg: VitConfig | None
    refusal: str
    differences: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether it is opened and every law holds."""
        return self.cfg is not None and max(self.differences.values()) <= 1

    def __str__(self) -> str:
        if self.cfg is None:
            return f"{self.name}: refused. {self.refusal}"
        worst = max(self.differences, key=lambda law: self.differences[law])
        said = "holds" if self.holds else "FAILS"
        return f"{self.name}: {said}; largest difference {self.differences[worst]:.1e} of what is accepted ({worst})"


def check_architecture(name: str) -> ArchitectureCheck:
    """Builds a small one of timm's architectures with random weights and verifies the laws on it.

    Args:
        name: timm's name, without the tag of the weights.
    """
    return check_module(lambda: small_module(name), name)


def check_module(make: Callable[[], nn.Module], name: str) -> ArchitectureCheck:
    """Makes a module, opens it and verifies the laws on it.

    Args:
        make: A module from images to logits; its residual behind the last block is seen somewhere.
        name: What to call it.
    """
    try:
        vit = load_vit(make(), name=name)
    except ModelError as error:
        return ArchitectureCheck(name, None, str(error), {})
    clean, corrupt = torch.randn(
        2,
        2,
        vit.cfg.n_channels,
        *vit.cfg.image_size,
        generator=torch.Generator().manual_seed(1),
        device="cpu",
    )
    found = {"logits": vit.parity.max_difference / vit.parity.tolerance, "residual": _residual(vit, clean)}
    for tokens in ("all", "role"):
        graph = compile_graph(vit, tokens=tokens)
        for kept, images in ((True, clean), (False, corrupt)):
            logits = run_circuit(vit, Circuit(graph, np.full(len(graph), kept)), clean, corrupt)
            which = "all edges" if kept else "no edges"
            found[f"{which}, tokens={tokens}"] = _over(logits, vit(images))
    return ArchitectureCheck(name, vit.cfg, "", found)


def _residual(vit: HookedViT, images: Tensor) -> float:
    """Sources and biases against the original's last residual."""
    outputs: list[Any] = []
    handle = vit.opened.originals[-1].register_forward_hook(lambda _module, _args, out: outputs.append(out))
    try:
        with torch.no_grad(), vit.borrowed():
            vit.opened.forward(images)
            total = source_values(vit, images).sum(0)
            for block in vit.blocks:
                total = total + block.attn_bias
    finally:
        handle.remove()
    return _over(total[:, : outputs[0].shape[1]], outputs[0])


def _over(got: Tensor, wanted: Tensor) -> float:
    """The largest difference over what is accepted."""
    return float((got - wanted).abs().max()) / (TOLERANCE * max(1.0, float(wanted.abs().max())))
