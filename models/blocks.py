"""The canonical transformer block.

Norm -> q, k, v of each head -> attend -> what each head writes -> norm -> MLP -> what it writes.

It uses the original's own submodules and weights by reference. LayerScale stands inside the writes, the projection's
bias belongs to no head, and the MLP's biases belong to the MLP's write. In a parallel block the MLP reads what
attention reads. Some tokens may be neither read as keys (`mask`) nor written to (`at`): so map pooling, a second
residual stream after the last block, is one more token of the first and one more block that writes to it alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .attention import Constant, JointNorm, Rope
from .norms import Norm
from .projections import HeadWrites, Reads

ALL = slice(None)


@dataclass(frozen=True, eq=False)
class OpenBlock:
    """One block of an opened ViT.

    Args:
        norm1: In front of attention.
        norm2: In front of the MLP.
        reads: From the normed residual to q, k and v.
        q_norm: Norm of each head's queries.
        k_norm: Norm of each head's keys.
        writes: From the heads' outputs to the residual.
        mlp: The MLP; None if there is none.
        scale2: LayerScale of the MLP's write, or Identity.
        n_heads: Number of heads.
        d_head: Width of one head.
        scale: Factor on q.k.
        rope: Rotation of queries and keys, after their norms.
        mask: Added to the attention scores, (target, source).
        at: Tokens that the block writes to, (token, 1) of ones and zeros; None for all.
        joint: A norm across all heads in front of the projection.
        gated: Whether a gate stands beside each query and multiplies the head's output.
        parallel: Whether the MLP reads what attention reads.
    """

    norm1: Norm
    norm2: Norm
    reads: Reads
    writes: HeadWrites
    mlp: nn.Module | None
    n_heads: int
    d_head: int
    scale: float
    q_norm: nn.Module = nn.Identity()
    k_norm: nn.Module = nn.Identity()
    scale2: nn.Module = nn.Identity()
    rope: Rope | None = None
    mask: Constant | None = None
    at: Constant | None = None
    joint: JointNorm | None = None
    gated: bool = False
    parallel: bool = False

    @property
    def d_read(self) -> int:
        """Width of what a head reads at each port: a head's, or twice that where a gate stands beside the query."""
        return self.d_head * (2 if self.gated else 1)

    @property
    def qkv_weight(self) -> Float[Tensor, "3 head d_read model"]:
        """Rows of the reading projection that belong to each head's q, k and v."""
        return self.reads.weight.view(3, self.n_heads, self.d_read, -1)

    @property
    def out_weight(self) -> Float[Tensor, "head d_head model"]:
        """What each head's z is multiplied with, LayerScale included."""
        return self.writes.weight().view(self.n_heads, self.d_head, -1)

    @property
    def attn_bias(self) -> Float[Tensor, "*token model"]:
        """What attention writes whatever its heads do: (model,), or (token, model) if it does not write everywhere."""
        bias = self._bias()
        return bias if self.at is None else self.at.like(bias) * bias

    def _bias(self) -> Float[Tensor, " model"]:
        bias = self.writes.bias()
        if self.joint is None or self.joint.bias is None:
            return bias
        return bias + self.joint.bias @ self.writes.weight()

    def split(self, fused: Float[Tensor, "*batch token ports"]) -> tuple[Tensor, Tensor, Tensor]:
        """The reading projection's output at all tokens -> q, k, v, each (*batch, head, token, width)."""
        q, k, v = fused.unflatten(-1, (3, self.n_heads, self.d_read)).movedim(-3, 0).transpose(-2, -3).unbind(0)
        return self._finish(q, 0), self._finish(k, 1), self._finish(v, 2)

    def _finish(
        self, part: Tensor, port: int, tokens: slice = ALL, heads: int | Tensor | None = None, *, row_axis: bool = False
    ) -> Tensor:
        """q, k or v from the projection's output: normed and rotated; a query keeps its gate."""
        if port == 2:
            return part[..., : self.d_head]
        values = (self.q_norm, self.k_norm)[port](part[..., : self.d_head])
        if self.rope is not None:
            values = self.rope(values, tokens=tokens, heads=heads, row_axis=row_axis)
        return torch.cat([values, part[..., self.d_head :]], -1) if self.gated and port == 0 else values

    def read(self, normed: Float[Tensor, "*batch token model"]) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of all heads from one normed residual, each (*batch, head, token, width)."""
        return self.split(self.reads(normed))

    def read_port(self, normed: Tensor, port: int, heads: Tensor) -> Float[Tensor, "row *batch token width"]:
        """q, k or v (port 0, 1, 2) of some heads, each from its own normed residual.

        Args:
            normed: (row, *batch, token, model), one row per head; or one row for all.
            port: 0 for q, 1 for k, 2 for v.
            heads: Indices of the heads, shape (row,).
        """
        whole, bias = self.reads.part(port)
        weight = whole.view(self.n_heads, self.d_read, -1)[heads].transpose(-1, -2)  # row, model, width
        rows = normed.shape[0]
        flat = torch.matmul(normed.reshape(rows, -1, normed.shape[-1]), weight)
        out = flat.view(len(heads), *normed.shape[1:-1], self.d_read)
        if bias is not None:
            own = bias.view(self.n_heads, self.d_read)[heads]
            out = out + own.view(len(heads), *[1] * (out.ndim - 2), self.d_read)
        return self._finish(out, port, heads=heads, row_axis=True)

    def read_head(
        self, normed: Float[Tensor, "*batch token model"], port: int, head: int, tokens: slice = ALL
    ) -> Float[Tensor, "*batch token width"]:
        """q, k or v (port 0, 1, 2) of one head, from the normed residual at some tokens."""
        rows = slice(head * self.d_read, (head + 1) * self.d_read)
        weight, bias = self.reads.part(port)
        found = F.linear(normed, weight[rows], None if bias is None else bias[rows])
        return self._finish(found, port, tokens, head)

    def read_at(self, normed: Float[Tensor, "batch token model"], tokens: slice) -> tuple[Tensor, Tensor, Tensor]:
        """q at some tokens, k and v at all, of all heads, each (batch, head, token, width)."""
        weight, bias = self.reads.weight, self.reads.bias
        n = self.n_heads * self.d_read
        own = (None, None) if bias is None else (bias[:n], bias[n:])
        q = F.linear(normed[:, tokens], weight[:n], own[0]).unflatten(-1, (self.n_heads, -1)).transpose(-2, -3)
        kv = F.linear(normed, weight[n:], own[1]).unflatten(-1, (2, self.n_heads, self.d_read))
        k, v = kv.movedim(-3, 0).transpose(-2, -3).unbind(0)
        return self._finish(q, 0, tokens), self._finish(k, 1), self._finish(v, 2)

    def attend_head(
        self, q: Tensor, k: Tensor, v: Tensor, tokens: slice = ALL
    ) -> Float[Tensor, "*variant batch token d_head"]:
        """z of one head; q (at some tokens), k and v are (batch, token, width), with variants in front or without."""
        if k.ndim == v.ndim == 3 and (q.ndim == 3 or (self.mask is None and self.at is None)):
            if q.ndim == 3:
                return self.attend(q[:, None], k[:, None], v[:, None], tokens)[:, 0]
            n = len(q)  # variants of queries see the same keys: one longer sequence
            z = self.attend(q.movedim(0, 1).flatten(1, 2)[:, None], k[:, None], v[:, None])[:, 0]
            return z.unflatten(1, (n, -1)).movedim(1, 0)
        n = max(len(part) for part in (q, k, v) if part.ndim == 4)
        q, k, v = (part.expand(n, *part.shape[-3:]) for part in (q, k, v))
        return self.attend(q, k, v, tokens)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, tokens: slice = ALL) -> Float[Tensor, "*batch head token d_head"]:
        """z: what the output projection reads of each head, with fused attention.

        Args:
            q: Queries of some heads (all of them if they share a norm) at some tokens.
            k: Their keys at all tokens.
            v: Their values at all tokens.
            tokens: Which tokens the queries stand at.
        """
        return self.close(q, self.weigh(q, k, v, tokens))

    def weigh(self, q: Tensor, k: Tensor, v: Tensor, tokens: slice = ALL) -> Float[Tensor, "*batch head token d_head"]:
        """Each head's weighted values (fused attention), before what `close` does to them."""
        mask = None if self.mask is None else self.mask.like(q)[tokens]
        return F.scaled_dot_product_attention(q[..., : self.d_head], k, v, attn_mask=mask, scale=self.scale)

    def close(self, q: Tensor, z: Tensor) -> Float[Tensor, "*batch head token d_head"]:
        """Weighted values -> z: zero where the block does not write, normed across heads, times the gate."""
        z = self._where_written(z)
        if self.joint is not None:
            assert z.shape[-3] == self.n_heads, "heads that share a norm are computed together"
            z = self.joint(z)
        return z * q[..., self.d_head :].sigmoid() if self.gated else z

    def scores(self, q: Tensor, k: Tensor) -> Float[Tensor, "*batch head target source"]:
        """Scaled products of queries and keys, before the mask."""
        return q[..., : self.d_head] * self.scale @ k.transpose(-1, -2)

    def masked(self, scores: Tensor, tokens: slice = ALL) -> Float[Tensor, "*batch head target source"]:
        """Scores with the mask added, for targets at some tokens."""
        return scores if self.mask is None else scores + self.mask.like(scores)[tokens]

    def pattern(self, q: Tensor, k: Tensor, tokens: slice = ALL) -> Float[Tensor, "*batch head target source"]:
        """Attention pattern, rows adding up to 1."""
        return self.masked(self.scores(q, k), tokens).softmax(-1)

    def attn_write(self, z: Float[Tensor, "*batch head token d_head"]) -> Float[Tensor, "*batch token model"]:
        """What attention adds to the residual: all heads and the bias, at all tokens or at those of the readout."""
        flat = z.transpose(-2, -3).flatten(-2)
        if self.at is None and self.joint is None:
            return self.writes(flat)
        return flat @ self.writes.weight() + self._where_written(self._bias().expand(z.shape[-2], -1))

    def heads_write(self, z: Float[Tensor, "*batch head token d_head"]) -> Float[Tensor, "*batch token model"]:
        """What all heads together add to the residual, without the bias."""
        return z.transpose(-2, -3).flatten(-2) @ self.writes.weight()

    def head_write(self, z: Tensor, heads: Tensor | slice = ALL) -> Float[Tensor, "*batch row token model"]:
        """What each of some heads adds to the residual, without the bias; z is (*batch, row, token, d_head)."""
        return z @ self.out_weight[heads]

    def run(self, residual: Float[Tensor, "*batch token model"], *, skip_attention: bool = False) -> Tensor:
        """The residual behind the block, from the one in front of it, or of its MLP if attention is skipped."""
        assert not (skip_attention and self.parallel), "its MLP reads the residual in front of attention"
        middle = residual if skip_attention else self.attended(residual)[1]
        return middle + self.mlp_write(self.mlp_input(residual, middle))

    def attended(self, residual: Float[Tensor, "*batch token model"]) -> tuple[Tensor, Tensor]:
        """z of all heads, and the residual behind attention, from the one in front of it."""
        z = self.attend(*self.read(self.norm1(residual)))
        return z, residual + self.attn_write(z)

    def mlp_input(self, before: Tensor, middle: Tensor) -> Tensor:
        """What the MLP reads, of the residual before attention and after it."""
        return before if self.parallel else middle

    def mlp_write(self, x: Float[Tensor, "*batch token model"], *, freeze_norm: bool = False) -> Tensor:
        """What the MLP adds to the residual, from the residual that it reads, (*batch, token, model)."""
        if self.mlp is None:
            return torch.zeros_like(x)
        normed = self.norm2.frozen(x) if freeze_norm else self.norm2(x)
        return self.mlp_written(self.mlp(normed))

    def mlp_written(self, out: Float[Tensor, "*batch token model"]) -> Float[Tensor, "*batch token model"]:
        """What the MLP adds to the residual, from the MLP's own output."""
        return self._where_written(self.scale2(out))

    def _where_written(self, values: Tensor) -> Tensor:
        """Values (*, token, width), zero at tokens that the block does not write to.

        Only the last block is ever computed for some tokens alone, which are those that the readout looks at; it
        writes there.
        """
        if self.at is None or values.shape[-2] != len(self.at.value):
            return values
        return values * self.at.like(values)
