"""Where a block's heads read and write: the projections of many architectures in one shape.

Reading: rows of one matrix for q, k and v of each head, whether the original holds them fused (timm's `qkv`), apart
(`q_proj`, `k_proj`, `v_proj`, with fewer heads of keys and values if they are shared), as slices of a larger matrix
(parallel blocks, `nn.MultiheadAttention`), or not at all (the constant query of attention pooling: a zero matrix and a
bias). Writing: columns of one matrix for each head, LayerScale included, and a bias that belongs to no head.

Weights are looked up in the original's modules at each use: nothing is copied, and what is moved or trained is seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Part = tuple[Tensor, Tensor | None]
"""Weight (output, input) and bias (output,) of a linear map."""


class Reads(ABC):
    """From a normed residual to q, k and v of all heads, (*batch, token, 3 x head x width)."""

    @abstractmethod
    def part(self, port: int) -> Part:
        """Weight (head x width, model) and bias of q, k or v (port 0, 1, 2)."""

    @property
    def weight(self) -> Float[Tensor, "ports model"]:
        """Rows of q, then k, then v."""
        return torch.cat([self.part(port)[0] for port in range(3)])

    @property
    def bias(self) -> Float[Tensor, " ports"] | None:
        """Likewise; None for zero."""
        parts = [self.part(port) for port in range(3)]
        if all(bias is None for _, bias in parts):
            return None
        return torch.cat([weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in parts])

    def __call__(self, normed: Float[Tensor, "*batch token model"]) -> Float[Tensor, "*batch token ports"]:
        """q, k and v of all heads."""
        return torch.cat([F.linear(normed, *self.part(port)) for port in range(3)], -1)


@dataclass(frozen=True, eq=False)
class FusedReads(Reads):
    """One matrix with the rows of q, k and v, in one product.

    Args:
        whole: The matrix and its bias: a linear layer's, some of its rows, or parameters of the attention itself.
    """

    whole: Callable[[], Part]

    def part(self, port: int) -> Part:
        """Weight and bias of q, k or v, by reference."""
        weight, bias = self.whole()
        n = len(weight) // 3
        rows = slice(port * n, (port + 1) * n)
        return weight[rows], None if bias is None else bias[rows]

    @property
    def weight(self) -> Tensor:
        """Rows of q, then k, then v, by reference."""
        return self.whole()[0]

    @property
    def bias(self) -> Tensor | None:
        """Likewise; None for zero."""
        return self.whole()[1]

    def __call__(self, normed: Float[Tensor, "*batch token model"]) -> Float[Tensor, "*batch token ports"]:
        """q, k and v of all heads, in one product."""
        return F.linear(normed, *self.whole())


@dataclass(frozen=True, eq=False)
class SeparateReads(Reads):
    """Three linear layers; keys and values may have fewer heads, each of which serves several heads of queries.

    Args:
        layers: Of q, k and v.
        d_head: Width of a head.
        groups: Heads of queries for each head of keys and values.
    """

    layers: tuple[nn.Linear, nn.Linear, nn.Linear]
    d_head: int
    groups: int = 1

    def part(self, port: int) -> Part:
        """Weight and bias of q, k or v; shared keys and values stand once for each of their heads."""
        layer = self.layers[port]
        if port == 0 or self.groups == 1:
            return layer.weight, layer.bias
        weight, bias = (
            None if value is None else value.unflatten(0, (-1, self.d_head)).repeat_interleave(self.groups, 0)
            for value in (layer.weight, layer.bias)
        )
        assert weight is not None
        return weight.flatten(0, 1), None if bias is None else bias.flatten()


@dataclass(frozen=True, eq=False)
class CallableReads(Reads):
    """Weights that are made at each use, such as a constant query, heads beside heads, or a gate beside a query.

    Args:
        parts: Weight and bias of q, k or v (port 0, 1, 2).
    """

    parts: Callable[[int], Part]

    def part(self, port: int) -> Part:
        """Weight and bias of q, k or v."""
        return self.parts(port)


def constant_query(query: Callable[[], Tensor], keys_values: nn.Linear) -> Reads:
    """Attention pooling: keys and values from the residual, a query that reads nothing.

    Args:
        query: The query of all heads, shape (head x d_head,).
        keys_values: The fused projection of keys and values.
    """

    def parts(port: int) -> Part:
        n = keys_values.out_features // 2
        if port == 0:
            return keys_values.weight.new_zeros(n, keys_values.in_features), query()
        rows = slice((port - 1) * n, port * n)
        return keys_values.weight[rows], None if keys_values.bias is None else keys_values.bias[rows]

    return CallableReads(parts)


def beside(several: Sequence[Reads], gains: Sequence[Any]) -> Reads:
    """Heads of several attentions beside one another, each with its own norm's gamma and beta folded in at each use.

    Args:
        several: The attentions' projections.
        gains: The norms in front of them, of one kind; what reads them is normed without gamma and beta.
    """

    def parts(port: int) -> Part:
        found = [_after_gain(reads.part(port), gain) for reads, gain in zip(several, gains, strict=True)]
        return torch.cat([weight for weight, _ in found]), torch.cat([bias for _, bias in found])

    return CallableReads(parts)


def _after_gain(part: Part, gain: Any) -> tuple[Tensor, Tensor]:
    weight, bias = part
    shift = weight.new_zeros(len(weight)) if gain.bias is None else weight @ gain.bias
    return (weight if gain.weight is None else weight * gain.weight), shift if bias is None else shift + bias


def padded_reads(reads: Reads, n_rows: int) -> Reads:
    """The same with heads that read nothing behind them, up to `n_rows` rows of q, of k and of v."""

    def parts(port: int) -> Part:
        weight, bias = reads.part(port)
        more = n_rows - len(weight)
        return F.pad(weight, (0, 0, 0, more)), None if bias is None else F.pad(bias, (0, more))

    return CallableReads(parts)


def gated_reads(reads: Reads, gate: nn.Linear, n_heads: int) -> Reads:
    """Each head's gate beside its query, which reads at the same place; keys and values are filled up with zeros.

    Args:
        reads: The attention's own projection.
        gate: From the normed residual to head x d_head gates, before the sigmoid.
        n_heads: Number of heads.
    """

    def parts(port: int) -> Part:
        found = [reads.part(port), (gate.weight, gate.bias)]
        if port:
            found[1] = (torch.zeros_like(gate.weight), None)
        rows = [
            (weight.unflatten(0, (n_heads, -1)), (weight.new_zeros(len(weight)) if bias is None else bias))
            for weight, bias in found
        ]
        weight = torch.cat([weight for weight, _ in rows], 1).flatten(0, 1)
        return weight, torch.cat([bias.unflatten(0, (n_heads, -1)) for _, bias in rows], 1).flatten()

    return CallableReads(parts)


class HeadWrites(ABC):
    """From all heads' outputs to the residual."""

    @abstractmethod
    def weight(self) -> Float[Tensor, "columns model"]:
        """Head x d_head rows of what each entry writes, LayerScale included."""

    @abstractmethod
    def bias(self) -> Float[Tensor, " model"]:
        """What is written whatever the heads do."""

    @property
    @abstractmethod
    def matrices(self) -> tuple[Float[Tensor, "model columns"], ...]:
        """The weights that heads' outputs are multiplied with, by reference: one matrix for each attention."""

    def __call__(self, flat: Float[Tensor, "*batch token columns"]) -> Float[Tensor, "*batch token model"]:
        """What all heads and the bias write."""
        return flat @ self.weight() + self.bias()


@dataclass(frozen=True, eq=False)
class LinearWrites(HeadWrites):
    """A linear layer, or some of its columns, and a LayerScale.

    Args:
        module: The linear layer.
        scale: LayerScale, or Identity.
        columns: Which of its columns.
    """

    module: nn.Linear
    scale: Callable[[Tensor], Tensor]
    columns: slice | None = None

    @property
    def _matrix(self) -> Tensor:
        return self.module.weight if self.columns is None else self.module.weight[:, self.columns]

    def weight(self) -> Tensor:
        """What each entry writes, LayerScale included."""
        return self.scale(self._matrix.T)

    @property
    def matrices(self) -> tuple[Tensor, ...]:
        """The layer's weight, or its columns."""
        return (self._matrix,)

    def bias(self) -> Tensor:
        """The layer's bias through LayerScale."""
        if self.module.bias is None:
            return self.module.weight.new_zeros(self.module.out_features)
        return self.scale(self.module.bias)

    def __call__(self, flat: Tensor) -> Tensor:
        """What all heads and the bias write, by the original's own steps."""
        return self.scale(F.linear(flat, self._matrix, self.module.bias))


@dataclass(frozen=True, eq=False)
class IdentityWrites(HeadWrites):
    """Heads that stand beside one another in the residual, without a projection.

    Args:
        width: Of the residual.
        like: A module whose weights say type and place.
        scale: LayerScale, or Identity.
    """

    width: int
    like: nn.Module
    scale: Callable[[Tensor], Tensor]

    def weight(self) -> Tensor:
        """LayerScale on the diagonal."""
        like = next(self.like.parameters())
        return self.scale(torch.eye(self.width, dtype=like.dtype, device=like.device))

    @property
    def matrices(self) -> tuple[Tensor, ...]:
        """None."""
        return ()

    def bias(self) -> Tensor:
        """Zero."""
        return next(self.like.parameters()).new_zeros(self.width)


@dataclass(frozen=True, eq=False)
class ManyWrites(HeadWrites):
    """Heads of several attentions beside one another, each with its own projection, and some that write nothing.

    Args:
        several: The attentions' projections.
        n_rows: Entries in all, those of heads that write nothing behind the others; None for no such heads.
    """

    several: tuple[HeadWrites, ...]
    n_rows: int | None = None

    def weight(self) -> Tensor:
        """What each entry writes."""
        found = torch.cat([writes.weight() for writes in self.several])
        return found if self.n_rows is None else F.pad(found, (0, 0, 0, self.n_rows - len(found)))

    @property
    def matrices(self) -> tuple[Tensor, ...]:
        """Each attention's."""
        return tuple(matrix for writes in self.several for matrix in writes.matrices)

    def bias(self) -> Tensor:
        """The sum of the biases."""
        return torch.stack([writes.bias() for writes in self.several]).sum(0)
