"""A text tower of any library, ready to encode: texts -> unit vectors, and the scale of the cosine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Tokenizer = Callable[[list[str]], Tensor]

_BATCH = 64  # texts at once


@dataclass(frozen=True, eq=False)
class TextTower:
    """A text tower, ready to encode.

    Args:
        model: An open_clip model.
        tokenizer: Texts -> their tokens (text, position).
        name: What it was loaded as.
        scale: What it multiplies cosines by: exp(logit_scale).
        bias: What it adds to them (SigLIP), if it does.
    """

    model: Any
    tokenizer: Tokenizer
    name: str
    scale: float
    bias: float | None

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
        """A unit vector per text, in float32 on the CPU."""
        device = next(self.model.parameters()).device
        found = []
        with torch.no_grad(), _evaluating(self.model):
            for start in range(0, len(texts), _BATCH):
                tokens: Int[Tensor, "text position"] = self.tokenizer(list(texts[start : start + _BATCH]))
                found.append(self.model.encode_text(tokens.to(device)).float().cpu())
        return nn.functional.normalize(torch.cat(found), dim=-1)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, put back afterwards."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
