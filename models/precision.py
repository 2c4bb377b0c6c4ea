"""Passes in fewer bits, with what they add up kept in float32.

A sum in 16 bits loses what is small beside it, and a circuit is made of small differences. So of a model in bfloat16 or
float16 only what multiplies has so few: the stem, the projections, attention and the MLPs. The residual stream that
they write to, the norms that read it, and the readout with its logits stay in float32, and so does all that is worked
out of them: differences of writes, sums over edges, metrics, scores and decisions. That is what `torch.autocast` does,
but weights are rounded once, so that half of their memory is saved.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .adapters.opened import Opened, Stem
from .errors import ModelError
from .norms import Norm
from .readouts import Readout
from .settings import DTYPES

SHORT = (torch.bfloat16, torch.float16)
ROUNDING = {torch.bfloat16: 0.1, torch.float16: 0.02}
"""How far logits may move when the passes are in fewer bits, times max(1, the largest): what was measured on random
images, several times over. More is no rounding, but an overflow."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """What sums have where passes are in this dtype: float32, or more."""
    return torch.promote_types(dtype, torch.float32)


def dtype_of(name: str) -> torch.dtype:
    """The dtype of a name.

    Raises:
        ModelError: It is none of those that passes can have.
    """
    if name not in DTYPES:
        raise ModelError(f"dtype={name!r} is not known: pass one of {', '.join(map(repr, DTYPES))}.")
    return getattr(torch, name)


@dataclass(frozen=True, eq=False)
class _WideStem:
    """A stem in fewer bits between images and a residual that are in float32."""

    own: Stem
    dtype: torch.dtype

    def patches(self, images: Tensor, /) -> Tensor:
        return self.own.patches(images.to(self.dtype))

    def content(self, patches: Tensor, /) -> Tensor:
        return self.own.content(patches)

    def positioned(self, patches: Tensor, /) -> Tensor:
        return self.own.positioned(patches)

    def finish(self, tokens: Tensor, /) -> Tensor:
        found = self.own.finish(tokens)
        return found.to(wide(found.dtype))


def in_fewer_bits(module: nn.Module, opened: Opened, readout: Readout, dtype: torch.dtype) -> Opened:
    """The opened model with its passes in a dtype of 16 bits; the module's weights are rounded in place.

    Args:
        module: The original, in float32.
        opened: Its parts.
        readout: What gives the logits, which keeps its bits like every norm of the residual.
        dtype: float16 or bfloat16.
    """
    norms = [norm for block in opened.blocks for norm in (block.norm1, block.norm2)]
    kept = [_own(norm) for norm in (*norms, *_norms(opened.readout), *_norms(readout))]
    kept += [head for one in (opened.readout, readout) for head in (one.head, one.second_head) if head is not None]
    held = {id(part) for one in kept for part in (*one.parameters(), *one.buffers())}
    for part in (*module.parameters(), *module.buffers()):
        if part.is_floating_point() and id(part) not in held:
            part.data = part.data.to(dtype)
    blocks = [
        dataclasses.replace(block, norm1=_giving(block.norm1, dtype), norm2=_giving(block.norm2, dtype))
        for block in opened.blocks
    ]
    return dataclasses.replace(opened, stem=_WideStem(opened.stem, dtype), blocks=tuple(blocks))


def _norms(readout: Readout) -> tuple[Norm, Norm]:
    return readout.norm, readout.fc_norm


def _own(norm: Norm) -> nn.Module:
    """The original's module, which an own norm hides from those who look for parameters."""
    hidden: Any = getattr(norm.module, "_module", None)
    return norm.module if hidden is None else hidden[0]


def _giving(norm: Norm, dtype: torch.dtype) -> Norm:
    return dataclasses.replace(norm, gives=dtype)
