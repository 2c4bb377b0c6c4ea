"""What an adapter finds in a module: sizes, the way to the first residual, blocks, readout, and the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import OpenBlock
from ..config import VitConfig
from ..errors import ModelError
from ..readouts import Readout


@runtime_checkable
class Stem(Protocol):
    """From images to the residual in front of block 0, by the original's own code: `finish(positioned(patches))`."""

    def patches(self, images: Tensor) -> Tensor:
        """Patch embeddings, before positions."""
        ...

    def content(self, patches: Tensor) -> Tensor:
        """All tokens before positions, (batch, token, model): CLS and registers in front of the patches."""
        ...

    def positioned(self, patches: Tensor) -> Tensor:
        """All tokens with positions, (batch, token, model)."""
        ...

    def finish(self, tokens: Tensor) -> Tensor:
        """What stands between the positions and block 0, such as CLIP's norm."""
        ...


@dataclass(frozen=True, eq=False)
class Opened:
    """The parts of a module: nothing is copied.

    Args:
        cfg: Sizes.
        stem: From images to the residual in front of block 0.
        blocks: The canonical blocks.
        readout: From the last residual to the logits.
        originals: The modules that the blocks were opened from; attention pooling has none here.
        forward: The original's own logits.
    """

    cfg: VitConfig
    stem: Stem
    blocks: tuple[OpenBlock, ...]
    readout: Readout
    originals: tuple[nn.Module, ...]
    forward: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class PooledStem:
    """A stem with the token that attention pooling writes to behind all others: it starts at zero."""

    stem: Stem

    def patches(self, images: Tensor) -> Tensor:
        """Patch embeddings, before positions."""
        return self.stem.patches(images)

    def content(self, patches: Tensor) -> Tensor:
        """All tokens before positions."""
        return self.stem.content(patches)

    def positioned(self, patches: Tensor) -> Tensor:
        """All tokens with positions."""
        return self.stem.positioned(patches)

    def finish(self, tokens: Tensor) -> Tensor:
        """The residual in front of block 0, with the pool's token."""
        return F.pad(self.stem.finish(tokens), (0, 0, 0, 1))


@dataclass(frozen=True, eq=False)
class CapturedStem:
    """The stem of a module whose parts are not known: what its first block is handed.

    Args:
        module: The original.
        first: Its first block.
    """

    module: nn.Module
    first: nn.Module

    def patches(self, images: Tensor) -> Tensor:
        """The residual in front of block 0: patches and positions cannot be told apart here."""
        found: list[Tensor] = []

        def stop(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            found.append(args[0] if args else next(iter(kwargs.values())))
            raise _Reached

        handle = self.first.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.module(images)
        except _Reached:
            return found[0]
        finally:
            handle.remove()
        raise ModelError("the module's forward pass does not reach its first block.")

    def content(self, patches: Tensor) -> Tensor:
        """The same."""
        return patches

    def positioned(self, patches: Tensor) -> Tensor:
        """The same."""
        return patches

    def finish(self, tokens: Tensor) -> Tensor:
        """The same."""
        return tokens


class _Reached(Exception):  # noqa: N818 (it is a signal, not an error)
    """The first block was reached."""


def allowed_pairs(mask: str | Tensor | None, n_tokens: int, name: str) -> Tensor | None:
    """Which targets may see which sources, (target, source); None for all.

    Raises:
        ModelError: The mask is neither `causal` nor a boolean square of the model's tokens.
    """
    if mask is None:
        return None
    if isinstance(mask, str) and mask == "causal":
        return torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril()
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and tuple(mask.shape) == (n_tokens, n_tokens):
        return mask
    got = repr(mask) if isinstance(mask, str) else f"a {type(mask).__name__}"
    if isinstance(mask, Tensor):
        got = f"a tensor of {mask.dtype} with shape {tuple(mask.shape)}"
    raise ModelError(
        f"attention_mask is {got}, but {name} has {n_tokens} tokens: pass 'causal' or a boolean tensor of shape "
        f"({n_tokens}, {n_tokens}) that is True where a target (row) may see a source (column)."
    )
