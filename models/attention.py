"""What attention can have beside q, k and v: rotary positions, masks, tokens it does not write to, norms and gates.

None of it knows a model: a block is handed those that its original has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .errors import ModelError
from .norms import Norm


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that belongs to no module, by device and dtype."""

    value: Tensor
    _placed: dict[tuple[torch.device, torch.dtype], Tensor] = field(default_factory=dict, repr=False)

    def like(self, other: Tensor) -> Tensor:
        """The tensor on another one's device and in its dtype."""
        key = (other.device, other.dtype)
        if key not in self._placed:
            self._placed[key] = self.value.to(device=other.device, dtype=other.dtype)
        return self._placed[key]


@runtime_checkable
class BiasTable(Protocol):
    """A table on another tensor's device and in its dtype."""

    def like(self, other: Tensor) -> Tensor:
        """The table."""
        ...


@dataclass(frozen=True, eq=False)
class LearntTable:
    """A table made from a parameter, made anew when the parameter has changed.

    Args:
        parameter: What it is made from.
        make: The table.
    """

    parameter: nn.Parameter
    make: Callable[[], Tensor]
    _made: dict[tuple[int, torch.device, torch.dtype], Tensor] = field(default_factory=dict, repr=False)

    def like(self, other: Tensor) -> Tensor:
        """The table on another tensor's device and in its dtype."""
        key = (self.parameter._version, other.device, other.dtype)
        if key not in self._made:
            self._made.clear()
            with torch.no_grad():
                self._made[key] = self.make().to(device=other.device, dtype=other.dtype)
        return self._made[key]


@dataclass(frozen=True, eq=False)
class Rope:
    """Rotary position embedding by timm's own rotation; tokens in front of the patches stand at angle zero.

    Args:
        table: Sines, then cosines, as the original makes them: (token, 2 x d_head), or with a head axis in front.
        half: Whether a head's halves are rotated against one another, instead of neighbours.
    """

    table: BiasTable
    half: bool

    def __call__(
        self, x: Tensor, *, tokens: slice, heads: int | Tensor | None = None, row_axis: bool = False
    ) -> Tensor:
        """Rotated queries or keys.

        Args:
            x: (*batch, head, token, d_head); (*batch, token, d_head) for one head; or, with `row_axis`, (row, *batch,
                token, d_head).
            tokens: Which tokens stand on the token axis.
            heads: Which heads stand on the head or row axis; all where it is None.
            row_axis: Whether heads stand on the first axis.
        """
        from timm.layers.pos_embed_sincos import apply_rot_embed_cat

        table = self.table.like(x)
        if table.ndim == 3 and heads is not None:
            table = table[heads]
        table = table[..., tokens, :]
        if table.ndim == 3 and row_axis:
            table = table.view(len(table), *[1] * (x.ndim - 3), *table.shape[1:])
        return apply_rot_embed_cat(x, table, half=self.half).to(x.dtype)


def prefixed_rope(table: Tensor, n_prefix: int, half: bool, n_behind: int = 0) -> Rope:
    """The rotation of patches behind (and in front of) so many tokens that are not rotated."""
    return Rope(Constant(prefixed_table(table, n_prefix, n_behind).detach()), half)


def prefixed_table(table: Tensor, n_prefix: int, n_behind: int = 0) -> Tensor:
    """The table with tokens at angle zero in front of it and behind it."""
    still = table.new_zeros(*table.shape[:-2], n_prefix + n_behind, table.shape[-1])
    still[..., table.shape[-1] // 2 :] = 1
    return torch.cat([still[..., :n_prefix, :], table, still[..., n_prefix:, :]], -2)


def additive_mask(allowed: Bool[Tensor, "target source"]) -> Constant:
    """What is added to attention scores so that targets see only the sources that are allowed.

    The value is finite, so that differences of masked scores stay numbers; its exponential is zero.

    Raises:
        ModelError: A target may see nothing.
    """
    if not bool(allowed.any(-1).all()):
        blind = int((~allowed.any(-1)).nonzero()[0, 0])
        raise ModelError(
            f"the attention mask lets token {blind} see nothing at all: give every row at least one True, such as "
            f"mask | torch.eye(len(mask), dtype=torch.bool)."
        )
    return Constant(torch.where(allowed, 0.0, torch.finfo(torch.float32).min / 4))


@dataclass(frozen=True, eq=False)
class JointNorm:
    """A norm across all heads in front of the output projection.

    Its mean and standard deviation are taken over all heads together, so that heads are coupled through them; what the
    heads write still adds up. Its bias belongs to no head.

    Args:
        norm: Over head x d_head.
    """

    norm: Norm

    def __call__(self, z: Float[Tensor, "*batch head token d_head"]) -> Float[Tensor, "*batch head token d_head"]:
        """All heads' outputs normed together, without the norm's bias."""
        flat = z.transpose(-2, -3).flatten(-2)
        xhat, _ = self.norm.statistics(flat)
        normed = xhat if self.norm.weight is None else xhat * self.norm.weight
        return normed.unflatten(-1, (z.shape[-3], z.shape[-1])).transpose(-2, -3)

    @property
    def bias(self) -> Tensor | None:
        """What the norm adds whatever the heads do, shape (head x d_head,)."""
        return self.norm.bias


class Scaled(nn.Module):
    """LayerScale as a plain parameter of another module (EVA's `gamma_1` and `gamma_2`)."""

    def __init__(self, gamma: Callable[[], Tensor | None]) -> None:
        super().__init__()
        self._gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        """x times gamma, over the last axis."""
        gamma = self._gamma()
        return x if gamma is None else x * gamma
