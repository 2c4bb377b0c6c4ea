"""What an adapter finds in a module: sizes, the way to the first residual, blocks, readout, and the original."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..blocks import OpenBlock
from ..config import TokenLayout, VitConfig
from ..errors import ModelError
from ..readouts import Readout


@runtime_checkable
class Stem(Protocol):
    """From images to the residual in front of block 0, by the original's own code: `finish(positioned(patches))`."""

    def patches(self, images: Tensor, /) -> Tensor:
        """Patch embeddings, before positions."""
        ...

    def content(self, patches: Tensor, /) -> Tensor:
        """All tokens before positions, (batch, token, model): CLS and registers in front of the patches."""
        ...

    def positioned(self, patches: Tensor, /) -> Tensor:
        """All tokens with positions, (batch, token, model)."""
        ...

    def finish(self, tokens: Tensor, /) -> Tensor:
        """What stands between the positions and block 0, such as CLIP's norm."""
        ...


@runtime_checkable
class Original(Protocol):
    """A place where the original's residual behind a block is seen: the block's module, or `Seen`."""

    def register_forward_hook(self, hook: Callable[[Any, Any, Any], None], /) -> Any:
        """Calls hook(module, what it was handed, the residual) at each pass, until the handle is removed."""
        ...


@dataclass(frozen=True, eq=False)
class Seen:
    """A residual that a part of the original is handed, or gives.

    Args:
        module: The part.
        handed: Whether it is handed the residual, and not what it gives.
        token_first: Whether the original's tokens are (token, batch, model).
        order: Which of the original's tokens stands where; None for the same order.
    """

    module: nn.Module
    handed: bool
    token_first: bool = False
    order: Sequence[int] | None = None

    def register_forward_hook(self, hook: Callable[[Any, Any, Any], None], /) -> Any:
        """Calls hook(module, what it was handed, a copy of the residual) at each pass."""

        def call(value: Any) -> None:
            tensor = first_tensor(value)
            assert tensor is not None
            hook(self.module, value, arranged(tensor, self.token_first, self.order).clone())

        if self.handed:
            return self.module.register_forward_pre_hook(
                lambda _module, args, options: call((*args, *options.values())), with_kwargs=True
            )
        return self.module.register_forward_hook(lambda _module, _args, out: call(out))


def arranged(tokens: Tensor, token_first: bool, order: Sequence[int] | None) -> Tensor:
    """The original's tokens as (batch, token, model), class token and registers in front."""
    tokens = tokens.transpose(0, 1) if token_first else tokens
    return tokens if order is None else tokens[:, list(order)]


def first_tensor(value: Any) -> Tensor | None:
    """The tensor itself, or the first in a tuple, list or mapping."""
    if isinstance(value, Tensor):
        return value
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return next((part for part in parts if isinstance(part, Tensor)), None)


@dataclass(frozen=True, eq=False)
class Opened:
    """The parts of a module: nothing is copied.

    Args:
        cfg: Sizes.
        stem: From images to the residual in front of block 0.
        blocks: The canonical blocks.
        readout: From the last residual to the logits.
        originals: Where the original's residual behind each block is seen: the modules that the blocks were opened
            from, as a rule. Attention pooling has none; none at all where it is seen nowhere.
        forward: The original's own logits.
    """

    cfg: VitConfig
    stem: Stem
    blocks: tuple[OpenBlock, ...]
    readout: Readout
    originals: tuple[Original, ...]
    forward: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ClassTokenStem:
    """A class token in front of the patches, then registers, which have no positions; looked up at each use.

    Args:
        patches: From images to patch embeddings, before positions.
        class_token: The class token, one vector; with a distillation token behind it, (1, 2, model).
        positions: From class token and patches to what is added to them.
        registers: Between the class token and the patches, (register, model); None for none.
        dropout: Behind the positions.
        norm: In front of block 0.
    """

    patches: Callable[[Tensor], Tensor]
    class_token: Callable[[], Tensor]
    positions: Callable[[Tensor], Tensor]
    registers: Callable[[], Tensor | None] = lambda: None
    dropout: Callable[[Tensor], Tensor] = nn.Identity()
    norm: Callable[[Tensor], Tensor] = nn.Identity()

    def content(self, patches: Tensor, /) -> Tensor:
        """All tokens before positions."""
        return self._with_registers(self._behind_class_token(patches))

    def positioned(self, patches: Tensor, /) -> Tensor:
        """All tokens with positions."""
        tokens = self._behind_class_token(patches)
        return self.dropout(self._with_registers(tokens + self.positions(tokens)))

    def finish(self, tokens: Tensor, /) -> Tensor:
        """The residual in front of block 0."""
        return self.norm(tokens)

    def _behind_class_token(self, patches: Tensor) -> Tensor:
        prefix = self.class_token().reshape(1, -1, patches.shape[-1])
        return torch.cat([prefix.expand(len(patches), -1, -1), patches], dim=1)

    def _with_registers(self, tokens: Tensor) -> Tensor:
        registers = self.registers()
        if registers is None:
            return tokens
        return torch.cat([tokens[:, :1], registers.expand(len(tokens), -1, -1), tokens[:, 1:]], dim=1)


@dataclass(frozen=True, eq=False)
class CapturedStem:
    """The stem of a module whose parts are not known: what its first block is handed.

    Args:
        module: The original.
        first: Its first block, or another part that is handed the first residual.
        token_first: Whether its tokens are (token, batch, model).
        order: Which of its tokens stands where; None for the same order.
    """

    module: nn.Module
    first: nn.Module
    token_first: bool = False
    order: Sequence[int] | None = None

    def patches(self, images: Tensor, /) -> Tensor:
        """The residual in front of block 0: patches and positions cannot be told apart here."""
        found: list[Tensor] = []

        def stop(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            tensor = first_tensor((*args, *kwargs.values()))
            assert tensor is not None
            found.append(arranged(tensor, self.token_first, self.order))
            raise _Reached

        handle = self.first.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self.module(images)
        except _Reached:
            return found[0]
        finally:
            handle.remove()
        raise ModelError("the module's forward pass does not reach its first block.")

    def content(self, patches: Tensor, /) -> Tensor:
        """The same."""
        return patches

    def positioned(self, patches: Tensor, /) -> Tensor:
        """The same."""
        return patches

    def finish(self, tokens: Tensor, /) -> Tensor:
        """The same."""
        return tokens


class _Reached(Exception):  # noqa: N818 (it is a signal, not an error)
    """The first block was reached."""


def sizes_of(
    name: str,
    blocks: Sequence[OpenBlock],
    layout: TokenLayout,
    readout: Readout,
    *,
    image: Any,
    patch: Any,
    n_channels: int,
    pooling: str | None = None,
    clip_frames: int = 1,
) -> VitConfig:
    """The sizes of an opened ViT, read off its parts.

    Args:
        name: What to call the model.
        blocks: Its canonical blocks.
        layout: Its tokens.
        readout: Its readout.
        image: Height and width of an image, or its side.
        patch: Height and width of a patch, or its side.
        n_channels: Channels of the input, of all frames.
        pooling: How the readout makes one vector of its tokens, where their number does not say it.
        clip_frames: Frames of the input.
    """
    d_model, joined = blocks[0].reads.part(0)[0].shape[1], readout.beside is not None
    heads, mlps = tuple(block.n_heads for block in blocks), tuple(block.mlp is not None for block in blocks)
    parallel, joint = tuple(block.parallel for block in blocks), tuple(block.joint is not None for block in blocks)
    outs = [getattr(block.mlp, "fc2", None) for block in blocks]
    counted = "cls+average" if joined else "token" if len(readout.tokens) == 1 else "average"
    return VitConfig(
        name=name,
        n_layers=len(blocks),
        n_heads=max(heads),
        d_model=d_model,
        d_head=max(block.d_head for block in blocks),
        d_mlp=max([int(out.in_features) for out in outs if out is not None], default=0),
        n_classes=int(getattr(readout.head, "out_features", d_model * (1 + joined))),
        image_size=pair(image),
        patch_size=pair(patch),
        n_channels=n_channels,
        tokens=layout,
        read_tokens=tuple(i for i in readout.tokens if not joined or i == 0 or i >= layout.n_prefix),
        pooling=pooling or counted,
        heads=heads if len(set(heads)) > 1 else (),
        mlps=() if all(mlps) else mlps,
        parallel=parallel if any(parallel) else (),
        joint=joint if any(joint) else (),
        clip_frames=clip_frames,
    )


def pair(size: Any) -> tuple[int, int]:
    """Height and width, of both or of a side."""
    first, second = size if isinstance(size, Iterable) else (size, size)
    return int(first), int(second)


def allowed_pairs(mask: str | Tensor | None, n_tokens: int, name: str) -> Tensor | None:
    """Which targets may see which sources, (target, source); None for all.

    Raises:
        ModelError: The mask is neither `causal` nor a boolean square of the model's tokens.
    """
    if mask is None:
        return None
    if isinstance(mask, str) and mask == "causal":
        return torch.ones(n_tokens, n_tokens, dtype=torch.bool, device="cpu").tril()
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and tuple(mask.shape) == (n_tokens, n_tokens):
        return mask
    got = repr(mask) if isinstance(mask, str) else f"a {type(mask).__name__}"
    if isinstance(mask, Tensor):
        got = f"a tensor of {mask.dtype} with shape {tuple(mask.shape)}"
    raise ModelError(
        f"attention_mask is {got}, but {name} has {n_tokens} tokens: pass 'causal' or a boolean tensor of shape "
        f"({n_tokens}, {n_tokens}) that is True where a target (row) may see a source (column)."
    )
